"""Money and rate: held before, settled after, never over the budget; pools wait whole."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from goalwright_scheduler import accounts
from goalwright_scheduler.change import Change
from goalwright_scheduler.lanes import store_lanes
from goalwright_scheduler.settings import SchedulerSettings
from goalwright_shared import topology
from goalwright_shared.messages import Lane
from support.system import System, artifact, chain, echo, wait_for

HOLD = 0.005
"""What one call on lane agent.ask may cost: 1,000 tokens in at 1 USD and 1,000 out at 4 USD a million."""


def ask(key: str) -> dict[str, Any]:
    prompt = {"messages": [{"role": "user", "content": "?"}]}
    return {"key": key, "lane": "agent.ask", "outputs": [{"name": f"o-{key}"}], "prompt": prompt}


def paid(tokens_in: int, tokens_out: int) -> Any:
    def answer(work: Any) -> dict[str, Any]:
        usage = {"model": "m", "tokens_in": tokens_in, "tokens_out": tokens_out}
        return {**echo(work), "usage": usage}

    return answer


async def test_hold_becomes_what_the_call_did_cost(system: System) -> None:
    await system.start_scheduler()
    held: list[float] = []

    async def answer(work: Any) -> dict[str, Any]:
        held.append((await system.goal(work["goal_id"]))["held_usd"])
        assert work["llm"]["hold_usd"] == HOLD
        answered: dict[str, Any] = paid(400, 100)(work)
        return answered

    system.perform("agent.ask", answer, slots=1, client="service")
    goal = await system.submit(budget_usd=0.1, plan={"tasks": [ask("a"), ask("b")]})
    ended = await system.finished(goal)
    assert held == [HOLD, HOLD]
    assert (ended["spent_usd"], ended["held_usd"], ended["overrun_usd"]) == (0.0016, 0, 0)
    ledger = await system.request("query.ledger", {"goal_id": goal})
    assert [entry["usd"] for entry in ledger["entries"]] == [0.0008, 0.0008]
    assert (ledger["tokens_in"], ledger["tokens_out"]) == (800, 200)


async def test_paid_answers_that_arrive_together_are_billed_one_by_one_and_once(system: System) -> None:
    """Among them one that comes twice, one of another epoch and one without a word of what it used."""
    await system.start_scheduler()
    works: list[Any] = []
    system.perform("agent.ask", works.append, slots=4, client="service")
    goal = await system.submit(budget_usd=0.1, plan={"tasks": [ask(key) for key in "abcd"]})

    async def all_out() -> bool:
        return len(works) == 4

    await wait_for(all_out)
    a, b, c, d = sorted(works, key=lambda work: str(work["spec"]["key"]))
    stale = {**d, "epoch": d["epoch"] + 1}
    call = {"prompt": artifact("prompt", "?"), "reply": artifact("reply", "!")}
    given = [
        (a, {**paid(400, 100)(a), "call": call}), (a, paid(900, 900)(a)), (b, paid(10, 10)(b)), (c, echo(c)),
        (stale, paid(500, 500)(stale)),
    ]  # fmt: skip
    names = ("goal_id", "task_id", "epoch")
    batch = [{**{name: work[name] for name in names}, **answer} for work, answer in given]
    service = await system.service()
    await service.jetstream().publish("outcomes.agent.ask", json.dumps(batch).encode())
    for key in "abc":
        await system.until(goal, key, "succeeded")
    ledger = await system.request("query.ledger", {"goal_id": goal})
    billed = {entry["task_id"]: (entry["usd"], entry["tokens_in"]) for entry in ledger["entries"]}
    assert billed == {
        a["task_id"]: (0.0008, 400), b["task_id"]: (0.00005, 10), c["task_id"]: (HOLD, 0), d["task_id"]: (0, 0),
    }  # fmt: skip
    told = await system.goal(goal)
    assert (told["spent_usd"], told["held_usd"]) == (pytest.approx(0.00085 + HOLD), HOLD), "d is under way"
    assert (await system.task(goal, "d"))["state"] == "dispatched"
    attempt = (await system.request("query.task", {"goal_id": goal, "task_id": "a"}))["attempts"][0]
    assert attempt["call"]["reply"]["inline"] == "!"
    told = {e["task_id"]: e["data"] for e in await system.events(goal) if e["kind"] == "task.succeeded"}
    assert {task: (data["cost_usd"], data["tokens_in"]) for task, data in told.items()} == {
        task: found for task, found in billed.items() if task != d["task_id"]
    }


async def test_goal_at_its_budget_pauses_and_asks_and_goes_on_when_it_gets_more(system: System) -> None:
    await system.start_scheduler()
    system.perform("agent.ask", paid(1000, 1000), client="service")
    goal = await system.submit(budget_usd=3 * HOLD, plan={"tasks": [ask(f"t{n}") for n in range(5)]})

    async def paused() -> Any:
        answer = await system.goal(goal)
        return answer if answer["status"] == "paused" else None

    told = await wait_for(paused)
    assert (told["reason"], told["spent_usd"]) == ("budget", 3 * HOLD)
    assert (await system.request("query.inbox", {}))["questions"][0]["goal_id"] == goal
    low = await system.request("control.budget", {"goal_id": goal, "budget_usd": HOLD})
    assert low["error"]["code"] == "below_spent"
    assert (await system.request("control.budget", {"goal_id": goal, "budget_usd": 5 * HOLD}))["ok"]
    ended = await system.finished(goal)
    assert (ended["status"], ended["spent_usd"]) == ("done", 5 * HOLD)


def dear(key: str) -> dict[str, Any]:
    """A task of which little is expected, so that nothing is parked, and that may cost `HOLD` all the same."""
    return {**ask(key), "effort": {"tokens_in": 1, "tokens_out": 1}}


async def refused(system: System) -> None:
    """Until the scheduler has tried to dispatch what was submitted before (another goal's task, in its turn after
    that, is done), and has swept since (a deadline that came later has passed)."""
    other = await system.submit(budget_usd=1, plan={"tasks": [ask("other")]})
    await system.finished(other)
    late = await system.submit(deadline_seconds=0.1, plan={"tasks": chain("custom.b", "late")})
    assert (await system.finished(late))["reason"] == "deadline passed"


async def test_goal_of_which_only_the_dear_part_does_not_fit_does_the_rest_before_it_asks(
    system: System,
) -> None:
    await system.start_scheduler()
    system.perform("agent.ask", paid(1, 1), client="service")
    plan = [dear("dear"), *chain("custom.a", "x", "y")]
    goal = await system.submit(budget_usd=HOLD / 2, plan={"tasks": plan})
    await refused(system)
    assert (await system.goal(goal))["status"] == "running"
    system.perform("custom.a")
    await system.until(goal, "y", "succeeded")

    async def paused() -> Any:
        answer = await system.goal(goal)
        return answer if answer["status"] == "paused" else None

    assert (await wait_for(paused))["reason"] == "budget"
    kinds = [event["kind"] for event in await system.events(goal)]
    assert kinds.index("goal.paused") > max(at for at, kind in enumerate(kinds) if kind == "task.succeeded")


async def test_nobody_is_asked_for_money_when_what_was_too_dear_is_skipped(system: System) -> None:
    await system.start_scheduler()
    system.perform("agent.ask", paid(1, 1), client="service")
    plan = [dear("dear"), {"key": "free", "lane": "custom.a", "outputs": [{"name": "o-free"}]}]
    goal = await system.submit(budget_usd=HOLD / 2, plan={"tasks": plan})
    await refused(system)
    assert (await system.request("control.skip", {"goal_id": goal, "task_id": "dear"}))["ok"]
    system.perform("custom.a")
    ended = await system.finished(goal)
    assert ended["deliverables"].keys() == {"o-free"}
    assert "goal.paused" not in {event["kind"] for event in await system.events(goal)}


async def test_unanswered_question_for_money_ends_the_goal_with_what_it_has(system: System) -> None:
    await system.start_scheduler(ask_timeout_seconds=0.2)
    system.perform("agent.ask", paid(1000, 1000), client="service")
    goal = await system.submit(budget_usd=2 * HOLD, plan={"tasks": [ask(f"t{n}") for n in range(4)]})
    ended = await system.finished(goal)
    assert ended["status"] == "partial"
    assert "budget exhausted" in ended["reason"]
    assert len(ended["deliverables"]) == 2
    assert len(ended["missing"]) == 2


async def test_bill_above_the_hold_is_an_overrun_and_pauses_the_goal(system: System) -> None:
    await system.start_scheduler()
    system.perform("agent.ask", paid(9000, 1000), slots=1, client="service")
    many = [ask(name) for name in "abcdefgh"]  # some may be under way when the first bill comes
    goal = await system.submit(budget_usd=1, plan={"tasks": many})

    async def paused() -> Any:
        answer = await system.goal(goal)
        return answer if answer["status"] == "paused" else None

    told = await wait_for(paused)
    assert told["spent_usd"] >= HOLD
    assert told["overrun_usd"] >= 0.008


async def test_many_performers_of_random_cost_never_spend_over_the_budget(system: System) -> None:
    await system.start_scheduler(ask_timeout_seconds=0.2)
    db = await asyncpg.connect(system.dsn)
    await db.execute(
        """CREATE TABLE most (n bigint NOT NULL); INSERT INTO most VALUES (0);
           CREATE FUNCTION keep_most() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN UPDATE most SET n = greatest(n, NEW.spent + NEW.held); RETURN NEW; END $$;
           CREATE TRIGGER keep_most AFTER UPDATE ON goal FOR EACH ROW EXECUTE FUNCTION keep_most()"""
    )

    async def answer(work: Any) -> dict[str, Any] | None:
        number = int(work["spec"]["key"][1:])
        await asyncio.sleep(0.001 * (number % 7))
        if number % 5 == 0 and work["epoch"] == 1:
            return {"kind": "failed", "error": {"code": "timeout", "message": "?", "retryable": True}}
        answered: dict[str, Any] = paid(number * 37 % 1000, number * 71 % 1000)(work)
        return answered

    system.perform("agent.ask", answer, slots=16, client="service")
    budget = 40 * HOLD
    goal = await system.submit(budget_usd=budget, plan={"tasks": [ask(f"t{n}") for n in range(120)]})
    ended = await system.finished(goal, 60)
    assert ended["status"] in ("partial", "done")
    most = await db.fetchval("SELECT n FROM most")
    await db.close()
    assert 0 < most <= round(budget * 1e6)
    assert ended["held_usd"] == 0


async def test_bad_key_parks_the_pool_once_and_says_why(system: System) -> None:
    await system.start_scheduler(pool_park_seconds=1)

    def answer(work: Any) -> dict[str, Any]:
        if work["epoch"] == 1:
            return {"kind": "throttled", "reason": "pool_blocked: the key is refused; set OPENAI_API_KEY"}
        return {**paid(1, 1)(work)}

    system.perform("agent.ask", answer, slots=1, client="service")
    goal = await system.submit(plan={"tasks": [ask("a")]})

    async def explained() -> Any:
        why = await system.request("query.why", {"goal_id": goal, "task_id": "a"})
        return why if why["reason"] == "waits_for_rate" else None

    assert "the key is refused" in (await wait_for(explained))["detail"]
    assert (await system.finished(goal))["status"] == "done"
    assert (await system.task(goal, "a"))["failures"] == 0


async def test_task_that_proved_too_big_is_planned_as_smaller_ones(system: System) -> None:
    await system.start_scheduler()
    seen: list[Any] = []

    def agent(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] == "big":
            return {
                "kind": "failed",
                "error": {"code": "too_big", "message": "does not fit", "too_big": True},
            }
        return echo(work)

    def plan(work: Any) -> dict[str, Any]:
        seen.append(work)
        parts = [
            {"key": "half", "lane": "agent.generalist", "outputs": [{"name": "part"}]},
            {"key": "rest", "lane": "agent.generalist", "inputs": ["part"], "outputs": [{"name": "whole"}]},
        ]
        return {"kind": "expand", "tasks": parts}

    system.perform("agent.generalist", agent, client="service")
    system.perform("plan", plan, client="service")
    big = {"key": "big", "lane": "agent.generalist", "outputs": [{"name": "whole"}]}
    goal = await system.submit(plan={"tasks": [big]})
    ended = await system.finished(goal)
    assert ended["deliverables"]["whole"]["inline"] == "rest(part=half())"
    (work,) = seen
    assert work["attempt_errors"][0]["code"] == "too_big"
    assert len(work["ancestor_hashes"]) == 1


async def test_artifact_of_another_goal_is_an_input_by_from_goal(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    first = await system.submit(
        id="first", plan={"tasks": [{"key": "a", "lane": "custom.a", "outputs": [{"name": "made"}]}]}
    )
    await system.finished(first)
    use = {"key": "use", "lane": "custom.a", "inputs": ["made"], "outputs": [{"name": "out"}]}
    given = artifact("made", "a()")
    assert given["size"] == 3
    second = await system.submit(id="second", from_goal="first", plan={"tasks": [use]})
    assert (await system.finished(second))["deliverables"]["out"]["inline"] == "use(made=a())"


WRITER = Lane(
    name="agent.writer", pool="k/m", max_input_tokens=1000, max_output_tokens=1000, lease_seconds=5,
    input_usd_per_mtok=1.0, output_usd_per_mtok=4.0, may=["done", "expand", "failed", "throttled"],
)  # fmt: skip


TURNING_ASK = WRITER.model_copy(update={"name": "agent.ask"})
SHORT_ASK = WRITER.model_copy(update={"name": "agent.ask", "lease_seconds": 1})


async def add_lane(system: System, lane: Lane) -> None:
    """One more lane, before the scheduler starts."""
    await store_lanes(system.dsn, [lane], [])
    js = (await system.service()).jetstream()
    await topology.apply_consumer(js, "WORK", topology.lane_consumer(lane.name))


async def paused(system: System, goal: str) -> Any:
    """The goal, once it is paused."""

    async def asked() -> Any:
        answer = await system.goal(goal)
        return answer if answer["status"] == "paused" else None

    return await wait_for(asked)


async def test_prompt_with_its_own_cap_holds_less_until_it_asks_for_more(system: System) -> None:
    await store_lanes(system.dsn, [TURNING_ASK], [])
    await system.start_scheduler()
    holds: list[float] = []

    def answer(work: Any) -> dict[str, Any]:
        holds.append(work["llm"]["hold_usd"])
        if work["turn"] == 0:
            return {"kind": "expand", "tasks": [], "continuation": "cut: once more with a larger cap"}
        return {**paid(10, 10)(work)}

    system.perform("agent.ask", answer, client="service")
    small = ask("small")
    small["prompt"]["max_output_tokens"] = 100
    goal = await system.submit(plan={"tasks": [small]})
    assert (await system.finished(goal))["status"] == "done"
    assert holds == [0.0014, HOLD]


async def test_lease_that_ran_out_after_the_call_began_is_charged_in_full(system: System) -> None:
    await store_lanes(system.dsn, [SHORT_ASK], [])
    await system.start_scheduler()
    told: list[int] = []

    async def answer(work: Any) -> dict[str, Any] | None:
        told.append(work["epoch"])
        if work["epoch"] > 1:
            return {**paid(10, 10)(work)}
        alive = {"worker": "w", "slots": 1, "tasks": [[work["task_id"], work["epoch"]]]}
        await (await system.service()).publish("alive.agent.ask", json.dumps(alive).encode())
        return None

    system.perform("agent.ask", answer, client="service")
    goal = await system.submit(plan={"tasks": [ask("a")]})
    assert (await system.finished(goal, 40))["status"] == "done"
    entries = (await system.request("query.ledger", {"goal_id": goal}))["entries"]
    assert [(entry["why"], entry["usd"]) for entry in entries] == [("expired", HOLD), ("done", 0.00005)]
    assert (await system.task(goal, "a"))["failures"] == 1


async def test_goal_without_money_ends_with_a_summary_from_the_tenth_that_was_kept(system: System) -> None:
    await add_lane(system, WRITER)
    await system.start_scheduler(ask_timeout_seconds=0.2)
    seen: list[Any] = []

    def write(work: Any) -> dict[str, Any]:
        seen.append(work)
        return {**echo(work), **paid(1000, 1000)(work)}

    system.perform("agent.ask", paid(1000, 1000), client="service")
    system.perform("agent.writer", write, client="service")
    goal = await system.submit(budget_usd=10 * HOLD, plan={"tasks": [ask(f"t{n:02}") for n in range(12)]})
    ended = await system.finished(goal)
    assert ended["status"] == "partial"
    assert ended["spent_usd"] == 10 * HOLD
    assert len(ended["deliverables"]) == 9
    (work,) = seen
    assert len(work["inputs"]) == 9
    assert "budget exhausted" in work["spec"]["instruction"]
    assert ended["summary"].startswith("closing-summary(")
    (told,) = [e["data"] for e in await system.events(goal) if e["kind"] == "goal.finished"]
    assert (told["summary"], told["status"]) == (ended["summary"], "partial")


async def test_goal_ends_with_a_plain_listing_when_its_writer_fails(system: System) -> None:
    await add_lane(system, WRITER)
    await system.start_scheduler(ask_timeout_seconds=0.2)
    no = {"kind": "failed", "error": {"code": "no", "message": "cannot"}}
    system.perform("agent.ask", paid(1000, 1000), client="service")
    system.perform("agent.writer", lambda work: no, client="service")
    goal = await system.submit(budget_usd=10 * HOLD, plan={"tasks": [ask(f"t{n:02}") for n in range(12)]})
    ended = await system.finished(goal)
    assert ended["status"] == "partial"
    assert "Delivered: o-t" in ended["summary"]
    assert "Missing: o-t" in ended["summary"]
    assert "9 succeeded" in ended["summary"]


async def test_owner_without_money_pauses_with_all_goals_and_goes_on_with_more(system: System) -> None:
    await system.start_scheduler()
    system.perform("agent.ask", paid(1000, 1000), client="service")
    limit = {"owner": "acme", "budget_usd": 3 * HOLD, "per": "total"}
    assert (await system.request("control.budget", limit))["spent_usd"] == 0
    plan = {"plan": {"tasks": [ask(f"t{n}") for n in range(3)]}, "budget_usd": 1}
    goals = [(await system.request("goals.request.acme", plan))["goal_id"] for _ in range(2)]
    other = await system.submit(**plan)
    assert (await system.finished(other))["status"] == "done"

    async def spent_all() -> Any:
        answers = [await system.request("query.goal.acme", {"goal_id": goal}) for goal in goals]
        return answers if {"paused"} >= {a["status"] for a in answers} - {"done"} else None

    answers = await wait_for(spent_all)
    assert round(sum(a["spent_usd"] for a in answers), 6) == 3 * HOLD
    waiting = next(a for a in answers if a["status"] == "paused")
    tasks = (await system.request("query.graph.acme", {"goal_id": waiting["goal_id"]}))["tasks"]
    ready = next(task for task in tasks if task["state"] == "ready")
    why = await system.request("query.why.acme", {"goal_id": waiting["goal_id"], "task_id": ready["task_id"]})
    assert why["reason"] == "goal_paused", why
    more = await system.request("control.budget", {**limit, "budget_usd": 1})
    assert (more["spent_usd"], more["resumed"]) == (
        3 * HOLD,
        len([a for a in answers if a["status"] == "paused"]),
    )

    async def done() -> bool:
        answers = [await system.request("query.goal.acme", {"goal_id": goal}) for goal in goals]
        return {a["status"] for a in answers} == {"done"}

    await wait_for(done)
    db = await asyncpg.connect(system.dsn)
    account = await db.fetchrow("SELECT spent, held FROM account WHERE owner = 'acme'")
    sums = await db.fetchrow("SELECT sum(spent + overrun), sum(held) FROM goal WHERE owner = 'acme'")
    await db.close()
    assert account is not None
    assert sums is not None
    assert tuple(account) == tuple(sums)
    refused = await system.request("control.budget.acme", {**limit, "budget_usd": 9})
    assert refused["error"]["code"] == "not_allowed"


async def test_daily_account_begins_anew_with_the_day(system: System) -> None:
    first = await system.start_scheduler_process()
    system.perform("agent.ask", paid(1000, 1000), client="service")
    limit = {"owner": "public", "budget_usd": 2 * HOLD, "per": "day"}
    await system.request("control.budget", limit)
    goal = await system.submit(plan={"tasks": [ask(f"t{n}") for n in range(4)]})
    assert (await paused(system, goal))["spent_usd"] == 2 * HOLD
    db = await asyncpg.connect(system.dsn)
    await db.execute("UPDATE account SET since = since - interval '1 day'")
    await system.kill(first)
    await system.start_scheduler_process()  # it finds a day that has ended while nobody led
    assert (await system.finished(goal))["status"] == "done"
    account = await db.fetchrow("SELECT spent, held, since > now() - interval '1 day' AS today FROM account")
    await db.close()
    assert account is not None
    assert (account["spent"], account["held"], account["today"]) == (round(2 * HOLD * 1e6), 0, True)


@pytest.mark.parametrize("witnessed", [True, False])
async def test_leader_that_sees_midnight_wakes_goals_whose_account_was_charged_since(
    system: System, witnessed: bool
) -> None:
    await system.start_scheduler()
    system.perform("agent.ask", paid(1000, 1000), client="service")
    await system.request("control.budget", {"owner": "public", "budget_usd": HOLD, "per": "day"})
    goal = await system.submit(plan={"tasks": [ask("a"), ask("b")]})
    await paused(system, goal)
    db = await asyncpg.connect(system.dsn)
    change = Change(db, datetime.now(UTC), SchedulerSettings(), {}, {})
    async with db.transaction():
        await accounts.begin_day(change, witnessed=witnessed)
    status = await db.fetchval("SELECT status FROM goal")
    await db.close()
    assert (status == "running") is witnessed
    assert bool(change.active) is witnessed
