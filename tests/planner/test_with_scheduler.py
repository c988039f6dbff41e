"""The planner and the scheduler together, over real NATS and Postgres; the test answers as model and worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
import pytest
from goalwright_planner.app import build
from goalwright_planner.settings import PlannerSettings, lanes
from goalwright_scheduler.lanes import store_lanes
from goalwright_shared.lifecycle import Stopper
from goalwright_shared.messages import PoolLimit
from support.system import LANES, System, artifact, echo, wait_for

from planner.plans import answer, task

WORKER = "agent.generalist"


class Model:
    """Answers `agent.ask` with what the test has scripted, in order; keeps the cards it saw."""

    def __init__(self, *says: Any) -> None:
        self.says = list(says)
        self.cards: list[dict[str, Any]] = []

    def __call__(self, work: Any) -> dict[str, Any]:
        text = work["spec"]["prompt"]["messages"][1]["content"]
        self.cards.append(json.loads(text.split("```json\n")[1].removesuffix("\n```")))
        said = self.says.pop(0)
        if isinstance(said, dict) and said.get("kind") == "failed":
            return said
        [output] = work["spec"]["outputs"]
        return {
            "kind": "done",
            "outputs": {output["name"]: artifact(output["name"], json.dumps(said), "json")},
        }


@pytest.fixture
async def planner(system: System) -> AsyncIterator[System]:
    """The system with a scheduler process and the planner's parts running; the test has a service's rights."""
    settings = PlannerSettings(nats_url=system.server.service_url, planner_slots=2, drain_seconds=2)
    rows = [lane for lane in LANES if lane.name != "plan"] + lanes(settings)
    await store_lanes(system.dsn, rows, [PoolLimit(pool="k/m")])
    await system.start_scheduler()
    parts = build(settings, Stopper())
    for part in parts:
        await part.start()
    visitor, system.client = system.client, await nats.connect(system.server.service_url)
    yield system
    for performer in system.performers:
        performer.cancel()
    await asyncio.gather(*system.performers, return_exceptions=True)
    await system.client.close()
    system.client = visitor
    for part in reversed(parts):
        await part.stop()


def two_steps(**second: Any) -> dict[str, Any]:
    write = {**task("write", ["notes"], ["report"], WORKER), **second}
    return answer([task("gather", ["facts"], ["notes"], WORKER), write], ["report"])


async def goal(system: System, model: Model, work: Callable[[Any], Any] = echo, **more: Any) -> str:
    system.perform("agent.ask", model, slots=1)
    system.perform(WORKER, work)
    return await submit(system, **more)


async def submit(system: System, **more: Any) -> str:
    facts = {"name": "facts", "type": "text", "media_type": "text/plain", "inline": "12 apples"}
    return await system.submit(text="Report on apples", inputs=[facts], budget_usd=5, **more)


async def kinds(system: System, goal_id: str, kind: str) -> list[Any]:
    return [event["data"] for event in await system.events(goal_id) if event["kind"] == kind]


async def test_a_goal_is_planned_repaired_and_delivered(planner: System) -> None:
    looped = answer([task("a", ["y"], ["x"], WORKER), task("b", ["x"], ["y", "report"], WORKER)], ["report"])
    model = Model(looped, two_steps())
    ended = await planner.finished(goal_id := await goal(planner, model))
    assert ended["status"] == "done"
    assert ended["deliverables"]["report"]["inline"] == "write(notes=gather(facts=12 apples))"
    assert ended["contract"]["deliverables"] == ["report"]
    assert model.says == []
    assert model.cards[0]["inputs"][0]["excerpt"] == "12 apples"
    assert "plan" in [lane["name"] for lane in model.cards[0]["lanes"]]
    [adopted] = await kinds(planner, goal_id, "plan.adopted")
    assert adopted["source"] == "planner"


async def test_a_refusal_and_a_dead_model_are_the_reason_of_the_goal(planner: System) -> None:
    honest = answer([], objective="", assumptions=["I can only rehearse tables."])
    down = {"kind": "failed", "error": {"code": "bad_request", "message": "model m does not exist"}}
    refused = await planner.finished(await goal(planner, Model(honest, down)))
    assert refused["status"] == "failed"
    assert "I can only rehearse tables." in refused["reason"]
    unreachable = await planner.finished(await submit(planner))
    assert unreachable["status"] == "failed"
    assert "model m does not exist" in unreachable["reason"]


async def test_a_plan_waits_for_approval_and_its_part_for_its_inputs(planner: System) -> None:
    part = [task("outline", ["notes"], ["outline"], WORKER), task("prose", ["outline"], ["report"], WORKER)]
    model = Model(two_steps(lane="plan", tokens_in=50_000), answer(part, ["report"]))
    goal_id = await goal(planner, model, approve_plan=True)

    async def asked() -> Any:
        return (await planner.request("query.inbox", {}))["questions"]

    [question] = await wait_for(asked)
    assert "Report on sales" in json.dumps(question)
    assert [key for key, _, lane in planner.performed if lane == WORKER] == []
    body = {"goal_id": goal_id, "task_id": question["task_id"], "answer": "approve"}
    assert "error" not in await planner.request("control.answer", body)
    ended = await planner.finished(goal_id)
    assert ended["status"] == "done"
    assert (
        ended["deliverables"]["report"]["inline"] == "prose(outline=outline(notes=gather(facts=12 apples)))"
    )
    assert model.cards[1]["inputs"][0]["excerpt"] == "gather(facts=12 apples)"


async def test_a_dead_task_is_replaced_by_a_revision(planner: System) -> None:
    def work(given: Any) -> Any:
        if given["spec"]["key"] == "gather":
            return {
                "kind": "failed",
                "error": {"code": "stuck", "message": "no such page", "retryable": False},
            }
        return echo(given)

    plan = two_steps()
    plan["tasks"][0]["on_dead"] = "replan"
    model = Model(
        plan,
        {
            "reason": "gather is stuck",
            "drop": [{"key": "gather", "reason": "no such page"}],
            "add": [task("count", ["facts"], ["notes"], WORKER)],
            "values": [],
            "summary": "count instead",
        },
    )
    ended = await planner.finished(goal_id := await goal(planner, model, work))
    assert ended["status"] == "done", ended
    assert ended["deliverables"]["report"]["inline"] == "write(notes=count(facts=12 apples))"
    assert model.cards[1]["kind"] == "revise"
    assert "no such page" in model.cards[1]["reason"]
    assert {one["key"]: one["state"] for one in model.cards[1]["tasks"]}["gather"] == "dead"
    [revised] = await kinds(planner, goal_id, "plan.revised")
    assert revised["summary"] == "count instead"
