"""The event stream: the shared durable in batches, and the replay of one goal.

nats-py and not FastStream: a batch holds events of many goals, of which each is acked or handed back with a
delay on its own; FastStream settles a batch as one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import structlog
from goalwright_shared import subjects, topology
from goalwright_shared.artifacts import Artifacts
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import BadMessage, Event, parse_strict
from goalwright_shared.worker import unpack
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from pydantic import TypeAdapter

log = structlog.get_logger(__name__)

_BATCH = 256
_PULL_SECONDS = 5.0
"""A pull is lost with the server it was sent to, and nobody says so: it is made anew this often."""
_REPLAY_SECONDS = 10.0
_EVENT = TypeAdapter(Event)  # built once: half the cost of reading an event


class EventFeed:
    """A part: events in batches of `next_batch()`, acked one by one by whoever took them."""

    def __init__(self, client: Callable[[], Client], artifacts: Artifacts) -> None:
        self._connect, self._artifacts = client, artifacts
        self._pull: JetStreamContext.PullSubscription | None = None

    async def start(self) -> None:
        """Bind to the durable; raises `TopologyMissing`."""
        self._client = self._connect()
        self._js: JetStreamContext = self._client.jetstream(timeout=10)
        for stream, config in topology.reflector_consumers():
            await topology.verify_durable(self._js, stream, config)
        self._pull = await self._js.pull_subscribe_bind(
            durable=subjects.DURABLE_REFLECTOR, stream=subjects.EVENTS, inbox_prefix=self._inbox
        )

    async def stop(self) -> None:
        """Give up the subscription; what was not acked is delivered again. Idempotent."""
        if self._pull is not None:
            with contextlib.suppress(NatsError):
                await self._pull.unsubscribe()
            self._pull = None

    @property
    def _inbox(self) -> bytes:
        return bytes(self._client._inbox_prefix) + b"."

    async def next_batch(self) -> list[Msg]:
        """What has arrived, at once; an empty list when nothing came for a while."""
        assert self._pull is not None, "the feed is used before start()"
        try:
            return await self._pull.fetch(_BATCH, timeout=_PULL_SECONDS)
        except (NatsTimeout, TimeoutError):
            return []
        except NatsError as error:  # reconnecting: wait a little, so that the loop does not spin
            log.warning("pull failed", error=str(error) or type(error).__name__)
            await asyncio.sleep(0.5)
            return []

    async def read(self, message: Msg) -> Event | None:
        """The event in a message; None (and a line in the log) when it cannot be read."""
        try:
            return parse_strict(_EVENT, await unpack(message.data, self._artifacts))
        except (BadMessage, GoalwrightError) as error:
            log.error("event is unreadable", subject=message.subject, error=str(error))
            return None

    async def replay(self, owner: str, goal_id: str, after: int) -> AsyncIterator[tuple[Event, int]]:
        """The events of one goal behind stream sequence `after`, to the end, each with its sequence."""
        config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1)
        async for message in self._stored(subjects.events_of(goal_id, owner), config):
            event = await self.read(message)
            if event is not None:
                yield event, message.metadata.sequence.stream

    async def open_goals(self) -> set[tuple[str, str]]:
        """(owner, goal_id) of the goals that the stream knows as accepted and not as finished."""
        accepted = await self._goals("goal.accepted")
        return accepted - await self._goals("goal.finished")

    async def _goals(self, kind: str) -> set[tuple[str, str]]:
        config = ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT, headers_only=True)
        found = set()
        async for message in self._stored(subjects.event("*", "*", kind), config):
            _, owner, goal_id, *_ = message.subject.split(".")
            found.add((owner, goal_id))
        return found

    async def _stored(self, subject: str, config: ConsumerConfig) -> AsyncIterator[Msg]:
        """What the stream holds of a subject, through a consumer of the moment."""
        config = config.evolve(ack_policy=AckPolicy.NONE, inactive_threshold=_REPLAY_SECONDS)
        pull = await self._js.pull_subscribe(
            subject, stream=subjects.EVENTS, config=config, inbox_prefix=self._inbox
        )
        try:
            left = (await pull.consumer_info()).num_pending or 0
            while left:
                for message in await pull.fetch(_BATCH, timeout=_REPLAY_SECONDS):
                    left = message.metadata.num_pending
                    yield message
        finally:
            with contextlib.suppress(NatsError):
                await pull.unsubscribe()
