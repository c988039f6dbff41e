"""Tables as performers leave them: CSV read row by row, Parquet by its footer, both against declared columns.

The schema form is `{"tables": [{"name", "columns": [{"name", "type", "nullable", "unique", "references"}]}]}`.
Values of Parquet are parsed by whoever brings a `Reader`, because that takes native code; here they are CSV.
However large a table is, one row of it and a few megabytes of what must be unique are in memory.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Context, Decimal
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


class Unread(Exception):
    """The values of a Parquet file cannot be read; the text says why."""


Reader = Callable[[BinaryIO, Sequence[str]], BinaryIO]
"""The columns of these names of a Parquet file as CSV, in their order, below any header: a null is an empty cell, a
value its text behind `=`, so that an empty text is no null. Raises `Unread`; whoever asked closes the CSV."""


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


_NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_DIGITS = Context(prec=100)


def meant(cell: str) -> str:
    """What the texts of one value have in common: `1.0` is 1, `2026-01-31 00:00:00` is 2026-01-31T00:00:00+00:00,
    `True` is true. What begins with zeros, as postcodes do, is text."""
    if cell in ("True", "False"):
        return cell.lower()
    try:
        if _NUMBER.fullmatch(cell):
            return str(Decimal(cell).normalize(_DIGITS))
        moment = datetime.fromisoformat(cell)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ArithmeticError, ValueError):  # beyond the range of a number, or plain text
        return cell


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
    read: Reader | None = None
    _seen: dict[tuple[str, str], str] = field(default_factory=dict)  # SQL table by (table, column)
    _unread: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for setting in (
            f"cache_size=-{_CACHE_KIB}",
            "journal_mode=OFF",
            "synchronous=OFF",
            "temp_store=FILE",
        ):
            self._database.execute(f"PRAGMA {setting}")
        self._database.create_function("meant", 1, meant, deterministic=True)
        self._database.execute("BEGIN")
        every = [(table.name, column) for table in self.tables for column in table.columns]
        self._kinds = {(name, column.name): column.kind for name, column in every}
        self._referred = {column.references for _, column in every if column.references}

    def close(self) -> None:
        """Release the temporary database."""
        self._database.close()

    def table(self, table: Table, file: BinaryIO) -> Iterator[str]:
        """What of a file is not as declared: at most one finding for each rule of a column. Raises `Unfit`."""
        if is_parquet(file):
            yield from self._parquet(table, file)
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
                key, target = (table.name, column.name), column.references
                if target is None or key in self._unread or key not in self._seen:
                    continue
                where, at = f"table {table.name}", f"column {column.name}"
                if target in self._unread:
                    yield Unchecked(
                        f"{where}: {at}: references, as the values of {'.'.join(target)} are not read"
                    )
                elif target in self._seen and (lost := self._lost(key, target)):
                    yield f"{where}, row {lost[1]}, {at}: {lost[0][:50]!r} is not in {'.'.join(target)}"

    def _lost(self, key: tuple[str, str], target: tuple[str, str]) -> tuple[str, int] | None:
        """The first value that is not among those of the target, and its row. Forms of text differ between CSV and
        Parquet, so that columns that are no text are compared by what is meant when the texts differ."""
        here, there = self._seen[key], self._seen[target]
        found = f"value NOT IN (SELECT value FROM {there})"  # noqa: S608
        if "text" not in (self._kinds[key], self._kinds[target]):
            found += f" AND meant(value) NOT IN (SELECT meant(value) FROM {there})"  # noqa: S608
        query = f"SELECT value, row FROM {here} WHERE {found} ORDER BY row LIMIT 1"  # noqa: S608
        row: tuple[str, int] | None = self._database.execute(query).fetchone()
        return row

    def _parquet(self, table: Table, file: BinaryIO) -> Iterator[str]:
        """By the footer; by the values of those columns with a rule that it does not answer."""
        footer = _footer(file)
        yield from _footer_errors(table, footer)
        there = {column.name: column for column in footer.columns}
        wanted = [
            left
            for column in table.columns
            if column.name in there and (left := self._left(table, column, there[column.name]))
        ]
        if not wanted:
            return
        try:
            if self.read is None:
                raise Unread("the values of Parquet are not read")
            with (
                closing(self.read(file, [column.name for column in wanted])) as values,
                closing(_values(values, len(wanted), footer.rows)) as body,
            ):
                checks = [self._column(table, column, at, marked=True) for at, column in enumerate(wanted)]
                self._feed(body, checks)
        except Unread as unread:
            for column in wanted:
                self._unread.add((table.name, column.name))
                if rules := _rules(column):
                    yield Unchecked(f"column {column.name}: {' and '.join(rules)}, as {unread}")
            return
        for check in checks:
            yield from check.found.values()

    def _left(self, table: Table, column: Column, found: parquet.Column) -> Column | None:
        """A column with the rules that its footer leaves open, None when it leaves none."""
        kind = column.kind if found.kind is None and column.kind in FITS else None
        left = replace(column, kind=kind, nullable=column.nullable or found.nulls is not None)
        return left if _rules(left) or (table.name, column.name) in self._referred else None

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

    def _column(self, table: Table, column: Column, at: int, *, marked: bool = False) -> _ColumnCheck:
        key = (table.name, column.name)
        if column.unique or column.references or key in self._referred:
            name = self._seen.setdefault(key, f"seen{len(self._seen)}")
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS {name} (value PRIMARY KEY, row) WITHOUT ROWID"
            )
            return _ColumnCheck(column, at, marked, self._database, name)
        return _ColumnCheck(column, at, marked)


@dataclass
class _ColumnCheck:
    column: Column
    at: int
    marked: bool  # a sign before each cell that is not empty
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
            return
        if self.marked:
            cell = cell[1:]
        if self._fits is not None and not self._fits(cell):
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


def _rules(column: Column) -> list[str]:
    """What is declared of a column beside its name, in words."""
    asked = {
        "type": column.kind is not None,
        "nullable": not column.nullable,
        "unique": column.unique,
        "references": column.references is not None,
    }
    return [rule for rule, is_asked in asked.items() if is_asked]


def _values(file: BinaryIO, width: int, count: int) -> Generator[list[str], None, None]:
    """The rows of what a `Reader` gave. Raises `Unread` unless they are as many, and as wide, as they must be."""
    number = -1
    try:
        for number, row in enumerate(rows(file)):
            if len(row) != width:
                raise Unread(f"{len(row)} of its {width} columns could be read")
            if number:
                yield row
    except Unfit as unfit:
        raise Unread(f"its values are {unfit}") from unfit
    if number != count:
        raise Unread(f"{number} of its {count} rows could be read")


_WIDENS = {("integer", "number"), ("date", "datetime"), ("datetime", "date")}
"""Parquet types that do for another declared one."""


def errors(tables: Sequence[Table], file: BinaryIO, tick: Tick, read: Reader | None = None) -> Iterator[str]:
    """What of one table is not as declared; raises `Unfit` when it is no table."""
    table = tables[0] if tables else Table("", ())
    with closing(Checker(tables, tick, read)) as checker:
        yield from checker.table(table, file)
        yield from checker.references()
