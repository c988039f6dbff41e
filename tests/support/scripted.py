"""A scheduler that follows a script: answers clients and emits the events a test gives it, over a real NATS.

It decides nothing; it stands in where a test is about what a client shows or which code it ends with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import nats
from goalwright_shared import subjects, topology
from goalwright_shared.messages import ArtifactRef, Event
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)

Step = tuple[str, str | None, dict[str, Any]]
"""An event to emit: kind, task id, data. Kind `wait` waits for the control verb in `data["verb"]` first."""


@dataclass
class Goal:
    """What the scheduler knows of one goal."""

    goal_id: str
    status: str = "accepted"
    reason: str | None = None
    text: str = ""
    seq: int = 0
    spent_usd: float = 0.0
    deliverables: dict[str, Any] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)


class ScriptedScheduler:
    """Answers `goals.request`, `control.*` and `query.*`; plays `script` for every goal it accepts."""

    def __init__(self, client: Client, script: list[Step]) -> None:
        self.script = script
        self.goals: dict[str, Goal] = {}
        self.submissions: list[dict[str, Any]] = []
        self.controls: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.refusal: dict[str, Any] | None = None
        self.playing: set[asyncio.Task[None]] = set()
        self._client = client
        self._js = client.jetstream()
        self._steered = asyncio.Condition()

    async def start(self) -> None:
        """Answer from now on."""
        await self._client.subscribe(subjects.request(), cb=self._submit)
        await self._client.subscribe("control.*", cb=self._control)
        await self._client.subscribe("query.*", cb=self._query)

    async def _submit(self, message: Msg) -> None:
        body = json.loads(message.data)
        self.submissions.append(body)
        if self.refusal is not None:
            await self._reply(message, {"error": self.refusal})
            return
        goal_id = body.get("id") or f"goal-{len(self.goals) + 1}"
        duplicate = goal_id in self.goals
        if not duplicate:
            self.add(goal_id, body.get("text", ""))
        await self._reply(message, {"goal_id": goal_id, "status": "accepted", "duplicate": duplicate})

    def add(self, goal_id: str, text: str = "a goal", script: list[Step] | None = None) -> Goal:
        """A goal, whose script starts to play at once."""
        goal = self.goals[goal_id] = Goal(goal_id, text=text)
        task = asyncio.create_task(self.play(goal_id, self.script if script is None else script))
        self.playing.add(task)
        task.add_done_callback(self.playing.discard)
        return goal

    async def play(self, goal_id: str, script: list[Step]) -> None:
        """Emit each step's event in turn."""
        for kind, task_id, data in script:
            if kind == "wait":
                await self.steered(data["verb"], goal_id)
            else:
                await self.emit(goal_id, kind, task_id, **data)

    async def emit(self, goal_id: str, kind: str, task_id: str | None = None, **data: Any) -> None:
        """One event of a goal, with the next `seq`."""
        goal = self.goals[goal_id]
        goal.seq += 1
        event = make_event(goal_id, goal.seq, kind, task_id, **data)
        _keep(goal, kind, data)
        await self._js.publish(
            subjects.event("public", goal_id, kind),
            event.to_json(),
            headers={"Nats-Msg-Id": event.event_id},
        )

    async def reconnected(self) -> None:
        """Return when the server that was stopped answers again."""
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(NatsError, TimeoutError):
                    await self._js.stream_info(subjects.EVENTS)
                    return
                await asyncio.sleep(0.1)

    async def say_until(self, subject: str, body: bytes, heard: Coroutine[Any, Any, str]) -> str:
        """Publish on a core subject again and again until `heard` returns; what it returned."""
        hearing = asyncio.create_task(heard)
        while not hearing.done():
            await self._client.publish(subject, body)
            await asyncio.wait({hearing}, timeout=0.05)
        return await hearing

    async def steered(self, verb: str, goal_id: str) -> dict[str, Any]:
        """The body of the first `control.<verb>` for a goal, once there is one."""
        async with self._steered:
            await self._steered.wait_for(lambda: self._found(verb, goal_id) is not None)
            return self._found(verb, goal_id) or {}

    def _found(self, verb: str, goal_id: str) -> dict[str, Any] | None:
        return next((b for v, b in self.controls if v == verb and b.get("goal_id") == goal_id), None)

    async def _control(self, message: Msg) -> None:
        verb, body = message.subject.split(".")[1], json.loads(message.data)
        async with self._steered:
            self.controls.append((verb, body))
            self._steered.notify_all()
        await self._reply(message, self.answers.get(f"control.{verb}", {"ok": True}))

    async def _query(self, message: Msg) -> None:
        what, body = message.subject.split(".")[1], json.loads(message.data)
        answer = self.answers.get(f"query.{what}") or self._known(what, body)
        await self._reply(message, answer)

    def _known(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        if what == "goals":
            return {"goals": [_row(goal) for goal in reversed(self.goals.values())]}
        if what == "inbox":
            return {"questions": []}
        goal = self.goals.get(body.get("goal_id", ""))
        if goal is None:
            return {"error": {"code": "not_found", "message": f"no goal {body.get('goal_id')}"}}
        if what == "goal":
            return _row(goal)
        if what == "graph":
            return {"revision": 0, "tasks": goal.tasks, "pruned": [], "next": None}
        if what == "ledger":
            entry = {
                "task_id": "1",
                "epoch": 1,
                "usd": 0.01,
                "model": "m",
                "tokens_in": 900,
                "tokens_out": 99,
            }
            return {
                "budget_usd": 1,
                "spent_usd": goal.spent_usd,
                "held_usd": 0,
                "overrun_usd": 0,
                "entries": [entry],
            }
        if what == "artifacts":
            rows = [
                {"task_id": "2", "key": "maker", "scope": 1, "ref": ref} for ref in goal.deliverables.values()
            ]
            return {"artifacts": rows}
        return {"error": {"code": "not_found", "message": f"nothing scripted for {what}"}}

    @staticmethod
    async def _reply(message: Msg, answer: dict[str, Any]) -> None:
        await message.respond(json.dumps(answer).encode())


def _keep(goal: Goal, kind: str, data: dict[str, Any]) -> None:
    if kind == "goal.finished":
        goal.status, goal.reason = data["status"], data.get("reason")
        goal.deliverables, goal.spent_usd = data.get("deliverables", {}), data.get("spent_usd", 0.0)
    elif kind == "goal.paused":
        goal.status, goal.reason = "paused", data.get("reason")
    elif kind in ("plan.adopted", "goal.resumed"):
        goal.status, goal.reason = "running", None
    for row in data.get("tasks") or [] if kind == "plan.adopted" else []:
        goal.tasks.append({"state": "blocked", "epoch": 0, "parent": None, "needs": [], **row})


def _row(goal: Goal) -> dict[str, Any]:
    return {
        "goal_id": goal.goal_id,
        "owner": "public",
        "status": goal.status,
        "reason": goal.reason,
        "text": goal.text,
        "budget_usd": 1.0,
        "spent_usd": goal.spent_usd,
        "held_usd": 0,
        "overrun_usd": 0,
        "counts": {"succeeded": len(goal.tasks)},
        "deliverables": goal.deliverables,
        "created_at": START.isoformat(),
        "finished_at": None,
    }


def make_event(goal_id: str, seq: int, kind: str, task_id: str | None = None, **data: Any) -> Event:
    """An event a second after the one before it."""
    return Event(
        event_id=f"{goal_id}:{seq}",
        seq=seq,
        goal_id=goal_id,
        owner="public",
        kind=kind,
        task_id=task_id,
        at=START + timedelta(seconds=seq),
        data=data,
    )


def text_ref(name: str, text: str, media_type: str = "text/markdown") -> dict[str, Any]:
    """An inline artifact as it stands in an event."""
    return ArtifactRef.of_text(name, text, media_type=media_type).model_dump(mode="json")


@contextlib.asynccontextmanager
async def scripted_scheduler(
    service_url: str, script: list[Step] | None = None
) -> AsyncIterator[ScriptedScheduler]:
    """A scripted scheduler on a fresh server, with streams and bucket in place."""

    async def quiet(_: Exception) -> None:
        """A test may stop the server."""

    client = await nats.connect(service_url, reconnect_time_wait=0.2, error_cb=quiet)
    try:
        await topology.apply(client.jetstream(), [])
        scheduler = ScriptedScheduler(client, script or [])
        await scheduler.start()
        yield scheduler
        for task in scheduler.playing:
            task.cancel()
    finally:
        await client.close()
