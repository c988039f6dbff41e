"""A real nats-server with JetStream, stopped by pid when the test ends.

`nats_server`: a fresh one per test, with its `service_url` and `client_url`; `nats_url` is the former.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from goalwright_cli.embedded_nats import EmbeddedNats


@contextlib.asynccontextmanager
async def fresh_server() -> AsyncIterator[EmbeddedNats]:
    """A fresh nats-server (0.1 s) whose store vanishes with it; `stop()` and `start()` restart it."""
    home = Path(tempfile.mkdtemp(prefix="goalwright-nats-"))
    server = EmbeddedNats(home, sync=False)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def nats_server() -> AsyncIterator[EmbeddedNats]:
    """A fresh nats-server for one test."""
    async with fresh_server() as server:
        yield server


@pytest.fixture
def nats_url(nats_server: EmbeddedNats) -> str:
    """The fresh server's address with the rights of a service."""
    return nats_server.service_url
