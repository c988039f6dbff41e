"""SQL over what a goal has made: its tables, data sets and databases, read into SQLite on this machine.

SQLite, because it comes with Python, opens the databases of goals as they are, and lets a statement be held to
reading (DuckDB would be 60 MB more and reads SQLite files only with an extension from the network).
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from goalwright_shared import tables
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import ArtifactRef, ArtifactType
from goalwright_shared.tables import Unfit

from goalwright_cli.files import Store
from goalwright_cli.words import clean

QUERYABLE = (ArtifactType.TABLE, ArtifactType.DATASET, ArtifactType.DATABASE)

_SHOWN_ROWS = 1_000
_BATCH = 1_000
_MOST_DATABASES = 10  # SQLite attaches no more

_READING = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
}  # fmt: skip
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer"}

_TO_CSV = """
import sys
from fastparquet import ParquetFile
head = True
for frame in ParquetFile(sys.argv[1]).iter_row_groups(index=False):
    frame.to_csv(sys.argv[2], mode="a", index=False, header=head)
    head = False
if head:
    ParquetFile(sys.argv[1]).to_pandas().to_csv(sys.argv[2], index=False)
"""


class BadQuery(GoalwrightError):
    """The statement cannot be run, or what it names cannot be read."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__("usage", message, hint=hint)


class Answer:
    """The result of a statement: `columns`, and rows that are read as they are wanted."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self.columns = [clean(column[0]) for column in cursor.description or ()]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows; raises `BadQuery`."""
        try:
            yield from self._cursor
        except sqlite3.Error as error:
            raise BadQuery(f"SQL: {error}") from error


async def query(
    store: Store, refs: Mapping[str, ArtifactRef], statement: str, show: Callable[[Answer], None]
) -> None:
    """Fetch what a statement names, run it, and show its answer; nothing of it stays on the disk. Raises
    `BadQuery`, `ArtifactUnavailable`."""
    names = table_names(refs)
    wanted = {name: found for name, found in names.items() if re.search(rf"\b{name}\b", statement, re.I)}
    if not wanted:
        raise BadQuery(f"the statement names none of the artifacts: {_listed(names)}")
    if len([1 for _, ref in wanted.values() if ref.type is not ArtifactType.TABLE]) > _MOST_DATABASES:
        raise BadQuery(f"at most {_MOST_DATABASES} data sets and databases in one statement")
    with tempfile.TemporaryDirectory(prefix="goalwright-sql-") as path:
        folder = Path(path)
        for name, (_, ref) in wanted.items():
            await store.fetch(ref, folder / name)
        database = _opened(folder)
        try:
            await asyncio.to_thread(_run, database, wanted, statement, folder, show)
        except asyncio.CancelledError:
            database.interrupt()  # the thread ends with it, and closes the database
            raise
        except BadQuery as error:
            if "no such table" in error.message:
                raise BadQuery(
                    f"{error.message}; {_listed(names)}",
                    hint="tables of data sets and databases are NAME.TABLE",
                ) from error
            raise


def table_names(refs: Mapping[str, ArtifactRef]) -> dict[str, tuple[str, ArtifactRef]]:
    """What a statement can name: for each queryable artifact, its name in letters, digits and _."""
    names: dict[str, tuple[str, ArtifactRef]] = {}
    for artifact, ref in refs.items():
        if ref.type in QUERYABLE:
            plain = re.sub(r"\W", "_", artifact, flags=re.ASCII)
            name = f"_{plain}" if plain[:1].isdigit() or plain.lower() in ("main", "temp") else plain
            while name.lower() in map(str.lower, names):
                name += "_"
            names[name] = (artifact, ref)
    return names


def _opened(folder: Path) -> sqlite3.Connection:
    uri = (folder / ".loaded").as_uri()
    database = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    for setting in ("trusted_schema=OFF", "cell_size_check=ON", "journal_mode=OFF", "synchronous=OFF"):
        database.execute(f"PRAGMA {setting}")
    return database


def _run(
    database: sqlite3.Connection,
    wanted: Mapping[str, tuple[str, ArtifactRef]],
    statement: str,
    folder: Path,
    show: Callable[[Answer], None],
) -> None:
    with closing(database):
        for name, (artifact, ref) in wanted.items():
            try:
                _load(database, name, ref, folder / name)
            except (Unfit, sqlite3.Error, tarfile.TarError, EOFError) as error:
                raise BadQuery(f"artifact {artifact} cannot be read as a {ref.type}: {error}") from error
        database.execute("PRAGMA query_only=ON")
        database.set_authorizer(_only_reading)
        try:
            answer = Answer(database.execute(statement))
        except sqlite3.Error as error:
            if "not authorized" in str(error) or "prohibited" in str(error):
                raise BadQuery(
                    "only SELECT is possible here", hint="to change files, fetch them with --out"
                ) from error
            raise BadQuery(f"SQL: {error}") from error
        show(answer)


def _listed(names: Mapping[str, tuple[str, ArtifactRef]]) -> str:
    if not names:
        return "this goal has no tables, data sets or databases yet"
    return "there are " + ", ".join(f"{name} ({ref.type})" for name, (_, ref) in names.items())


def _only_reading(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Says yes to what a SELECT does, no to all else: writing, other files, settings."""
    function = (second or "").lower() if action == sqlite3.SQLITE_FUNCTION else ""
    fine = action in _READING and function not in _FORBIDDEN_FUNCTIONS
    return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY


# --- loading -------------------------------------------------------------------------------------------


def _load(database: sqlite3.Connection, name: str, ref: ArtifactRef, path: Path) -> None:
    match ref.type:
        case ArtifactType.DATABASE:
            with path.open("rb") as file:
                if file.read(16) != b"SQLite format 3\0":
                    raise Unfit("not a SQLite file")
            database.execute(f'ATTACH ? AS "{name}"', (f"{path.as_uri()}?mode=ro&immutable=1",))
        case ArtifactType.DATASET:
            database.execute(f'ATTACH ? AS "{name}"', (f"{path.with_suffix('.set').as_uri()}",))
            with tarfile.open(path) as archive:
                for member in archive:
                    place = PurePosixPath(member.name)
                    content = archive.extractfile(member)
                    if content is not None and place.suffix.lower() in (".csv", ".tsv", ".parquet"):
                        part = path.with_suffix(".part")
                        with part.open("wb") as file:
                            while block := content.read(1 << 20):
                                file.write(block)
                        _load_table(database, f"{_quoted(name)}.{_quoted(place.stem)}", part)
        case _:
            _load_table(database, f"main.{_quoted(name)}", path)


def _load_table(database: sqlite3.Connection, name: str, path: Path) -> None:
    """A table from a CSV or Parquet file; a column of numbers becomes numbers, what is empty becomes NULL."""
    with path.open("rb") as file:
        if tables.is_parquet(file):
            path = _as_csv(path)
    with path.open("rb") as file:
        header, kinds = _kinds(file)
    with path.open("rb") as file:
        body = tables.rows(file)
        next(body)
        columns = ", ".join(
            f"{_quoted(column)} {_AFFINITY[kind]}" for column, kind in zip(header, kinds, strict=True)
        )
        database.execute(f"CREATE TABLE {name} ({columns})")
        insert = f"INSERT INTO {name} VALUES ({', '.join('?' * len(header))})"  # noqa: S608
        database.execute("BEGIN")
        while batch := list(islice(body, _BATCH)):
            database.executemany(insert, ([cell or None for cell in row] for row in batch))
        database.execute("COMMIT")


_AFFINITY = {"integer": "INTEGER", "number": "REAL", "text": "TEXT"}


def _kinds(file: BinaryIO) -> tuple[list[str], list[str]]:
    """The columns, each name once, and of each whether all its cells are integers, numbers, or else text. What
    begins with zeros, as postcodes do, is text."""
    body = tables.rows(file)
    header = _distinct(next(body))
    kinds: list[str | None] = [None] * len(header)
    for row in body:
        for at, cell in enumerate(row):
            if cell and kinds[at] != "text":
                if re.fullmatch(r"-?(0|[1-9]\d{0,17})", cell):
                    kinds[at] = kinds[at] or "integer"
                else:
                    kinds[at] = "number" if re.fullmatch(_NUMBER, cell) else "text"
    return header, [kind or "text" for kind in kinds]


_NUMBER = r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?"


def _distinct(header: Sequence[str]) -> list[str]:
    names: list[str] = []
    for number, cell in enumerate(header, 1):
        name = cell.strip() or f"column{number}"
        while name.lower() in map(str.lower, names):
            name += "_"
        names.append(name)
    return names


def _as_csv(path: Path) -> Path:
    """A Parquet file as CSV, by the libraries that programs have."""
    from goalwright_executor import libraries
    from goalwright_executor.settings import ExecutorSettings

    place, out = libraries.folder(ExecutorSettings()), path.with_suffix(".csv")
    if not libraries.is_complete(place):
        raise Unfit(
            "it is Parquet; to read it here, build the libraries: python -m goalwright_executor.libraries"
        )
    command = [str(libraries.base_python()), "-c", _TO_CSV, str(path), str(out)]
    environment = {"PYTHONPATH": str(place / "packages"), "PYTHONUTF8": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unfit(f"Parquet: {done.stderr.strip().rpartition(chr(10))[2][:300]}")
    return out


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# --- showing -------------------------------------------------------------------------------------------


def print_csv(answer: Answer) -> None:
    """All rows as CSV, with a header."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows([_plain(cell) for cell in row] for row in answer.rows())


def print_json(answer: Answer) -> None:
    """All rows as a JSON list of objects, one a line."""
    keys, first = _distinct(answer.columns), True
    print("[", end="")
    for row in answer.rows():
        print("" if first else ",")
        first = False
        print(json.dumps(dict(zip(keys, map(_plain, row), strict=True)), ensure_ascii=False), end="")
    print("]" if first else "\n]")


def shown(answer: Answer) -> tuple[list[list[str]], list[bool], bool]:
    """The first thousand rows as cells for people, which columns are numbers, and whether there are more."""
    rows = list(islice(answer.rows(), _SHOWN_ROWS + 1))
    numeric = [_all_numbers(row[at] for row in rows) for at in range(len(answer.columns))]
    cells = [["" if cell is None else clean(_plain(cell)) for cell in row] for row in rows[:_SHOWN_ROWS]]
    return cells, numeric, len(rows) > _SHOWN_ROWS


def _all_numbers(cells: Iterable[Any]) -> bool:
    return all(cell is None or isinstance(cell, int | float) for cell in cells)


def _plain(cell: Any) -> Any:
    return cell.hex() if isinstance(cell, bytes) else cell
