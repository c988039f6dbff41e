"""The command line's side of NATS: find the system, ask it, follow a goal's events, move its artifacts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import nats
from goalwright_shared import subjects
from goalwright_shared.artifacts import ObjectArtifacts, whole_answer
from goalwright_shared.errors import GoalwrightError, TopologyMissing, Unreachable
from goalwright_shared.messages import (
    BODY_BYTES,
    ArtifactRef,
    ArtifactType,
    BadMessage,
    BodyRef,
    Event,
    GoalAnswer,
    GoalSubmission,
    parse_lenient,
    parse_lenient_value,
)
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

_ANSWER_SECONDS = 10.0


class NotFound(GoalwrightError):
    """No goal or task of that name."""


class Client:
    """One connection to a running system."""

    def __init__(self, client: NatsClient) -> None:
        self.nats = client
        self.js = client.jetstream()
        self.artifacts = ObjectArtifacts(self.js)

    async def query(self, what: str, **body: Any) -> dict[str, Any]:
        """Ask; raises `Unreachable` or the error that was answered."""
        return await self._ask(subjects.query(what), body)

    async def control(self, verb: str, **body: Any) -> dict[str, Any]:
        """Steer; fields that are None are left out. Raises `Unreachable` or the error that was answered."""
        return await self._ask(subjects.control(verb), body)

    async def allow(self, owner: str, budget_usd: float | None, per: str) -> dict[str, Any]:
        """Limit an owner over all goals; None lifts the limit. Raises as `control`."""
        body = {"owner": owner, "budget_usd": budget_usd, "per": per}
        return await self._request(subjects.control("budget"), json.dumps(body).encode())

    async def submit(self, submission: GoalSubmission) -> GoalAnswer:
        """Submit and wait for the commit; raises `Unreachable` or the refusal."""
        body = submission.model_dump_json(by_alias=True, exclude_none=True).encode()
        if len(body) > BODY_BYTES:
            ref = await self.artifacts.put_bytes("goal", ArtifactType.JSON, body)
            body = BodyRef(body_ref=ref).to_json()
        answer = await self._request(subjects.request(), body)
        return parse_lenient_value(GoalAnswer, answer)[0]

    async def _ask(self, subject: str, body: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in body.items() if value is not None}
        return await self._request(subject, json.dumps(given).encode())

    async def _request(self, subject: str, body: bytes) -> dict[str, Any]:
        try:
            reply = await self.nats.request(subject, body, timeout=_ANSWER_SECONDS)
        except NoRespondersError as error:
            raise Unreachable(
                "no_answer",
                f"NATS is there, but no scheduler listens on {subject}",
                hint="start the system with `goalwright up`",
            ) from error
        except (NatsError, TimeoutError) as error:
            raise Unreachable(
                "no_answer", f"no answer on {subject}: {error}", hint="see `goalwright doctor`"
            ) from error
        answer = await whole_answer(reply.data, self.artifacts)
        if "error" in answer:
            raise _refusal(answer["error"])
        return answer

    # --- naming things -------------------------------------------------------------------------------------

    async def goal(self, name: str) -> dict[str, Any]:
        """A goal by id, by a unique start of its id, or the latest for `-`; raises `NotFound`."""
        if name != "-":
            with contextlib.suppress(NotFound):
                return await self.query("goal", goal_id=name)
        known: list[str] = [row["goal_id"] for row in (await self.query("goals"))["goals"]]
        found = known[:1] if name == "-" else [goal_id for goal_id in known if goal_id.startswith(name)]
        if len(found) == 1:
            return await self.query("goal", goal_id=found[0])
        what = "there is no goal yet" if name == "-" else f"no goal {name}"
        if found:
            what = f"{name} may be any of {', '.join(sorted(found)[:4])}"
        raise NotFound("not_found", what, hint="`goalwright ls` lists them")

    async def graph(self, goal_id: str) -> dict[str, Any]:
        """The whole graph of a goal: all pages of `query.graph` as one answer."""
        answer = await self.query("graph", goal_id=goal_id)
        page = answer
        while page.get("next"):
            page = await self.query("graph", goal_id=goal_id, cursor=page["next"])
            answer["tasks"] += page["tasks"]
        return answer | {"next": None}

    async def task_id(self, goal_id: str, name: str) -> str:
        """A task's id, from its id or its key, which is unique in the plan; raises `NotFound`."""
        tasks = (await self.graph(goal_id))["tasks"]
        if any(task["task_id"] == name for task in tasks):
            return name
        found = [task for task in tasks if task["key"] == name]
        roots = {task["task_id"] for task in tasks if task.get("parent") is None}
        found = [task for task in found if task.get("parent") in {None, *roots}] or found
        if not found:
            keys = ", ".join(sorted({task["key"] for task in tasks})[:12])
            raise NotFound("not_found", f"goal {goal_id} has no task {name}", hint=f"its tasks are {keys}")
        if len(found) > 1:
            ids = ", ".join(f"{task['task_id']} ({task['lane']}, {task['state']})" for task in found[:6])
            raise NotFound(
                "not_found", f"{len(found)} tasks are called {name}", hint=f"name one by id: {ids}"
            )
        return str(found[0]["task_id"])

    # --- streams -------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def events(self, goal_id: str, owner: str) -> AsyncIterator[Feed]:
        """A goal's events from the first one on, also over a restart of NATS; raises `Unreachable`."""
        feed = Feed(self.nats, self.js, subjects.events_of(goal_id, owner))
        try:
            await feed.subscribe()
        except NotFoundError as error:
            raise TopologyMissing(
                "no_stream", "the stream of events does not exist", hint="goalwright topology apply"
            ) from error
        except (NatsError, TimeoutError) as error:
            raise Unreachable("no_answer", f"events cannot be read: {error}") from error
        try:
            yield feed
        finally:
            await feed.close()

    async def logs(self, goal_id: str, owner: str, task_id: str = "*") -> AsyncIterator[tuple[str, str]]:
        """Live output as (task_id, text); ends only when it is cancelled or the connection is closed."""
        subscription = await self.nats.subscribe(subjects.logs(owner, goal_id, task_id))
        async for message in subscription.messages:
            yield message.subject.rsplit(".", 1)[-1], message.data.decode(errors="replace")


class Feed:
    """Events as an ordered consumer gives them. One that comes again after a reconnect is the reader's to
    drop (by its `seq`). `caught_up`: what was stored has been handed out."""

    def __init__(self, client: NatsClient, js: JetStreamContext, subject: str) -> None:
        self._nats, self._js, self._subject = client, js, subject
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._subscription: JetStreamContext.PushSubscription | None = None
        self._connection = 0
        self._left = 0
        self._heard = False

    @property
    def caught_up(self) -> bool:
        """True when nothing of the past is missing any more."""
        return self._left == 0 and self._queue.empty()

    async def subscribe(self) -> None:
        """Read from the first event on; the consumer of an earlier call is given up."""
        await self.close()
        connection, self._heard = self._nats.stats["reconnects"], False
        self._subscription = await self._js.subscribe(self._subject, ordered_consumer=True, cb=self._take)
        info = await self._subscription.consumer_info()
        if not self._heard:  # else the messages themselves tell how many are left
            self._left = (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)
        self._connection = connection

    async def close(self) -> None:
        """Stop reading; idempotent."""
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await self._subscription.unsubscribe()
        self._subscription = None

    async def _take(self, message: Msg) -> None:
        self._left, self._heard = message.metadata.num_pending, True
        with contextlib.suppress(BadMessage):  # an event this version cannot read is not worth an end
            self._queue.put_nowait(parse_lenient(Event, message.data)[0])

    async def take(self, timeout_seconds: float) -> list[Event]:
        """What has arrived, after waiting at most so long for a first one; raises `Unreachable`."""
        if self._nats.is_closed:
            raise Unreachable("nats_unreachable", "the connection to NATS was lost for good")
        if self._nats.is_connected and self._nats.stats["reconnects"] != self._connection:
            with contextlib.suppress(NatsError, TimeoutError):  # JetStream is not there yet: next time
                await self.subscribe()
        try:
            found = [await asyncio.wait_for(self._queue.get(), timeout_seconds)]
        except TimeoutError:
            return []
        while not self._queue.empty():
            found.append(self._queue.get_nowait())
        return found


def _refusal(error: Mapping[str, Any]) -> GoalwrightError:
    code, message = str(error.get("code", "refused")), str(error.get("message", "refused"))
    kind = NotFound if code in ("not_found", "unknown_goal", "unknown_task") else GoalwrightError
    return kind(code, message, field=error.get("field"), hint=error.get("hint"))


def refs_of(table: Any) -> dict[str, ArtifactRef]:
    """The artifact references of an answer; unreadable ones are left out."""
    found = {}
    for name, row in (table or {}).items():
        with contextlib.suppress(BadMessage):
            found[name] = parse_lenient_value(ArtifactRef, row)[0]
    return found


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A connection for one command; raises `Unreachable` with the fix."""

    async def quiet(_: Exception) -> None:
        """nats-py prints errors of the background otherwise; a lost connection shows in `Feed.take`."""

    try:
        client = await nats.connect(
            url,
            name="goalwright-cli",
            connect_timeout=2,
            allow_reconnect=True,
            max_reconnect_attempts=1,
            reconnect_time_wait=0.2,
            error_cb=quiet,
        )
    except (NatsError, OSError, TimeoutError) as error:
        raise Unreachable(
            "nats_unreachable",
            f"no NATS server answers at {_without_password(url)} ({error or 'timed out'})",
            hint="start a system with `goalwright up`, or set GOALWRIGHT_NATS_URL",
        ) from error
    client.options["max_reconnect_attempts"] = 60
    try:
        yield Client(client)
    finally:
        with contextlib.suppress(NatsError, TimeoutError):
            await client.close()


def _without_password(url: str) -> str:
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest.rpartition("@")[2]
