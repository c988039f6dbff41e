"""Takes requests whether this scheduler leads or not: any of them is asked, the leader answers.

A request that comes between two leaders is held until there is one. It may be put twice (to a leader that died
before it answered, and to the next): verbs are idempotent, and a goal gets its id here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from goalwright_shared import ids, subjects
from goalwright_shared.artifacts import Artifacts
from goalwright_shared.errors import Refused
from nats.aio.client import Client
from nats.errors import Error as NatsError

from goalwright_scheduler.handlers import GOAL_ID, Desk, NoLeader, answered

_HOLD_SECONDS = 25.0
_ANSWER_SECONDS = 35.0
_LOOK_SECONDS = 1.0
"""While an answer is awaited, it is seen to that the same reign goes on."""

_PAUSE_SECONDS = 0.1
_STOP_SECONDS = 3.0


class Front:
    """One per scheduler. `desk` gives the leader's desk while this scheduler leads."""

    def __init__(
        self, client: Callable[[], Client], desk: Callable[[], Desk | None], artifacts: Artifacts
    ) -> None:
        self._client, self._desk, self._artifacts = client, desk, artifacts
        self._stopping = False
        self._held = 0

    async def start(self) -> None:
        """Nothing to start: subscribers call."""

    async def stop(self) -> None:
        """Requests that are still held are told that nobody leads."""
        self._stopping = True
        with contextlib.suppress(TimeoutError, NatsError):
            async with asyncio.timeout(_STOP_SECONDS):
                while self._held:  # noqa: ASYNC110 - each looks at `_stopping` as often
                    await asyncio.sleep(_PAUSE_SECONDS / 2)
                await self._client().flush()

    async def request(self, subject: str, payload: bytes) -> bytes:
        """A goal by request."""
        owner, goal_id = subjects.owner_of(subject, 2), ids.new_goal_id()
        return await self._ask(
            lambda desk: desk.on_request(owner, payload, goal_id), subject, payload, {GOAL_ID: goal_id}
        )

    async def control(self, subject: str, payload: bytes) -> bytes:
        """A control request."""
        verb, owner = subject.split(".")[1], subjects.owner_of(subject, 2)
        return await self._ask(lambda desk: desk.on_control(verb, owner, payload), subject, payload, None)

    async def _ask(
        self,
        here: Callable[[Desk], Awaitable[Any]],
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None,
    ) -> bytes:
        give_up = time.monotonic() + _HOLD_SECONDS
        self._held += 1
        try:
            while not self._stopping and time.monotonic() < give_up:
                desk = self._desk()
                try:
                    if desk is not None:
                        return await answered(here(desk), self._artifacts)
                    return await self._pass_on(subject, payload, headers)
                except (NoLeader, NatsError, TimeoutError):
                    await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            self._held -= 1
        refused = Refused("no_leader", "no scheduler leads at the moment", hint="ask again in a few seconds")
        return refused.answer().to_json()

    async def _pass_on(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> bytes:
        """The leader's answer. Raises `NoLeader` when that reign has ended meanwhile, or there is none."""
        reign = await self._reign()
        asked = asyncio.create_task(
            self._client().request(
                subjects.to_leader(subject), payload, timeout=_ANSWER_SECONDS, headers=headers
            )
        )
        try:
            while not (await asyncio.wait({asked}, timeout=_LOOK_SECONDS))[0]:
                if await self._reign() != reign:
                    raise NoLeader
            return (await asked).data
        finally:
            asked.cancel()

    async def _reign(self) -> bytes:
        """The name of the reign that goes on. Raises `NatsError` or `TimeoutError` when nobody leads."""
        answer = await self._client().request(subjects.to_leader(subjects.PING), timeout=_LOOK_SECONDS)
        return answer.data
