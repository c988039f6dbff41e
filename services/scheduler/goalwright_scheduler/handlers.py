"""Requests and messages → items of the loop, and answers back. FastStream carries them; streams come by
`intake`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
from faststream.nats import NatsBroker, NatsMessage
from goalwright_shared import ids, subjects
from goalwright_shared.artifacts import Artifacts, ObjectArtifacts
from goalwright_shared.errors import GoalwrightError, Refused
from goalwright_shared.messages import Alive, BadMessage, GoalAnswer, parse_lenient, parse_outcomes, read_json
from goalwright_shared.worker import pack, unpack
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from goalwright_scheduler.core import submission
from goalwright_scheduler.intake import bury, refuse_publish
from goalwright_scheduler.items import Control, Outcomes, Presence, Submission
from goalwright_scheduler.loop import Loop
from goalwright_scheduler.memory import Memory
from goalwright_scheduler.outcomes import Arrived

log = structlog.get_logger(__name__)

_ANSWER_SECONDS = 30.0

GOAL_ID = "goal-id"
"""The header by which a goal that was passed on keeps its id."""


class NoLeader(Exception):
    """The reign ended before the request was answered: whoever leads next can be asked."""


class Desk(Protocol):
    """What requests need of a leader."""

    async def on_request(self, owner: str, payload: bytes, goal_id: str | None) -> GoalAnswer:
        """See `LeaderDesk`."""

    async def on_control(self, verb: str, owner: str, payload: bytes) -> dict[str, Any]:
        """See `LeaderDesk`."""


class Front(Protocol):
    """See `front`: it knows who leads."""

    async def request(self, subject: str, payload: bytes) -> bytes:
        """A goal by request."""

    async def control(self, subject: str, payload: bytes) -> bytes:
        """A control request."""


class LeaderDesk:
    """What the leader takes in: parsed here, decided in the loop."""

    def __init__(self, loop: Loop, client: Client, artifacts: ObjectArtifacts, memory: Memory) -> None:
        self._loop, self._client, self.artifacts, self._memory = loop, client, artifacts, memory
        self._asked: set[asyncio.Future[Any]] = set()
        self._closed = False
        self.name = ids.new_goal_id().encode()  # of this reign: whoever passes requests on sees it end

    def close(self) -> None:
        """The reign is over: who still waits for an answer is told."""
        self._closed = True
        for reply in self._asked:
            if not reply.done():
                reply.set_exception(NoLeader())

    async def on_goal(self, message: Msg) -> None:
        """A plain publish on `goals.submit`."""
        owner = subjects.owner_of(message.subject, 2)
        try:
            parsed, sizes = await self._submission(message.data)
        except GoalwrightError as error:
            await refuse_publish(self._client, owner, _id_of(message.data), message.data, error)
            await message.ack()
            return
        name = (message.headers or {}).get("Nats-Msg-Id")
        stored = message.metadata
        goal_id = _fitting(name) or ids.stored_goal_id(stored.timestamp, stored.sequence.stream)
        self._loop.arrivals.put(Submission(owner, parsed, sizes, goal_id, message=message))

    async def on_request(self, owner: str, payload: bytes, goal_id: str | None = None) -> GoalAnswer:
        """A goal by request: answered after the commit; `goal_id` for one that names none. Raises `Refused`."""
        parsed, sizes = await self._submission(payload)
        answer: GoalAnswer = await self._answer(
            lambda reply: Submission(owner, parsed, sizes, goal_id, reply=reply)
        )
        return answer

    async def on_control(self, verb: str, owner: str, payload: bytes) -> dict[str, Any]:
        """A control request: answered after the commit. Raises `Refused`."""
        if verb not in subjects.CONTROL_VERBS:
            verbs = ", ".join(subjects.CONTROL_VERBS)
            raise Refused("unknown_verb", f"there is no control.{verb}", hint=f"one of {verbs}")
        body = body_of(payload)
        answer: dict[str, Any] = await self._answer(lambda reply: Control(verb, owner, body, reply))
        return answer

    async def _answer(self, item: Callable[[asyncio.Future[Any]], Control | Submission]) -> Any:
        if self._closed:
            raise NoLeader
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.add(reply)
        reply.add_done_callback(self._asked.discard)
        self._loop.arrivals.put(item(reply))
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await reply

    async def on_outcome(self, message: Msg) -> None:
        """A message of outcomes: unknown fields are errors from our own services only."""
        lane = subjects.lane_of_outcome(message.subject)
        known = self._memory.lanes.get(lane)
        trusted = known is not None and known.performer == "service"
        try:
            payload = await unpack(message.data, self.artifacts)
            found, ignored = parse_outcomes(payload, trusted=trusted)
        except (BadMessage, GoalwrightError) as error:
            log.error("outcome is unreadable", lane=lane, error=str(error))
            await bury(self._client, subjects.OUTCOMES, message.data, "bad_outcome", str(error))
            failed = failure_of(message.data, str(error))
            if failed is None:
                await message.ack()
                return
            found, ignored = failed, []
        if ignored:
            log.warning("unknown fields of an outcome were ignored", lane=lane, fields=ignored[:10])
        self._loop.arrivals.put(Outcomes([Arrived(lane, outcome) for outcome in found], message))

    def on_alive(self, lane: str, alive: Alive) -> None:
        """A performer's presence."""
        self._loop.arrivals.put(Presence(lane, alive))

    async def _submission(self, payload: bytes) -> tuple[submission.Parsed, dict[str, int]]:
        parsed = submission.parse(await unpack(payload, self.artifacts))
        sizes = {}
        for item in parsed.submission.inputs:
            if item.object is not None:
                size = await self.artifacts.size_of(item.object)
                if size is not None:
                    sizes[item.object] = size
        return parsed, sizes


def failure_of(payload: bytes, reason: str) -> list[Any] | None:
    """An unreadable outcome that still names its task fails that task; None when it names none."""
    try:
        data = read_json(payload, storable=False)
        first = data[0] if isinstance(data, list) else data
        found, _ = parse_outcomes(
            json.dumps(
                {
                    "kind": "failed",
                    **{field: first[field] for field in ("goal_id", "task_id", "epoch")},  # type: ignore[index,call-overload]  # a wrong shape is caught
                    "error": {"code": "bad_outcome", "message": reason[:2000], "retryable": True},
                }
            ).encode(),
            trusted=False,
        )
    except (BadMessage, KeyError, TypeError, IndexError):
        return None
    return list(found)


def _fitting(name: str | None) -> str | None:
    """A `Nats-Msg-Id` that can be a goal's id."""
    fits = name is not None and 0 < len(name) <= 64 and all(c.isalnum() or c in "_-" for c in name)
    return name if fits and name is not None and name.isascii() else None


def _id_of(payload: bytes) -> str | None:
    """The id that a refused submission names, for the subject of its refusal."""
    try:
        data = read_json(payload, storable=False)
    except BadMessage:
        return None
    name = data.get("id") if isinstance(data, dict) else None
    return _fitting(name) if isinstance(name, str) else None


def body_of(payload: bytes) -> dict[str, Any]:
    """The JSON object of a request; an empty payload is an empty object. Raises `Refused`."""
    if not payload.strip():
        return {}
    try:
        data = read_json(payload)
    except BadMessage as error:
        raise Refused(error.code, error.message, field=error.field) from error
    if not isinstance(data, dict):
        raise Refused("bad_message", "the payload must be a JSON object")
    return dict(data)


async def answered(
    work: Awaitable[Any], artifacts: Artifacts, let_through: tuple[type[Exception], ...] = (NoLeader,)
) -> bytes:
    """The JSON answer of a request, an error answer included; a `body_ref` when it is big."""
    try:
        result = await work
        return await pack(
            result.to_json() if isinstance(result, GoalAnswer) else json.dumps(result).encode(), artifacts
        )
    except GoalwrightError as error:
        return error.answer().to_json()
    except TimeoutError:
        return Refused("busy", "the scheduler did not get to it in time", hint="try again").answer().to_json()
    except let_through:
        raise
    except Exception as error:
        log.exception("a request failed")
        return Refused("internal_error", f"{type(error).__name__}: {error}").answer().to_json()


def lead_subscribers(broker: NatsBroker, desk: LeaderDesk) -> list[Any]:
    """Subscribers that only the leader has; the caller starts and stops them. Requests come from `front`."""

    async def request(message: NatsMessage) -> bytes:
        raw = message.raw_message
        owner, goal_id = subjects.owner_of(raw.subject, 3), (raw.headers or {}).get(GOAL_ID)
        return await answered(desk.on_request(owner, raw.data, goal_id), desk.artifacts)

    async def control(message: NatsMessage) -> bytes:
        raw = message.raw_message
        verb, owner = raw.subject.split(".")[2], subjects.owner_of(raw.subject, 3)
        return await answered(desk.on_control(verb, owner, raw.data), desk.artifacts)

    async def ping(_: NatsMessage) -> bytes:
        return desk.name

    made = []
    for subject, handler in (
        *((subjects.to_leader(subject), request) for subject in subjects.REQUESTS_ALL),
        *((subjects.to_leader(subject), control) for subject in subjects.CONTROL_ALL),
        (subjects.to_leader(subjects.PING), ping),
    ):
        subscriber = broker.subscriber(subject, persistent=False, title=subject, max_workers=CONCURRENT)
        subscriber(handler)
        made.append(subscriber)
    return made


CONCURRENT = 64
"""Requests in hand at once: each waits for a commit, and commits take many at a time."""


def request_subscribers(broker: NatsBroker, front: Front) -> None:
    """Goals by request and control: any scheduler takes them, the leader answers."""

    async def request(message: NatsMessage) -> bytes:
        return await front.request(message.raw_message.subject, message.raw_message.data)

    async def control(message: NatsMessage) -> bytes:
        return await front.control(message.raw_message.subject, message.raw_message.data)

    for handler, wanted in ((request, subjects.REQUESTS_ALL), (control, subjects.CONTROL_ALL)):
        for subject in wanted:
            broker.subscriber(subject, queue="scheduler", title=subject, max_workers=CONCURRENT)(handler)


class Presences:
    """A part: every scheduler hears performers, so that any of them can tell who is there; the leader extends their
    leases. Heard from the client itself: hundreds may come in a second, and there is nothing to answer or to ack."""

    def __init__(
        self, client: Callable[[], Client], memory: Memory, desk: Callable[[], LeaderDesk | None]
    ) -> None:
        self._client, self._memory, self._desk = client, memory, desk
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Listen."""
        self._subscription = await self._client().subscribe(subjects.ALIVE_ALL, cb=self._heard)

    async def stop(self) -> None:
        """Listen no more; idempotent."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    async def _heard(self, message: Msg) -> None:
        lane = subjects.lane_of_alive(message.subject)
        try:
            presence, _ = parse_lenient(Alive, message.data)
        except BadMessage as error:
            log.warning("presence is unreadable", lane=lane, error=str(error))
            return
        self._memory.seen(lane, presence, time.monotonic())
        if (leader := self._desk()) is not None:
            leader.on_alive(lane, presence)
