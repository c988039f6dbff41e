"""The invariants of DESIGN that can be read in Postgres, checked after every test and every fault."""

from __future__ import annotations

import asyncpg

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
    "a goal was open beyond its deadline and a grace": """
        SELECT num AS id FROM goal WHERE finished_at IS NULL AND deadline < clock_timestamp() - interval '10 s'""",
}


async def broken(dsn: str) -> dict[str, list[int]]:
    """Broken invariants with the ids that break them; empty when all hold."""
    db = await asyncpg.connect(dsn)
    try:
        if await db.fetchval("SELECT to_regclass('task')") is None:
            return {}
        found = {name: [row["id"] for row in await db.fetch(query)] for name, query in CHECKS.items()}
    finally:
        await db.close()
    return {name: ids[:10] for name, ids in found.items() if ids}
