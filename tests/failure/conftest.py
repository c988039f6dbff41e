"""A system on lanes whose leases are short."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from support.system import System, opened

from failure.goals import LANES


@pytest.fixture
async def world(nats_server: EmbeddedNats, postgres_dsn: str) -> AsyncIterator[System]:
    """Real servers; no scheduler yet."""
    async with opened(nats_server, postgres_dsn, LANES) as made:
        yield made
