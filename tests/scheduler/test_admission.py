"""Admission: what is chosen when not all can be paid for; parked tasks are seen, and come back."""

from __future__ import annotations

import itertools
import random
import statistics
from typing import Any

import asyncpg
import pytest
from goalwright_scheduler.core import admission, roi
from hypothesis import given
from hypothesis import strategies as st
from support.system import System, chain, echo, wait_for

from bench.simulator.graphs import random_graph
from bench.simulator.world import POLICIES, World

Graph = tuple[list[int], dict[int, roi.Node[int]]]

HOLD = 0.005
"""What one call on lane agent.ask may cost: 1,000 tokens in at 1 USD and 1,000 out at 4 USD a million."""


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A random acyclic graph with a few deliverables, whole costs, some of them free."""
    count = draw(st.integers(1, 14))
    needs = [tuple(draw(st.sets(st.integers(0, key - 1), max_size=3))) if key else () for key in range(count)]
    needed = {need for wanted in needs for need in wanted}
    nodes = {}
    for key in range(count):
        valued = key not in needed or draw(st.integers(0, 5)) == 0
        value = float(draw(st.integers(1, 100))) if valued else 0.0
        nodes[key] = roi.Node(key, needs[key], value, draw(st.integers(0, 20)), 1.0, 1.0)
    return list(range(count)), nodes


def targets(nodes: dict[int, roi.Node[int]]) -> list[int]:
    return [key for key, node in nodes.items() if node.value > 0]


def best_value(nodes: dict[int, roi.Node[int]], room: float) -> float:
    """The most value that fits, by trying everything."""
    closures = {key: set(roi.closure(nodes, key)) for key in targets(nodes)}
    best = 0.0
    for some in itertools.chain.from_iterable(
        itertools.combinations(closures, size) for size in range(len(closures) + 1)
    ):
        union = set().union(*(closures[key] for key in some))
        if sum(nodes[member].cost for member in union) <= room:
            best = max(best, sum(nodes[key].value for key in some))
    return best


def value_in_order(order: list[int], nodes: dict[int, roi.Node[int]], room: float) -> float:
    """What is delivered when deliverables are done in the order of their rank, each that fits."""
    density = {
        key: nodes[key].value / max(1e-9, cost_of(nodes, roi.closure(nodes, key))) for key in targets(nodes)
    }
    paid: set[int] = set()
    value = 0.0
    for key in sorted(density, key=lambda key: -density[key]):
        members = paid | set(roi.closure(nodes, key))
        if cost_of(nodes, members) <= room:
            paid, value = members, value + nodes[key].value
    return value


def cost_of(nodes: dict[int, roi.Node[int]], members: Any) -> float:
    return sum(nodes[member].cost for member in members)


@pytest.mark.parametrize("pairs", [roi.EXACT_PAIRS, 0], ids=["listed", "large"])
@given(graph=graphs(), room=st.integers(0, 120))
def test_what_is_admitted_is_whole_and_within_the_budget(graph: Graph, room: int, pairs: int) -> None:
    order, nodes = graph
    choice = admission.choose(order, nodes, room, exact_pairs=pairs)
    assert cost_of(nodes, choice.tasks) <= room
    assert choice.cost == cost_of(nodes, choice.tasks)
    assert all(need in choice.tasks for task in choice.tasks for need in nodes[task].needs)
    assert set(choice.deliverables) <= choice.tasks
    assert not set(choice.declined) & set(choice.deliverables)
    for key, more in choice.declined.items():
        if pairs:  # closures of large graphs are looked at no further than they fit
            assert more == cost_of(nodes, set(roi.closure(nodes, key)) - choice.tasks)
        assert choice.cost + more > room


@given(graphs(), st.integers(0, 120))
def test_choice_is_near_the_best_and_never_worse_than_order_by_rank(graph: Graph, room: int) -> None:
    order, nodes = graph
    value = admission.choose(order, nodes, room).value
    assert value >= value_in_order(order, nodes, room)
    assert value >= 0.6 * best_value(nodes, room)


@given(graphs())
def test_everything_is_admitted_when_it_fits(graph: Graph) -> None:
    order, nodes = graph
    choice = admission.choose(order, nodes, cost_of(nodes, order))
    assert choice.tasks == set(order)
    assert not choice.declined


@given(graphs(), st.integers(0, 120), st.data())
def test_what_has_begun_is_paid_for_first_and_in_any_case(
    graph: Graph, room: int, data: st.DataObject
) -> None:
    order, nodes = graph
    begun = set(data.draw(st.sets(st.sampled_from(order))))
    choice = admission.choose(order, nodes, room, started=begun)
    assert begun <= choice.tasks
    assert choice.cost == cost_of(nodes, choice.tasks - begun)
    assert choice.cost <= max(0, room - cost_of(nodes, begun))


@given(graphs(), st.integers(0, 120), st.integers(1, 60))
def test_largest_hold_among_what_is_admitted_fits_at_its_moment(
    graph: Graph, room: int, reserve: int
) -> None:
    order, nodes = graph
    reserves = {key: float(reserve) if key % 3 == 0 else 0.0 for key in order}
    choice = admission.choose(order, nodes, room, reserve=reserves)
    paid = [key for key in choice.tasks if nodes[key].cost]
    if choice.cost:
        used = {
            m
            for key in choice.deliverables
            for m in roi.closure(nodes, key)
            if cost_of(nodes, roi.closure(nodes, key))
        }
        assert paid
        if any(reserves[m] for m in used if nodes[m].cost):
            assert choice.cost + reserve <= room


def test_shared_work_is_paid_once_and_draws_its_other_users_in() -> None:
    """Alone, `lone` has the better ratio; with the shared task paid for, the two others are nearly free."""
    nodes = {
        0: roi.Node(0, (), 0.0, 8, 1.0, 1.0),
        1: roi.Node(1, (0,), 5.0, 1, 1.0, 1.0),
        2: roi.Node(2, (0,), 5.0, 1, 1.0, 1.0),
        3: roi.Node(3, (), 4.0, 5, 1.0, 1.0),
    }
    choice = admission.choose(list(nodes), nodes, 10)
    assert set(choice.deliverables) == {1, 2}
    assert choice.declined == {3: 5}


def test_admission_delivers_much_more_than_order_alone_under_a_hard_budget() -> None:
    """The simulator of `bench/` as a regression test: 40 % of the cost, 64 workers, 10 random graphs."""
    ordered, admitted = (p for p in POLICIES if p.name.startswith("ROI"))
    problems = [random_graph(seed) for seed in range(10)]

    def delivered(policy: Any) -> float:
        return statistics.mean(World(p, policy, 64, 0.4 * p.cost, 1.0).run().delivered for p in problems)

    assert delivered(admitted) > 1.5 * delivered(ordered)


# --- the whole scheduler -----------------------------------------------------------------------------------


def ask(key: str, *inputs: str, value: float = 1.0, effort: dict[str, int] | None = None) -> dict[str, Any]:
    """A paid task, estimated at what its call may cost at most."""
    prompt = {"messages": [{"role": "user", "content": f"{key}?"}]}
    return {
        "key": key, "lane": "agent.ask", "inputs": list(inputs), "outputs": [{"name": f"o-{key}"}], "prompt": prompt,
        "value": value, "effort": effort or {"tokens_in": 1000, "tokens_out": 1000},
    }  # fmt: skip


def paid(tokens_in: int = 1000, tokens_out: int = 1000) -> Any:
    def answer(work: Any) -> dict[str, Any]:
        return {**echo(work), "usage": {"model": "m", "tokens_in": tokens_in, "tokens_out": tokens_out}}

    return answer


async def paused(system: System, goal: str) -> Any:
    """The goal, once it waits for money."""

    async def waits() -> Any:
        answer = await system.tried(system.goal(goal))
        return answer if answer.get("status") == "paused" else None

    told = await wait_for(waits)
    assert told["reason"] == "budget"
    return told


async def test_least_worthy_deliverables_are_parked_before_anything_is_spent(system: System) -> None:
    await system.start_scheduler()
    plan = [ask("dear", value=9), ask("base", value=0), ask("cheap", "o-base", value=2), ask("mid", value=5)]
    goal = await system.submit(budget_usd=2 * HOLD, plan={"tasks": plan})
    for key in ("base", "cheap"):
        assert (await system.task(goal, key))["state"] == "parked"
        why = await system.request("query.why", {"goal_id": goal, "task_id": key})
        assert why["reason"] == "over_budget"
        assert why["detail"] == f"what it serves would need {2 * HOLD:.6f} USD and {2 * HOLD:.6f} are left"
    assert {(await system.task(goal, key))["state"] for key in ("dear", "mid")} == {"ready"}
    assert (await system.request("query.inbox", {}))["questions"] == []
    told = {e["data"]["key"]: e["data"] for e in await system.events(goal) if e["kind"] == "task.parked"}
    assert set(told) == {"base", "cheap"}
    assert (told["cheap"]["needs_usd"], told["cheap"]["left_usd"]) == (2 * HOLD, 2 * HOLD)
    retried = await system.request("control.retry", {"goal_id": goal, "task_id": "base"})
    assert retried["error"]["code"] == "over_budget"


async def test_goal_of_which_only_parked_tasks_are_left_asks_and_goes_on_with_more(system: System) -> None:
    await system.start_scheduler()
    system.perform("agent.ask", paid(), client="service")
    plan = [ask("dear", value=9), ask("base"), ask("cheap", "o-base", value=2)]
    goal = await system.submit(budget_usd=HOLD, plan={"tasks": plan})
    told = await paused(system, goal)
    assert told["spent_usd"] == HOLD
    assert told["counts"]["parked"] == 2
    assert [key for key, *_ in system.performed] == ["dear"]
    assert (await system.request("query.inbox", {}))["questions"][0]["goal_id"] == goal
    assert (await system.request("control.budget", {"goal_id": goal, "budget_usd": 3 * HOLD}))["ok"]
    ended = await system.finished(goal)
    assert (ended["status"], ended["spent_usd"]) == ("done", 3 * HOLD)
    assert [key for key, *_ in system.performed] == ["dear", "base", "cheap"]


async def test_unanswered_it_ends_partial_with_what_was_admitted(system: System) -> None:
    await system.start_scheduler(ask_timeout_seconds=0.2)
    system.perform("agent.ask", paid(), client="service")
    plan = [ask("a", value=3), ask("b", value=9), ask("c", value=1)]
    ended = await system.finished(await system.submit(budget_usd=2 * HOLD, plan={"tasks": plan}))
    assert ended["status"] == "partial"
    assert set(ended["deliverables"]) == {"o-a", "o-b"}
    assert ended["missing"] == ["o-c"]


async def test_nothing_is_spent_on_what_cannot_be_finished(system: System) -> None:
    await system.start_scheduler(ask_timeout_seconds=0.2)
    system.perform("agent.ask", paid(), client="service")
    ended = await system.finished(await system.submit(budget_usd=2 * HOLD, plan={"tasks": _asks("abc")}))
    assert (ended["status"], ended["spent_usd"]) == ("partial", 0)
    assert system.performed == []


def _asks(keys: str) -> list[dict[str, Any]]:
    """A chain of paid tasks."""
    return [ask(key, *([f"o-{keys[at - 1]}"] if at else [])) for at, key in enumerate(keys)]


async def test_parked_tasks_come_back_when_work_proves_cheaper_than_estimated(system: System) -> None:
    await system.start_scheduler(ask_timeout_seconds=30)
    system.perform("agent.ask", paid(100, 100), client="service")
    goal = await system.submit(budget_usd=3 * HOLD, plan={"tasks": [ask(f"t{n}") for n in range(12)]})
    ended = await system.finished(goal)
    assert (ended["status"], ended["spent_usd"]) == ("done", 0.006)
    assert any(event["kind"] == "task.parked" for event in await system.events(goal))


async def test_task_that_serves_an_admitted_deliverable_runs_and_its_parked_user_is_not_asked(
    system: System,
) -> None:
    """The needs of a parked task succeed while it is parked; it is still parked, and ready when it comes back."""
    await system.start_scheduler()
    system.perform("agent.ask", paid(), client="service")
    plan = [ask("base"), ask("good", "o-base", value=9), ask("extra", "o-base", value=1)]
    goal = await system.submit(budget_usd=2 * HOLD, plan={"tasks": plan})
    assert (await paused(system, goal))["counts"] == {"succeeded": 2, "parked": 1, "expanded": 1}
    kinds = [event["kind"] for event in await system.events(goal)]
    assert "approval.requested" not in kinds
    await system.request("control.budget", {"goal_id": goal, "budget_usd": 3 * HOLD})
    assert (await system.finished(goal))["status"] == "done"


async def test_free_work_is_never_parked(system: System) -> None:
    await system.start_scheduler(ask_timeout_seconds=0.2)
    system.perform("custom.a")
    plan = [*chain("custom.a", "x", "y"), ask("paid")]
    ended = await system.finished(await system.submit(budget_usd=0, plan={"tasks": plan}))
    assert ended["status"] == "partial"
    assert set(ended["deliverables"]) == {"o-y"}


async def test_new_leader_remembers_who_waits_for_money(system: System) -> None:
    first = await system.start_scheduler_process()
    system.perform("agent.ask", paid(), client="service")
    goal = await system.submit(budget_usd=HOLD, plan={"tasks": [ask("a", value=9), ask("b")]})
    await paused(system, goal)
    await system.kill(first)
    await system.start_scheduler_process()
    await system.request("control.resume", {"goal_id": goal})
    await paused(system, goal)  # nobody gave it more
    await system.request("control.budget", {"goal_id": goal, "budget_usd": 2 * HOLD})
    assert (await system.finished(goal))["status"] == "done"


async def test_lanes_learn_what_their_tasks_cost_and_later_plans_are_admitted_by_it(system: System) -> None:
    await system.start_scheduler()
    system.perform("agent.ask", paid(1000, 1000), client="service")
    effort = {"tokens_in": 250, "tokens_out": 250, "seconds": 1}  # a quarter of what it will be
    first = await system.submit(plan={"tasks": [ask(f"t{n}", effort=effort) for n in range(40)]})
    assert (await system.finished(first))["status"] == "done"
    db = await asyncpg.connect(system.dsn)
    row = await db.fetchrow("SELECT * FROM lane_calibration WHERE lane = 'agent.ask'")
    await db.close()
    assert row is not None
    assert (row["cost_tasks"], row["cost_actual"] / row["cost_estimated"]) == (40, pytest.approx(4))
    tasks = [ask(f"u{n}", effort=effort, value=n) for n in range(8)]
    second = await system.submit(budget_usd=4 * HOLD, plan={"tasks": tasks})
    states = (await system.goal(second))["counts"]
    assert states.get("parked", 0) >= 3  # all would seem to fit without what was learned


async def test_goals_share_a_lane_by_their_weights(system: System) -> None:
    await system.start_scheduler()
    tasks = [{"key": f"t{n}", "lane": "custom.b"} for n in range(60)]
    heavy = await system.submit(value=3, plan={"tasks": tasks})
    await system.submit(value=1, plan={"tasks": tasks})
    went: list[str] = []

    def answer(work: Any) -> dict[str, Any]:
        went.append(work["goal_id"])
        return echo(work)

    system.perform("custom.b", answer, slots=1)

    async def enough() -> bool:
        return len(went) >= 40

    await wait_for(enough)
    assert 27 <= went[:40].count(heavy) <= 33


async def test_revision_that_makes_room_brings_parked_tasks_back_and_ranks_anew(system: System) -> None:
    await system.start_scheduler()

    def replan(work: Any) -> dict[str, Any]:
        told = work["spec"]["params"]["replan"]
        return {
            "kind": "revise", "target_task_id": told["target_task_id"], "generation": told["generation"],
            "base_revision": told["base_revision"], "summary": "what is dear goes",
            "operations": [{"op": "drop", "key": "dear", "reason": "too dear"},
                           {"op": "drop", "key": "more", "reason": "nobody asked"}],
        }  # fmt: skip

    plan = [ask("dear", value=9), ask("first"), ask("last"), ask("more", "o-first")]
    wanted = [{"name": "o-first", "value": 3}, {"name": "o-last", "value": 2}]
    goal = await system.submit(budget_usd=2 * HOLD, deliverables=wanted, plan={"tasks": plan})
    assert (await system.task(goal, "last"))["state"] == "parked"
    ranked = (await system.task(goal, "first"))["rank"]
    system.perform("plan", replan, slots=1, client="service")
    await system.request("control.replan", {"goal_id": goal, "reason": "too dear"})
    await system.until(goal, "last", "ready")
    first, last = [await system.task(goal, key) for key in ("first", "last")]
    assert first["state"] == "ready"
    assert first["rank"] > ranked  # dear does not outshine it any more
    assert first["rank"] > last["rank"]


async def test_values_that_a_planner_gives_to_deliverables_decide_and_the_clients_own_stay(
    system: System,
) -> None:
    await system.start_scheduler()

    def plan(_: Any) -> dict[str, Any]:
        named = [{"name": "o-a", "type": "text", "value": 1}, {"name": "o-b", "type": "text", "value": 9},
                 {"name": "o-c", "type": "text", "value": 100}]  # fmt: skip
        return {"kind": "expand", "tasks": [ask("a"), ask("b"), ask("c")], "deliverables": named}

    system.perform("plan", plan, slots=1, client="service")
    wanted = [{"name": "o-c", "type": "text", "value": 2}]
    goal = await system.submit(text="three things", budget_usd=HOLD, deliverables=wanted)

    async def planned() -> Any:
        answer = await system.goal(goal)
        return answer if answer["status"] == "running" else None

    await wait_for(planned)
    assert [(await system.task(goal, key))["state"] for key in "abc"] == ["parked", "ready", "parked"]
    await system.request("control.budget", {"goal_id": goal, "budget_usd": 2 * HOLD})
    assert [(await system.task(goal, key))["state"] for key in "abc"] == ["parked", "ready", "ready"]


async def test_what_runs_below_the_plan_counts_before_more_is_begun(system: System) -> None:
    """A refined task's own children are open and paid: what they are likely to cost is not given away."""
    await system.start_scheduler()

    def refine(_: Any) -> dict[str, Any]:
        return {"kind": "expand", "tasks": [ask("k1"), ask("k2")], "continuation": 1}

    system.perform("custom.a", refine, slots=1)
    tasks = [{"key": "whole", "lane": "custom.a", "value": 5}, ask("other")]
    goal = await system.submit(budget_usd=2 * HOLD, plan={"tasks": tasks})
    assert (await system.task(goal, "other"))["state"] == "ready"
    await system.until(goal, "k2", "ready")
    await system.request("control.budget", {"goal_id": goal, "budget_usd": 2.5 * HOLD})
    assert (await system.task(goal, "other"))["state"] == "parked"
    await system.request("control.budget", {"goal_id": goal, "budget_usd": 3 * HOLD})
    assert (await system.task(goal, "other"))["state"] == "ready"


async def test_whatever_the_plan_and_the_budget_every_goal_ends_within_it(system: System) -> None:
    """Random plans of paid and free tasks, wrong estimates, failures, budgets from nothing to plenty."""
    await system.start_scheduler(ask_timeout_seconds=0.3)
    chance = random.Random(11)

    def answer(work: Any) -> dict[str, Any]:
        number = sum(map(ord, work["spec"]["key"] + work["goal_id"])) + work["epoch"]
        if number % 11 == 0:
            return {"kind": "failed", "error": {"code": "timeout", "message": "?", "retryable": True}}
        if number % 17 == 0:
            return {"kind": "failed", "error": {"code": "bad", "message": "?", "retryable": False}}
        answered: dict[str, Any] = paid(number * 37 % 1000, number * 71 % 1000)(work)
        return answered if work["lane"] == "agent.ask" else echo(work)

    system.perform("agent.ask", answer, slots=8, client="service")
    system.perform("custom.a", answer, slots=4)
    submitted = {}
    for number in range(12):
        keys = [f"t{at}" for at in range(chance.randint(3, 25))]
        tasks = []
        for at, key in enumerate(keys):
            needs = [f"o-{need}" for need in chance.sample(keys[:at], min(at, chance.choice((0, 1, 2))))]
            effort = {"tokens_in": chance.randint(1, 1500), "tokens_out": chance.randint(1, 1500)}
            task = ask(f"{key}", *needs, value=chance.randint(0, 9), effort=chance.choice((effort, None)))
            if chance.random() < 0.3:
                task |= {"lane": "custom.a", "prompt": None}
            tasks.append(task)
        budget = round(chance.choice((0, 0.3, 0.6, 1.2)) * HOLD * len(tasks), 6)
        submitted[await system.submit(id=f"g{number}", budget_usd=budget, plan={"tasks": tasks})] = budget
    how = set()
    for goal, budget in submitted.items():
        ended = await system.finished(goal, 60)
        how.add(ended["status"])
        assert ended["spent_usd"] <= budget
        assert ended["held_usd"] == 0
    assert how == {"done", "partial", "failed"}
