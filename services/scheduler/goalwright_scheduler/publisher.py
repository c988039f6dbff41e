"""What goes out after a commit: work, events, cancels. In order, without waiting, and kept until confirmed.

A line per stream. Each message names the one before it (`Nats-Expected-Last-Msg-Id`), so that the server refuses
everything that follows a lost one, and only the last of a batch asks for a confirmation: it stands for all.
After a refusal, a silence or a reconnect the line goes again from its first unconfirmed message; what the stream
has already it drops by `Nats-Msg-Id`. Written by hand since nats-py's `publish_async` confirms each message with
a message of its own, which was a third of the scheduler's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import structlog
from goalwright_shared import subjects
from goalwright_shared.artifacts import Artifacts
from goalwright_shared.broker import Outgoing, publish_many
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import BODY_BYTES, ArtifactType
from goalwright_shared.worker import pack
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from goalwright_scheduler.change import Sent, Told

log = structlog.get_logger(__name__)

_CONFIRM_SECONDS = 5.0
"""A batch that is not confirmed by then goes again."""

_PAUSE_SECONDS = 0.5
"""Between a refusal and the next try."""

_BATCH = 1_000
"""Messages that one confirmation stands for, at most."""

_BATCH_BYTES = 2_000_000
"""And their bytes."""

_IN_FLIGHT = 20_000
"""Messages sent and not yet confirmed, at most: a slow server is not buried."""

_SETTLED_SECONDS = 10.0
"""A killed NATS may lose the last moments of what it has confirmed (streams that sync in the background):
events stay in the outbox, and in line for a second time after a reconnect, until they are this old."""

_FACT_BYTES = 4_096
"""A fact of an event that is too big for a message stays in it up to this size."""


class _Entry(NamedTuple):
    subject: str
    payload: bytes
    msg_id: str
    schema: str
    task: int | None = None
    outbox: int | None = None  # the outbox row that is published with this message, when it is its last


@dataclass(slots=True)
class _Batch:
    token: str
    count: int
    until: float


class _Line:
    """Messages of one stream in order. `inbox` is where confirmations arrive, one token deeper each."""

    def __init__(self, keep: bool) -> None:
        self.waiting: deque[_Entry] = deque()  # sent or not, and not confirmed
        self.confirmed: deque[tuple[float, _Entry]] = deque()
        self._keep = keep
        self._batches: deque[_Batch] = deque()
        self._sent = 0
        self._last: str | None = None  # id of the last message sent; None: the first names none before it
        self._careful = False  # one by one, naming none: somebody else wrote, or an old message comes again
        self._not_before = 0.0
        self.troubled = False

    def next_batch(self, token: str, now: float) -> list[Outgoing]:
        """What may go now, the last of it with `token` as its reply; empty when nothing may."""
        if self._batches and self._batches[0].until < now:
            log.warning("not confirmed in time, sending again", waiting=len(self.waiting))
            self.again(now)
        if now < self._not_before or self._sent >= min(len(self.waiting), _IN_FLIGHT):
            return []
        if self._careful and self._sent:
            return []
        made: list[Outgoing] = []
        size = 0
        most = 1 if self._careful else _BATCH
        for entry in itertools.islice(self.waiting, self._sent, self._sent + most):
            size += len(entry.payload)
            if made and size > _BATCH_BYTES:
                break
            headers = f"Nats-Msg-Id: {entry.msg_id}\r\nschema: {entry.schema}\r\n"
            if self._last is not None:
                headers += f"Nats-Expected-Last-Msg-Id: {self._last}\r\n"
            made.append(Outgoing(entry.subject, entry.payload, headers))
            self._last = entry.msg_id
        made[-1] = made[-1]._replace(reply=token)
        self._sent += len(made)
        self._batches.append(_Batch(token, len(made), now + _CONFIRM_SECONDS))
        return made

    def answered(self, token: str, refusal: str | None, duplicate: bool, now: float) -> None:
        """The stream has answered the batch of `token`; answers to batches that were given up are ignored. Streams
        answer in order, so an answer stands for the batches before it too."""
        if not any(batch.token == token for batch in self._batches):
            return
        if refusal is not None:
            log.log(
                logging.WARNING if self._careful else logging.INFO, "refused, sending again", refusal=refusal
            )
            self.troubled = self._careful  # not for its place in the line: the stream itself has trouble
            self.again(now + _PAUSE_SECONDS if self.troubled else now)
            self._careful = True
            return
        self.troubled = False
        while self._batches[0].token != token:
            self._confirm(self._batches.popleft().count, now)
        self._confirm(self._batches.popleft().count, now)
        if self._careful and not duplicate:
            self._careful = False  # it is the last of the stream now: the next may name it
        elif self._careful:
            self._last = None

    def _confirm(self, count: int, now: float) -> None:
        self._sent -= count
        for _ in range(count):
            entry = self.waiting.popleft()
            if self._keep:
                self.confirmed.append((now, entry))

    def again(self, not_before: float) -> None:
        """Begin anew at the first unconfirmed message."""
        self._batches.clear()
        self._sent, self._last, self._not_before = 0, None, not_before

    def reconnected(self) -> None:
        """The server may have forgotten its last moments: what it confirmed a moment ago goes before all others."""
        self.waiting.extendleft(entry for _, entry in reversed(self.confirmed))
        self.confirmed.clear()
        self.again(0.0)


_subject = functools.lru_cache(1_000)(subjects.event)
"""One text for all events of a kind of a goal: a hundred thousand are kept at a time."""


class Publisher:
    """See the module. `push` sends what may go and never waits for an answer."""

    def __init__(self, client: Callable[[], Client], artifacts: Artifacts) -> None:
        self._client, self._artifacts = client, artifacts
        self._work, self._events = _Line(keep=False), _Line(keep=True)
        self._numbers = itertools.count()
        self._inbox: str | None = None
        self._subscription: object = None
        self._reconnects: int | None = None

    @property
    def backlog(self) -> int:
        """Messages committed and not yet confirmed."""
        return len(self._work.waiting) + len(self._events.waiting)

    @property
    def troubled(self) -> bool:
        """Whether a stream has refused what was sent since it last confirmed something."""
        return self._work.troubled or self._events.troubled

    def unconfirmed(self) -> set[int]:
        """Tasks whose Work is committed and perhaps not in the stream yet."""
        return {entry.task for entry in self._work.waiting if entry.task is not None}

    def unconfirmed_on(self, lane: str) -> int:
        """How many of them are for one lane."""
        subject = subjects.work(lane)
        return sum(1 for entry in self._work.waiting if entry.subject == subject)

    def settled(self) -> list[int]:
        """Outbox rows whose events are confirmed for good; each is named once."""
        rows: list[int] = []
        old = time.monotonic() - _SETTLED_SECONDS
        confirmed = self._events.confirmed
        while confirmed and confirmed[0][0] < old:
            entry = confirmed.popleft()[1]
            if entry.outbox is not None:
                rows.append(entry.outbox)
        return rows

    async def work(self, works: Iterable[Sent]) -> None:
        """Queue Work messages."""
        for work in works:
            payload = work.payload
            if len(payload) > BODY_BYTES:
                payload = await pack(payload, self._artifacts)
            self._work.waiting.append(
                _Entry(
                    subjects.work(work.lane), payload, f"{work.task}:{work.epoch}", "work/1", task=work.task
                )
            )

    async def events(self, told: Iterable[Told]) -> None:
        """Queue events."""
        for event in told:
            payload = event.payload
            if len(payload) > BODY_BYTES:
                payload = await self._short(payload)
            self._events.waiting.append(
                _Entry(
                    _subject(event.owner, event.goal_id, event.kind), payload,
                    f"{event.owner}/{event.goal_id}:{event.seq}", "event/1", outbox=event.outbox,
                )
            )  # fmt: skip

    async def _short(self, whole: bytes) -> bytes:
        """An event that no message can carry: its small facts, and `body_ref` to the whole of it."""
        event = json.loads(whole)
        data = {name: fact for name, fact in event["data"].items() if len(json.dumps(fact)) <= _FACT_BYTES}
        try:
            ref = await self._artifacts.put_bytes("body", ArtifactType.JSON, whole)
        except GoalwrightError as error:  # an event that is short of facts is better than none
            log.warning("the whole of an event was not kept", event=event["event_id"], error=str(error))
        else:
            data["body_ref"] = ref.model_dump(mode="json")
        return json.dumps({**event, "data": data}).encode()

    async def cancels(self, tasks: Iterable[int]) -> None:
        """Tell performers at once that tasks are no longer wanted (best effort: epochs fence the rest)."""
        for task in tasks:
            try:
                await self._client().publish(subjects.cancel(str(task)), b"")
            except NatsError as error:
                log.warning("cancel not published", task=task, error=str(error))

    async def push(self, *, events: bool = True) -> None:
        """Send what may go: work in a write of its own, which the server hands on before it stores `events`; without
        them they wait for the next push."""
        client = self._client()
        reconnects = client.stats["reconnects"]
        if self._reconnects is not None and reconnects != self._reconnects:
            self._work.reconnected()
            self._events.reconnected()
        self._reconnects = reconnects
        if not client.is_connected:
            return
        if self._inbox is None:
            self._inbox = client.new_inbox()
            self._subscription = await client.subscribe(f"{self._inbox}.*.*", cb=self._answered)
        now = time.monotonic()
        for name, line in (("w", self._work), ("e", self._events))[: 2 if events else 1]:
            while batch := line.next_batch(f"{self._inbox}.{name}.{next(self._numbers)}", now):
                await publish_many(client, batch)
                await asyncio.sleep(0)

    async def _answered(self, message: Msg) -> None:
        name = message.subject.split(".")[-2]
        line = self._work if name == "w" else self._events
        refusal, duplicate = _answer(message)
        line.answered(message.subject, refusal, duplicate, time.monotonic())
        if line.waiting:
            await self.push(events=name == "e")

    async def close(self) -> None:
        """Listen no more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()  # type: ignore[attr-defined]  # nats-py leaves its type to guess


def told_of(rows: Sequence[object]) -> list[Told]:
    """The events of outbox rows (id, events)."""
    told = []
    for row in rows:
        events = orjson.loads(row["events"])  # type: ignore[index]  # a database row
        for place, event in enumerate(events, 1):
            told.append(
                Told(
                    event["owner"], event["goal_id"], event["kind"], event["seq"], orjson.dumps(event),
                    row["id"] if place == len(events) else None,  # type: ignore[index]  # a database row
                )
            )  # fmt: skip
    return told


def _answer(message: Msg) -> tuple[str | None, bool]:
    """Why a stream has refused a message (None: it has not), and whether it had it already."""
    if not message.data:
        return f"no stream answered ({(message.headers or {}).get('Status', 'empty')})", False
    answer = orjson.loads(message.data)
    error = answer.get("error")
    return None if error is None else str(error.get("description", error)), bool(answer.get("duplicate"))
