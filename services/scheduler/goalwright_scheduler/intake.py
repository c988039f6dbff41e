"""What comes in from streams: goals, outcomes, advisories. Pulled by the leader alone, acked after commit."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

import structlog
from goalwright_shared import subjects
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.client import JetStreamContext
from nats.js.errors import Error as JetStreamError

log = structlog.get_logger(__name__)

_PULL_SECONDS = 1.0
"""A pull is lost with the server it was sent to, and nobody says so: it is made anew this often."""

_KEPT = 450_000
"""Characters of a payload that are kept on `dead.<stream>`; with escapes they must fit one message."""

Take = Callable[[Msg], Awaitable[None]]


class Intake:
    """A part of a reign: pulls batches from one durable and gives each message to `take`."""

    def __init__(
        self, client: Client, stream: str, durable: str, take: Take, *, batch: int, room: Callable[[], bool]
    ) -> None:
        self._client, self._stream, self._durable, self._take = client, stream, durable, take
        self._batch, self._room = batch, room
        self._task: asyncio.Task[None] | None = None
        self._subscription: JetStreamContext.PullSubscription | None = None
        self._stopping = False  # `wait_for` inside nats-py may swallow a cancel that races with a reply
        self.drained = asyncio.Event()
        """Set when the stream had nothing more to give at least once."""

    async def start(self) -> None:
        """Begin to pull."""
        self._task = asyncio.create_task(self._pull(), name=f"intake-{self._durable}")

    async def stop(self) -> None:
        """Stop pulling; what was taken is acked by whoever handles it."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._subscription is not None:  # left behind, it keeps the connection's drain waiting for 30 s
            with contextlib.suppress(NatsError):
                await self._subscription.unsubscribe()
            self._subscription = None

    async def _pull(self) -> None:
        js = self._client.jetstream(timeout=10)
        prefix = bytes(self._client._inbox_prefix) + b"."
        while not self._stopping:
            try:
                if self._subscription is None:
                    self._subscription = await js.pull_subscribe_bind(
                        durable=self._durable, stream=self._stream, inbox_prefix=prefix
                    )
                await self._note_drained(js)
                while not self._room():  # noqa: ASYNC110 - the loop's queue has no event for "short again"
                    await asyncio.sleep(0.01)
                for message in await self._subscription.fetch(self._batch, timeout=_PULL_SECONDS):
                    await self._take(message)
            except TimeoutError:
                self.drained.set()
            except (NatsError, JetStreamError) as error:
                log.warning("intake interrupted", stream=self._stream, error=repr(error))
                await asyncio.sleep(0.5)

    async def _note_drained(self, js: JetStreamContext) -> None:
        if not self.drained.is_set():
            info = await js.consumer_info(self._stream, self._durable)
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
