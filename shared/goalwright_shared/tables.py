"""Tables as performers leave them: CSV read row by row, Parquet by its footer, both against declared columns.

The schema form is `{"tables": [{"name", "columns": [{"name", "type", "nullable", "unique", "references"}]}]}`.
However large a table is, one row of it and a few megabytes of what must be unique are in memory.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, BinaryIO

from goalwright_shared import parquet

_ROW_CHARACTERS = 4 << 20
_CELL_CHARACTERS = 1 << 20
_BATCH = 1_000
_CACHE_KIB = 8_192


Tick = Callable[[], None]
"""Called every thousand rows; raises to end it."""


class Unfit(ValueError):
    """The data is not what its type says; the text is the evidence."""


class Unchecked(str):
    """A finding that is no error: what was declared and not looked at."""


@dataclass(frozen=True)
class Column:
    """A declared column. `references` is (table, column)."""

    name: str
    kind: str | None = None  # one of KINDS; None is anything
    nullable: bool = True
    unique: bool = False
    references: tuple[str, str] | None = None


@dataclass(frozen=True)
class Table:
    """A declared table."""

    name: str
    columns: tuple[Column, ...]


def declared(name: str, schema: Mapping[str, Any] | None) -> list[Table]:
    """The tables of a schema, leaving out what is malformed; one without a name has that of the output."""
    found = [table for table in listed(schema or {}) if isinstance(table, dict)]
    return [Table(str(table.get("name") or name), tuple(_columns(table))) for table in found]


def listed(schema: Mapping[str, Any]) -> list[Any]:
    """The tables of a schema as they stand there; columns without a table are those of one."""
    found = schema.get("tables")
    if isinstance(found, list):
        return found
    return [schema] if found is None and isinstance(schema.get("columns"), list) else []


def _columns(table: Mapping[str, Any]) -> Iterator[Column]:
    columns = table.get("columns")
    for column in columns if isinstance(columns, list) else []:
        if isinstance(column, str):
            yield Column(column)
        elif isinstance(column, dict) and isinstance(column.get("name"), str):
            yield Column(
                name=column["name"],
                kind=KINDS.get(str(column.get("type", "")).lower().partition("(")[0].strip()),
                nullable=column.get("nullable") is not False,
                unique=column.get("unique") is True,
                references=reference(column.get("references")),
            )


def reference(value: Any) -> tuple[str, str] | None:
    """`table.column`, or an object with both."""
    if isinstance(value, dict):
        table, column = value.get("table"), value.get("column")
    elif isinstance(value, str):
        table, _, column = value.replace("(", ".").rstrip(")").partition(".")
    else:
        return None
    return (str(table), str(column)) if table and column else None


# --- what a cell may be --------------------------------------------------------------------------------

_WORDS = {
    "integer": "integer int int32 int64 bigint smallint",
    "number": "number float float32 float64 double real decimal numeric",
    "boolean": "boolean bool",
    "date": "date",
    "datetime": "datetime timestamp",
    "text": "text string str varchar char",
}
KINDS = {word: kind for kind, words in _WORDS.items() for word in words.split()}
"""The words for the types of columns, by the type they mean."""


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _is_integer(cell: str) -> bool:
    return re.fullmatch(r"\s*[+-]?\d+(\.0+)?\s*", cell) is not None


def _is_boolean(cell: str) -> bool:
    return cell.strip().lower() in {"true", "false", "0", "1", "yes", "no"}


def _is_date(cell: str) -> bool:
    try:
        date.fromisoformat(cell.strip()[:10])
    except ValueError:
        return False
    return True


def _is_datetime(cell: str) -> bool:
    try:
        datetime.fromisoformat(cell.strip())
    except ValueError:
        return False
    return True


FITS: dict[str, Callable[[str], bool]] = {
    "integer": _is_integer,
    "number": _is_number,
    "boolean": _is_boolean,
    "date": _is_date,
    "datetime": _is_datetime,
}
"""Whether the text of a cell is of a type; any text is text. Dates are ISO 8601."""


# --- CSV -----------------------------------------------------------------------------------------------


class _Lines:
    """The lines of a text without NUL; of what makes one row, no more than fits into memory."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.fed = 0  # characters since the row began

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(_ROW_CHARACTERS):
            self.fed += len(line)
            if self.fed >= _ROW_CHARACTERS:
                raise Unfit(f"not CSV: a row is longer than {_ROW_CHARACTERS} characters")
            if "\0" in line:
                raise Unfit("not CSV: it holds NUL")
            yield line


def rows(file: BinaryIO) -> Iterator[list[str]]:
    """Header and rows of a CSV file (tabs between cells when its header has them and no comma), all of one
    width, blank lines left out. Raises `Unfit`, which says in which row (the first after the header is 1)."""
    csv.field_size_limit(_CELL_CHARACTERS)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    number, width = -1, 0
    try:
        first = text.readline(_ROW_CHARACTERS)
        text.seek(0)
        lines = _Lines(text)
        delimiter = "\t" if "\t" in first and "," not in first else ","
        for row in csv.reader(iter(lines), strict=True, delimiter=delimiter):
            lines.fed = 0
            if not row:
                continue
            number += 1
            if number == 0:
                width = len(row)
            elif len(row) != width:
                raise Unfit(f"not CSV: row {number} has {len(row)} cells, the header has {width}")
            yield row
    except csv.Error as error:
        raise Unfit(f"not CSV: {error} (after row {max(number, 0)})") from error
    except UnicodeDecodeError as error:
        raise Unfit(f"not UTF-8 text: {error.reason} (after row {max(number, 0)})") from error
    finally:
        text.detach()  # whoever opened the file closes it
    if number < 0:
        raise Unfit("an empty table: not even a header")


def count(file: BinaryIO) -> int:
    """Rows of a CSV or Parquet table, header not counted; raises `Unfit`."""
    if is_parquet(file):
        return _footer(file).rows
    return sum(1 for _ in rows(file)) - 1


def is_parquet(file: BinaryIO) -> bool:
    """Whether a file says that it is Parquet."""
    return _at(file, 0, 0) == parquet.MAGIC and _at(file, -4, 2) == parquet.MAGIC


def _at(file: BinaryIO, offset: int, whence: int) -> bytes:
    try:
        file.seek(offset, whence)
        return file.read(4)
    except (OSError, ValueError):  # shorter than that
        return b""
    finally:
        file.seek(0)


# --- against declared columns --------------------------------------------------------------------------


@dataclass
class Checker:
    """Checks tables, one after another; what must be unique or is referred to goes into a temporary database
    that spills to disk. Close it."""

    tables: Sequence[Table]
    tick: Tick
    _seen: dict[tuple[str, str], str] = field(default_factory=dict)  # SQL table by (table, column)

    def __post_init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in (
            f"cache_size=-{_CACHE_KIB}",
            "journal_mode=OFF",
            "synchronous=OFF",
            "temp_store=FILE",
        ):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("BEGIN")

    def close(self) -> None:
        """Release the temporary database."""
        self._database.close()

    def table(self, table: Table, file: BinaryIO) -> Iterator[str]:
        """What of a file is not as declared: at most one finding for each rule of a column. Raises `Unfit`."""
        if is_parquet(file):
            yield from _footer_errors(table, _footer(file))
            yield from _unread(table)
            return
        body = rows(file)
        header = next(body)
        checks = []
        for column in table.columns:
            if column.name in header:
                checks.append(self._column(table, column, header.index(column.name)))
            else:
                yield f"no column {column.name}; there are {', '.join(header[:20])}"
        self._feed(body, checks)
        for check in checks:
            yield from check.found.values()

    def references(self) -> Iterator[str]:
        """Values that refer to none; after all tables."""
        for table in self.tables:
            for column in table.columns:
                target = column.references
                if target is None or (table.name, column.name) not in self._seen or target not in self._seen:
                    continue
                here, there = self._seen[table.name, column.name], self._seen[target]
                lost = self._database.execute(
                    f"SELECT value, row FROM {here} WHERE value NOT IN (SELECT value FROM {there}) "  # noqa: S608
                    "ORDER BY row LIMIT 1"
                ).fetchone()
                if lost:
                    yield (
                        f"table {table.name}, row {lost[1]}, column {column.name}: {lost[0][:50]!r} is not in "
                        f"{target[0]}.{target[1]}"
                    )

    def _feed(self, body: Iterator[list[str]], checks: Sequence[_ColumnCheck]) -> None:
        for number, row in enumerate(body, 1):
            for check in checks:
                check.take(number, row[check.at])
            if number % _BATCH == 0:
                self.tick()
                for check in checks:
                    check.flush()
        for check in checks:
            check.flush()

    def _column(self, table: Table, column: Column, at: int) -> _ColumnCheck:
        key = (table.name, column.name)
        wanted = {other.references for one in self.tables for other in one.columns if other.references}
        if column.unique or column.references or key in wanted:
            name = self._seen.setdefault(key, f"seen{len(self._seen)}")
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS {name} (value PRIMARY KEY, row) WITHOUT ROWID"
            )
            return _ColumnCheck(column, at, self._database, name)
        return _ColumnCheck(column, at)


@dataclass
class _ColumnCheck:
    column: Column
    at: int
    database: sqlite3.Connection | None = None
    seen: str = ""
    found: dict[str, str] = field(default_factory=dict)  # the first finding by rule
    _batch: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fits = FITS.get(self.column.kind or "")

    def take(self, number: int, cell: str) -> None:
        if not cell:
            if not self.column.nullable:
                self._note("nullable", number, "it is empty")
        elif self._fits is not None and not self._fits(cell):
            self._note("type", number, f"{cell[:50]!r} is no {self.column.kind}")
        elif self.database is not None:
            self._batch.append((cell, number))

    def flush(self) -> None:
        if self.database is None or not self._batch:
            return
        before = self.database.total_changes
        self.database.executemany(f"INSERT OR IGNORE INTO {self.seen} VALUES (?, ?)", self._batch)  # noqa: S608
        if self.column.unique and self.database.total_changes - before < len(self._batch):
            self._note_twins(self.database)
        self._batch.clear()

    def _note_twins(self, database: sqlite3.Connection) -> None:
        for cell, number in self._batch:
            [first] = database.execute(f"SELECT row FROM {self.seen} WHERE value = ?", (cell,)).fetchone()  # noqa: S608
            if first != number:
                self._note("unique", number, f"not unique: {cell[:50]!r} is in row {first} too")
                return

    def _note(self, rule: str, number: int, says: str) -> None:
        self.found.setdefault(rule, f"row {number}, column {self.column.name}: {says}")


def _footer(file: BinaryIO) -> parquet.Footer:
    try:
        return parquet.read_footer(file)
    except parquet.BadFooter as error:
        raise Unfit(f"not readable Parquet: {error}") from error


def _footer_errors(table: Table, footer: parquet.Footer) -> Iterator[str]:
    """Names, types and empty cells, as far as the footer tells them."""
    there = {column.name: column for column in footer.columns}
    for column in table.columns:
        found = there.get(column.name)
        if found is None:
            yield f"no column {column.name}; there are {', '.join(list(there)[:20])}"
            continue
        if column.kind and found.kind not in (None, column.kind) and (found.kind, column.kind) not in _WIDENS:
            yield f"column {column.name}: its Parquet type is {found.kind}, not {column.kind}"
        if not column.nullable and found.nulls:
            yield f"column {column.name}: {found.nulls} cells are empty"


def _unread(table: Table) -> Iterator[Unchecked]:
    for column in table.columns:
        rules = [
            word for word, asked in (("unique", column.unique), ("references", column.references)) if asked
        ]
        if rules:
            yield Unchecked(
                f"column {column.name}: {' and '.join(rules)}, as the values of Parquet are not read"
            )


_WIDENS = {("integer", "number"), ("date", "datetime"), ("datetime", "date")}
"""Parquet types that do for another declared one."""


def errors(tables: Sequence[Table], file: BinaryIO, tick: Tick) -> Iterator[str]:
    """What of one table is not as declared; raises `Unfit` when it is no table."""
    table = tables[0] if tables else Table("", ())
    with closing(Checker(tables, tick)) as checker:
        yield from checker.table(table, file)
        yield from checker.references()
