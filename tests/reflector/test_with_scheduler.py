"""The reflector and the scheduler together, over real NATS and Postgres; the test performs all other lanes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from goalwright_reflector import app
from goalwright_reflector.settings import ReflectorSettings
from goalwright_shared.lifecycle import Stopper
from support.system import System, artifact, echo

WORKER = "agent.generalist"


@pytest.fixture
async def reflected(system: System) -> AsyncIterator[System]:
    """The system with a scheduler process and the reflector's parts running."""
    await system.start_scheduler()
    settings = ReflectorSettings(nats_url=system.server.service_url, drain_seconds=1)
    parts = app.build(settings, Stopper())
    for part in parts:
        await part.start()
    yield system
    for part in reversed(parts):
        await part.stop()


def of(events: list[Any], kind: str) -> list[Any]:
    """The data of the events of one kind."""
    return [event["data"] for event in events if event["kind"] == kind]


def look(work: Any) -> dict[str, Any]:
    """`search` looks 13 times and is done; `loop` looks for ever."""
    if work["spec"]["key"] == "search" and work["turn"] == 12:
        return {"kind": "done", "outputs": {"out": artifact("out", "found")}}
    whole = {"instruction": f"look for {work['spec']['key']}", "outputs": [{"name": "seen"}]}
    return {"kind": "expand", "tasks": [{"key": "step", "lane": "custom.b", **whole}], "continuation": {}}


def see(work: Any) -> dict[str, Any]:
    """There is always something new for `search`, and never for `loop`."""
    news = work["task_id"] if "search" in work["spec"]["instruction"] else "nothing"
    return {"kind": "done", "outputs": {"seen": artifact("seen", news)}}


async def test_a_task_in_circles_is_stopped_and_one_that_learns_is_left_alone(reflected: System) -> None:
    reflected.perform("custom.a", look)
    reflected.perform("custom.b", see)
    goals = {}
    for key in ("loop", "search"):
        plan = {"tasks": [{"key": key, "lane": "custom.a", "outputs": [{"name": "out"}]}]}
        goals[key] = await reflected.submit(text=key, plan=plan)

    stopped = await reflected.finished(goals["loop"])
    assert stopped["status"] == "stopped_loop"
    assert "the same step 3 times" in stopped["reason"]
    events = await reflected.events(goals["loop"])
    assert [signal["action"] for signal in of(events, "reflection.signalled")] == [
        "note",
        "note",
        "stop_loop",
    ]
    assert of(events, "replan.requested") == []
    assert 9 <= [key for key, _, _ in reflected.performed].count("loop") < 24

    assert (await reflected.finished(goals["search"]))["status"] == "done"
    assert of(await reflected.events(goals["search"]), "reflection.signalled") == []


async def test_a_review_finds_a_better_plan_and_the_goal_is_done_by_it(reflected: System) -> None:
    def tasks() -> list[dict[str, Any]]:
        row = [
            {"key": key, "lane": WORKER, "inputs": ["facts"], "outputs": [{"name": f"o-{key}"}]}
            for key in "abc"
        ]
        last = {"key": "last", "lane": "custom.a", "inputs": ["o-a", "o-b", "o-c"]}
        return [*row, {**last, "outputs": [{"name": "report"}]}]

    def plan(work: Any) -> dict[str, Any]:
        wanted = (work["spec"].get("params") or {}).get("replan")
        if wanted is None:
            contract = {"objective": "a report", "deliverables": ["report"]}
            return {"kind": "expand", "tasks": tasks(), "contract": contract,
                    "deliverables": [{"name": "report", "type": "text"}]}  # fmt: skip
        better = {"key": "better", "lane": "custom.b", "inputs": ["o-a"], "outputs": [{"name": "report"}]}
        return {
            "kind": "revise", "target_task_id": wanted["target_task_id"], "generation": wanted["generation"],
            "base_revision": wanted["base_revision"], "summary": "shorter",
            "operations": [{"op": "drop", "key": "last", "reason": "slow"}, {"op": "add", "task": better}],
        }  # fmt: skip

    cards: list[Any] = []

    def judge(work: Any) -> dict[str, Any]:
        card = work["spec"]["params"]["review"]
        cards.append(card)
        fresh = any(task["key"] == "last" and task["state"] != "cancelled" for task in card["tasks"])
        verdict = {
            "on_topic": True, "progressing": True, "plan_relevant": not fresh,
            "better_plan": "o-a is enough" if fresh else "", "evidence": ["a"], "score": 0.5,
            "passed": not fresh, "summary": "Counted.",
        }  # fmt: skip
        return {"kind": "done", "outputs": {"verdict": artifact("verdict", json.dumps(verdict), "json")}}

    reflected.perform("plan", plan, slots=2, client="service")
    reflected.perform(WORKER, slots=1, client="service")
    reflected.perform("agent.judge", judge, slots=1, client="service")
    reflected.perform("custom.b", echo)  # nobody performs custom.a: only the better plan can end
    facts = {"name": "facts", "type": "text", "inline": "12 apples"}
    goal_id = await reflected.submit(text="report on apples", inputs=[facts], budget_usd=5)
    ended = await reflected.finished(goal_id)
    assert ended["status"] == "done", ended
    assert ended["deliverables"]["report"]["inline"] == "better(o-a=a(facts=12 apples))"
    [asked] = of(await reflected.events(goal_id), "replan.requested")
    assert (asked["reason"], asked["evidence"]) == ("o-a is enough", ["a"])
    assert cards[0]["goal"] == "report on apples"
    assert cards[0]["contract"]["objective"] == "a report"
    assert {task["key"]: task["state"] for task in cards[0]["tasks"]}["a"] == "succeeded"
    assert "summary" in cards[0]["tasks"][0]
