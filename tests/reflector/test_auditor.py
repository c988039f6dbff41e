"""The reflector on a real nats-server, beside a scripted scheduler that answers control requests."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import nats
import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_reflector import app
from goalwright_reflector.settings import ReflectorSettings
from goalwright_shared import subjects, topology
from goalwright_shared.lifecycle import Stopper
from goalwright_shared.messages import ArtifactRef, ArtifactType, ChildResult, TaskSpec, Work
from nats.aio.client import Client
from nats.aio.msg import Msg

from reflector.story import Story, planned


@dataclass
class Scheduler:
    """Publishes stories as events, keeps what it is told, and records signals like the real one."""

    client: Client
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    silent: bool = False

    async def start(self) -> None:
        """Answer `control.…` and `query.…`."""
        await self.client.subscribe("control.>", cb=self._answer)
        await self.client.subscribe("query.>", cb=self._tell)
        await self.client.flush()

    async def _answer(self, message: Msg) -> None:
        if self.silent:
            return
        self.told.append((message.subject, json.loads(message.data)))
        await message.respond(b'{"ok": true, "new": true}')

    async def _tell(self, message: Msg) -> None:
        self.asked.append(message.subject)
        tasks = [{"task_id": "1", "key": "goal", "parent": None, "lane": "plan", "state": "expanded"}]
        goal = {"text": "a goal", "budget_usd": 1, "spent_usd": 0, "tasks": tasks, "next": None}
        await message.respond(json.dumps(goal).encode())

    async def publish(self, story: Story, since: int = 0) -> None:
        """The events of a story from index `since`."""
        for event in story.events[since:]:
            subject = subjects.event(event.owner, event.goal_id, event.kind)
            await self.client.jetstream().publish(subject, event.to_json())

    def of(self, verb: str, *, progress: bool = False) -> list[dict[str, Any]]:
        """The requests of one verb."""
        bodies = [body for subject, body in self.told if subject.startswith(f"control.{verb}")]
        return [body for body in bodies if (body.get("signal") == "progress") == progress]


async def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll until it holds (an awaitable answer is awaited)."""
    for _ in range(int(seconds / 0.02)):
        found = true()
        if await found if inspect.isawaitable(found) else found:
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"did not come true within {seconds} s")


@pytest.fixture
async def client(nats_server: EmbeddedNats) -> AsyncIterator[Client]:
    """A connection with the rights of a service, to a server with our topology."""
    client = await nats.connect(nats_server.service_url)
    await topology.apply(client.jetstream(), ["reflect"])
    yield client
    with contextlib.suppress(Exception):
        await client.close()


@pytest.fixture
async def scheduler(client: Client) -> Scheduler:
    """The scripted scheduler, listening."""
    scheduler = Scheduler(client)
    await scheduler.start()
    return scheduler


@asynccontextmanager
async def reflector(url: str, **changes: Any) -> AsyncIterator[Stopper]:
    """The whole service in this process, without its signal handlers."""
    settings = ReflectorSettings(nats_url=url, drain_seconds=1, **{"progress_seconds": 3600.0, **changes})
    stopper = Stopper()
    parts = app.build(settings, stopper)
    started = []
    try:
        for part in parts:
            await part.start()
            started.append(part)
        yield stopper
    finally:
        for part in reversed(started):
            await part.stop()


def running(goal_id: str = "g", **begin: Any) -> Story:
    """A goal that was accepted just now."""
    story = Story(goal_id, start=datetime.now(UTC))
    story.begin(**begin)
    return story


async def test_a_loop_is_signalled_once_with_its_evidence(scheduler: Scheduler, nats_url: str) -> None:
    story = running()
    turns = [story.turn("7", "again") for _ in range(3)]
    async with reflector(nats_url):
        await scheduler.publish(story)
        await until(lambda: scheduler.of("signal"))
    [signal] = scheduler.of("signal")
    assert (signal["signal"], signal["action"]) == ("repetition", "note")
    assert signal["evidence"] == [event.event_id for event in turns]


async def test_events_delivered_twice_raise_no_second_signal(scheduler: Scheduler, nats_url: str) -> None:
    story = running()
    for _ in range(3):
        story.turn("7", "again")
    async with reflector(nats_url):
        await scheduler.publish(story)
        await scheduler.publish(story)
        story.turn("8", "x")
        other = running("other")
        for _ in range(3):
            other.turn("7", "again")
        await scheduler.publish(other)
        await until(lambda: len(scheduler.of("signal")) >= 2)
    assert [signal["goal_id"] for signal in scheduler.of("signal")] == ["g", "other"]


async def test_a_restarted_reflector_goes_on_where_the_first_stopped(
    scheduler: Scheduler, nats_url: str
) -> None:
    story = running()
    for _ in range(3):
        story.turn("7", "again")
    story.turn("7", "again")
    story.turn("7", "again")
    async with reflector(nats_url):
        await scheduler.publish(story)
        await until(lambda: scheduler.of("signal"))
        first = scheduler.of("signal")[0]
        recorded = {name: first[name] for name in ("signal_id", "signal", "action", "evidence")}
        story.tell("reflection.signalled", None, **recorded)
        await scheduler.publish(story, len(story.events) - 1)
    story.turn("7", "again")  # the third of the second round: only who knows the first five can tell
    async with reflector(nats_url):
        await scheduler.publish(story, len(story.events) - 1)
        await until(lambda: len(scheduler.of("signal")) >= 2)
    assert [signal["action"] for signal in scheduler.of("signal")] == ["note", "replan"]


async def test_two_reflectors_that_share_the_stream_find_what_one_would(
    scheduler: Scheduler, nats_url: str
) -> None:
    story = running()
    for _ in range(9):
        story.turn("7", "again")
    async with reflector(nats_url), reflector(nats_url):
        for n in range(len(story.events)):
            await scheduler.client.jetstream().publish(
                subjects.event("public", "g", story.events[n].kind), story.events[n].to_json()
            )
        await until(lambda: {s["action"] for s in scheduler.of("signal")} == {"note", "replan", "stop_loop"})
    assert len({signal["signal_id"] for signal in scheduler.of("signal")}) == 3


async def test_an_unanswered_signal_is_said_again_when_somebody_listens(
    scheduler: Scheduler, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goalwright_reflector.control._TIMEOUT_SECONDS", 0.1)
    scheduler.silent = True
    story = running()
    for _ in range(3):
        story.turn("7", "again")
    async with reflector(nats_url):
        await scheduler.publish(story)
        js = scheduler.client.jetstream()

        async def redelivered() -> object:
            return (await js.consumer_info(subjects.EVENTS, subjects.DURABLE_REFLECTOR)).num_redelivered

        await until(redelivered)
        assert scheduler.told == []
        scheduler.silent = False
        await until(lambda: scheduler.of("signal"))
    assert scheduler.of("signal")[0]["signal"] == "repetition"


async def test_a_review_is_asked_for_once_after_three_completions(
    scheduler: Scheduler, nats_url: str
) -> None:
    story = running()
    for key in "abcd":
        story.success(key, key)
    async with reflector(nats_url):
        await scheduler.publish(story)
        story.turn("7", "mark")
        for _ in range(3):
            story.turn("7", "again")
        await scheduler.publish(story, len(story.events) - 4)
        await until(lambda: scheduler.of("signal"))
    [review] = scheduler.of("review")
    assert review["goal_id"] == "g"
    assert "tasks were completed" in review["reason"]  # three, or four when all came in one batch


async def test_goals_of_two_owners_may_have_the_same_name(scheduler: Scheduler, nats_url: str) -> None:
    ours, theirs = running(), running()
    for _ in range(3):
        ours.turn("7", "again")
    theirs.turn("7", "again")
    theirs.events[:] = [event.model_copy(update={"owner": "acme"}) for event in theirs.events]
    async with reflector(nats_url):
        await scheduler.publish(theirs)
        await scheduler.publish(ours)
        await until(lambda: scheduler.of("signal"))
    assert [subject for subject, _ in scheduler.told] == ["control.signal"]


async def test_the_owner_of_a_goal_is_in_the_subject_of_what_is_said(
    scheduler: Scheduler, nats_url: str
) -> None:
    story = running()
    for _ in range(3):
        story.turn("7", "again")
    story.events[:] = [event.model_copy(update={"owner": "acme"}) for event in story.events]
    async with reflector(nats_url):
        await scheduler.publish(story)
        await until(lambda: scheduler.of("signal"))
    assert scheduler.told[0][0] == "control.signal.acme"


async def test_progress_is_reported_and_a_stall_is_noticed_by_the_clock(
    scheduler: Scheduler, nats_url: str
) -> None:
    story = Story(start=datetime.now(UTC) - timedelta(seconds=60))
    story.begin(planned("a", "b"))
    story.success("a", "a")
    async with reflector(nats_url, progress_seconds=1.0, stall_seconds=1.0):
        await scheduler.publish(story)
        await until(lambda: scheduler.of("signal", progress=True) and scheduler.of("signal"))
    report = scheduler.of("signal", progress=True)[0]["data"]
    assert (report["done"], report["total"], report["next"]) == (1, 2, ["Do b"])
    assert scheduler.of("signal")[0]["signal"] == "stalled"


async def test_a_quiet_goal_is_watched_again_after_a_restart(scheduler: Scheduler, nats_url: str) -> None:
    ended, quiet = running("ended"), running("quiet")
    ended.tell("goal.finished", status="done")
    async with reflector(nats_url):
        await scheduler.publish(ended)
        await scheduler.publish(quiet)
        js = scheduler.client.jetstream()

        async def all_heard() -> bool:
            info = await js.consumer_info(subjects.EVENTS, subjects.DURABLE_REFLECTOR)
            return not info.num_pending and not info.num_ack_pending

        await until(all_heard)
    async with reflector(nats_url, stall_seconds=0.5):
        await until(lambda: scheduler.of("signal"))
    assert {signal["goal_id"] for signal in scheduler.of("signal")} == {"quiet"}


async def test_the_reflect_lane_performs_a_review_over_the_wire(scheduler: Scheduler, nats_url: str) -> None:
    outcomes = await scheduler.client.subscribe(subjects.outcomes("reflect"))
    verdict = {
        "on_topic": True, "progressing": True, "plan_relevant": False, "better_plan": "add outliers",
        "evidence": ["load"], "score": 0.5, "passed": False, "summary": "Almost.",
    }  # fmt: skip
    ref = ArtifactRef.of_text("verdict", json.dumps(verdict), ArtifactType.JSON)
    work = Work(
        goal_id="g", task_id="5", epoch=2, turn=1, lane="reflect",
        spec=TaskSpec(key="review", lane="reflect"), continuation={"step": "judged"},
        children=[ChildResult(key="judge", task_id="6", status="succeeded", outputs={"verdict": ref})],
    )  # fmt: skip
    async with reflector(nats_url):
        await scheduler.client.jetstream().publish(subjects.work("reflect"), work.to_json())
        outcome = json.loads((await outcomes.next_msg(timeout=10)).data)
    assert outcome["kind"] == "done"
    assert scheduler.of("replan") == [{"goal_id": "g", "reason": "add outliers", "evidence": ["load"]}]


async def test_a_review_asks_in_the_name_of_the_goals_owner(scheduler: Scheduler, nats_url: str) -> None:
    outcomes = await scheduler.client.subscribe(subjects.outcomes("reflect"))
    work = Work(
        goal_id="g", owner="acme", task_id="5", epoch=1, lane="reflect",
        spec=TaskSpec(key="review", lane="reflect"),
    )  # fmt: skip
    async with reflector(nats_url):
        await scheduler.client.jetstream().publish(subjects.work("reflect"), work.to_json())
        outcome = json.loads((await outcomes.next_msg(timeout=10)).data)
    assert outcome["kind"] == "expand"
    assert scheduler.asked == ["query.goal.acme", "query.graph.acme"]


async def test_an_unreadable_event_is_left_behind_also_after_a_restart(
    scheduler: Scheduler, nats_url: str
) -> None:
    story = running()
    for _ in range(2):
        story.turn("7", "again")
    async with reflector(nats_url):
        await scheduler.publish(story)
        await scheduler.client.jetstream().publish("events.public.g.task.failed", b'{"seq": "none"}')
    story.turn("7", "again")
    async with reflector(nats_url):
        await scheduler.publish(story, len(story.events) - 1)
        await until(lambda: scheduler.of("signal"))
