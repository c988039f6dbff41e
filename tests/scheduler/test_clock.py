"""Time comes from one function in Postgres, and a session of a test may set it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import goalwright_scheduler
import pytest
from goalwright_scheduler import migrations
from goalwright_scheduler.sql import SQL

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
async def db(postgres_dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    await migrations.migrate(postgres_dsn)
    return await asyncpg.connect(postgres_dsn)


async def test_the_clock_is_the_real_one_unless_the_session_sets_it(
    db: asyncpg.Connection[asyncpg.Record],
) -> None:
    async def ahead() -> timedelta:
        found: timedelta = await db.fetchval("SELECT goalwright_clock() - clock_timestamp()")
        return abs(found)

    assert await ahead() < timedelta(minutes=1)  # the two are read one after the other
    await db.execute("SELECT set_config('goalwright.clock', $1, false)", NOON.isoformat())
    assert await db.fetchval("SELECT goalwright_clock()") == NOON
    await db.execute("RESET goalwright.clock")
    assert await ahead() < timedelta(minutes=1)


async def test_a_lead_ends_by_the_clock_that_the_test_sets(db: asyncpg.Connection[asyncpg.Record]) -> None:
    async def lead(holder: str, at: datetime) -> int | None:
        await db.execute("SELECT set_config('goalwright.clock', $1, false)", at.isoformat())
        term: int | None = await db.fetchval(SQL["lead"], holder, 3.0)
        return term

    assert await lead("first", NOON) == 1
    assert await lead("second", NOON + timedelta(seconds=3)) is None
    assert await lead("second", NOON + timedelta(seconds=3.1)) == 2


async def test_postgres_puts_the_body_of_the_clock_in_the_place_of_the_call(
    db: asyncpg.Connection[asyncpg.Record],
) -> None:
    plan = "\n".join(row[0] for row in await db.fetch("EXPLAIN VERBOSE SELECT goalwright_clock()"))
    assert "goalwright_clock" not in plan and "clock_timestamp()" in plan


def test_no_statement_takes_time_from_elsewhere() -> None:
    package = Path(goalwright_scheduler.__file__).parent
    sources = [*package.rglob("*.sql"), *package.rglob("*.py")]
    taken = [
        str(path.relative_to(package))
        for path in sources
        if path.parent.name != "versions"
        and re.search(r"clock_timestamp|\bnow\(\)|CURRENT_TIMESTAMP", path.read_text())
    ]
    assert taken == []
