"""SQL over artifacts: tables, data sets and databases by name, nothing but reading, clear errors."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from goalwright_cli import report, sql
from goalwright_executor import libraries
from goalwright_executor.settings import ExecutorSettings
from goalwright_shared.messages import ArtifactRef, ArtifactType
from support.artifacts import MemoryArtifacts
from support.command import invoke
from support.goal_scripts import BEGIN, finish
from support.scripted import scripted_scheduler

SALES = b"day,amount,zip,note\n2026-01-01,10,00123,x\n2026-01-02,2.5,04567,\n"
ORDERS = "CREATE TABLE orders (id INTEGER, customer INTEGER); INSERT INTO orders VALUES (1, 7), (2, 8);"


@pytest.fixture
def database(tmp_path: Path) -> bytes:
    connection = sqlite3.connect(tmp_path / "made.sqlite")
    connection.executescript(ORDERS)
    connection.close()
    return (tmp_path / "made.sqlite").read_bytes()


def dataset(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{name}.csv")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


async def rows_of(statement: str, **made: tuple[str, bytes]) -> tuple[list[str], list[Any]]:
    """Columns and rows of an answer over artifacts; of a name, __ stands for a dot."""
    store = MemoryArtifacts()
    refs: dict[str, ArtifactRef] = {}
    for key, (kind, data) in made.items():
        name = key.replace("__", ".")
        refs[name] = await store.put_bytes(name, ArtifactType(kind), data)
    found: list[tuple[list[str], list[Any]]] = []
    await sql.query(
        store, refs, statement, lambda answer: found.append((answer.columns, list(answer.rows())))
    )
    return found[0]


async def test_a_table_is_queried_by_its_name_with_typed_columns() -> None:
    columns, rows = await rows_of(
        "select sum(amount) total, typeof(zip), count(note) from sales", sales=("table", SALES)
    )
    assert (columns, rows) == (["total", "typeof(zip)", "count(note)"], [(12.5, "text", 1)])


async def test_names_that_sql_does_not_take_are_written_with_underscores() -> None:
    assert (await rows_of("select count(*) from sales_2026_v1", **{"sales.2026-v1": ("table", SALES)}))[
        1
    ] == [(2,)]
    assert (await rows_of("select count(*) from _2026", **{"2026": ("table", SALES)}))[1] == [(2,)]


async def test_tables_of_data_sets_and_databases_are_joined(database: bytes) -> None:
    statement = "select c.name from shop.orders o join crm.customers c on c.id = o.customer order by o.id"
    crm = dataset(customers=b"id,name\n7,Ann\n8,Bob\n")
    assert (await rows_of(statement, shop=("database", database), crm=("dataset", crm)))[1] == [
        ("Ann",),
        ("Bob",),
    ]


async def test_parquet_is_read_by_the_libraries_of_programs() -> None:
    place = libraries.folder(ExecutorSettings())
    if not (place / "packages" / "fastparquet").exists():
        pytest.skip("the program libraries are not built: python -m goalwright_executor.libraries")
    data = (Path(__file__).parents[1] / "executor/tables/by_pyarrow.parquet").read_bytes()
    _, rows = await rows_of("select id, price, name, day from t order by id limit 2", t=("table", data))
    assert rows == [(1, 1.5, "a", "2024-01-01"), (2, None, "b", "2024-01-02")]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into shop.orders values (3, 9)",
        "delete from sales where 1",
        "create table x as select * from sales",
        "attach '{victim}' as victim; -- sales",
        "pragma query_only=OFF -- sales",
        "select * from pragma_database_list, sales",
        "select load_extension('x') from sales",
        "vacuum into '{victim}' -- sales",
        "select 1 from sales; select 2",
    ],
)
async def test_nothing_but_one_select_is_done(statement: str, database: bytes, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    with pytest.raises(sql.BadQuery):
        await rows_of(
            statement.replace("{victim}", str(victim)), shop=("database", database), sales=("table", SALES)
        )
    assert not victim.exists()


@pytest.mark.parametrize(
    ("statement", "made", "says"),
    [
        ("select 1", {"sales": ("table", SALES)}, "names none of the artifacts: there are sales (table)"),
        ("select 1", {"note": ("text", b"x")}, "this goal has no tables, data sets or databases yet"),
        ("select x from sales", {"sales": ("table", SALES)}, "no such column: x"),
        (
            "select * from sale, sales",
            {"sales": ("table", SALES)},
            "no such table: sale; there are sales (table)",
        ),
        ("selec * from sales", {"sales": ("table", SALES)}, "syntax error"),
        ("select * from d", {"d": ("database", b"no database")}, "artifact d cannot be read as a database"),
        ("select * from t", {"t": ("table", b"a,b\n1\n")}, "row 1 has 1 cells"),
    ],
)
async def test_errors_say_what_is_wrong_and_what_there_is(
    statement: str, made: Mapping[str, tuple[str, bytes]], says: str
) -> None:
    with pytest.raises(sql.BadQuery) as found:
        await rows_of(statement, **made)
    assert says in str(found.value)


async def test_a_query_that_takes_long_can_be_interrupted() -> None:
    store = MemoryArtifacts()
    refs = {"sales": await store.put_bytes("sales", ArtifactType.TABLE, SALES)}
    numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000000)"
    asked = asyncio.create_task(
        sql.query(store, refs, f"{numbers} select count(*) from n, sales", lambda _: None)
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asked, 0.5)
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 8)


def test_answers_are_laid_out_for_people() -> None:
    cells = [["Ann", "1"], ["x" * 70, "200"]]
    lines = [line.plain for line in report.rows(["name", "sum"], cells, [False, True], more=False)]
    assert lines[0].endswith("  sum")
    assert lines[1].endswith("    1")
    assert len(lines[2]) == 65
    assert lines[3] == "2 rows"


async def test_the_command_prints_tables_json_and_csv(nats_server: Any) -> None:
    url = nats_server.client_url
    async with scripted_scheduler(nats_server.service_url, []) as scheduler:
        ref = ArtifactRef.of_text("sales", SALES.decode(), ArtifactType.TABLE, "text/csv")
        goal = scheduler.add("g", script=[])
        await scheduler.play(
            goal.goal_id, [*BEGIN, finish(deliverables={"sales": ref.model_dump(mode="json")})]
        )
        ask = ("artifacts", "g", "sql", "select day, amount from sales")
        assert (await invoke(*ask, url=url)).lines == [
            "day         amount", "2026-01-01    10.0", "2026-01-02     2.5", "2 rows",
        ]  # fmt: skip
        assert json.loads((await invoke(*ask, "--json", url=url)).out)[1] == {
            "day": "2026-01-02",
            "amount": 2.5,
        }
        assert (await invoke(*ask, "--csv", url=url)).lines == [
            "day,amount",
            "2026-01-01,10.0",
            "2026-01-02,2.5",
        ]
        wrong = await invoke("artifacts", "g", "sql", "drop table sales", url=url)
        assert (wrong.code, wrong.out) == (2, "")
        assert "only SELECT is possible here" in wrong.err
        assert (await invoke("artifacts", "g", "sql", url=url)).code == 2
