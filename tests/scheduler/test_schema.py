"""Migrations lead to the schema, the schema forbids impossible rows."""

from __future__ import annotations

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from goalwright_scheduler import migrations
from goalwright_scheduler.schema import metadata
from goalwright_scheduler.sql import SQL
from sqlalchemy.ext.asyncio import create_async_engine


async def test_migrations_lead_to_exactly_the_schema(postgres_dsn: str) -> None:
    await migrations.migrate(postgres_dsn)
    engine = create_async_engine(migrations.sqlalchemy_url(postgres_dsn))
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)
        )
    await engine.dispose()
    assert differences == []


async def test_migrating_twice_changes_nothing(postgres_dsn: str) -> None:
    first = await migrations.migrate(postgres_dsn)
    assert await migrations.migrate(postgres_dsn) == first
    assert await migrations.status(postgres_dsn) == (first, first)


async def test_every_statement_prepares(postgres_dsn: str) -> None:
    await migrations.migrate(postgres_dsn)
    db = await asyncpg.connect(postgres_dsn)
    for text in SQL.values():
        await db.prepare(text)
    await db.close()


IMPOSSIBLE = [
    "INSERT INTO task (id, goal, lane, state) VALUES (1, 1, 'a', 'dreaming')",
    "INSERT INTO task (id, goal, lane, state, unmet) VALUES (1, 1, 'a', 'ready', 2)",
    "INSERT INTO task (id, goal, lane, state) VALUES (1, 1, 'a', 'dispatched')",
    "INSERT INTO task (id, goal, lane, state, hold) VALUES (1, 1, 'a', 'succeeded', 5)",
    "UPDATE goal SET spent = 60, held = 60",
    "UPDATE goal SET status = 'resting'",
    "INSERT INTO expansion (parent, generation, kind) VALUES (1, 1, 'resume')",
]


@pytest.mark.parametrize("statement", IMPOSSIBLE)
async def test_impossible_rows_are_refused(postgres_dsn: str, statement: str) -> None:
    await migrations.migrate(postgres_dsn)
    db = await asyncpg.connect(postgres_dsn)
    await db.execute(
        """INSERT INTO goal (owner, goal_id, status, budget, created_at, deadline)
           VALUES ('o', 'g', 'running', 100, now(), now())"""
    )
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute(statement)
    await db.close()
