"""Tables, data sets and databases against the schema they were declared with; the evidence says where."""

from __future__ import annotations

import io
import os
import sqlite3
import tarfile
import tracemalloc
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from goalwright_executor.core import Fault, Run
from goalwright_executor.outputs import collect_outputs
from goalwright_executor.sandbox.port import Job
from goalwright_shared import databases, parquet
from goalwright_shared.checks import JSON_BYTES, Data, check_acceptance, check_output
from goalwright_shared.messages import OutputSpec, ProgramSpec, RowsCheck
from hypothesis import given
from hypothesis import strategies as st

from executor.conftest import LIMITS

TABLES = Path(__file__).parent / "tables"
NOTHING_PRINTED = Run("test", 0, None, 0.1, 0.1, 1, b"", b"")


def found(type: str, data: Data, *tables: Mapping[str, Any]) -> str:
    """The findings on an output, or nothing."""
    schema = {"tables": list(tables)} if tables else None
    spec = OutputSpec.model_validate({"name": "x", "type": type, "schema": schema})
    return "; ".join(result.evidence for result in check_output(spec, data) if not result.passed)


def table(name: str, /, **columns: Any) -> dict[str, Any]:
    """A declared table; of a column, its type or all it says."""
    said = {key: value if isinstance(value, dict) else {"type": value} for key, value in columns.items()}
    return {"name": name, "columns": [{"name": key, **value} for key, value in said.items()]}


def tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("_csv", ".csv").replace("_parquet", ".parquet"))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def database(path: Path, *statements: str) -> Path:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    return path


# --- tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("integer", "-12", "1.5"),
        ("number", "1e3", "nan"),
        ("boolean", "True", "maybe"),
        ("date", "2024-02-29", "29.02.2024"),
        ("timestamp", "2024-02-29T12:00:00+01:00", "noon"),
        ("decimal(10,2)", "1.50", "1,50"),
        ("string", "anything", None),
        ("a type of its own", "anything", None),
    ],
)
def test_cells_are_held_to_the_type_of_their_column(kind: str, good: str, bad: str | None) -> None:
    declared = table("t", a=kind)
    assert found("table", f"a\n{good}\n\n".encode(), declared) == ""
    if bad is not None:
        assert "row 2, column a" in found("table", f'a\n{good}\n"{bad}"\n'.encode(), declared)


def test_empty_cells_are_not_compared_with_one_another() -> None:
    assert found("table", b"a,b\n1,\n2,\n", table("t", b={"unique": True})) == ""


def test_a_twin_far_behind_the_first_is_found_with_both_rows() -> None:
    rows = "".join(f"{number}\n" for number in range(5_000))
    assert "row 5001, column a: not unique: '17' is in row 18 too" in found(
        "table", f"a\n{rows}17\n".encode(), table("t", a={"unique": True})
    )


def test_tabs_between_cells_are_taken() -> None:
    assert found("table", b"a\tb\n1\tx,y\n", table("t", a="integer", b="text")) == ""


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b'"' + b"x\n" * 3_000_000, "field larger than field limit"),
        (b"a," * 3_000_000, "a row is longer than 4194304 characters"),
        (b'"x\n' + b'","x\n' * 2_000_000, "a row is longer than 4194304 characters"),
    ],
    ids=["a cell", "a line", "cells over many lines"],
)
def test_a_row_without_end_is_refused_before_it_fills_the_memory(
    row: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a\n" + row)
    assert says in found("table", path)


def test_a_table_may_refer_to_itself() -> None:
    staff = table("staff", id="integer", boss={"references": "staff.id"})
    assert found("table", b"id,boss\n1,\n2,1\n", staff) == ""
    assert "row 2, column boss: '9' is not in staff.id" in found("table", b"id,boss\n1,\n2,9\n", staff)


def test_a_large_table_is_checked_in_little_memory(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.csv", 40_000
    with path.open("w") as file:
        file.write("id,price,name\n")
        file.writelines(f"{number},{number}.5,{'name ' * 100}\n" for number in range(rows))
    assert path.stat().st_size > 20_000_000
    declared = table("t", id={"type": "integer", "unique": True}, price="number")
    tracemalloc.start()
    try:
        assert found("table", path, declared) == ""
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    spec = OutputSpec.model_validate({"name": "x", "type": "table"})
    assert [
        result.passed for result in check_acceptance([RowsCheck(min=rows, max=rows)], [spec], {"x": path})
    ] == [True]


# --- Parquet -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["pyarrow", "fastparquet"])
def test_parquet_is_held_to_its_declared_columns(writer: str) -> None:
    path = TABLES / f"by_{writer}.parquet"
    good = table(
        "t",
        id={"type": "integer", "nullable": False},
        price="number",
        day="date",
        paid="boolean",
        name="text",
    )
    assert found("table", path, good) == ""
    assert found("table", path.read_bytes(), good) == ""
    assert "no column colour; there are id, price" in found("table", path, table("t", colour="text"))
    assert "column name: its Parquet type is text, not integer" in found(
        "table", path, table("t", name="integer")
    )
    assert "column price: 1 cells are empty" in found("table", path, table("t", price={"nullable": False}))


@pytest.mark.parametrize("kind", ["table", "dataset"])
def test_what_is_declared_of_parquet_and_not_looked_at_is_said(kind: str) -> None:
    path = TABLES / "by_pyarrow.parquet"
    schema = {"tables": [table("t", id={"unique": True, "references": "t.id"}, name="text")]}
    spec = OutputSpec.model_validate({"name": "x", "type": kind, "schema": schema})
    [_, result] = check_output(spec, path if kind == "table" else tar(t_parquet=path.read_bytes()))
    assert result.passed
    where = "" if kind == "table" else "table t: "
    assert result.evidence == (
        f"x: matches; not checked: {where}column id: unique and references, as the values of Parquet are not read"
    )


def test_rows_of_parquet_are_counted() -> None:
    spec = OutputSpec.model_validate({"name": "x", "type": "table"})
    [result] = check_acceptance([RowsCheck(min=5)], [spec], {"x": TABLES / "by_pyarrow.parquet"})
    assert (result.passed, result.evidence) == (False, "x: 4 rows, wanted 5 to any")


@given(st.integers(0, 1_400), st.integers(0, 255), st.integers(0, 900))
def test_a_damaged_footer_is_told_not_raised(at: int, byte: int, cut: int) -> None:
    whole = (TABLES / "by_fastparquet.parquet").read_bytes()
    damaged = whole[:at] + bytes([byte]) + whole[at + 1 : len(whole) - 8 - cut] + whole[-8:]
    try:
        parquet.read_footer(io.BytesIO(damaged))
    except parquet.BadFooter:
        return


# --- data sets -----------------------------------------------------------------------------------------

ORDERS = table("orders", id={"unique": True}, customer={"references": "customers.id"})
CUSTOMERS = table("customers", id="integer")


def test_a_data_set_is_held_to_its_tables_and_what_they_refer_to() -> None:
    customers, orders = b"id\n1\n2\n", b"id,customer\n7,1\n8,2\n"
    assert found("dataset", tar(orders_csv=orders, customers_csv=customers), ORDERS, CUSTOMERS) == ""
    assert "no table customers; there are orders" in found(
        "dataset", tar(orders_csv=orders), ORDERS, CUSTOMERS
    )
    lost = tar(orders_csv=b"id,customer\n7,1\n8,9\n", customers_csv=customers)
    assert "table orders, row 2, column customer: '9' is not in customers.id" in found(
        "dataset", lost, ORDERS, CUSTOMERS
    )
    assert "table customers: not CSV" in found("dataset", tar(customers_csv=b"id\n1,2\n"), CUSTOMERS)
    assert (
        found(
            "dataset", tar(t_parquet=(TABLES / "by_pyarrow.parquet").read_bytes()), table("t", id="integer")
        )
        == ""
    )


# --- databases -----------------------------------------------------------------------------------------


def test_a_database_is_held_to_types_and_keys(tmp_path: Path) -> None:
    path = database(
        tmp_path / "x.sqlite",
        "CREATE TABLE customers (id INTEGER, born TEXT)",
        "CREATE TABLE orders (id INTEGER, customer INTEGER, price)",
        "INSERT INTO customers VALUES (1, '2001-01-01'), (2, NULL)",
        "INSERT INTO orders VALUES (7, 1, 1.5), (8, 2, 'cheap'), (8, 9, NULL)",
    )
    assert found("database", path, CUSTOMERS, table("orders", id="integer", customer="integer")) == ""
    assert "table orders, column price: 'cheap' is no number" in found(
        "database", path, table("orders", price="number")
    )
    everything = found(
        "database", path,
        table("customers", born={"type": "date", "nullable": False}),
        table("orders", id={"unique": True}, customer={"references": {"table": "customers", "column": "id"}}),
        table("visits"),
    )  # fmt: skip
    assert "column born: there are empty cells" in everything
    assert "column id: not unique: 8 is there more than once" in everything
    assert "column customer: 9 is not in customers.id" in everything
    assert "no table visits; there are customers, orders" in everything


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = database(tmp_path / "x.sqlite", "CREATE TABLE t (a)", f"INSERT INTO t VALUES ('{'x' * 20_000}')")
    whole = path.read_bytes()
    path.write_bytes(whole[:8192])
    assert "SQLite file" in found("database", path, table("t", a="text"))
    assert "SQLite file" in found("database", whole[:8192])


def test_a_damage_where_no_rule_looks_is_found_too(tmp_path: Path) -> None:
    rows = [f"INSERT INTO t VALUES ('{'x' * 1000}')"] * 100
    path = database(tmp_path / "x.sqlite", "CREATE TABLE t (a)", *rows)
    whole = path.read_bytes()
    path.write_bytes(whole[:40_960] + b"\xff" * 4096 + whole[45_056:])
    assert "a damaged SQLite file" in found("database", path, table("t"))


def test_a_database_with_a_write_ahead_log_is_read_without_one(tmp_path: Path) -> None:
    path = database(tmp_path / "x.sqlite", "PRAGMA journal_mode=WAL", "CREATE TABLE t (a)")
    assert found("database", path, table("t", a="text")) == ""
    assert found("database", path.read_bytes(), table("t", a="text")) == ""
    assert [file.name for file in tmp_path.iterdir()] == ["x.sqlite"]


@pytest.mark.parametrize("form", ["file", "bytes"])
def test_a_database_of_a_stranger_can_neither_write_nor_open_other_files(form: str, tmp_path: Path) -> None:
    path = database(tmp_path / "x.sqlite", "CREATE TABLE t (a)")
    connection = databases.connect(path if form == "file" else path.read_bytes())
    for statement in (
        "INSERT INTO t VALUES (1)",
        f"ATTACH '{tmp_path}/y.sqlite' AS y",
        "SELECT load_extension('x')",
    ):
        with pytest.raises(sqlite3.Error):
            connection.execute(statement)
    connection.close()
    assert os.listdir(tmp_path) == ["x.sqlite"]


# --- what cannot be read in pieces ---------------------------------------------------------------------


def test_json_that_is_too_large_to_parse_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(JSON_BYTES + 1)
    assert f"{JSON_BYTES + 1} bytes of JSON, at most {JSON_BYTES}" in found("json", path)


def test_text_of_any_size_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("zürich ".encode() * 3_000_000)
    tracemalloc.start()
    try:
        assert found("text", path) == ""
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    with path.open("ab") as file:
        file.write(b"\xff")
    assert "not UTF-8 text: invalid start byte" in found("text", path)


# --- a database is one file ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_database_that_was_not_finished_is_refused(tmp_path: Path, mode: str, *, closed: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    connection = sqlite3.connect(out / "shop.sqlite", isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={mode}")
    connection.execute("CREATE TABLE orders (id integer)")
    connection.execute("PRAGMA cache_size=1")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO orders VALUES (?)", [(n,) for n in range(20_000)]
    )  # more than is cached
    if closed or mode == "wal":
        connection.execute("COMMIT")
    if closed:
        connection.close()
    job = Job(ProgramSpec(source=""), tmp_path, tmp_path / "outputs.tar")
    with tarfile.open(job.outputs, "w") as archive:
        archive.add(out, ".")
    connection.close()
    spec = OutputSpec.model_validate({"name": "shop", "type": "database"})
    if closed:
        [produced] = collect_outputs([spec], job, LIMITS, NOTHING_PRINTED)
        with closing(databases.connect(produced.path)) as there:
            assert there.execute("SELECT count(*) FROM orders").fetchone() == (20_000,)
        return
    with pytest.raises(Fault) as fault:
        collect_outputs([spec], job, LIMITS, NOTHING_PRINTED)
    assert "shop.sqlite is not finished" in str(fault.value)
