"""Queries: any scheduler answers them, as long as it can read Postgres."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from faststream.nats import NatsBroker, NatsMessage
from goalwright_shared import subjects
from goalwright_shared.artifacts import Artifacts
from goalwright_shared.errors import Refused
from nats.aio.client import Client
from nats.aio.msg import Msg

from goalwright_scheduler.database import AWAY, Database
from goalwright_scheduler.handlers import CONCURRENT, answered, body_of
from goalwright_scheduler.queries import Queries
from goalwright_scheduler.touch import until_out_of_touch

log = structlog.get_logger(__name__)

_PASSED_ON = "passed-on"
"""The header that counts how often a query was passed on."""

_MOST_PASSES = 24
"""Who gets it next is chosen by NATS, at random: where one of four can read, one query in a thousand gets to none."""

_PAUSE_SECONDS = 0.5


class Reading:
    """A part: answers queries, standbys' too. A scheduler that is out of touch with Postgres (an outage, or a network
    that has lost it and tells nobody) passes them on, and says so where nobody can read."""

    def __init__(
        self,
        broker: NatsBroker,
        client: Callable[[], Client],
        database: Database,
        queries: Callable[[], Queries],
        artifacts: Artifacts,
        touch_seconds: float,
    ) -> None:
        self._client, self._database, self._queries, self._artifacts = client, database, queries, artifacts
        self._touch_seconds = touch_seconds
        self._watch: asyncio.Task[None] | None = None
        for subject in subjects.QUERY_ALL:
            broker.subscriber(
                subject, queue="scheduler", title=subject, max_workers=CONCURRENT, no_reply=True
            )(self._query)

    async def start(self) -> None:
        """Watch whether Postgres answers."""
        self._watch = asyncio.create_task(self._look(), name="reading")

    async def stop(self) -> None:
        """Watch no more; idempotent."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _look(self) -> None:
        while True:
            await until_out_of_touch(self._database.connect, self._touch_seconds)
            log.warning("Postgres does not answer: queries are passed on to other schedulers")
            self._database.drop()  # who waits for an answer is passed on too
            while not await self._database.open():  # noqa: ASYNC110 - nothing tells when it is back
                await asyncio.sleep(_PAUSE_SECONDS)
            log.info("Postgres answers again")

    async def _query(self, message: NatsMessage) -> None:
        raw = message.raw_message
        what, owner = raw.subject.split(".")[1], subjects.owner_of(raw.subject, 2)

        async def answer() -> dict[str, object]:
            return await self._queries().answer(what, owner, body_of(raw.data))

        try:
            told = await answered(answer(), self._artifacts, AWAY)
        except AWAY as error:
            await self._pass_on(raw, error)
            return
        await self._client().publish(raw.reply, told)

    async def _pass_on(self, raw: Msg, error: Exception) -> None:
        passed = int((raw.headers or {}).get(_PASSED_ON, "0"))
        if passed < _MOST_PASSES:
            headers = {_PASSED_ON: str(passed + 1)}
            await self._client().publish(raw.subject, raw.data, reply=raw.reply, headers=headers)
            return
        refused = Refused(
            "postgres_unreachable",
            f"Postgres does not answer the scheduler: {str(error) or type(error).__name__}",
            hint="ask again in a few seconds; `goalwright doctor` looks for it",
        )
        await self._client().publish(raw.reply, refused.answer().to_json())
