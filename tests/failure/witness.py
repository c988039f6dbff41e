"""What Postgres itself can testify: who wrote in which term, and the most that was ever spent and held."""

from __future__ import annotations

from typing import Any

import asyncpg

_WRITERS = """
CREATE TABLE written (who text, term bigint, times bigint, PRIMARY KEY (who, term));
CREATE FUNCTION note_writer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO written SELECT session_user, (SELECT term FROM leader), 1
    ON CONFLICT (who, term) DO UPDATE SET times = written.times + 1;
    RETURN NULL;
END $$;
"""
_WRITER = """CREATE TRIGGER note_writer AFTER INSERT OR UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION note_writer();"""
"""Each row: a statement that was fenced off ends without one, and has written nothing."""

_MONEY = """
CREATE TABLE money_seen (goal bigint PRIMARY KEY, most bigint, beyond bigint, changes bigint);
CREATE FUNCTION note_money() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO money_seen VALUES (NEW.num, NEW.spent + NEW.held, NEW.spent + NEW.held - NEW.budget, 1)
    ON CONFLICT (goal) DO UPDATE SET most = greatest(money_seen.most, excluded.most),
        beyond = greatest(money_seen.beyond, excluded.beyond), changes = money_seen.changes + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER note_money AFTER INSERT OR UPDATE ON goal FOR EACH ROW EXECUTE FUNCTION note_money();
"""


async def named(dsn: str, name: str) -> str:
    """The address with which a scheduler writes under a name: as a user of its own."""
    await _do(
        dsn,
        f"""DO $$ BEGIN CREATE ROLE {name} SUPERUSER LOGIN;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$""",
    )
    before, _, after = dsn.partition("://")
    return f"{before}://{name}@{after.partition('@')[2]}"


async def watch_writers(dsn: str) -> None:
    """From now on Postgres notes who writes goals, tasks and events, and whose term it is at that moment."""
    tables = ("goal", "task", "task_result", "outbox", "ledger")
    await _do(dsn, _WRITERS + "".join(_WRITER.format(table=table) for table in tables))


async def terms_by_writer(dsn: str) -> dict[str, set[int]]:
    """The terms in which each has written."""
    terms: dict[str, set[int]] = {}
    for row in await _do(dsn, "SELECT who, term FROM written"):
        terms.setdefault(row["who"], set()).add(row["term"])
    return terms


async def leader(dsn: str) -> tuple[int, str]:
    """The current term and who has it."""
    (row,) = await _do(dsn, "SELECT term, holder FROM leader")
    return row["term"], row["holder"]


async def watch_money(dsn: str) -> None:
    """From now on Postgres notes the most that each goal has ever spent and held, at every single change."""
    await _do(dsn, _MONEY)


async def money_seen(dsn: str) -> tuple[int, int, int]:
    """(the most that was spent and held, the most that it was beyond the budget, changes) over all goals."""
    (row,) = await _do(
        dsn,
        "SELECT max(most) AS most, max(beyond) AS beyond, sum(changes)::bigint AS changes FROM money_seen",
    )
    return row["most"], row["beyond"], row["changes"]


async def _do(dsn: str, statement: str) -> Any:
    db = await asyncpg.connect(dsn)
    try:
        return await db.fetch(statement) if statement.startswith("SELECT") else await db.execute(statement)
    finally:
        await db.close()
