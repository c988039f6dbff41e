"""Owners are kept apart on every subject, also when their goals have the same id."""

from __future__ import annotations

import json
from typing import Any

from goalwright_shared import subjects
from support.system import System, chain, echo, wait_for

ASKED = {"key": "ask", "lane": "human", "outputs": [{"name": "said"}], "question": {"text": "Shall we?"}}
PLAN = {"tasks": [*chain("custom.a", "x"), *chain("custom.b", "y", "z"), ASKED]}

BODIES: dict[str, dict[str, Any]] = {
    "budget": {"budget_usd": 5},
    "feedback": {"text": "shorter"},
    "answer": {"task_id": "ask", "answer": "yes"},
    "replan": {"reason": "better"},
    "retry": {"task_id": "y"},
    "skip": {"task_id": "y"},
    "signal": {"signal": "repetition", "signal_id": "s"},
    "review": {"reason": "time"},
}


async def submitted(system: System, owner: str, goal_id: str = "same") -> None:
    answer = await system.request(f"goals.request.{owner}", {"id": goal_id, "plan": PLAN})
    assert answer["duplicate"] is False


async def done(system: System, owner: str, key: str) -> Any:
    """A task of an owner's goal, once it has succeeded."""

    async def there() -> Any:
        found = await system.request(f"query.task.{owner}", {"goal_id": "same", "task_id": key})
        return found if found.get("state") == "succeeded" else None

    return await wait_for(there)


async def test_no_control_verb_reaches_a_goal_of_somebody_else(system: System) -> None:
    await system.start_scheduler()
    await submitted(system, "mine", "secret")
    before = await system.request("query.graph.mine", {"goal_id": "secret"})
    events = await system.events("secret", "mine")
    task = before["tasks"][1]["task_id"]
    for verb in subjects.CONTROL_VERBS:
        body = {"goal_id": "secret", **BODIES.get(verb, {})}
        for subject in (f"control.{verb}.yours", f"control.{verb}"):
            if verb == "lane":
                continue
            error = (await system.request(subject, body))["error"]
            assert (error["code"], error["field"]) == ("not_found", "goal_id"), subject
    await submitted(system, "yours", "other")  # a task is no way around its goal
    for verb in ("skip", "retry", "answer"):
        body = {**BODIES[verb], "goal_id": "other", "task_id": task}
        assert (await system.request(f"control.{verb}.yours", body))["error"]["code"] == "not_found"
    assert await system.request("query.graph.mine", {"goal_id": "secret"}) == before
    assert await system.events("secret", "mine") == events
    lane = {"lane": {"name": "custom.a", "performer": "custom", "lease_seconds": 1}}
    assert (await system.request("control.lane.yours", lane))["error"]["code"] == "not_allowed"


async def test_no_query_tells_of_somebody_elses_goal(system: System) -> None:
    await system.start_scheduler()
    await submitted(system, "mine", "secret")
    body = {"goal_id": "secret", "task_id": "y"}
    for what in subjects.QUERIES:
        if what in ("lanes", "workers"):  # of all, see below
            continue
        assert "error" not in await system.request(f"query.{what}.mine", body)
        for subject in (f"query.{what}.yours", f"query.{what}"):
            told = await system.request(subject, body)
            if what in ("goals", "inbox"):
                assert told in ({"goals": []}, {"questions": []})
            else:
                assert told["error"]["code"] == "not_found", subject


async def test_goals_of_the_same_id_live_side_by_side(system: System) -> None:
    await system.start_scheduler()
    for owner in ("mine", "yours", "public"):
        await submitted(system, owner)
    await system.request("control.cancel.yours", {"goal_id": "same"})
    owners: list[str] = []

    def answer(work: Any) -> dict[str, Any]:
        owners.append(work["owner"])
        return {**echo(work), "summary": work["owner"]}

    system.perform("custom.a", answer)
    system.perform("custom.b", answer)
    await done(system, "mine", "z")
    await done(system, "public", "z")
    assert sorted(owners) == ["mine"] * 3 + ["public"] * 3
    questions = (await system.request("query.inbox.mine", {}))["questions"]
    assert len(questions) == 1
    for owner in ("mine", "yours", "public"):
        found = await system.events("same", owner)
        assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
        assert {event["owner"] for event in found} == {owner}
    assert (await system.request("query.goal.yours", {"goal_id": "same"}))["status"] == "cancelled"
    assert [g["goal_id"] for g in (await system.request("query.goals.mine", {}))["goals"]] == ["same"]


async def test_deliverables_of_somebody_elses_goal_are_no_inputs(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    made = {"tasks": chain("custom.a", "x")}
    await system.request("goals.request.mine", {"id": "first", "plan": made})

    async def ended() -> bool:
        answer = await system.request("query.goal.mine", {"goal_id": "first"})
        return bool(answer["status"] == "done")

    await wait_for(ended)
    use = {"tasks": [{"key": "use", "lane": "custom.a", "inputs": ["o-x"], "outputs": [{"name": "out"}]}]}
    refused = await system.request("goals.request.yours", {"from_goal": "first", "plan": use})
    assert refused["error"]["code"] == "not_found"
    taken = await system.request("goals.request.mine", {"id": "second", "from_goal": "first", "plan": use})
    assert taken["duplicate"] is False


async def test_published_goal_belongs_to_the_owner_of_its_subject(system: System) -> None:
    await system.start_scheduler()
    body = {"id": "published", "owner": "yours", "plan": {"tasks": chain("custom.a", "x")}}
    await system.client.jetstream().publish("goals.submit.mine", json.dumps(body).encode())

    async def there() -> bool:
        return "error" not in await system.request("query.goal.mine", {"goal_id": "published"})

    await wait_for(there)
    assert "error" in await system.request("query.goal.yours", {"goal_id": "published"})
    refused = json.dumps({"id": "bad", "plan": {"tasks": []}}).encode()
    await system.client.jetstream().publish("goals.submit.mine", refused)

    async def told() -> Any:
        return await system.events("bad", "mine")

    (event,) = await wait_for(told)
    assert (event["kind"], event["owner"]) == ("goal.refused", "mine")
    assert await system.events("bad", "public") == []


async def test_performers_are_told_of_without_the_tasks_of_others(system: System) -> None:
    for name in ("one", "two"):  # a leader and a standby: either answers
        await system.start_scheduler(worker=name)
    held: list[str] = []

    async def answer(work: Any) -> None:
        held.append(work["task_id"])
        alive = {"worker": "w", "slots": 1, "tasks": [[work["task_id"], work["epoch"]]]}
        await (await system.service()).publish("alive.custom.a", json.dumps(alive).encode())

    system.perform("custom.a", answer, slots=1)
    await submitted(system, "mine")

    async def seen() -> Any:
        return (await system.request("query.workers.mine", {}))["workers"]

    (worker,) = await wait_for(seen)
    assert [task for task, _ in worker["tasks"]] == held
    for _ in range(6):
        (worker,) = await wait_for(seen)
        assert [task for task, _ in worker["tasks"]] == held
        (worker,) = (await system.request("query.workers.yours", {}))["workers"]
        assert worker["tasks"] == []
