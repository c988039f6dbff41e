"""Talk: who asked whom what, what it cost, and the blackboard of a goal, as events and queries tell them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_shared.messages import Lane
from support.system import LANES, System, artifact, echo, opened

PAID = {"model": "m", "tokens_in": 100, "tokens_out": 50}
"""A call on lane `agent.critic`: 100 tokens at one dollar and 50 at four dollars a million."""

CALL_USD = 0.0003


def question(key: str, lane: str, by: str, *roles: str, **more: Any) -> dict[str, Any]:
    """A task that another role is asked for."""
    return {
        "key": key, "lane": lane, "instruction": f"What of {key}?", "outputs": [{"name": f"{key}-answer"}],
        "asked": {"by": by, "roles": list(roles)}, **more,
    }  # fmt: skip


def answer(work: Any) -> dict[str, Any]:
    """An asker with two questions, one of which is passed on; the second gets no answer."""
    match work["spec"]["key"]:
        case "report" if work["continuation"] is None:
            asks = [
                question("sums", "custom.a", "report", "a"),
                question("why", "agent.critic", "report", "a"),
            ]
            return {"kind": "expand", "tasks": asks, "continuation": 1}
        case "sums" if work["continuation"] is None:
            asks = [question("data", "agent.critic", "sums", "a", "b")]
            return {"kind": "expand", "tasks": asks, "continuation": 1}
        case "why":
            return {"kind": "failed", "error": {"code": "no", "message": "nobody knows"}, "usage": PAID}
        case "data":
            return {**echo(work), "usage": PAID}
    return echo(work)


@pytest.fixture
async def talkers(nats_server: EmbeddedNats, postgres_dsn: str) -> AsyncIterator[System]:
    """A system with a role that is paid for."""
    critic = Lane(
        name="agent.critic", pool="k/m", max_input_tokens=1000, max_output_tokens=1000, lease_seconds=5,
        input_usd_per_mtok=1.0, output_usd_per_mtok=4.0,
    )  # fmt: skip
    async with opened(nats_server, postgres_dsn, [*LANES, critic]) as made:
        yield made


async def asked_goal(system: System) -> str:
    """A goal whose one task has asked and ended."""
    await system.start_scheduler()
    system.perform("custom.a", answer)
    system.perform("agent.critic", answer, client="service")
    goal = await system.submit(
        plan={"tasks": [{"key": "report", "lane": "custom.a", "outputs": [{"name": "text"}]}]}
    )
    assert (await system.finished(goal))["status"] == "done"
    return goal


async def test_events_tell_who_asked_whom_what_and_what_came_back(talkers: System) -> None:
    goal = await asked_goal(talkers)
    events = await talkers.events(goal)
    asked = [event["data"] for event in events if event["kind"] == "ask.requested"]
    assert [(a["by"], a["key"], a["lane"], a["hops"], a["question"]) for a in asked] == [
        ("report", "sums", "custom.a", 1, "What of sums?"),
        ("report", "why", "agent.critic", 1, "What of why?"),
        ("sums", "data", "agent.critic", 2, "What of data?"),
    ]
    told = {e["data"]["key"]: e["data"] for e in events if e["kind"] == "ask.answered"}
    assert {key: (t["by"], t["status"], t["answer"], t["cost_usd"]) for key, t in told.items()} == {
        "sums": ("report", "succeeded", "sums()", CALL_USD),
        "why": ("report", "dead", "", CALL_USD),
        "data": ("sums", "succeeded", "data()", CALL_USD),
    }
    assert told["why"]["error"]["message"] == "nobody knows"
    report = await talkers.task(goal, "report")
    assert {t["parent"] for t in told.values() if t["by"] == "report"} == {report["task_id"]}
    order = [(event["kind"], event["data"].get("key")) for event in events]
    assert order.index(("ask.answered", "data")) < order.index(("ask.answered", "sums"))


async def test_cost_of_answers_is_shown_on_the_asker(talkers: System) -> None:
    goal = await asked_goal(talkers)
    report = await talkers.task(goal, "report")
    assert [(ask["key"], ask["state"], ask["cost_usd"]) for ask in report["asks"]] == [
        ("sums", "succeeded", CALL_USD),
        ("why", "dead", CALL_USD),
    ]
    assert report["asks"][0]["question"] == "What of sums?"
    assert report["asks"][0]["answer"] == "sums()"
    assert report["asked_usd"] == 2 * CALL_USD
    assert report["cost_usd"] == 0, "its own calls"
    assert (await talkers.task(goal, "sums"))["spec"]["asked"] == {"by": "report", "roles": ["a"]}
    assert (await talkers.goal(goal))["spent_usd"] == 2 * CALL_USD


async def test_values_of_earlier_turns_are_brought_along_for_children(system: System) -> None:
    await system.start_scheduler()

    def bring(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] != "parent" or work["turn"] == 2:
            return echo(work)
        name = f"v{work['turn']}"
        child = {
            "key": f"child-{name}",
            "lane": "custom.b",
            "inputs": ["begin", "v"],
            "outputs": [{"name": name}],
        }
        given = {"v": artifact("v", name)}
        return {"kind": "expand", "tasks": [child], "artifacts": given, "continuation": work["turn"]}

    system.perform("custom.a", bring)
    system.perform("custom.b")
    inputs = [{"name": "begin", "type": "text", "inline": "x"}]
    parent = {"key": "parent", "lane": "custom.a", "inputs": ["begin"], "outputs": [{"name": "text"}]}
    goal = await system.submit(inputs=inputs, plan={"tasks": [parent]})
    await system.finished(goal)
    children = (await system.request("query.artifacts", {"goal_id": goal}))["artifacts"]
    made = {
        row["ref"]["name"]: row["ref"]["inline"] for row in children if (row["key"] or "").startswith("child")
    }
    assert made == {"v0": "child-v0(begin=x,v=v0)", "v1": "child-v1(begin=x,v=v1)"}


async def test_dead_child_that_read_a_brought_value_is_retried_by_hand(system: System) -> None:
    await system.start_scheduler()
    released = asyncio.Event()
    read: list[Any] = []

    async def work_on(work: Any) -> dict[str, Any]:
        match work["spec"]["key"]:
            case "parent" if work["continuation"] is None:
                child = {"lane": "custom.b", "inputs": ["v"]}
                tasks = [{**child, "key": "bad"}, {**child, "key": "slow"}]
                given = {"v": artifact("v", "kept")}
                return {"kind": "expand", "tasks": tasks, "artifacts": given, "continuation": 1}
            case "bad":
                return {"kind": "failed", "error": {"code": "no", "message": "cannot"}}
            case "slow":
                await released.wait()
            case _ if "v" in work["inputs"]:
                read.append(work["inputs"]["v"]["inline"])
        return echo(work)

    system.perform("custom.a", work_on)
    system.perform("custom.b", work_on)
    goal = await system.submit(plan={"tasks": [{"key": "parent", "lane": "custom.a"}]})
    await system.until(goal, "bad", "dead")
    answered = await system.request("control.retry", {"goal_id": goal, "task_id": "bad"})
    assert "error" not in answered, answered
    released.set()
    assert (await system.finished(goal))["status"] == "done"
    assert read == ["kept"]


async def test_value_that_is_brought_and_made_is_refused(system: System) -> None:
    await system.start_scheduler()
    child = {"key": "child", "lane": "custom.b", "outputs": [{"name": "v"}]}
    given = {"v": artifact("v", "x")}
    system.perform(
        "custom.a", lambda _: {"kind": "expand", "tasks": [child], "artifacts": given, "continuation": 1}
    )
    goal = await system.submit(plan={"tasks": [{"key": "parent", "lane": "custom.a"}]})
    await system.finished(goal)
    (attempt,) = (await system.task(goal, "parent"))["attempts"]
    assert attempt["error"]["code"] == "invalid_expansion"
    assert "v is brought along" in attempt["error"]["message"]


async def test_note_is_told_once_kept_and_given_to_models(system: System) -> None:
    await system.start_scheduler()
    seen: dict[str, Any] = {}

    def read(work: Any) -> dict[str, Any]:
        seen[work["spec"]["key"]] = work["notes"]
        return echo(work)

    def post(work: Any) -> dict[str, Any]:
        lines = [f"from {work['spec']['key']}", "prices are net"]
        return {**echo(work), "notes": lines}

    system.perform("custom.a", post, slots=1)
    system.perform("agent.judge", read, client="service")
    goal = await system.submit(
        plan={
            "tasks": [
                {"key": "one", "lane": "custom.a"},
                {"key": "two", "lane": "custom.a", "after": ["one"]},
                {"key": "read", "lane": "agent.judge", "after": ["two"]},
            ]
        }
    )
    ended = await system.finished(goal)
    events = [event["data"] for event in await system.events(goal) if event["kind"] == "note.posted"]
    assert [(e["text"], e["author"], e["key"]) for e in events] == [
        ("from one", "custom.a", "one"),
        ("prices are net", "custom.a", "one"),
        ("from two", "custom.a", "two"),
    ]
    assert [(n["text"], n["key"]) for n in seen["read"]] == [
        ("from two", "two"),
        ("prices are net", "one"),
        ("from one", "one"),
    ]
    numbers = [note["number"] for note in seen["read"]]
    assert numbers == sorted(numbers, reverse=True)
    assert [note["text"] for note in ended["notes"]] == ["from two", "prices are net", "from one"]


async def test_blackboard_is_bounded(system: System) -> None:
    """The newest notes of performers are kept, and work carries few of them; what a person said stays."""
    await system.start_scheduler()
    boards: list[Any] = []

    def post(work: Any) -> dict[str, Any]:
        if work["turn"] == 12:
            return echo(work)
        notes = [f"note {work['turn'] * 20 + at}" for at in range(20)]
        return {"kind": "expand", "tasks": [], "continuation": 1, "notes": notes}

    def read(work: Any) -> dict[str, Any]:
        boards.append(work["notes"])
        return echo(work)

    goal = await system.submit(
        plan={
            "tasks": [
                {"key": "post", "lane": "custom.a"},
                {"key": "read", "lane": "agent.judge", "after": ["post"]},
            ]
        }
    )
    await system.request("control.feedback", {"goal_id": goal, "text": "stay short"})
    system.perform("custom.a", post)
    system.perform("agent.judge", read, client="service")
    await system.finished(goal)
    (board,) = boards
    assert [note["text"] for note in board] == ["stay short", *(f"note {239 - at}" for at in range(30))]
    db = await asyncpg.connect(system.dsn)
    assert await db.fetchval("SELECT count(*) FROM note") == 201
    await db.close()
