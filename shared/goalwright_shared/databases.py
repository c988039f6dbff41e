"""SQLite files as performers leave them, against declared tables: opened as what they are, files of strangers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from goalwright_shared.tables import Column, Table, Unfit

_HEAD = b"SQLite format 3\0"
_NO_WAL = b"\1\1"  # a database in memory has no write-ahead log, though its file may have had one
_STEPS = 10_000
_CELL_BYTES = 64 << 20


def connect(data: bytes | Path) -> sqlite3.Connection:
    """A connection that only reads: no write, no journal, no function or virtual table named by the file's own
    schema is trusted, no extension is loaded, no other file attached. Raises `Unfit`."""
    if _head(data) != _HEAD:
        raise Unfit("not a SQLite file")
    if isinstance(data, Path):
        uri = f"{data.absolute().as_uri()}?mode=ro&immutable=1"
        database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    else:
        database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        database.deserialize(data[:18] + _NO_WAL + data[20:])
    for setting in (
        "trusted_schema=OFF",
        "cell_size_check=ON",
        "query_only=ON",
        "mmap_size=0",
        "temp_store=FILE",
    ):
        database.execute(f"PRAGMA {setting}")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _CELL_BYTES)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    return database


def _head(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return data[: len(_HEAD)]
    with data.open("rb") as file:
        return file.read(len(_HEAD))


def errors(tables: Sequence[Table], data: bytes | Path, is_over: Callable[[], bool]) -> Iterator[str]:
    """What of a database is not as declared; raises `Unfit` when it is damaged, or when `is_over` says that its
    time is."""
    try:
        with closing(connect(data)) as database:
            database.set_progress_handler(is_over, _STEPS)
            [said] = database.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                raise Unfit(f"a damaged SQLite file: {said}"[:300])
            there = _tables(database)
            for table in tables:
                yield from _table_errors(database, there, table)
    except sqlite3.Error as error:
        if is_over():
            raise Unfit("it takes too long to check: fewer rows, or fewer rules") from error
        raise Unfit(f"not a readable SQLite file: {error}") from error


def _tables(database: sqlite3.Connection) -> dict[str, list[str]]:
    """Columns of each ordinary table, by name."""
    listed = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
    names = [name for (name,) in database.execute(listed) if not name.startswith("sqlite_")]
    query = "SELECT name FROM pragma_table_xinfo(?)"
    return {name: [column for (column,) in database.execute(query, (name,))] for name in names}


def _table_errors(database: sqlite3.Connection, there: dict[str, list[str]], table: Table) -> Iterator[str]:
    if table.name not in there:
        yield f"no table {table.name}; there are {', '.join(sorted(there)[:20]) or 'none'}"
        return
    missing = [column.name for column in table.columns if column.name not in there[table.name]]
    if missing:
        yield f"table {table.name}: no column {', '.join(missing)}; there are {', '.join(there[table.name][:20])}"
    for column in table.columns:
        if column.name not in missing:
            for says in _column_errors(database, there, _quoted(table.name), column):
                yield f"table {table.name}, column {column.name}: {says}"


def _column_errors(
    database: sqlite3.Connection, there: dict[str, list[str]], table: str, column: Column
) -> Iterator[str]:
    name = _quoted(column.name)

    def first(where: str) -> str | None:
        short = f"WHEN 'text' THEN substr({name}, 1, 50) WHEN 'blob' THEN 'a blob'"
        shown = f"quote(CASE typeof({name}) {short} ELSE {name} END)"
        found = database.execute(f"SELECT {shown} FROM {table} WHERE {where} LIMIT 1").fetchone()  # noqa: S608
        return None if found is None else str(found[0])

    if not column.nullable and first(f"{name} IS NULL"):
        yield "there are empty cells"
    if column.kind in _WRONG and (wrong := first(_WRONG[column.kind].format(name))):
        yield f"{wrong} is no {column.kind}"
    if column.unique and (twin := first(f"{name} IS NOT NULL GROUP BY {name} HAVING count(*) > 1")):
        yield f"not unique: {twin} is there more than once"
    if column.references and column.references[1] in there.get(column.references[0], ()):
        target = ".".join(column.references)
        parent, key = map(_quoted, column.references)
        parents = f"SELECT {key} FROM {parent} WHERE {key} IS NOT NULL"  # noqa: S608
        if lost := first(f"{name} IS NOT NULL AND {name} NOT IN ({parents})"):
            yield f"{lost} is not in {target}"


_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"
_WRONG = {
    "integer": "typeof({0}) NOT IN ('integer', 'null')",
    "number": "typeof({0}) NOT IN ('integer', 'real', 'null')",
    "boolean": "{0} IS NOT NULL AND (typeof({0}) <> 'integer' OR {0} NOT IN (0, 1))",
    "text": "typeof({0}) NOT IN ('text', 'null')",
    "date": "typeof({0}) <> 'null' AND ({0} NOT GLOB '" + _DAY + "' OR date({0}) IS NULL)",
    "datetime": "typeof({0}) <> 'null' AND ({0} NOT GLOB '" + _DAY + "' OR datetime({0}) IS NULL)",
}
"""Where a cell is of another type than declared."""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
