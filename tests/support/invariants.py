"""The invariants of DESIGN that can be read in Postgres, checked after every test and every fault, and after
every step of the state machine."""

from __future__ import annotations

import asyncpg

LATE = "a goal was open beyond its deadline and a grace"

CHECKS: dict[str, str] = {
    "a task was dispatched before all it needs had succeeded": """
        SELECT t.id FROM task t, task n
        WHERE t.id = ANY(n.children) AND n.parent IS NOT DISTINCT FROM t.parent AND n.generation = t.generation
          AND n.state <> 'succeeded' AND (t.state IN ('ready', 'dispatched', 'expanded', 'succeeded'))""",
    "unmet is not the number of needs that have not succeeded": """
        SELECT t.id FROM task t
        WHERE t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped') AND t.unmet <> (
            SELECT count(*) FROM task n WHERE t.id = ANY(n.children) AND n.state <> 'succeeded')""",
    "open_children is not the number of open children": """
        SELECT p.id FROM task p
        WHERE p.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped') AND p.open_children <> (
            SELECT count(*) FROM task c WHERE c.parent = p.id
              AND c.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped'))""",
    "a task succeeded twice": """
        SELECT task AS id FROM task_result WHERE kind = 'done' GROUP BY task HAVING count(*) > 1""",
    "a task succeeded without a result": """
        SELECT t.id FROM task t WHERE t.state = 'succeeded' AND NOT EXISTS (
            SELECT FROM task_result r WHERE r.task = t.id AND r.kind IN ('done', 'revise'))""",
    "money held is not the sum of open bills": """
        SELECT g.num AS id FROM goal g WHERE g.held <> (
            SELECT coalesce(sum(l.hold), 0) FROM ledger l WHERE l.goal = g.num AND l.settled_at IS NULL)""",
    "money spent is not the sum of settled bills": """
        SELECT g.num AS id FROM goal g WHERE g.spent + g.overrun <> (
            SELECT coalesce(sum(l.charged + l.overrun), 0) FROM ledger l WHERE l.goal = g.num)""",
    "a goal has ended and has open tasks": """
        SELECT t.id FROM task t JOIN goal g ON g.num = t.goal
        WHERE g.finished_at IS NOT NULL AND t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')""",
    "a goal has ended and holds money": "SELECT num AS id FROM goal WHERE finished_at IS NOT NULL AND held <> 0",
    "a goal is open and has nothing open": """
        SELECT g.num AS id FROM goal g WHERE g.finished_at IS NULL AND NOT EXISTS (
            SELECT FROM task t WHERE t.goal = g.num
              AND t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped'))""",
    "a task is open under one that has ended": """
        SELECT c.id FROM task c JOIN task p ON p.id = c.parent
        WHERE c.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')
          AND p.state IN ('succeeded', 'dead', 'cancelled', 'skipped')""",
    "a task waits for children and has none that are open": """
        SELECT id FROM task WHERE state IN ('expanded', 'checking') AND open_children = 0""",
    "a task is blocked by nothing": """
        SELECT id FROM task WHERE state = 'blocked' AND unmet = 0 AND NOT id IN (SELECT task FROM follower)""",
    "a task waits for a twin that has ended": """
        SELECT f.task AS id FROM follower f JOIN task t ON t.id = f.leader
        WHERE t.state IN ('succeeded', 'dead', 'cancelled', 'skipped')""",
    "a task is blocked by one that will never succeed, and nobody replans": """
        SELECT t.id FROM task t, task n
        WHERE t.state = 'blocked' AND n.parent = t.parent AND n.generation = t.generation
          AND t.id = ANY(n.children) AND n.state IN ('dead', 'cancelled', 'skipped') AND NOT EXISTS (
            SELECT FROM task r JOIN task_spec s ON s.id = r.id
            WHERE r.parent = t.parent AND r.generation = t.generation AND s.key LIKE 'replan-%'
              AND r.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped'))""",
    "a bill is open and its call is not under way": """
        SELECT l.task AS id FROM ledger l JOIN task t ON t.id = l.task
        WHERE l.settled_at IS NULL AND l.hold > 0 AND (t.state <> 'dispatched' OR t.epoch <> l.epoch)""",
    "a task holds other money than its bill says": """
        SELECT t.id FROM task t JOIN ledger l ON l.task = t.id AND l.epoch = t.epoch
        WHERE t.state = 'dispatched' AND l.hold <> t.hold""",
    "two stored events of a goal have one number": """
        SELECT goal AS id FROM (
            SELECT o.goal, o.first_seq + jsonb_array_length(o.events::jsonb) AS after,
                   lead(o.first_seq, 1, g.next_seq) OVER (PARTITION BY o.goal ORDER BY o.first_seq) AS next
            FROM outbox o JOIN goal g ON g.num = o.goal) AS stored
        WHERE after > next""",
    LATE: """
        SELECT num AS id FROM goal WHERE finished_at IS NULL AND deadline < goalwright_clock() - interval '10 s'""",
}

QUERY = " UNION ALL ".join(
    f"SELECT '{name}' AS broken, broken.id FROM ({query}) AS broken" for name, query in CHECKS.items()
)


async def broken_in(db: asyncpg.Connection[asyncpg.Record]) -> dict[str, list[int]]:
    """Broken invariants with the ids that break them, at most ten each; empty when all hold."""
    found: dict[str, list[int]] = {}
    for row in await db.fetch(QUERY):
        found.setdefault(row["broken"], []).append(row["id"])
    return {name: ids[:10] for name, ids in found.items()}


async def broken(dsn: str) -> dict[str, list[int]]:
    """Broken invariants of a database; an empty database has none."""
    db = await asyncpg.connect(dsn)
    try:
        if await db.fetchval("SELECT to_regclass('task')") is None:
            return {}
        return await broken_in(db)
    finally:
        await db.close()
