"""Postgres, as the scheduler reaches it: the pool that queries read from, and connections of their own."""

from __future__ import annotations

import asyncio

import asyncpg
from goalwright_shared.errors import Unreachable
from goalwright_shared.telemetry import redact

from goalwright_scheduler import migrations
from goalwright_scheduler.sql import WRITER

_CLOSE_SECONDS = 3.0

AWAY = (asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, asyncpg.InterfaceError, OSError)
"""What is raised when Postgres is not there or goes away."""


class Database:
    """A part: the pool that queries read from; checks that the schema is the one this release knows."""

    def __init__(self, dsn: str, lease_seconds: float) -> None:
        self._dsn = dsn
        lease = f"{lease_seconds * 1000:.0f}ms"
        self._writer = {**WRITER, "idle_in_transaction_session_timeout": lease, "tcp_user_timeout": lease}
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool; raises `InterfaceError` while there is none."""
        if self._pool is None:
            raise asyncpg.InterfaceError("there is no connection to Postgres")
        return self._pool

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection of its own, for the writer. One that falls silent in a transaction holds the leader's
        row: Postgres ends it after a lease, so that a standby can take over."""
        return await asyncpg.connect(self._dsn, timeout=5, command_timeout=60, server_settings=self._writer)

    async def start(self) -> None:
        """Connect; raises `Unreachable`."""
        try:
            await self._open()
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            raise Unreachable(
                "postgres_unreachable", f"Postgres does not answer at {redact(self._dsn)}: {error}",
                hint="start one with `goalwright up`, or set GOALWRIGHT_POSTGRES_DSN",
            ) from error  # fmt: skip
        have, newest = await migrations.status(self._dsn)
        if have != newest:
            raise Unreachable(
                "schema_differs", f"the schema is at revision {have}, this release needs {newest}",
                hint="goalwright db migrate",
            )  # fmt: skip

    async def open(self) -> bool:
        """Try to connect again after `drop`."""
        try:
            await self._open()
        except (asyncpg.PostgresError, *AWAY):
            return False
        return True

    def drop(self) -> None:
        """Give up all connections at once: who waits for an answer on one is told that it is gone."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    async def stop(self) -> None:
        """Close the pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await pool.close()
            except TimeoutError:  # a query of somebody who left
                pool.terminate()

    async def _open(self) -> None:
        self._pool = await asyncpg.create_pool(
            self._dsn, min_size=1, max_size=4, timeout=5, command_timeout=30
        )
