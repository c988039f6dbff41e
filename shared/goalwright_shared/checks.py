"""The checks a performer runs on its own outputs (schema, rows, regex): bytes or a file in, findings out.

Whatever passes here can be stored in Postgres as jsonb, read by the next program and shown to a model. A file of
any size is read piece by piece; a JSON value, which is whole or nothing, is bounded instead. Program checks and
rubrics are tasks of their own and are not run here.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import sys
import tarfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import jsonschema
import regex
from pydantic import JsonValue

from goalwright_shared import databases, tables
from goalwright_shared.messages import (
    ArtifactType,
    Check,
    CheckResult,
    OutputSpec,
    RegexCheck,
    RowsCheck,
)
from goalwright_shared.tables import Reader, Unchecked, Unfit

JSON_DEPTH = 100
"""Nesting beyond this is refused: readers downstream recurse."""

JSON_BYTES = 16 << 20
"""A JSON value larger than this is refused: it is parsed whole, into up to 25 times as much memory."""

_SECONDS = 300.0
_BLOCK = 1 << 20
_REGEX_BYTES = 1 << 20
_REGEX_SECONDS = 1.0
_MAX_FINDINGS = 5
_TAR_BLOCK = 512

_one_at_a_time = threading.Lock()  # of all that is parsed whole: its memory is needed once, not once a slot

Data = bytes | Path
"""A value in memory, or a file of any size."""


def check_output(spec: OutputSpec, data: Data, read: Reader | None = None) -> list[CheckResult]:
    """Findings on one output: that it is what its type says and, when declared, that it matches its schema. Without
    `read`, what takes the values of Parquet is not checked, and the evidence says so.

    The first result is named `type`, the second (if any) `schema`; all `passed` means acceptable. The evidence
    says where: a JSON path, a row and column, a table.
    """
    errors: list[str] = []
    unchecked: list[str] = []
    try:
        with closing(_look(spec, data, read)) as found:
            for one in found:
                (unchecked if isinstance(one, Unchecked) else errors).append(one)
                if len(errors) == _MAX_FINDINGS:
                    break
    except Unfit as unfit:
        return [CheckResult(check="type", passed=False, evidence=f"{spec.name}: {unfit}")]
    about = f"{spec.name}: {spec.type}, {_size(data)} bytes"
    results = [CheckResult(check="type", passed=True, evidence=about)]
    if spec.schema_ is not None:
        left = [f"not checked: {one}" for one in unchecked[:_MAX_FINDINGS]]
        if len(unchecked) > _MAX_FINDINGS:
            left.append(f"not checked: {len(unchecked) - _MAX_FINDINGS} more")
        evidence = f"{spec.name}: {'; '.join([*(errors or ['matches']), *left])}"
        results.append(CheckResult(check="schema", passed=not errors, evidence=evidence))
    return results


def check_acceptance(
    checks: Sequence[Check], specs: Sequence[OutputSpec], outputs: Mapping[str, Data]
) -> list[CheckResult]:
    """Results of the rows and regex checks, in order; other kinds are left to others.

    A check that names no output is about every output it can be about (rows: tables; regex: texts).
    """
    results = []
    for check in checks:
        if isinstance(check, RowsCheck):
            subjects = _subjects(check.output, specs, (ArtifactType.TABLE, ArtifactType.JSON))
            results += [_rows_result(check, spec, outputs.get(spec.name)) for spec in subjects]
        elif isinstance(check, RegexCheck):
            subjects = _subjects(check.output, specs, (ArtifactType.TEXT, ArtifactType.JSON))
            results += [_regex_result(check, spec.name, outputs.get(spec.name)) for spec in subjects]
        else:
            continue
        if not subjects:
            results.append(CheckResult(check=check.kind, passed=False, evidence="no output it can be about"))
    return results


def read_json(data: bytes) -> JsonValue:
    """JSON that any reader downstream can take; raises ValueError that says what is wrong.

    Refused beside malformed text: NaN and infinities, NUL, lone surrogates, numbers of thousands of digits
    and nesting deeper than `JSON_DEPTH`.
    """
    if len(data) > JSON_BYTES:
        raise Unfit(
            f"{len(data)} bytes of JSON, at most {JSON_BYTES}: leave a table, a database or a file instead"
        )
    try:
        value: JsonValue = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Unfit(f"not UTF-8: byte {error.start} is invalid") from error
    except RecursionError as error:
        raise Unfit(f"nested deeper than {JSON_DEPTH}") from error
    except Unfit:
        raise
    except ValueError as error:
        raise Unfit(f"not JSON: {error}") from error
    _walk(value)
    return value


# --- types ---------------------------------------------------------------------------------------------


def _look(spec: OutputSpec, data: Data, read: Reader | None) -> Generator[str, None, None]:
    """What differs from the declared schema; raises `Unfit` when the data is not what its type says."""
    over = time.monotonic() + _SECONDS
    match spec.type:
        case ArtifactType.TEXT:
            _read_text(data)
        case ArtifactType.JSON:
            with _one_at_a_time:
                value = read_json(_whole(data))
                yield from _json_errors(spec.schema_, value) if spec.schema_ is not None else ()
        case ArtifactType.TABLE:
            with _opened(data) as file:
                yield from tables.errors(
                    tables.declared(spec.name, spec.schema_)[:1], file, _timer(over), read
                )
        case ArtifactType.DATABASE:
            yield from databases.errors(
                tables.declared(spec.name, spec.schema_), data, lambda: time.monotonic() > over
            )
        case ArtifactType.FOLDER | ArtifactType.DATASET:
            with _opened(data) as file:
                head = file.read(_TAR_BLOCK)
                if _size(data) % _TAR_BLOCK or (head and head[257:262] != b"ustar" and any(head)):
                    raise Unfit("not a tar")
                if spec.type is ArtifactType.DATASET and spec.schema_ is not None:
                    file.seek(0)
                    yield from _dataset_errors(spec, file, over, read)
        case _:
            return


def _opened(data: Data) -> BinaryIO:
    return data.open("rb") if isinstance(data, Path) else io.BytesIO(data)


def _size(data: Data) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)


def _whole(data: Data) -> bytes:
    """A value that is parsed whole: of a file, no more than tells that it is too large."""
    if isinstance(data, bytes):
        return data
    if (size := _size(data)) > JSON_BYTES:
        raise Unfit(
            f"{size} bytes of JSON, at most {JSON_BYTES}: leave a table, a database or a file instead"
        )
    return data.read_bytes()


def _timer(over: float) -> tables.Tick:
    def tick() -> None:
        if time.monotonic() > over:
            raise Unfit(f"it takes longer than {_SECONDS:.0f} s to check: split it")

    return tick


def _read_text(data: Data) -> None:
    decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
    with _opened(data) as file:
        try:
            while block := file.read(_BLOCK):
                decoder.decode(block)
                at += len(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise Unfit(f"not UTF-8 text: {error.reason} in the {_BLOCK >> 20} MB from byte {at}") from error


def _dataset_errors(spec: OutputSpec, file: BinaryIO, over: float, read: Reader | None) -> Iterator[str]:
    """The files of a data set against the declared tables: table `t` is `t.csv`, `t.tsv` or `t.parquet`."""
    wanted = tables.declared(spec.name, spec.schema_)
    try:
        with (
            tarfile.open(fileobj=file) as archive,
            closing(tables.Checker(wanted, _timer(over), read)) as checker,
        ):
            there = {PurePosixPath(member.name).stem: member for member in archive if _is_table(member)}
            for table in wanted:
                if table.name not in there:
                    yield f"no table {table.name}; there are {', '.join(sorted(there)[:20]) or 'none'}"
                    continue
                content = archive.extractfile(there[table.name])
                assert content is not None
                try:
                    for error in checker.table(table, content):  # type: ignore[arg-type]  # it reads and seeks
                        yield type(error)(f"table {table.name}: {error}")
                except Unfit as unfit:
                    raise Unfit(f"table {table.name}: {unfit}") from unfit
            yield from checker.references()
    except (tarfile.TarError, EOFError) as error:
        raise Unfit(f"not a readable tar: {error}") from error


def _is_table(member: tarfile.TarInfo) -> bool:
    return member.isreg() and PurePosixPath(member.name).suffix.lower() in (".csv", ".tsv", ".parquet")


def _no_constant(name: str) -> Any:
    raise Unfit(f"not JSON: {name} is no JSON number")


def _walk(value: JsonValue) -> None:
    """Visit every node without recursion; raises `Unfit` at the first that no reader could take."""
    level: list[JsonValue] = [value]
    depth = 0
    while level:
        depth += 1
        if depth > JSON_DEPTH:
            raise Unfit(f"nested deeper than {JSON_DEPTH}")
        deeper: list[JsonValue] = []
        for node in level:
            if isinstance(node, dict):
                for key in node:
                    _plain(key)
                deeper.extend(node.values())
            elif isinstance(node, list):
                deeper.extend(node)
            elif isinstance(node, str):
                _plain(node)
            elif isinstance(node, float) and not math.isfinite(node):
                raise Unfit("a number is out of range")
        level = deeper


def _plain(text: str) -> None:
    if "\0" in text:
        raise Unfit("a string holds NUL")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Unfit("a string holds a lone surrogate")


# --- JSON Schema ---------------------------------------------------------------------------------------


def _json_errors(schema: Mapping[str, JsonValue], value: JsonValue) -> Iterator[str]:
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        for error in _Validator(schema).iter_errors(value):
            yield f"{error.json_path}: {error.message[:300]}"
    except jsonschema.SchemaError as error:
        yield f"the declared schema is no JSON Schema: {error.message[:300]}"
    except Exception as error:  # noqa: BLE001  # an unresolvable $ref or a bad pattern raises what it likes
        yield f"the declared schema cannot be applied: {type(error).__name__}: {error}"[:300]


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """The keyword `pattern`, with an end to its search."""
    if isinstance(instance, str) and not regex.search(
        pattern, instance[:_REGEX_BYTES], timeout=_REGEX_SECONDS, concurrent=True
    ):
        yield jsonschema.ValidationError(f"{instance[:100]!r} does not match {pattern!r}")


_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]  # its stubs have none
    jsonschema.Draft202012Validator, {"pattern": _pattern}
)


# --- acceptance ----------------------------------------------------------------------------------------


def _subjects(
    name: str | None, specs: Sequence[OutputSpec], types: tuple[ArtifactType, ...]
) -> list[OutputSpec]:
    if name is not None:
        return [spec for spec in specs if spec.name == name]
    preferred = [spec for spec in specs if spec.type is types[0]]
    return preferred or [spec for spec in specs if spec.type in types]


def _rows_result(check: RowsCheck, spec: OutputSpec, data: Data | None) -> CheckResult:
    try:
        rows = _row_count(spec, data)
    except ValueError as error:
        return CheckResult(check="rows", passed=False, evidence=f"{spec.name}: {error}")
    low, high = check.min or 0, sys.maxsize if check.max is None else check.max
    wanted = f"wanted {low} to {'any' if check.max is None else high}"
    return CheckResult(
        check="rows", passed=low <= rows <= high, evidence=f"{spec.name}: {rows} rows, {wanted}"
    )


def _row_count(spec: OutputSpec, data: Data | None) -> int:
    if data is None:
        raise Unfit("not produced")
    if spec.type is ArtifactType.JSON:
        with _one_at_a_time:
            value = read_json(_whole(data))
            if not isinstance(value, list):
                raise Unfit("a JSON value that is no list has no rows")
            return len(value)
    with _opened(data) as file:
        return tables.count(file)


def _regex_result(check: RegexCheck, name: str, data: Data | None) -> CheckResult:
    if data is None:
        return CheckResult(check="regex", passed=False, evidence=f"{name}: not produced")
    with _opened(data) as file:
        text = file.read(_REGEX_BYTES).decode("utf-8", errors="replace")
    try:
        match = regex.search(check.pattern, text, timeout=_REGEX_SECONDS, concurrent=True)
    except (regex.error, RecursionError, OverflowError, TimeoutError) as error:
        evidence = f"{name}: the pattern {check.pattern!r} cannot be used: {error or 'it takes too long'}"
        return CheckResult(check="regex", passed=False, evidence=evidence)
    cut = f" in its first {_REGEX_BYTES} bytes" if _size(data) > _REGEX_BYTES else ""
    seen = f"matches {match.group(0)[:80]!r}" if match else f"no match{cut} of"
    return CheckResult(check="regex", passed=match is not None, evidence=f"{name}: {seen} ({check.pattern})")
