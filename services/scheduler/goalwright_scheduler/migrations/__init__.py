"""Alembic migrations of the scheduler's schema: `migrate`, `status`, `prune`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from goalwright_shared.errors import Unreachable
from goalwright_shared.telemetry import redact
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine


def sqlalchemy_url(dsn: str) -> str:
    """A Postgres DSN as SQLAlchemy wants it for asyncpg."""
    for prefix in ("postgresql+asyncpg://", "postgresql://", "postgres://"):
        if dsn.startswith(prefix):
            return "postgresql+asyncpg://" + dsn.removeprefix(prefix)
    return dsn


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


async def migrate(dsn: str) -> str:
    """Bring the schema to the newest revision; idempotent. Returns the revision."""

    def upgrade(connection: Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    engine = create_async_engine(sqlalchemy_url(dsn))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    except (
        OSError,
        asyncpg.PostgresConnectionError,
        asyncpg.InvalidAuthorizationSpecificationError,
    ) as error:
        raise _unreachable(dsn, error) from error
    finally:
        await engine.dispose()
    return newest()


def newest() -> str:
    """The newest revision this release knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


async def status(dsn: str) -> tuple[str | None, str]:
    """The database's revision (None: empty) and the newest known."""
    engine = create_async_engine(sqlalchemy_url(dsn))
    try:
        async with engine.connect() as connection:
            have = await connection.run_sync(
                lambda sync: MigrationContext.configure(sync).get_current_revision()
            )
    except (OSError, asyncpg.PostgresConnectionError) as error:
        raise _unreachable(dsn, error) from error
    finally:
        await engine.dispose()
    return have, newest()


async def prune(dsn: str, *, older_than_days: float) -> int:
    """Delete goals that ended longer ago than that, with everything of theirs. Returns how many."""
    connection = await asyncpg.connect(dsn)
    try:
        old = await connection.fetch(
            "SELECT num FROM goal WHERE finished_at < goalwright_clock() - $1::float8 * interval '1 day'",
            older_than_days,
        )
        for goal in old:
            await _forget(connection, goal["num"])
    finally:
        await connection.close()
    return len(old)


_NAMING = {
    "artifact": ("ref",),
    "task_spec": ("spec",),
    "task_result": ("error", "call", "program", "checks"),
    "expansion": ("continuation",),
    "goal_spec": ("contract", "labels"),
    "note": ("text",),
    "outbox": ("events",),
}
"""Where references to objects are."""


async def named_objects(dsn: str) -> set[str]:
    """Every object that anything names (and other hexadecimal numbers of 64 digits)."""
    connection = await asyncpg.connect(dsn)
    try:
        named: set[str] = set()
        for table, columns in _NAMING.items():
            texts = ", ".join(f"{column}::text" for column in columns)
            rows = await connection.fetch(
                f"SELECT DISTINCT m[1] AS digest FROM {table}, "  # noqa: S608 - our own names
                f"regexp_matches(concat_ws(' ', {texts}), '[0-9a-f]{{64}}', 'g') AS m"
            )
            named |= {row["digest"] for row in rows}
        return named
    finally:
        await connection.close()


async def _forget(connection: asyncpg.Connection[asyncpg.Record], goal: int) -> None:
    """Delete a goal with everything of its: hot tables have no foreign keys that would."""
    async with connection.transaction():
        for table, column in (("task_result", "task"), ("follower", "task"), ("task_spec", "id")):
            await connection.execute(
                f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM task WHERE goal = $1)",  # noqa: S608 - our own names
                goal,
            )
        for table in ("task", "artifact", "contract", "outbox"):
            await connection.execute(f"DELETE FROM {table} WHERE goal = $1", goal)  # noqa: S608 - our own names
        await connection.execute("DELETE FROM goal WHERE num = $1", goal)


def _unreachable(dsn: str, error: BaseException) -> Unreachable:
    return Unreachable(
        "postgres_unreachable",
        f"Postgres does not answer at {redact(dsn)}: {error}",
        hint="start one with `goalwright up`, or set GOALWRIGHT_POSTGRES_DSN",
    )


def main() -> None:
    """`python -m goalwright_scheduler.migrations DSN`: used by make targets that write new migrations."""
    import sys

    asyncio.run(migrate(sys.argv[1]))
