"""Expansions: children end upward, dead ones stop what needs them and nothing else, large ones come whole."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from support.system import System, echo


def task(key: str, lane: str = "custom.a", **more: Any) -> dict[str, Any]:
    return {"key": key, "lane": lane, "outputs": [{"name": f"o-{key}"}], **more}


def makes(name: str, key: str, lane: str = "custom.a", **more: Any) -> dict[str, Any]:
    """A task that makes an output of its parent."""
    return {"key": key, "lane": lane, "outputs": [{"name": name}], **more}


NO = {"kind": "failed", "error": {"code": "no", "message": "cannot"}}


async def states(system: System, goal: str) -> dict[str, str]:
    graph = await system.request("query.graph", {"goal_id": goal})
    return {task["key"]: task["state"] for task in graph["tasks"]}


async def test_nested_expansions_end_upward_in_one_commit(system: System) -> None:
    await system.start_scheduler()
    depth = 8

    def answer(work: Any) -> dict[str, Any]:
        level = int(work["spec"]["key"][1:])
        if level < depth:
            return {"kind": "expand", "tasks": [makes("o-t0", f"t{level + 1}")]}
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("t0")]})
    ended = await system.finished(goal)
    assert ended["deliverables"]["o-t0"]["inline"] == f"t{depth}()"
    events = await system.events(goal)
    succeeded = [event for event in events if event["kind"] == "task.succeeded"]
    assert [event["data"]["key"] for event in succeeded] == [f"t{n}" for n in range(depth, -1, -1)] + ["goal"]
    assert len({event["at"] for event in [*succeeded, events[-1]]}) == 1, "one commit has one time"


async def test_dead_child_that_serves_no_output_does_not_kill_its_parent(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        match work["spec"]["key"]:
            case "parent":
                return {
                    "kind": "expand",
                    "tasks": [makes("o-parent", "good"), task("extra"), task("more", after=["extra"])],
                }
            case "extra":
                return NO
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("parent"), task("after", inputs=["o-parent"])]})
    ended = await system.finished(goal)
    assert (ended["status"], ended["deliverables"]["o-after"]["inline"]) == ("done", "after(o-parent=good())")
    found = await states(system, goal)
    assert (found["extra"], found["more"], found["parent"]) == ("dead", "skipped", "succeeded")


async def test_dead_child_that_serves_an_output_kills_its_parent_and_so_upward(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        match work["spec"]["key"]:
            case "outer":
                return {"kind": "expand", "tasks": [makes("o-outer", "inner"), task("beside")]}
            case "inner":
                first, second = task("first"), makes("o-outer", "second", inputs=["o-first"])
                return {"kind": "expand", "tasks": [first, second]}
            case "first":
                return NO
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(
        plan={"tasks": [task("outer"), task("needs", inputs=["o-outer"]), task("free")]}
    )
    ended = await system.finished(goal)
    assert ended["status"] == "failed"
    assert "task first failed: cannot" in ended["reason"]
    assert await states(system, goal) == {
        "goal": "dead", "outer": "dead", "needs": "skipped", "free": "succeeded", "inner": "dead",
        "beside": "succeeded", "first": "dead", "second": "skipped",
    }  # fmt: skip


async def test_parent_with_continuation_goes_on_with_dead_and_skipped_children(system: System) -> None:
    await system.start_scheduler()
    resumed: list[Any] = []

    def answer(work: Any) -> dict[str, Any]:
        match work["spec"]["key"]:
            case "asker" if work["continuation"] is None:
                return {"kind": "expand", "tasks": [task("bad"), task("next", inputs=["o-bad"]), task("good")],
                        "continuation": [1]}  # fmt: skip
            case "bad":
                return NO
            case "asker":
                resumed.extend(work["children"])
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("asker")]})
    assert (await system.finished(goal))["status"] == "done"
    told = {child["key"]: (child["status"], child["error"] and child["error"]["code"]) for child in resumed}
    assert told == {"bad": ("dead", "no"), "next": ("skipped", None), "good": ("succeeded", None)}


async def test_second_generation_does_not_see_the_first(system: System) -> None:
    await system.start_scheduler()
    turns: list[list[str]] = []

    def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] != "asker":
            return echo(work)
        turns.append([child["key"] for child in work["children"]])
        if work["turn"] < 2:
            return {
                "kind": "expand",
                "tasks": [task("same", instruction=str(work["turn"]))],
                "continuation": 1,
            }
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("asker")]})
    assert (await system.finished(goal))["status"] == "done"
    assert turns == [[], ["same"], ["same"]]
    counts = (await system.goal(goal))["counts"]
    assert counts == {"succeeded": 4}


async def test_expand_into_nothing_without_a_continuation_fails_the_try(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        return {"kind": "expand", "tasks": []} if work["epoch"] == 1 else echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("empty")]})
    assert (await system.finished(goal))["status"] == "done"
    told = await system.task(goal, "empty")
    assert (told["failures"], told["attempts"][0]["error"]["code"]) == (1, "bad_outcome")


async def test_expansion_that_cannot_make_its_parents_output_fails_as_invalid(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a", lambda work: {"kind": "expand", "tasks": [task("other")]})
    goal = await system.submit(plan={"tasks": [task("parent")]})
    assert (await system.finished(goal))["status"] == "failed"
    told = await system.task(goal, "parent")
    assert told["attempts"][0]["error"]["code"] == "invalid_expansion"
    assert set(await states(system, goal)) == {"goal", "parent"}


async def test_expansions_have_a_deepest_level(system: System) -> None:
    await system.start_scheduler(max_depth=4)

    def answer(work: Any) -> dict[str, Any]:
        return {"kind": "expand", "tasks": [makes("o-t0", f"t{work['depth']}")]}

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("t0")]})
    ended = await system.finished(goal)
    assert "nested deeper than 4" in ended["reason"]


async def test_expansions_have_a_most_of_tasks(system: System) -> None:
    await system.start_scheduler(max_tasks=50)

    def answer(work: Any) -> dict[str, Any]:
        if work["continuation"] or work["spec"]["key"] != "many":
            return echo(work)
        return {"kind": "expand", "tasks": [task(f"t{n}", "custom.b") for n in range(60)], "continuation": 1}

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("many")]})
    assert "at most 50 tasks" in (await system.finished(goal))["reason"]


async def test_parent_that_is_cancelled_takes_all_levels_along(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        key = work["spec"]["key"]
        kids = {
            "top": [makes("o-top", "mid")],
            "mid": [makes("o-top", "low", "custom.b"), task("low2", "custom.b")],
        }
        return {"kind": "expand", "tasks": kids[key]} if key in kids else echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("top"), task("other")]})
    await system.until(goal, "low", "ready")
    assert (await system.request("control.skip", {"goal_id": goal, "task_id": "top"}))["skipped"] == 1
    await system.finished(goal)
    found = await states(system, goal)
    assert found["top"] == "skipped"
    assert {found[key] for key in ("mid", "low", "low2")} == {"cancelled"}


async def test_ten_thousand_children_in_one_outcome(system: System) -> None:
    await system.start_scheduler()
    many = 10_000
    got: list[int] = []

    async def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] != "many":
            return echo(work)
        if work["continuation"]:
            got.append(sum(child["status"] == "succeeded" for child in work["children"]))
            return echo(work)
        outcome = {name: work[name] for name in ("goal_id", "task_id", "epoch")}
        tasks = [task(f"t{n}", "custom.b") for n in range(many)]
        body = json.dumps({**outcome, "kind": "expand", "tasks": tasks, "continuation": 1}).encode()
        digest = hashlib.sha256(body).hexdigest()
        js = system.client.jetstream()
        await (await js.object_store("ARTIFACTS")).put(digest, body)
        ref = {"name": "body", "type": "json", "size": len(body), "sha256": digest, "object": digest}
        await js.publish("outcomes.custom.a", json.dumps({"body_ref": ref}).encode())
        return {"kind": "throttled"}  # of the same epoch, and later: it takes no effect

    system.perform("custom.a", answer, slots=1)
    many_at_once(system, "custom.b")
    goal = await system.submit(plan={"tasks": [task("many")]})
    ended = await system.finished(goal, 100)
    assert (ended["status"], ended["counts"]) == ("done", {"succeeded": many + 2})
    assert got == [many]


def many_at_once(system: System, lane: str) -> None:
    """A performer that answers what it pulled in one message: tens of thousands of tasks in seconds."""

    async def run() -> None:
        js = system.client.jetstream()
        pull = await js.pull_subscribe_bind(durable="work-" + lane.replace(".", "-"), stream="WORK")
        while not system.closing:
            try:
                messages = await pull.fetch(200, timeout=1)
            except TimeoutError:
                continue
            works = [json.loads(message.data) for message in messages]
            outcomes = [
                {**{n: work[n] for n in ("goal_id", "task_id", "epoch")}, **echo(work)} for work in works
            ]
            await js.publish(f"outcomes.{lane}", json.dumps(outcomes).encode())
            for message in messages:
                await message.ack()

    system.performers.append(asyncio.create_task(run()))
