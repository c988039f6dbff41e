"""Revisions: what may be changed of a plan that runs, what is refused, and what becomes of work under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from support.system import System, chain, echo

Operations = list[dict[str, Any]]


def task(key: str, lane: str = "custom.a", **more: Any) -> dict[str, Any]:
    return {"key": key, "lane": lane, "outputs": [{"name": f"o-{key}"}], **more}


def add(*tasks: dict[str, Any]) -> Operations:
    return [{"op": "add", "task": task} for task in tasks]


def drop(*keys: str) -> Operations:
    return [{"op": "drop", "key": key, "reason": "not wanted"} for key in keys]


def revising(operations: Operations, **more: Any) -> Callable[[Any], dict[str, Any]]:
    """A planner that answers every replan with these operations."""

    def plan(work: Any) -> dict[str, Any]:
        asked = work["spec"]["params"]["replan"]
        base = {name: asked[name] for name in ("target_task_id", "generation", "base_revision")}
        return {"kind": "revise", "operations": operations, "summary": "revised", **base, **more}

    return plan


class Planner:
    """Performs the plan lane; each replan is answered by the next of `answers`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.answers: list[Callable[[Any], Any]] = []
        system.perform("plan", self._answer, slots=1, client="service")

    def _answer(self, work: Any) -> Any:
        return self.answers.pop(0)(work)

    async def revise(self, goal: str, operations: Operations, **more: Any) -> Any:
        """Ask for a replan that makes these operations; the replan task when it has ended."""
        self.answers.append(revising(operations, **more))
        asked = await self._system.request("control.replan", {"goal_id": goal, "reason": "a test"})
        assert asked["ok"], asked
        return await self._system.until(goal, asked["task_id"], "succeeded", "dead")


def error_of(replan: Any) -> str:
    code: str = replan["attempts"][-1]["error"]["code"]
    return code


def holding(release: asyncio.Event, *keys: str) -> Callable[[Any], Any]:
    """A performer that answers the tasks of these keys only when it is let go."""

    async def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] in keys:
            await release.wait()
        return echo(work)

    return answer


async def states(system: System, goal: str) -> dict[str, str]:
    graph = await system.request("query.graph", {"goal_id": goal})
    return {task["key"]: task["state"] for task in graph["tasks"]}


async def test_dropped_task_that_runs_is_cancelled_and_its_bill_settles(system: System) -> None:
    await system.start_scheduler()
    planner, release = Planner(system), asyncio.Event()
    heard = await system.client.subscribe("cancel.*")
    started = asyncio.Event()

    async def answer(work: Any) -> dict[str, Any]:
        started.set()
        await release.wait()
        return echo(work)

    system.perform("agent.ask", answer, slots=1, client="service")
    system.perform("custom.a", holding(release, "hold"))
    dear = task("dear", "agent.ask", prompt={"messages": [{"role": "user", "content": "?"}]})
    goal = await system.submit(
        plan={"tasks": [dear, task("hold")]}, deliverables=[{"name": "o-hold", "type": "text"}]
    )
    await started.wait()
    running = await system.task(goal, "dear")
    assert (await planner.revise(goal, drop("dear")))["state"] == "succeeded"
    message = await heard.next_msg(timeout=5)
    assert message.subject == f"cancel.{running['task_id']}"
    release.set()
    ended = await system.finished(goal)
    assert (ended["status"], ended["spent_usd"], ended["held_usd"]) == ("done", 0.005, 0)
    assert (await system.task(goal, "dear"))["state"] == "cancelled"


async def test_dropped_task_takes_its_own_children_along(system: System) -> None:
    await system.start_scheduler()
    planner, release = Planner(system), asyncio.Event()

    async def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] == "parent":
            return {"kind": "expand", "tasks": [task("kid", "custom.b")], "continuation": 1}
        await release.wait()
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(
        plan={"tasks": [task("parent"), task("hold")]}, deliverables=[{"name": "o-hold", "type": "text"}]
    )
    await system.until(goal, "kid", "ready")
    await planner.revise(goal, drop("parent"))
    release.set()
    assert (await system.finished(goal))["status"] == "done"
    assert (await states(system, goal))["kid"] == "cancelled"


async def test_revision_that_was_overtaken_by_a_completion_is_refused(system: System) -> None:
    await system.start_scheduler()
    planner, release = Planner(system), asyncio.Event()
    system.perform("custom.a", holding(release, "hold"))
    goal = await system.submit(plan={"tasks": [task("quick"), task("hold")]})
    await system.until(goal, "quick", "succeeded")
    replan = await planner.revise(goal, [*drop("quick"), *add(task("other", outputs=[{"name": "o-quick"}]))])
    assert error_of(replan) == "finished_work"
    release.set()
    assert (await system.finished(goal))["status"] == "done"


async def test_revision_of_an_older_base_or_generation_is_stale(system: System) -> None:
    await system.start_scheduler()
    planner, release = Planner(system), asyncio.Event()
    system.perform("custom.a", holding(release, "hold"))
    goal = await system.submit(plan={"tasks": [task("hold")]})
    for wrong in ({"base_revision": 7}, {"generation": 2}):
        assert error_of(await planner.revise(goal, add(task("more")), **wrong)) == "stale_revision"
    assert (await planner.revise(goal, add(task("more"))))["state"] == "succeeded"
    release.set()
    ended = await system.finished(goal)
    assert ended["status"] == "done"
    assert (await states(system, goal))["more"] == "succeeded"


async def test_plan_that_comes_back_is_refused_whatever_its_tasks_are_called(system: System) -> None:
    await system.start_scheduler()
    planner, release = Planner(system), asyncio.Event()
    system.perform("custom.a", holding(release, "hold"))
    goal = await system.submit(plan={"tasks": [task("hold"), task("b", "custom.b", after=["hold"])]},
                               deliverables=[{"name": "o-hold", "type": "text"}])  # fmt: skip
    there = [*drop("b"), *add(task("c", "custom.b", after=["hold"], instruction="another way"))]
    assert (await planner.revise(goal, there))["state"] == "succeeded"
    back = [*drop("c"), *add(task("d", "custom.b", after=["hold"], outputs=[{"name": "o-b"}]))]
    assert error_of(await planner.revise(goal, back)) == "oscillation"
    worth = [{"op": "value", "key": "hold", "value": 5}]
    assert (await planner.revise(goal, worth))["state"] == "succeeded"
    assert error_of(await planner.revise(goal, worth)) == "oscillation"
    assert (await states(system, goal))["c"] == "blocked"
    release.set()
    system.perform("custom.b")
    assert (await system.finished(goal))["status"] == "done"


async def test_revision_beyond_the_budget_is_refused(system: System) -> None:
    await system.start_scheduler()
    planner, release = Planner(system), asyncio.Event()
    system.perform("custom.a", holding(release, "hold"))
    goal = await system.submit(budget_usd=0.01, plan={"tasks": [task("hold")]})
    prompt = {"messages": [{"role": "user", "content": "?"}]}
    dear = task(
        "dear", "agent.ask", prompt=prompt, effort={"tokens_in": 1000, "tokens_out": 3000, "seconds": 1}
    )
    assert error_of(await planner.revise(goal, add(dear))) == "over_budget"
    release.set()
    assert (await system.finished(goal))["status"] == "done"


async def test_revision_that_does_not_compile_is_refused_whole(system: System) -> None:
    await system.start_scheduler()
    planner, release = Planner(system), asyncio.Event()
    system.perform("custom.a", holding(release, "x"))
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y", "z")})
    for operations, code in (
        (drop("y"), "invalid_revision"),  # z needs it
        (drop("z"), "invalid_revision"),  # the goal needs it
        (add(task("x")), "duplicate_key"),
        (add(task("w", "custom.nowhere")), "unknown_lane"),
        (drop("nobody"), "unknown_task"),
        ([{"op": "role", "key": "y", "lane": "exec"}], "missing_part"),
        ([{"op": "role", "key": "x", "lane": "custom.b"}], "already_started"),
    ):
        assert error_of(await planner.revise(goal, operations)) == code, operations
        await system.request("query.goal", {"goal_id": goal})
        if code == "unknown_lane":
            break  # a goal may be replanned five times
    assert (await system.goal(goal))["revision"] == 0
    release.set()
    assert (await system.finished(goal))["status"] == "done"


async def test_ready_task_that_is_moved_goes_out_on_its_new_lane(system: System) -> None:
    await system.start_scheduler()
    planner = Planner(system)
    goal = await system.submit(plan={"tasks": [task("moved", "custom.b"), task("asked", "custom.b")]})
    lane = [{"op": "role", "key": "moved", "lane": "custom.a"}]
    assert (await planner.revise(goal, lane))["state"] == "succeeded"
    system.perform("custom.a")
    await system.until(goal, "moved", "succeeded")
    system.perform("custom.b")
    assert (await system.finished(goal))["status"] == "done"
    assert sorted((key, lane) for key, _, lane in system.performed if lane != "plan") == [
        ("asked", "custom.b"), ("moved", "custom.a"),
    ]  # fmt: skip


async def test_added_need_holds_a_ready_task_back(system: System) -> None:
    await system.start_scheduler()
    planner = Planner(system)
    goal = await system.submit(
        plan={"tasks": [task("last", "custom.b")]}, deliverables=[{"name": "o-last", "type": "text"}]
    )
    better = task("better", "custom.b", inputs=["o-first"], outputs=[{"name": "o-last"}])
    operations = [*drop("last"), *add(task("first", "custom.b"), better)]
    assert (await planner.revise(goal, operations))["state"] == "succeeded"
    found = await states(system, goal)
    assert (found["first"], found["better"], found["last"]) == ("ready", "blocked", "cancelled")
    system.perform("custom.b")
    assert (await system.finished(goal))["deliverables"]["o-last"]["inline"] == "better(o-first=first())"


async def test_revision_of_a_large_generation_is_quick(system: System) -> None:
    await system.start_scheduler()
    planner, release = Planner(system), asyncio.Event()
    system.perform("custom.a", holding(release, "hold"))
    many = [task(f"t{n}", "custom.b", after=["hold"]) for n in range(2000)]
    goal = await system.submit(
        plan={"tasks": [task("hold"), *many]}, deliverables=[{"name": "o-hold", "type": "text"}]
    )
    loop = asyncio.get_running_loop()
    before = loop.time()
    replan = await planner.revise(goal, [*drop(*(f"t{n}" for n in range(1000))), *add(task("more"))])
    assert replan["state"] == "succeeded"
    assert loop.time() - before < 10
    await system.request("control.cancel", {"goal_id": goal})
    release.set()
    counts = (await system.finished(goal))["counts"]
    assert counts["cancelled"] >= 2000


async def test_retry_by_hand_keeps_order_and_is_done_once(system: System) -> None:
    await system.start_scheduler()
    release = asyncio.Event()
    broken = {"x"}

    async def answer(work: Any) -> dict[str, Any]:
        key = work["spec"]["key"]
        if key in broken:
            return {"kind": "failed", "error": {"code": "no", "message": "cannot"}}
        if key == "hold":
            await release.wait()
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("x"), task("y", after=["x"]), task("hold")]})
    await system.until(goal, "y", "skipped")
    broken.add("x.r1")
    first = await system.request("control.retry", {"goal_id": goal, "task_id": "x"})
    assert first["added"] == ["x.r1", "y.r1"]
    await system.until(goal, "y.r1", "skipped")
    again = await system.request("control.retry", {"goal_id": goal, "task_id": "x.r1"})
    assert again["added"] == ["x.r2", "y.r2"]
    repeated = await system.request("control.retry", {"goal_id": goal, "task_id": "x.r1"})
    assert repeated["added"] == []
    await system.until(goal, "y.r2", "succeeded")
    done = [key for key, _, _ in system.performed]
    assert done.index("x.r2") < done.index("y.r2")
    release.set()
    assert (await system.finished(goal))["status"] == "done"
