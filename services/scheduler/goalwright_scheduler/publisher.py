"""What goes out after a commit: work, events, cancels. Pipelined, confirmed, and kept until it is."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from goalwright_shared import subjects
from goalwright_shared.artifacts import Artifacts
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import BODY_BYTES, ArtifactType, Event, Work
from goalwright_shared.worker import pack
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.client import JetStreamContext
from nats.js.errors import Error as JetStreamError

log = structlog.get_logger(__name__)

_CONFIRM_SECONDS = 5.0

_SETTLED_SECONDS = 10.0
"""A killed NATS may lose the last moments of what it has confirmed (streams that sync in the background):
events stay in the outbox, and in line for a second time after a reconnect, until they are this old."""

_FACT_BYTES = 4_096
"""A fact of an event that is too big for a message stays in it up to this size."""


@dataclass(frozen=True, slots=True)
class _Outgoing:
    subject: str
    payload: bytes
    headers: dict[str, str]
    task: int | None = None
    outbox: int | None = None  # the outbox row that is published with this message, when it is its last


class Publisher:
    """Publishes in order; what was not confirmed stays first in line and goes again with the same
    `Nats-Msg-Id`, so that the stream drops what it has already."""

    def __init__(self, client: Callable[[], Client], artifacts: Artifacts) -> None:
        self._client, self._artifacts = client, artifacts
        self._waiting: deque[_Outgoing] = deque()
        self._js: JetStreamContext | None = None
        self._confirmed: deque[tuple[float, _Outgoing]] = deque()
        self._reconnects: int | None = None

    @property
    def backlog(self) -> int:
        """Messages committed and not yet confirmed."""
        return len(self._waiting)

    def unconfirmed(self) -> set[int]:
        """Tasks whose Work is committed and perhaps not in the stream yet."""
        return {out.task for out in self._waiting if out.task is not None}

    def settled(self) -> list[int]:
        """Outbox rows whose events are confirmed for good; each is named once."""
        rows: list[int] = []
        old = time.monotonic() - _SETTLED_SECONDS
        while self._confirmed and self._confirmed[0][0] < old:
            outgoing = self._confirmed.popleft()[1]
            if outgoing.outbox is not None:
                rows.append(outgoing.outbox)
        return rows

    def _again_after_reconnect(self) -> None:
        """After a reconnect, events confirmed a moment ago go once more, before all others."""
        reconnects = self._client().stats["reconnects"]
        if self._reconnects is not None and reconnects != self._reconnects:
            self._waiting.extendleft(outgoing for _, outgoing in reversed(self._confirmed))
            self._confirmed.clear()
        self._reconnects = reconnects

    async def work(self, works: Iterable[Work]) -> None:
        """Queue Work messages."""
        for work in works:
            payload = await pack(work.to_json(), self._artifacts)
            headers = {"Nats-Msg-Id": f"{work.task_id}:{work.epoch}", "schema": "work/1"}
            self._waiting.append(
                _Outgoing(subjects.work(work.lane), payload, headers, task=int(work.task_id))
            )

    async def events(self, row: Any) -> None:
        """Queue the events of one outbox row (id, first_seq, at, events, goal_id, owner)."""
        bodies = json.loads(row["events"])
        at: datetime = row["at"]
        for offset, body in enumerate(bodies):
            seq = row["first_seq"] + offset
            event = Event(
                event_id=f"{row['goal_id']}:{seq}", seq=seq, goal_id=row["goal_id"], owner=row["owner"],
                kind=body["kind"], task_id=body["task_id"], at=at, data=body["data"],
            )  # fmt: skip
            headers = {"Nats-Msg-Id": f"{row['owner']}/{row['goal_id']}:{seq}", "schema": "event/1"}
            subject = subjects.event(row["owner"], row["goal_id"], body["kind"])
            last = row["id"] if offset == len(bodies) - 1 else None
            payload = event.to_json()
            if len(payload) > BODY_BYTES:
                payload = (await self._short(event, payload)).to_json()
            self._waiting.append(_Outgoing(subject, payload, headers, outbox=last))

    async def _short(self, event: Event, whole: bytes) -> Event:
        """An event that no message can carry: its small facts, and `body_ref` to the whole of it."""
        data = {name: fact for name, fact in event.data.items() if len(json.dumps(fact)) <= _FACT_BYTES}
        try:
            ref = await self._artifacts.put_bytes("body", ArtifactType.JSON, whole)
        except GoalwrightError as error:  # an event that is short of facts is better than none
            log.warning("the whole of an event was not kept", event=event.event_id, error=str(error))
        else:
            data["body_ref"] = ref.model_dump(mode="json")
        return event.model_copy(update={"data": data})

    async def cancels(self, tasks: Iterable[int]) -> None:
        """Tell performers at once that tasks are no longer wanted (best effort: epochs fence the rest)."""
        for task in tasks:
            try:
                await self._client().publish(subjects.cancel(str(task)), b"")
            except NatsError as error:
                log.warning("cancel not published", task=task, error=str(error))

    async def flush(self) -> bool:
        """Publish what waits and wait for confirmation. False when something is still unconfirmed."""
        self._again_after_reconnect()
        if not self._waiting:
            return True
        if self._js is None:
            self._js = self._client().jetstream(timeout=_CONFIRM_SECONDS, publish_async_max_pending=8_000)
        batch = list(self._waiting)
        try:
            confirmed = [
                await self._js.publish_async(
                    out.subject, out.payload, headers=out.headers, wait_stall=_CONFIRM_SECONDS
                )
                for out in batch
            ]
            async with asyncio.timeout(_CONFIRM_SECONDS + len(batch) / 1000):
                results = await asyncio.gather(*confirmed, return_exceptions=True)
        except (NatsError, JetStreamError, TimeoutError) as error:
            log.warning("nothing confirmed, trying again", waiting=len(batch), error=repr(error))
            self._js = None
            return False
        self._waiting.clear()
        now = time.monotonic()
        for out, result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                log.warning("not confirmed, trying again", subject=out.subject, error=repr(result))
                self._waiting.append(out)
            elif out.task is None:
                self._confirmed.append((now, out))
        return not self._waiting
