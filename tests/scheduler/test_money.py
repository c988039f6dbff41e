"""Money and rate: held before, settled after, never over the budget; pools wait whole."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from support.system import System, artifact, echo, wait_for

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
