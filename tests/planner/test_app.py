"""The service as it runs: its parts over a real nats-server; and what the rehearsal model plans, compiled."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from goalwright_planner import texts
from goalwright_planner.app import build
from goalwright_planner.core.cards import plan_messages, revise_card, revise_messages
from goalwright_planner.core.compiler import PLAN_LANE
from goalwright_planner.core.revision import Revision, Situation, Standing, compile_revision
from goalwright_planner.settings import PlannerSettings, lanes
from goalwright_rehearsal import answers
from goalwright_shared import lifecycle, subjects, topology
from goalwright_shared.errors import TopologyMissing
from goalwright_shared.lifecycle import Part, Stopper
from goalwright_shared.messages import Expand, parse_outcomes
from nats.aio.client import Client
from support.waiting import eventually

from planner.plans import compiled
from planner.test_handlers import World, prompt_of, root


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    """Stands for the scheduler."""
    connection = await nats.connect(nats_url, inbox_prefix="_INBOX_SERVICE")
    yield connection
    await connection.close()


@pytest.fixture
def settings(nats_url: str) -> PlannerSettings:
    return PlannerSettings(nats_url=nats_url, planner_slots=2, drain_seconds=2)


@pytest.fixture
async def parts(settings: PlannerSettings, client: Client) -> AsyncIterator[list[Part]]:
    """The parts of app.py, started in order and stopped in reverse."""
    await topology.apply(client.jetstream(), [lane.name for lane in lanes(settings)])
    running = list(build(settings, Stopper()))
    for part in running:
        await part.start()
    yield running
    for part in reversed(running):
        await part.stop()


async def test_work_from_the_stream_is_answered_on_the_lane_of_outcomes(
    parts: list[Part], client: Client
) -> None:
    js = client.jetstream()
    await js.publish(subjects.work(PLAN_LANE), root().to_json())

    async def arrived() -> bool:
        return (await js.stream_info(subjects.OUTCOMES)).state.messages == 1

    await eventually(arrived)
    message = await js.get_msg(subjects.OUTCOMES, 1)
    assert message.subject == subjects.outcomes(PLAN_LANE)
    [outcome], _ = parse_outcomes(message.data or b"", trusted=True)
    _, card = prompt_of(outcome)
    assert card["goal"] == "Report on sales"
    assert outcome.worker


async def test_planner_without_topology_says_what_to_run(settings: PlannerSettings, client: Client) -> None:
    with pytest.raises(TopologyMissing, match="goalwright topology apply"):
        await lifecycle.run(build(settings, Stopper()), Stopper())


def rehearsed(card: dict[str, Any], title: str) -> Any:
    """What the rehearsal model answers to the planner's own prompt."""
    prompt = (plan_messages if title == "Plan" else revise_messages)(texts.load(), card)
    messages = [one.model_dump(exclude_none=True) for one in prompt]
    form = {"type": "json_schema", "json_schema": {"name": title, "schema": {}}}
    reply = answers.answer({"model": "rehearsal", "messages": messages, "response_format": form})
    return json.loads(reply.text or "")


async def test_the_rehearsed_plan_needs_no_mending_and_its_revision_none_either() -> None:
    world = World()
    goal = "Profile this table and write an illustrated report"
    at = root(goal=goal, deliverables=[])
    asked = await world.perform(at)
    _, card = prompt_of(asked)
    answer = rehearsed(card, "Plan")
    plan = compiled(answer["tasks"], [f"{one['name']}:{one['type']}" for one in answer["deliverables"]])
    assert (plan.warnings, plan.pruned) == ([], [])
    _, outcome = await world.answered(at, asked, answer)
    assert isinstance(outcome, Expand)
    assert outcome.continuation is None
    assert outcome.warnings == []
    assert_revised(outcome, card)


def assert_revised(plan: Expand, plan_card: dict[str, Any]) -> None:
    """The revision that follows up the profile compiles as it was written."""
    done = ("clean", "profile")
    tasks = tuple(
        Standing(
            key=one.key,
            state="succeeded" if one.key in done else "blocked",
            inputs=tuple(one.inputs),
            outputs=tuple(out.name for out in one.outputs),
        )
        for one in plan.tasks
    )
    exports = tuple(one.name for one in plan.deliverables)
    at = Situation(tasks, ("orders",), exports, tuple(lane["name"] for lane in plan_card["lanes"]))
    request = root(replan={})
    card = revise_card(request, at, request.lanes, {"reason": "look closer"})
    revision = compile_revision(rehearsed(card, "Revision"), at)
    assert isinstance(revision, Revision), revision
    assert revision.warnings == []
    assert [operation.op for operation in revision.operations] == ["drop", "add", "add"]
