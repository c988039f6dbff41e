"""The worker loop: pulls `Work` from lanes, performs it, publishes the `Outcome`, acks. The only one.

Slots of one pull each (a slot's waiting pull is the credit the scheduler dispatches against), `alive` and
progress acks while a task runs, cancel, redelivery, drain and hand-back. A performer is a function
`Work → Outcome` on top of it and keeps nothing between two messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.client import JetStreamContext

from goalwright_shared import subjects, topology
from goalwright_shared.artifacts import Artifacts
from goalwright_shared.broker import Query
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import (
    BODY_BYTES,
    Alive,
    ArtifactType,
    BadMessage,
    BodyRef,
    Failed,
    Outcome,
    TaskError,
    Throttled,
    Work,
    parse_strict,
    read_json,
)
from goalwright_shared.telemetry import redact

log = structlog.get_logger(__name__)

_PULL_SECONDS = 5.0
"""A pull is lost with the server it was sent to, and nobody says so: it is made anew this often."""

_RETRY_SECONDS = 0.5
"""Pause after a pull that failed or was refused, so that a slot does not spin."""

_FETCH_STEPS = 16
"""Turns of the event loop in which a message that has arrived surely leaves `fetch` (four were counted)."""

_LEAVE_SECONDS = 4.0
"""After the drain, how long hand-backs and last outcomes may take (without NATS they never arrive): less than
the 5 s that the supervisor gives beyond the drain before it kills."""


class Attempt:
    """What a performer may use during one try."""

    def __init__(self, work: Work, client: Client, artifacts: Artifacts, query: Query) -> None:
        self.work = work
        self.artifacts = artifacts
        self.query = query
        self._client = client
        self._logs = subjects.logs(work.owner, work.goal_id, work.task_id)

    async def log(self, line: str) -> None:
        """Publish a line of live output on `logs.…`; never waits for a reader."""
        with contextlib.suppress(NatsError):
            await self._client.publish(self._logs, redact(line).encode())


Perform = Callable[[Work, Attempt], Awaitable[Outcome]]
_Try = tuple[str, int]
"""A task and its epoch: two epochs of one task may be here at once."""


@dataclass(frozen=True)
class _Running:
    """A try that runs, and the delivery it answers."""

    task: asyncio.Task[Outcome]
    work: Work
    message: Msg


class Worker:
    """A part: `slots` concurrent tries over each of `lanes`.

    An exception out of `perform` becomes a retryable `failed{internal_error}`; a cancelled task ends
    without an outcome. `stop()` lets running tries finish for `drain_seconds`, then hands them back.
    """

    def __init__(
        self,
        *,
        client: Callable[[], Client],
        artifacts: Artifacts,
        query: Query,
        lanes: Sequence[str],
        slots: int,
        perform: Perform,
        name: str,
        drain_seconds: float = 25.0,
    ) -> None:
        self._connect, self._artifacts, self._query = client, artifacts, query
        self._lanes, self._slots_per_lane, self._perform = tuple(lanes), slots, perform
        self._name, self._drain_seconds = name, drain_seconds
        self._draining = asyncio.Event()
        self._running: dict[_Try, _Running] = {}
        self._presences: dict[str, asyncio.Task[None]] = {}  # by lane, while anything of it runs
        self._cancelled: set[_Try] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._cancel_subscription: Any = None

    async def start(self) -> None:
        """Verify the lanes' consumers (raises `TopologyMissing`) and begin to pull."""
        self._client = self._connect()
        self._js: JetStreamContext = self._client.jetstream(timeout=10)
        for lane in self._lanes:
            await topology.verify_durable(self._js, subjects.WORK, topology.lane_consumer(lane))
        self._cancel_subscription = await self._client.subscribe(subjects.CANCEL_ALL, cb=self._on_cancel)
        for lane in self._lanes:
            self._pull(lane)
        log.info("worker started", lanes=self._lanes, slots=self._slots_per_lane)

    async def add(self, lane: str) -> None:
        """Pull from one more lane from now on; nothing to one that is pulled from. Raises `TopologyMissing`."""
        if lane in self._lanes or self._draining.is_set():
            return
        await topology.verify_durable(self._js, subjects.WORK, topology.lane_consumer(lane))
        self._lanes = (*self._lanes, lane)
        self._pull(lane)
        log.info("lane added", lane=lane, slots=self._slots_per_lane)

    def _pull(self, lane: str) -> None:
        for slot in range(self._slots_per_lane):
            self._loops.append(asyncio.create_task(self._slot(lane), name=f"slot-{lane}-{slot}"))

    async def stop(self) -> None:
        """Take no more work, finish or hand back what is in flight. Idempotent."""
        if self._draining.is_set():
            return
        self._draining.set()
        if self._running:
            running = [one.task for one in self._running.values()]
            await asyncio.wait(running, timeout=self._drain_seconds)
        for one in self._running.values():
            one.task.cancel()
        if self._loops:
            _, late = await asyncio.wait(self._loops, timeout=_LEAVE_SECONDS)
            for loop in late:  # its task comes again when the lease has expired
                loop.cancel()
            await asyncio.gather(*self._loops, return_exceptions=True)
        for presence in self._presences.values():
            presence.cancel()
        if self._cancel_subscription is not None:
            with contextlib.suppress(NatsError):
                await self._cancel_subscription.unsubscribe()

    @property
    def busy(self) -> int:
        """Tries running now."""
        return len(self._running)

    async def _slot(self, lane: str) -> None:
        pull = await self._js.pull_subscribe_bind(
            durable=subjects.work_durable(lane), stream=subjects.WORK,
            inbox_prefix=bytes(self._client._inbox_prefix) + b".",
        )  # fmt: skip
        try:
            while not self._draining.is_set():
                message = await self._next(pull)
                if message is not None:
                    await self._take(lane, message)
        finally:
            with contextlib.suppress(NatsError):
                await pull.unsubscribe()

    async def _next(self, pull: JetStreamContext.PullSubscription) -> Msg | None:
        """The next message of a lane; None when there is none yet or we are draining."""
        fetch = asyncio.create_task(pull.fetch(1, timeout=_PULL_SECONDS))
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({fetch, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not fetch.done():
                await self._withdraw(pull)
        finally:
            draining.cancel()
            fetch.cancel()  # nothing to a fetch that is done
        try:
            return (await fetch)[0]
        except asyncio.CancelledError:
            return None
        except (NatsTimeout, TimeoutError):
            return None
        except NatsError as error:
            log.warning("pull failed", error=str(error) or type(error).__name__)
            await asyncio.sleep(_RETRY_SECONDS)
            return None

    async def _withdraw(self, pull: JetStreamContext.PullSubscription) -> None:
        """Take a waiting pull back and let its fetch end if the server had answered it already. (nats-py's
        own `unsubscribe` and a cancelled fetch forget such a message; it would come again as a redelivery.)"""
        with contextlib.suppress(NatsError, TimeoutError):
            await self._client._send_unsubscribe(pull._sub._id)
            await self._client.flush(timeout=2)
        for _ in range(_FETCH_STEPS):
            await asyncio.sleep(0)

    async def _take(self, lane: str, message: Msg) -> None:
        """One message from delivery to ack; the ack comes last. Never raises: a slot outlives everything."""
        try:
            try:
                work = parse_strict(Work, await unpack(message.data, self._artifacts))
            except (BadMessage, GoalwrightError) as error:
                log.error("work is unreadable", lane=lane, error=str(error))
                await message.term()
            else:
                await self._answer(lane, work, message)
        except Exception:
            log.exception("work was not answered", lane=lane)

    async def _answer(self, lane: str, work: Work, message: Msg) -> None:
        """Decide or perform, publish the outcome, ack."""
        with structlog.contextvars.bound_contextvars(
            goal=work.goal_id, task=work.task_id, epoch=work.epoch, lane=lane
        ):
            if self._draining.is_set():
                outcome: Outcome | None = self._handed_back(work)
            elif message.metadata.num_delivered is not None and message.metadata.num_delivered > 1:
                outcome = _failed(
                    work, "redelivered", "the message was delivered before; nothing was performed"
                )
            else:
                outcome = await self._try(work, message)
            if outcome is not None:
                await self._publish(lane, outcome.model_copy(update={"worker": self._name}))
            await self._ack(message)

    async def _try(self, work: Work, message: Msg) -> Outcome | None:
        attempt = Attempt(work, self._client, self._artifacts, _of_owner(self._query, work.owner))
        task = asyncio.create_task(self._performed(work, attempt))
        key = (work.task_id, work.epoch)
        self._running[key] = _Running(task, work, message)
        try:
            await self._announce(work.lane, [key])
            if work.lane not in self._presences or self._presences[work.lane].done():
                self._presences[work.lane] = asyncio.create_task(self._keep_alive(work.lane))
            return await task
        except asyncio.CancelledError:
            if key in self._cancelled:
                return None  # the scheduler has already ended this epoch
            if self._draining.is_set():
                return self._handed_back(work)
            return _failed(work, "internal_error", "the performer cancelled itself", retryable=True)
        finally:
            self._cancelled.discard(key)
            del self._running[key]

    async def _performed(self, work: Work, attempt: Attempt) -> Outcome:
        try:
            return await self._perform(work, attempt)
        except GoalwrightError as error:
            log.warning("failed", code=error.code, error=str(error))
            return _failed(work, error.code, str(error), retryable=True)
        except Exception as error:
            log.exception("performer failed")
            return _failed(work, "internal_error", f"{type(error).__name__}: {error}", retryable=True)

    async def _keep_alive(self, lane: str) -> None:
        """Tell of all that runs in a lane about every third of a lease, and extend the deliveries. One message tells of
        hundreds of calls, so that the scheduler hears little of them."""
        while running := self._of(lane):
            lease = min(one.work.lease_seconds for one in running.values())
            await asyncio.sleep(max(0.2, min(lease, topology.PRESENCE_SECONDS) / 3))
            if not (running := self._of(lane)):
                return
            await self._announce(lane, list(running))
            for one in running.values():
                with contextlib.suppress(NatsError):  # answered meanwhile, or NATS is away
                    await one.message.in_progress()

    def _of(self, lane: str) -> dict[_Try, _Running]:
        return {key: one for key, one in self._running.items() if one.work.lane == lane}

    async def _announce(self, lane: str, tasks: list[_Try]) -> None:
        alive = Alive(worker=self._name, slots=self._slots_per_lane, tasks=tasks)
        with contextlib.suppress(NatsError):  # NATS is away: what runs is told when it is back
            await self._client.publish(subjects.alive(lane), alive.to_json())

    async def _publish(self, lane: str, outcome: Outcome) -> None:
        """Publish and wait for the stream's confirmation, for as long as it takes."""
        headers = {"Nats-Msg-Id": f"{outcome.task_id}:{outcome.epoch}", "schema": "outcome/1"}
        pause = 0.2
        while not self._client.is_closed:
            try:
                payload = await self._packed(outcome)
                await self._js.publish(subjects.outcomes(lane), payload, headers=headers, timeout=10)
                return
            except (NatsError, TimeoutError) as error:
                log.warning("outcome not confirmed, trying again", error=str(error) or type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    async def _packed(self, outcome: Outcome) -> bytes:
        """The outcome, or that it is too large to be stored."""
        try:
            return await pack(outcome.to_json(), self._artifacts)
        except GoalwrightError as error:
            log.error("outcome not stored", code=error.code, error=str(error))
            return _failed(outcome, error.code, str(error), retryable=True).to_json()

    async def _ack(self, message: Msg) -> None:
        with contextlib.suppress(NatsError):  # a lost ack is a redelivery, which the epoch fences
            await message.ack()

    def _handed_back(self, work: Work) -> Outcome:
        return Throttled(
            goal_id=work.goal_id,
            task_id=work.task_id,
            epoch=work.epoch,
            reason="handed back: performer stops",
        )

    async def _on_cancel(self, message: Msg) -> None:
        task_id = message.subject.rsplit(".", 1)[-1]
        for key, one in self._running.items():
            if key[0] == task_id:
                self._cancelled.add(key)
                one.task.cancel()


def _of_owner(query: Query, owner: str) -> Query:
    """The same queries, asked for the owner of the work."""

    async def asked(what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await query(what, {"owner": owner, **body})

    return asked


async def pack(payload: bytes, artifacts: Artifacts) -> bytes:
    """`payload`, or a `body_ref` to it when it is over 512 KiB."""
    if len(payload) <= BODY_BYTES:
        return payload
    return BodyRef(body_ref=await artifacts.put_bytes("body", ArtifactType.JSON, payload)).to_json()


async def unpack(payload: bytes, artifacts: Artifacts) -> bytes:
    """The whole message behind a `body_ref`, or `payload` itself. Raises BadMessage, ArtifactUnavailable."""
    if len(payload) > 4096 or b'"body_ref"' not in payload:
        return payload
    data = read_json(payload)
    if not (isinstance(data, dict) and set(data) == {"body_ref"}):
        return payload
    return await artifacts.get_bytes(parse_strict(BodyRef, payload).body_ref)


def _failed(work: Work | Outcome, code: str, message: str, *, retryable: bool = False) -> Failed:
    return Failed(
        goal_id=work.goal_id,
        task_id=work.task_id,
        epoch=work.epoch,
        error=TaskError(code=code, message=redact(message), retryable=retryable),
    )
