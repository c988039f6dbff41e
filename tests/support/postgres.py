"""One embedded Postgres per test session, one fresh empty database per test.

`postgres_dsn`: the address of an empty database. The server does not sync (tests, not durability).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from goalwright_cli.embedded_postgres import EmbeddedPostgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """The session's server; started when the first test asks for it."""
    home = Path(tempfile.mkdtemp(prefix="goalwright-pg-"))
    server = EmbeddedPostgres(home, options=("fsync=off", "full_page_writes=off"))
    asyncio.run(server.start())
    try:
        yield server
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(home, ignore_errors=True)


@contextlib.asynccontextmanager
async def fresh_database(server: EmbeddedPostgres) -> AsyncIterator[str]:
    """The address of an empty database; dropped afterwards whoever is still connected."""
    name = f"t{uuid.uuid4().hex[:16]}"
    await _do(server, f"CREATE DATABASE {name}")
    try:
        yield server.dsn(name)
    finally:
        await _do(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _do(server: EmbeddedPostgres, statement: str) -> None:
    """On a connection of its own: tests may kill the server in between."""
    admin = await asyncpg.connect(server.dsn())
    try:
        await admin.execute(statement)
    finally:
        await admin.close()


@pytest.fixture
async def postgres_dsn(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    """A fresh, empty database for one test."""
    async with fresh_database(postgres_server) as dsn:
        yield dsn
