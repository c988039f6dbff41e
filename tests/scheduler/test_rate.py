"""What paces a pool: limits that were set or learned, refusals, and a key that does not work."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from goalwright_scheduler.core import rate
from goalwright_scheduler.core.rate import PoolRate
from goalwright_scheduler.lanes import store_lanes
from goalwright_shared.messages import PoolLimit
from hypothesis import given
from hypothesis import strategies as st
from support.system import LANES, System, echo, wait_for

POOL = PoolRate("k/m", requests_per_minute=60, tokens_per_minute=6_000)


def calls(pool: PoolRate, seconds: float, tokens: int, step: float = 0.01) -> int:
    """How many calls go in `seconds` when there is always one more."""
    gone, now = 0, 1000.0
    end = now + seconds
    while now < end:
        after = rate.spend(pool, now, tokens)
        if after is None:
            now += step
        else:
            pool, gone = after, gone + 1
    return gone


@given(
    requests=st.none() | st.integers(6, 6_000),
    tokens=st.none() | st.integers(600, 600_000),
    each=st.integers(1, 500),
)
def test_neither_limit_is_passed_and_the_tighter_one_is_used_up(
    requests: int | None, tokens: int | None, each: int
) -> None:
    pool = PoolRate("p", requests_per_minute=requests, tokens_per_minute=tokens)
    allowed = min(requests or float("inf"), tokens / each if tokens else float("inf"))
    if allowed == float("inf"):
        assert rate.spend(pool, 1000.0, each) == pool
        return
    gone = calls(pool, 60, each, step=0.05)
    ahead = allowed / 60 + 2  # a second's worth, and the one that is due
    assert allowed * 0.99 - 2 <= gone <= allowed + ahead


def test_lower_of_what_was_set_and_what_headers_tell_counts() -> None:
    tighter = rate.learned(POOL, 30, 9_000)
    assert (tighter.requests, tighter.tokens) == (30, 6_000)
    raised = rate.learned(tighter, 45, None)
    assert (raised.requests, raised.tokens) == (45, 6_000)
    unset = rate.learned(PoolRate("p"), None, 500)
    assert (unset.requests, unset.tokens) == (None, 500)
    assert rate.learned(unset, None, 900).tokens == 900


@given(old=st.integers(1, 6_000), new=st.integers(1, 6_000), gone=st.integers(1, 50))
def test_what_has_gone_is_counted_by_a_new_limit(old: int, new: int, gone: int) -> None:
    now = 1000.0
    busy = replace(POOL, requests_per_minute=old, tokens_per_minute=None, next_request=now + gone * 60 / old)
    changed = rate.limited(busy, now, new, None)
    assert changed.next_request == pytest.approx(now + gone * 60 / new)
    assert rate.limited(busy, now, None, None).next_request == now
    assert rate.limited(busy, now, old, None) is busy


async def test_limit_that_is_raised_while_a_scheduler_leads_is_live(system: System) -> None:
    await store_lanes(system.dsn, LANES, [PoolLimit(pool="k/m", requests_per_minute=1)])
    await system.start_scheduler()
    gone = asyncio.Event()

    def answer(work: Any) -> dict[str, Any]:
        gone.set()
        return {**echo(work), **USED}

    system.perform("agent.ask", answer, client="service")
    goal = await system.submit(plan={"tasks": [ask(f"t{n}") for n in range(4)]})
    await gone.wait()
    await store_lanes(system.dsn, LANES, [PoolLimit(pool="k/m", requests_per_minute=6_000)])
    assert (await system.finished(goal))["status"] == "done"


def test_tokens_that_were_not_sent_are_given_back() -> None:
    after = rate.spend(POOL, 1000.0, 6_000)
    assert after is not None
    assert rate.free_at(after) == pytest.approx(1059.0)
    assert rate.free_at(rate.given_back(after, 5_900)) == pytest.approx(1000.0)
    assert rate.given_back(after, -5) == after


def test_parked_pool_is_probed_by_one_call_and_let_go_by_its_answer() -> None:
    parked = rate.blocked(PoolRate("p"), 1000.0, 30, "the key is refused")
    assert rate.spend(parked, 1029.9, 1) is None
    probing = rate.spend(parked, 1030.0, 1)
    assert probing is not None
    assert rate.spend(probing, 1030.1, 1) is None
    assert rate.spend(rate.let_go(probing), 1030.2, 1) is not None
    assert rate.spend(probing, 1060.1, 1) is not None  # nothing was heard of the probe


def test_answer_after_a_refusal_for_the_rate_does_not_end_the_wait() -> None:
    waiting = rate.throttled(POOL, 1000.0, 5)
    assert rate.let_go(waiting) == waiting


def ask(key: str) -> dict[str, Any]:
    prompt = {"messages": [{"role": "user", "content": "?"}]}
    return {"key": key, "lane": "agent.ask", "outputs": [{"name": f"o-{key}"}], "prompt": prompt}


USED = {"usage": {"model": "m", "tokens_in": 1, "tokens_out": 1}}


@pytest.mark.parametrize("next_leader", [False, True], ids=["this leader", "the next leader"])
async def test_limit_in_the_headers_of_an_answer_paces_the_pool_from_then_on(
    system: System, next_leader: bool
) -> None:
    scheduler = await system.start_scheduler_process()
    loop = asyncio.get_running_loop()
    gone: list[float] = []

    def answer(work: Any) -> dict[str, Any]:
        gone.append(loop.time())
        return {**echo(work), **USED, "rate": {"requests_per_minute": 300, "tokens_per_minute": None}}

    system.perform("agent.ask", answer, slots=1, client="service")
    first = await system.submit(plan={"tasks": [ask("first")]})
    await system.finished(first)
    if next_leader:
        await system.kill(scheduler)
        await system.start_scheduler_process()
    goal = await system.submit(plan={"tasks": [ask(f"t{n}") for n in range(15)]})
    ended = await system.finished(goal)
    assert ended["status"] == "done"
    assert gone[-1] - gone[0] >= (len(gone) - 1) * 0.2 - 1.2  # a second's worth may go at once


async def test_refusal_for_the_rate_moves_the_pool_and_counts_no_failure(system: System) -> None:
    await system.start_scheduler()
    loop = asyncio.get_running_loop()
    gone: list[tuple[str, float]] = []

    def answer(work: Any) -> dict[str, Any]:
        gone.append((work["spec"]["key"], loop.time()))
        if len(gone) == 1:
            return {"kind": "throttled", "retry_after_seconds": 3.0, "rate": {"requests_per_minute": 6000}}
        return {**echo(work), **USED}

    system.perform("agent.ask", answer, slots=1, client="service")
    goal = await system.submit(plan={"tasks": [ask("a"), ask("b")]})

    async def explained() -> Any:
        why = await system.request("query.why", {"goal_id": goal, "task_id": "b"})
        return why if why["reason"] == "waits_for_rate" else None

    await wait_for(explained)
    assert (await system.finished(goal))["status"] == "done"
    assert gone[1][1] - gone[0][1] >= 3.0
    assert [(await system.task(goal, key))["failures"] for key in "ab"] == [0, 0]
    assert (await system.goal(goal))["spent_usd"] == 0.00001


async def test_pool_with_a_bad_key_is_left_alone_until_somebody_says_it_was_mended(system: System) -> None:
    await system.start_scheduler(pool_park_seconds=600)
    mended = asyncio.Event()

    def answer(work: Any) -> dict[str, Any]:
        if not mended.is_set():
            return {"kind": "throttled", "reason": "pool_blocked: the key is refused; set OPENAI_API_KEY"}
        return {**echo(work), **USED}

    system.perform("agent.ask", answer, slots=1, client="service")
    goals = [await system.submit(plan={"tasks": [ask("a"), ask("b")]}) for _ in range(3)]

    async def explained() -> Any:
        whys = [await system.request("query.why", {"goal_id": g, "task_id": k}) for g in goals for k in "ab"]
        return whys if {why["reason"] for why in whys} == {"waits_for_rate"} else None

    whys = await wait_for(explained)
    assert all("the key is refused" in why["detail"] for why in whys)
    assert len(system.performed) == 1, "one call found it out; nobody else tried"
    told = [e for goal in goals for e in await system.events(goal) if e["kind"] == "task.throttled"]
    assert [event["data"]["reason"] for event in told] == ["the key is refused; set OPENAI_API_KEY"]
    assert (await system.request("control.resume", {"pool": "k/other"}))["error"]["code"] == "not_found"
    refused = await system.request("control.resume.acme", {"pool": "k/m"})
    assert refused["error"]["code"] == "not_allowed"
    mended.set()
    assert (await system.request("control.resume", {"pool": "k/m"}))["changed"] is True
    assert [(await system.finished(goal))["status"] for goal in goals] == ["done"] * 3
    assert (await system.request("control.resume", {"pool": "k/m"}))["changed"] is False


async def test_limits_of_requests_and_tokens_hold_at_once(system: System) -> None:
    """Each call is counted with its caps, 2,000 tokens: 240,000 a minute are two a second; 600 requests are ten."""
    await store_lanes(
        system.dsn, LANES, [PoolLimit(pool="k/m", requests_per_minute=600, tokens_per_minute=240_000)]
    )
    await system.start_scheduler()
    loop = asyncio.get_running_loop()
    gone: list[float] = []

    def answer(work: Any) -> dict[str, Any]:
        gone.append(loop.time())
        return {**echo(work), "usage": {"model": "m", "tokens_in": 1000, "tokens_out": 1000}}

    system.perform("agent.ask", answer, slots=8, client="service")
    goal = await system.submit(plan={"tasks": [ask(f"t{n}") for n in range(8)]})
    assert (await system.finished(goal))["status"] == "done"
    assert gone[-1] - gone[0] >= 7 * 0.5 - 1.2
