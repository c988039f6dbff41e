"""One running scheduler for all tests of a module: bad input must leave it as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from goalwright_cli.embedded_postgres import EmbeddedPostgres
from support.nats import fresh_server
from support.postgres import fresh_database
from support.system import System, echo, opened

Answers = dict[str, Callable[[Any], Any]]
"""How the work of a goal is answered, by its id; others are answered well. The performers stay the same: one
that goes leaves its pulls behind, and work that is sent to them waits for its lease to end."""


@pytest.fixture(scope="module")
def answers() -> Answers:
    """Filled by tests."""
    return {}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(postgres_server: EmbeddedPostgres, answers: Answers) -> AsyncIterator[System]:
    """A scheduler, and performers that name what they were given unless a test wants another answer."""
    async with (
        fresh_server() as server,
        fresh_database(postgres_server) as dsn,
        opened(server, dsn) as system,
    ):

        def answer(work: Any) -> Any:
            chosen: Callable[[Any], Any] = answers.get(work["goal_id"], echo)
            return chosen(work)

        await system.start_scheduler()
        for lane in ("custom.a", "custom.b", "custom.short"):
            system.perform(lane, answer)
        yield system
