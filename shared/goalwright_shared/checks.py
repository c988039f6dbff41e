"""The checks a performer runs on its own outputs (schema, rows, regex), pure: bytes in, findings out.

Whatever passes here can be stored in Postgres as jsonb, read by the next program and shown to a model.
Program checks and rubrics are tasks of their own and are not run here.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonschema
import regex
from pydantic import JsonValue

from goalwright_shared.messages import (
    ArtifactType,
    Check,
    CheckResult,
    OutputSpec,
    RegexCheck,
    RowsCheck,
)

JSON_DEPTH = 100
"""Nesting beyond this is refused: readers downstream recurse."""

_CELL_CHARACTERS = 1_000_000
_REGEX_BYTES = 1 << 20
_REGEX_SECONDS = 1.0
_MAX_FINDINGS = 5
_PARQUET = b"PAR1"
_SQLITE = b"SQLite format 3\0"
_TAR_BLOCK = 512


class _Unfit(ValueError):
    """The data is not what its type says; the text is the evidence."""


def check_output(spec: OutputSpec, data: bytes) -> list[CheckResult]:
    """Findings on one output: that it is what its type says and, when declared, that it matches its schema.

    The first result is named `type`, the second (if any) `schema`; all `passed` means acceptable.
    """
    try:
        found = _read(spec.type, data)
    except _Unfit as unfit:
        return [CheckResult(check="type", passed=False, evidence=f"{spec.name}: {unfit}")]
    results = [
        CheckResult(check="type", passed=True, evidence=f"{spec.name}: {spec.type}, {len(data)} bytes")
    ]
    if spec.schema_ is not None:
        errors = _against_schema(spec, found)
        evidence = "; ".join(errors) if errors else "matches"
        results.append(CheckResult(check="schema", passed=not errors, evidence=f"{spec.name}: {evidence}"))
    return results


def check_acceptance(
    checks: Sequence[Check], specs: Sequence[OutputSpec], outputs: Mapping[str, bytes]
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
    try:
        value: JsonValue = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _Unfit(f"not UTF-8: byte {error.start} is invalid") from error
    except RecursionError as error:
        raise _Unfit(f"nested deeper than {JSON_DEPTH}") from error
    except _Unfit:
        raise
    except ValueError as error:
        raise _Unfit(f"not JSON: {error}") from error
    _walk(value)
    return value


def count_rows(data: bytes) -> int:
    """Rows of a CSV table, header not counted; raises ValueError when it is no table."""
    return len(_csv(data)) - 1


# --- types ---------------------------------------------------------------------------------------------


def _read(type: ArtifactType, data: bytes) -> Any:
    """What the schema is checked against: a JSON value, rows of a table, a database; raises `_Unfit`."""
    match type:
        case ArtifactType.TEXT:
            return _text(data)
        case ArtifactType.JSON:
            return read_json(data)
        case ArtifactType.TABLE:
            return None if _is_parquet(data) else _csv(data)
        case ArtifactType.DATABASE:
            return _tables_of(data)
        case ArtifactType.FOLDER | ArtifactType.DATASET:
            if len(data) % _TAR_BLOCK or (data and data[257:262] != b"ustar" and any(data[:_TAR_BLOCK])):
                raise _Unfit("not a tar")
            return None
        case _:
            return None


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Unfit(f"not UTF-8 text: byte {error.start} is invalid") from error


def _no_constant(name: str) -> Any:
    raise _Unfit(f"not JSON: {name} is no JSON number")


def _walk(value: JsonValue) -> None:
    """Visit every node without recursion; raises `_Unfit` at the first that no reader could take."""
    level: list[JsonValue] = [value]
    depth = 0
    while level:
        depth += 1
        if depth > JSON_DEPTH:
            raise _Unfit(f"nested deeper than {JSON_DEPTH}")
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
                raise _Unfit("a number is out of range")
        level = deeper


def _plain(text: str) -> None:
    if "\0" in text:
        raise _Unfit("a string holds NUL")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _Unfit("a string holds a lone surrogate")


def _is_parquet(data: bytes) -> bool:
    return data[:4] == _PARQUET and data[-4:] == _PARQUET


def _csv(data: bytes) -> list[list[str]]:
    """Header and rows, all of one width (blank lines dropped); raises `_Unfit`."""
    text = _text(data).removeprefix("\ufeff")
    if "\0" in text:
        raise _Unfit("not CSV: it holds NUL")
    csv.field_size_limit(_CELL_CHARACTERS)
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), strict=True):
            if not row:
                continue
            if rows and len(row) != len(rows[0]):
                at = len(rows) + 1
                raise _Unfit(f"not CSV: row {at} has {len(row)} cells, the header has {len(rows[0])}")
            rows.append(row)
    except csv.Error as error:
        raise _Unfit(f"not CSV: {error}") from error
    if not rows:
        raise _Unfit("an empty table: not even a header")
    return rows


def _tables_of(data: bytes) -> dict[str, list[str]]:
    """Columns of each table of a SQLite file; raises `_Unfit`."""
    if not data.startswith(_SQLITE):
        raise _Unfit("not a SQLite file")
    database = sqlite3.connect(":memory:")
    try:
        database.deserialize(data)
        database.execute("PRAGMA trusted_schema=OFF")
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: [row[0] for row in database.execute("SELECT name FROM pragma_table_info(?)", (name,))]
            for name in names
        }
    except sqlite3.Error as error:
        raise _Unfit(f"not a readable SQLite file: {error}") from error
    finally:
        database.close()


# --- schemas -------------------------------------------------------------------------------------------


def _against_schema(spec: OutputSpec, found: Any) -> list[str]:
    """What differs from the declared schema, the first few findings; empty when it matches."""
    assert spec.schema_ is not None
    match spec.type:
        case ArtifactType.JSON:
            errors = _json_errors(spec.schema_, found)
        case ArtifactType.TABLE if found is not None:
            errors = _table_errors(_tables(spec), found)
        case ArtifactType.DATABASE:
            errors = _database_errors(_tables(spec), found)
        case _:  # Parquet and folders: only a program check can look inside
            errors = iter(())
    return [error for error, _ in zip(errors, range(_MAX_FINDINGS), strict=False)]


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


def _tables(spec: OutputSpec) -> list[dict[str, Any]]:
    """The `tables` of the schema form of tables, leaving out what is malformed."""
    tables = (spec.schema_ or {}).get("tables")
    return [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []


def _columns(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = table.get("columns")
    found = columns if isinstance(columns, list) else []
    return [column for column in found if isinstance(column, dict) and isinstance(column.get("name"), str)]


def _table_errors(tables: Sequence[Mapping[str, Any]], rows: list[list[str]]) -> Iterator[str]:
    header = rows[0]
    for column in _columns(tables[0]) if tables else []:
        if column["name"] not in header:
            yield f"no column {column['name']}; there are {', '.join(header[:20])}"
        else:
            at = header.index(column["name"])
            yield from _column_errors(column, [row[at] for row in rows[1:]])


def _column_errors(column: Mapping[str, Any], cells: Sequence[str]) -> Iterator[str]:
    name, kind = column["name"], str(column.get("type", "")).lower()
    if column.get("nullable") is False and "" in cells:
        yield f"column {name}: row {cells.index('') + 1} is empty"
    if column.get("unique") and len(set(cells)) != len(cells):
        yield f"column {name}: not unique"
    fits = _FITS.get(kind)
    wrong = next((cell for cell in cells if cell and fits is not None and not fits(cell)), None)
    if wrong is not None:
        yield f"column {name}: {wrong[:50]!r} is no {kind}"


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _is_integer(cell: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.0+)?", cell.strip()) is not None


def _is_boolean(cell: str) -> bool:
    return cell.strip().lower() in {"true", "false", "0", "1", "yes", "no"}


_FITS = {
    "integer": _is_integer,
    "int": _is_integer,
    "number": _is_number,
    "float": _is_number,
    "real": _is_number,
    "boolean": _is_boolean,
    "bool": _is_boolean,
}


def _database_errors(
    tables: Sequence[Mapping[str, Any]], found: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    for table in tables:
        name = str(table.get("name", ""))
        if name not in found:
            yield f"no table {name}; there are {', '.join(sorted(found)[:20])}"
            continue
        missing = [column["name"] for column in _columns(table) if column["name"] not in found[name]]
        if missing:
            yield f"table {name}: no column {', '.join(missing)}"


# --- acceptance ----------------------------------------------------------------------------------------


def _subjects(
    name: str | None, specs: Sequence[OutputSpec], types: tuple[ArtifactType, ...]
) -> list[OutputSpec]:
    if name is not None:
        return [spec for spec in specs if spec.name == name]
    preferred = [spec for spec in specs if spec.type is types[0]]
    return preferred or [spec for spec in specs if spec.type in types]


def _rows_result(check: RowsCheck, spec: OutputSpec, data: bytes | None) -> CheckResult:
    try:
        rows = _row_count(spec, data)
    except ValueError as error:
        return CheckResult(check="rows", passed=False, evidence=f"{spec.name}: {error}")
    low, high = check.min or 0, sys.maxsize if check.max is None else check.max
    wanted = f"wanted {low} to {'any' if check.max is None else high}"
    return CheckResult(
        check="rows", passed=low <= rows <= high, evidence=f"{spec.name}: {rows} rows, {wanted}"
    )


def _row_count(spec: OutputSpec, data: bytes | None) -> int:
    if data is None:
        raise _Unfit("not produced")
    if spec.type is ArtifactType.JSON:
        value = read_json(data)
        if not isinstance(value, list):
            raise _Unfit("a JSON value that is no list has no rows")
        return len(value)
    if _is_parquet(data):
        raise _Unfit("the rows of a Parquet file cannot be counted here: write CSV, or use a program check")
    return count_rows(data)


def _regex_result(check: RegexCheck, name: str, data: bytes | None) -> CheckResult:
    if data is None:
        return CheckResult(check="regex", passed=False, evidence=f"{name}: not produced")
    text = data[:_REGEX_BYTES].decode("utf-8", errors="replace")
    try:
        match = regex.search(check.pattern, text, timeout=_REGEX_SECONDS, concurrent=True)
    except (regex.error, RecursionError, OverflowError, TimeoutError) as error:
        evidence = f"{name}: the pattern {check.pattern!r} cannot be used: {error or 'it takes too long'}"
        return CheckResult(check="regex", passed=False, evidence=evidence)
    seen = f"matches {match.group(0)[:80]!r}" if match else "no match of"
    return CheckResult(check="regex", passed=match is not None, evidence=f"{name}: {seen} ({check.pattern})")
