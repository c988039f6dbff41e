"""In touch with NATS and Postgres, or not: who cannot hear performers ends no lease, who cannot write does not lead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

_PULSE_SECONDS = 0.5
_HEARD_SECONDS = 1.0
"""With the pulse, well below the shortest time in which a performer that is well says something."""


async def until_deaf(client: Client) -> None:
    """Return when NATS does not answer any more."""
    while await _hears(client):  # noqa: ASYNC110 - nothing tells of silence
        await asyncio.sleep(_PULSE_SECONDS)


async def until_heard(client: Client) -> None:
    """Return when NATS answers again."""
    while not await _hears(client):  # noqa: ASYNC110 - nothing tells of silence
        await asyncio.sleep(_PULSE_SECONDS)


async def _hears(client: Client) -> bool:
    try:
        await client.jetstream(timeout=_HEARD_SECONDS).account_info()
    except (NatsError, JetStreamError, TimeoutError, OSError):
        return False
    return True


async def until_out_of_touch(
    connect: Callable[[], Awaitable[asyncpg.Connection[asyncpg.Record]]], seconds: float
) -> None:
    """Return when Postgres has not answered for so long, on a connection of its own: the writer's may be busy with
    a large plan, and one that is silent is told by nobody."""
    try:
        async with asyncio.timeout(seconds):
            db = await connect()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        return
    try:
        while True:
            async with asyncio.timeout(seconds):
                await db.fetchval("SELECT 1")
            await asyncio.sleep(seconds / 3)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        return
    finally:
        db.terminate()
