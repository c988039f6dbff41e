"""What comes in from streams: goals, outcomes, advisories. Pulled by the leader alone, acked after commit."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog
from goalwright_shared import subjects
from goalwright_shared.errors import GoalwrightError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

log = structlog.get_logger(__name__)

_PULL_SECONDS = 1.0
"""A pull is lost with the server it was sent to, and nobody says so: it is made anew this often."""

_LATE_SECONDS = 1.0
"""How much later than promised the server may say that a pull is over."""

_KEPT = 450_000
"""Characters of a payload that are kept on `dead.<stream>`; with escapes they must fit one message."""

Take = Callable[[Msg], Awaitable[None]]


class Intake:
    """A part of a reign: pulls batches from one durable and gives each message to `take`.

    One pull waits at any time and is made anew when it has brought its batch or its time is over. (nats-py's own
    `fetch` makes two pulls per batch and a future per message.)
    """

    def __init__(
        self, client: Client, stream: str, durable: str, take: Take, *, batch: int, room: Callable[[], bool]
    ) -> None:
        self._client, self._stream, self._durable, self._take = client, stream, durable, take
        self._batch, self._room = batch, room
        self._task: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None
        self._left = 0  # messages the waiting pull may still bring
        self._over = asyncio.Event()
        self._stopping = False
        self.drained = asyncio.Event()
        """Set when the stream had nothing more to give at least once."""

    async def start(self) -> None:
        """Begin to pull."""
        inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(inbox, cb=self._arrived)
        self._task = asyncio.create_task(self._pull(inbox), name=f"intake-{self._durable}")

    async def stop(self) -> None:
        """Stop pulling; what was taken is acked by whoever handles it."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await self._subscription.unsubscribe()
            self._subscription = None

    async def _pull(self, inbox: str) -> None:
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        ask = json.dumps({"batch": self._batch, "expires": int(_PULL_SECONDS * 1e9)}).encode()
        while not self._stopping:
            try:
                await self._note_drained()
                while not self._room():  # noqa: ASYNC110 - the loop's queue has no event for "short again"
                    await asyncio.sleep(0.005)
                self._left = self._batch
                self._over.clear()
                await self._client.publish(subject, ask, reply=inbox)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PULL_SECONDS + _LATE_SECONDS):
                        await self._over.wait()
            except (NatsError, JetStreamError) as error:
                log.warning("intake interrupted", stream=self._stream, error=repr(error))
                await asyncio.sleep(0.5)

    async def _arrived(self, message: Msg) -> None:
        """A message of the stream, or the server's word that a pull is over."""
        if not message.data and "Status" in (message.headers or {}):
            self._over.set()
            return
        try:
            await self._take(message)
        finally:
            self._left -= 1
            if self._left <= 0:
                self._over.set()

    async def _note_drained(self) -> None:
        if not self.drained.is_set():
            info = await self._client.jetstream(timeout=10).consumer_info(self._stream, self._durable)
            if not info.num_pending and not info.num_ack_pending:
                self.drained.set()


async def bury(client: Client, stream: str, payload: bytes, code: str, message: str) -> None:
    """Keep what could not be handled on `dead.<stream>`, with the reason."""
    text = payload.decode("utf-8", "replace")[:_KEPT]
    if len(json.dumps(text)) > 2 * _KEPT:  # what has to be escaped may grow sixfold
        text = text[: _KEPT // 4]
    body = json.dumps({"stream": stream, "code": code, "message": message[:10_000], "payload": text}).encode()
    try:
        await client.jetstream(timeout=10).publish(subjects.dead(stream), body)
    except (NatsError, JetStreamError, TimeoutError) as error:
        log.error("a dead message was not kept", stream=stream, code=code, error=repr(error))


async def refuse_publish(
    client: Client, owner: str, goal_id: str | None, payload: bytes, error: GoalwrightError
) -> None:
    """A plain publish cannot be answered: an event says what was wrong, and the message is kept as dead."""
    name = goal_id or "unknown"
    body = {
        "event_id": f"{name}:refused", "seq": 0, "goal_id": name, "owner": owner, "kind": "goal.refused",
        "task_id": None, "at": datetime.now(UTC).isoformat(),
        "data": {"code": error.code, "message": error.message, "field": error.field, "hint": error.hint},
    }  # fmt: skip
    try:
        await client.jetstream(timeout=10).publish(
            subjects.event(owner, name, "goal.refused"), json.dumps(body).encode()
        )
    except (NatsError, JetStreamError, TimeoutError) as failure:
        log.error("a refusal was not published", error=repr(failure))
    await bury(client, subjects.GOALS, payload, error.code, str(error))


async def bury_undeliverable(client: Client, message: Msg) -> None:
    """An advisory says that a stream gave up on a message: move its body to `dead.<stream>`."""
    advisory = json.loads(message.data)
    stream, seq = advisory["stream"], advisory["stream_seq"]
    js = client.jetstream(timeout=10)
    try:
        lost = await js.get_msg(stream, seq)
    except (NatsError, JetStreamError):
        lost = (
            None  # terminated messages are gone from a work queue; those that could not be parsed were kept
        )
    if lost is not None:
        await bury(
            client, stream, lost.data or b"", "undeliverable", f"given up after {advisory.get('deliveries')}"
        )
        with contextlib.suppress(NatsError, JetStreamError):
            await js.delete_msg(stream, seq)
    await message.ack()
