"""How Postgres runs every statement on a full table: rows read stay bounded by what the statement is about.

One row of `CASES` a statement. Each runs on 100,000 tasks in skewed graphs (1 → 20,000 → 1, a chain, layers) under
four states of the planner: statistics that are fresh, with plans made for the arguments (`fresh`) and for any
(`generic`); none at all (`young`: a new database, before its first ANALYZE); and a plan that was made when the tables
were empty and is kept (`kept`: a scheduler that was started before the first goal came).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from goalwright_cli.embedded_postgres import EmbeddedPostgres
from goalwright_scheduler import migrations
from goalwright_scheduler.sql import SQL, WRITER
from support.postgres import fresh_database

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
JOINED, CHAIN, LAYERS, FANNED = 1, 2, 3, 4
"""Goals, by `num`; the tasks of goal n have ids from n × 100,000 on, and that one is its root."""

FAN, LENGTH = 20_000, 30_000
WHOLE = 100_000


def ids(goal: int, first: int, count: int) -> list[int]:
    """Ids of tasks of a goal, by their numbers from 1."""
    return [goal * 100_000 + number for number in range(first, first + count)]


MANY, JOIN = ids(JOINED, 1, FAN), ids(JOINED, FAN + 1, 1)
ONE, FREED = ids(FANNED, 1, 1), ids(FANNED, 2, FAN)
RUNNING = ids(LAYERS, 10_001, 200)
READY = ids(LAYERS, 10_501, 200)
LATER = NOW + timedelta(hours=1)
IN_FLIGHT = ["dispatched", "retry_wait"]


@dataclass(frozen=True)
class Case:
    """A statement with arguments, and the most rows of big tables it may read (`about` × 6 when not given);
    `reader` ones run on the connections of queries."""

    verb: str
    arguments: tuple[Any, ...]
    about: int = 1
    name: str = ""
    rows: int | None = None
    reader: bool = False

    @property
    def label(self) -> str:
        return f"{self.verb} {self.name}".strip().replace(" ", "-")

    @property
    def most(self) -> int:
        """Rows of big tables that may be read."""
        return self.rows or 6 * self.about


def each(count: int, *values: Any) -> tuple[list[Any], ...]:
    """Columns of equal values."""
    return tuple([value] * count for value in values)


def answers(goal: int, tasks: list[int]) -> tuple[Any, ...]:
    """Arguments of `complete`: every task has made one output and tells of its try."""
    count = len(tasks)
    named = (
        tasks,
        *each(count, goal, goal * 100_000, 1),
        [f"o-{task}" for task in tasks],
        ['{"name": "o"}'] * count,
    )
    told = (tasks, *each(count, 1, 0.5, "did it", None, None, "w", None))
    return (tasks, [1] * count, IN_FLIGHT, NOW, *named, *told)


def relay(goal: int, tasks: list[int], chosen: list[int]) -> tuple[Any, ...]:
    """Arguments of `relay`: the same, with ready tasks that go out, and room for as many of those that become ready."""
    count = len(tasks)
    named = answers(goal, tasks)[4:10]
    told = (tasks, *each(count, 1, 0.5, "did it", None, None, "w"))
    room = (["custom.a", "custom.b"], [512, 512], [60.0, 60.0])
    events = ([goal], [1], [count], [",".join(["{}"] * count)])
    return (1, "me", *told, *named, chosen, [60.0] * len(chosen), *room, *events)


def link(task: int) -> tuple[Any, ...]:
    """Arguments of `link`."""
    room = (["custom.a", "custom.b"], [512, 512], [60.0, 60.0])
    return (
        1,
        "me",
        task,
        1,
        0.5,
        "did it",
        None,
        None,
        "w",
        [f"o-{task}"],
        ['{"name": "o"}'],
        *room,
        1,
        1,
        "{}",
    )


CASES = [
    Case("relay", relay(LAYERS, RUNNING, READY), 4_000, "a batch of layers"),
    Case("relay", relay(JOINED, MANY[:200], MANY[200:400]), 2_000, "into one"),
    Case("relay", relay(FANNED, ONE, []), 4 * FAN, "one into many", rows=4 * FAN),
    Case("relay", relay(CHAIN, ids(CHAIN, 15_001, 1), []), 20, "a link", rows=120),
    Case("link", link(ids(CHAIN, 15_001, 1)[0]), 20, "of a chain", rows=120),
    Case("link", link(MANY[0]), 20, "one of many", rows=120),
    Case("complete", answers(LAYERS, RUNNING), 800, "a batch of layers"),
    Case("complete", answers(JOINED, MANY[:200]), 201, "into one"),
    Case("complete", answers(FANNED, ONE), FAN, "one into many", rows=FAN + 50),
    Case("complete", answers(CHAIN, ids(CHAIN, 15_001, 1)), 3, "a link"),
    Case("dispatch", (READY, [0] * 200, [60.0] * 200, NOW), 1_200),
    Case("dispatch", (MANY[200:400], [0] * 200, [60.0] * 200, NOW), 800, "without inputs"),
    Case("open_bills", (READY, NOW), 200),
    Case("load_tasks", (RUNNING,), 200),
    Case("load_work", (RUNNING,), 800),
    Case("load_work", (FREED[:200],), 600, "of a fan"),
    Case("load_work", (JOIN,), FAN, "of a join", rows=2 * FAN + 50),
    Case("load_deliverables", (LAYERS, LAYERS * 100_000), 3),
    Case("load_due", (), rows=WHOLE + 50),
    Case("load_children", (ids(LAYERS, 0, 1),), LENGTH, "of a root", rows=5 * LENGTH),
    Case("load_children", (RUNNING,), 200, "of leaves"),
    Case("load_errors", (RUNNING,), 200),
    Case("load_contracts", ([LAYERS] * 200, [b"x"] * 200), 200),
    Case("load_contracts_elsewhere", ([LAYERS] * 200, [b"x"] * 200), 200),
    Case("lead_contracts", ([LAYERS] * 200, [bytes([n]) for n in range(200)], RUNNING), 200),
    Case("wait_for_twin", (READY, RUNNING), 200),
    Case("release_twins", (RUNNING,), 200),
    Case("load_made", (LAYERS * 100_000 + 1,), 3),
    Case("load_votes", (LAYERS * 100_000, 2), 3),
    Case("load_ancestors", (RUNNING,), 600),
    Case("load_asked", (RUNNING, None), 400, "those that end"),
    Case("load_asked", ([], ids(CHAIN, 10, 1)[0]), 3, "of a task"),
    Case("load_asked", ([], ids(LAYERS, 0, 1)[0]), name="of a root", rows=2 * LENGTH + 50, reader=True),
    Case("load_notes", ([LAYERS, CHAIN],), 1),
    Case("post_note", (LAYERS, "custom.a", "k", "found it", NOW, 200), 1),
    Case("load_graph", (LAYERS, 0, 1000), 1000, "first page", rows=WHOLE, reader=True),
    Case(
        "load_graph", (LAYERS, LAYERS * 100_000 + 20_000, 1000), 1000, "a later page", rows=WHOLE, reader=True
    ),
    Case("load_ready", (["custom.a"], 500), rows=WHOLE + 50),
    Case("load_ready", (None, 500), name="of all lanes", rows=WHOLE + 50),
    Case("load_ready_of_goal", (LAYERS,), 500, rows=LENGTH + 50),
    Case("load_plan", (ids(LAYERS, 0, 1)[0],), 2 * LENGTH),
    Case("load_estimates", (LAYERS, ["custom.a"]), 2 * LENGTH),
    Case("load_money", ([LAYERS, CHAIN],), rows=2 * LENGTH),
    Case("load_short", ([LAYERS, CHAIN], READY), rows=4 * LENGTH),
    Case("load_costs", (RUNNING,), 200),
    Case("park_over_budget", (READY, [5] * 200), 200, rows=200_000),
    Case("rerank", (READY, [5.0] * 200), 200, rows=200_000),
    Case("readmit", (READY, NOW), 200),
    Case("calibrate", (["agent.ask"], *([1.0] for _ in range(6)))),
    Case("resume", (RUNNING[0], 1, ["dispatched"], 1)),
    Case("retry", (RUNNING[0], 1, LATER, 1)),
    Case("expand", (RUNNING[0], 1, "expanded", 3, ["dispatched"])),
    Case("park", (RUNNING[0], ["dispatched"], None)),
    Case("extend_leases", (RUNNING, [1] * 200, [60.0] * 200, NOW), 200),
    Case("expired", (RUNNING,), 200),
    Case("wake", (NOW, RUNNING), 200),
    Case("close", (RUNNING, "cancelled"), 400),
    Case("subtree", (RUNNING,), 200),
    Case("subtree", (ids(LAYERS, 0, 1),), LENGTH, "of a root"),
    Case("descendants", (ids(CHAIN, 29_901, 1),), 100, "near the end of a chain"),
    Case("descendants", (MANY[:1],), 2, "before a join"),
    Case("settle", (RUNNING, [1] * 200, *each(200, 5, 0, "m", 1, 0, 1, "done"), NOW), 200),
    Case("reserve", (LAYERS, 5)),
    Case("own_caps", (RUNNING,), 400),
    Case("load_closed", ()),
    Case(
        "record_results",
        (
            RUNNING,
            [1] * 200,
            ["done"] * 200,
            NOW,
            [1.0] * 200,
            *each(200, "did it", None, None, None, None, "w"),
        ),
        200,
    ),
    Case(
        "store_artifacts",
        (
            *each(200, LAYERS, LAYERS * 100_000, 1),
            [f"o-{task}" for task in RUNNING],
            RUNNING,
            ['{"name": "o"}'] * 200,
        ),
        200,
    ),
    Case("emit", ([JOINED, CHAIN, LAYERS], [1, 1, 1], [1, 1, 1], ["[{}]"] * 3, NOW), 3),
    Case("load_outbox", (1000, 1000), 1000),
    Case("term", (1, "me", 3.0, list(range(1, 101))), 100),
    Case("lead", ("me", 3.0)),
    Case("step_down", (1, "me")),
]

BIG = {"task", "task_spec", "task_result", "artifact", "ledger", "outbox", "expansion"}

_FILL = f"""
INSERT INTO goal (owner, goal_id, status, budget, held, created_at, deadline)
    SELECT 'o', 'g' || n, 'running', 1000000000, 100000, now(), now() + interval '1 day'
    FROM generate_series(1, 4) AS n;
UPDATE goal SET root_task = num * 100000;

-- roots
INSERT INTO task (id, goal, lane, state, epoch, expansions, open_children)
    SELECT num * 100000, num, 'plan', 'expanded', 1, 1, 20000 FROM goal;
-- many → 1
INSERT INTO task (id, goal, parent, generation, depth, lane, state, epoch, children, due_at)
    SELECT 100000 + n, {JOINED}, 100000, 1, 1, 'custom.b', CASE WHEN n <= 200 THEN 'dispatched' ELSE 'ready' END,
           CASE WHEN n <= 200 THEN 1 ELSE 0 END, ARRAY[{JOIN[0]}],
           CASE WHEN n <= 200 THEN timestamptz '{LATER.isoformat()}' END
    FROM generate_series(1, {FAN}) AS n;
INSERT INTO task (id, goal, parent, generation, depth, lane, state, unmet)
    VALUES ({JOIN[0]}, {JOINED}, 100000, 1, 1, 'custom.b', 'blocked', {FAN});
-- a chain, half done
INSERT INTO task (id, goal, parent, generation, depth, lane, state, epoch, unmet, children, due_at)
    SELECT 200000 + n, {CHAIN}, 200000, 1, 1, 'custom.b',
           CASE WHEN n <= 15000 THEN 'succeeded' WHEN n = 15001 THEN 'dispatched' ELSE 'blocked' END,
           CASE WHEN n <= 15001 THEN 1 ELSE 0 END, CASE WHEN n <= 15001 THEN 0 ELSE 1 END,
           CASE WHEN n < {LENGTH} THEN ARRAY[200001 + n] ELSE '{{}}' END,
           CASE WHEN n = 15001 THEN timestamptz '{LATER.isoformat()}' END
    FROM generate_series(1, {LENGTH}) AS n;
-- layers: each task frees two others
INSERT INTO task (id, goal, parent, generation, depth, lane, state, epoch, unmet, children, hold, rank, due_at)
    SELECT 300000 + n, {LAYERS}, 300000, 1, 1, 'custom.a', s.state,
           CASE WHEN s.state IN ('blocked', 'ready') THEN 0 ELSE 1 END,
           CASE WHEN s.state = 'blocked' THEN 2 ELSE 0 END,
           CASE WHEN n + 5001 <= {LENGTH} THEN ARRAY[305000 + n, 305001 + n] ELSE '{{}}' END,
           CASE WHEN s.state = 'dispatched' THEN 200 ELSE 0 END, n,
           CASE WHEN s.state IN ('dispatched', 'retry_wait') THEN timestamptz '{LATER.isoformat()}' END
    FROM generate_series(1, {LENGTH}) AS n, LATERAL (SELECT CASE
        WHEN n <= 10000 THEN 'succeeded' WHEN n <= 10500 THEN 'dispatched' WHEN n <= 11000 THEN 'ready'
        WHEN n <= 11100 THEN 'retry_wait' ELSE 'blocked' END AS state) AS s;
-- 1 → many
INSERT INTO task (id, goal, parent, generation, depth, lane, state, epoch, unmet, children, due_at)
    SELECT 400000 + n, {FANNED}, 400000, 1, 1, 'custom.b', CASE n WHEN 1 THEN 'dispatched' ELSE 'blocked' END,
           CASE n WHEN 1 THEN 1 ELSE 0 END, CASE n WHEN 1 THEN 0 ELSE 1 END,
           CASE n WHEN 1 THEN array(SELECT 400001 + m FROM generate_series(1, {FAN}) AS m) ELSE '{{}}' END,
           CASE n WHEN 1 THEN timestamptz '{LATER.isoformat()}' END
    FROM generate_series(1, {FAN + 1}) AS n;

INSERT INTO task_spec (id, key, inputs, outputs, spec)
    SELECT id, 't' || id,
           CASE WHEN id = {JOIN[0]} THEN array(SELECT 'o-' || (100000 + n) FROM generate_series(1, {FAN}) AS n)
                WHEN parent IS NULL OR goal = {JOINED} THEN '{{}}'
                WHEN goal = {FANNED} THEN ARRAY['o-400001']
                ELSE ARRAY['o-' || (id - 5001), 'o-' || (id - 5000)] END,
           ARRAY['o-' || id], '{{"key": "k", "lane": "custom.a"}}'
    FROM task;
INSERT INTO expansion (parent, generation, kind) SELECT root_task, 1, 'replace' FROM goal;
INSERT INTO artifact (goal, scope, generation, name, task, ref)
    SELECT goal, parent, 1, 'o-' || id, id, '{{"name": "o", "type": "text", "size": 1, "sha256": "a", "inline": "b"}}'
    FROM task WHERE state = 'succeeded' AND parent IS NOT NULL;
INSERT INTO task_result (task, epoch, kind, at) SELECT id, epoch, 'done', now() FROM task WHERE state = 'succeeded';
INSERT INTO ledger (task, epoch, goal, hold, at) SELECT id, 1, goal, 200, now() FROM task WHERE state = 'dispatched';
INSERT INTO ledger (task, epoch, goal, hold, charged, at, settled_at)
    SELECT id, 1, goal, 200, 100, now(), now() FROM task WHERE state = 'succeeded';
INSERT INTO leader (term, holder, until) VALUES (1, 'me', now() + interval '1 hour');
INSERT INTO outbox (goal, first_seq, at, events) SELECT {LAYERS}, n, now(), '[]' FROM generate_series(1, 5000) AS n;
"""


def literal(value: Any) -> str:
    """A value as it is written in an EXECUTE."""
    match value:
        case None:
            return "NULL"
        case bytes():
            return rf"'\x{value.hex()}'"
        case list() if value and isinstance(value[0], bytes):
            return "ARRAY[" + ",".join(literal(v) + "::bytea" for v in value) + "]"
        case list():
            inside = ",".join("NULL" if v is None else json.dumps(str(v)) for v in value)
            return literal("{" + inside + "}")
        case datetime():
            return literal(value.isoformat())
        case str():
            return "'" + value.replace("'", "''") + "'"
        case _:
            return str(value)


Plan = dict[str, Any] | Exception


async def explained(db: asyncpg.Connection[Any], case: Case) -> Plan:
    """The plan of a case with what it did, undone afterwards."""
    arguments = ", ".join(literal(value) for value in case.arguments)
    call = f"EXECUTE {case.verb}({arguments})" if arguments else f"EXECUTE {case.verb}"
    transaction = db.transaction()
    await transaction.start()
    try:
        for name, value in () if case.reader else WRITER.items():
            await db.execute(f"SET LOCAL {name} = {value}")
        rows = await db.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {call}")
        found: dict[str, Any] = json.loads(rows)[0]["Plan"]
        return found
    except asyncpg.PostgresError as error:
        return error
    finally:
        await transaction.rollback()


@contextlib.asynccontextmanager
async def prepared(dsn: str, mode: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection that knows every statement of the cases by its verb."""
    db = await asyncpg.connect(dsn, statement_cache_size=0)
    await db.execute(f"SET plan_cache_mode = {mode}")
    for verb in {case.verb for case in CASES}:
        await db.execute(f"PREPARE {verb} AS {SQL[verb]}")
    try:
        yield db
    finally:
        await db.close()


async def all_plans(server: EmbeddedPostgres) -> dict[tuple[str, str], Plan]:
    """The plan of every case in every state of the planner."""
    found: dict[tuple[str, str], Plan] = {}

    async def keep(db: asyncpg.Connection[Any], state: str) -> None:
        for case in CASES:
            found[state, case.label] = await explained(db, case)

    async with fresh_database(server) as dsn:
        await migrations.migrate(dsn)
        filler = await asyncpg.connect(dsn)
        for table in (*BIG, "goal"):
            await filler.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        async with prepared(dsn, "force_generic_plan") as kept, prepared(dsn, "auto") as custom:
            await keep(kept, "empty")
            await filler.execute(_FILL)
            await keep(kept, "kept")
            await keep(custom, "young")
            await filler.execute("ANALYZE")
            await keep(custom, "fresh")
        async with prepared(dsn, "force_generic_plan") as generic:
            await keep(generic, "generic")
        await filler.close()
    return found


@pytest.fixture(scope="module")
def plans(postgres_server: EmbeddedPostgres) -> dict[tuple[str, str], Plan]:
    """Made once: filling takes seconds."""
    return asyncio.run(all_plans(postgres_server))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's nodes, from above."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def read(node: dict[str, Any]) -> int:
    """Rows of a big table that a node looked at, and pairs of rows that it compared in vain."""
    compared: float = node.get("Rows Removed by Join Filter", 0)
    if node.get("Relation Name") in BIG and node["Node Type"].endswith("Scan"):
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        compared += node["Actual Rows"] + removed
    return int(compared * node["Actual Loops"])


def told(plan: dict[str, Any]) -> str:
    """A plan in a few lines, for whoever has to mend it."""
    return "\n".join(
        f"{node['Node Type']} {node.get('Relation Name', '')} {node.get('Index Name', '')} read {read(node)}"
        for node in nodes(plan)
    )


@pytest.mark.parametrize("state", ["fresh", "generic", "young", "kept"])
@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_rows_read_are_bounded_by_what_the_statement_is_about(
    plans: dict[tuple[str, str], Plan], case: Case, state: str
) -> None:
    plan = plans[state, case.label]
    if isinstance(plan, Exception):
        raise plan
    total = sum(read(node) for node in nodes(plan))
    assert total <= case.most, f"{total} rows were read, {case.most} may be:\n{told(plan)}"
    whole = [n for n in nodes(plan) if n["Node Type"] == "Seq Scan" and read(n) > 1000]
    assert not whole, told(plan)


def test_every_statement_has_its_case() -> None:
    assert set(SQL) == {case.verb for case in CASES}
