"""The short way of a turn: it does what the long way does, and leaves to that whatever is more than plain."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from goalwright_scheduler import migrations, relay
from goalwright_scheduler.loop import Loop
from goalwright_scheduler.sql import SQL
from support.system import System, artifact, chain, echo, wait_for


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many turns of answers went the short way, were undone by Postgres, or were not begun."""
    counted: Counter[str] = Counter()
    plan, read = relay.plan, relay.read

    def planned(*arguments: Any) -> relay.Relay | None:
        made = plan(*arguments)
        counted["begun" if made else "long"] += 1
        return made

    def done(made: relay.Relay, rows: Sequence[Any]) -> relay.Done | None:
        counted["done"] += 1
        return read(made, rows)

    monkeypatch.setattr(relay, "plan", planned)
    monkeypatch.setattr(relay, "read", done)
    return counted


def wide(count: int) -> list[dict[str, Any]]:
    """1 → count → 1."""
    middle = [
        {"key": f"m{n}", "lane": "custom.a", "inputs": ["o-first"], "outputs": [{"name": f"o-m{n}"}]}
        for n in range(count)
    ]
    inputs = [f"o-m{n}" for n in range(count)]
    last = {"key": "last", "lane": "custom.a", "inputs": inputs, "outputs": [{"name": "o-last"}]}
    return [*chain("custom.a", "first"), *middle, last]


async def kinds(system: System, goal: str) -> list[str]:
    """The kinds of a goal's events, which have no gap."""
    events = await system.events(goal)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return [event["kind"] for event in events]


async def test_chain_goes_the_short_way_but_for_its_end(system: System, ways: Counter[str]) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    keys = [f"t{n}" for n in range(30)]
    goal = await system.submit(plan={"tasks": chain("custom.a", *keys)})
    ended = await system.finished(goal)
    assert ended["status"] == "done"
    assert ways["done"] >= 20
    assert ways["begun"] > ways["done"], "the last answer makes the root whole: that is more than plain"
    assert [key for key, *_ in system.performed] == keys
    told = Counter(await kinds(system, goal))
    assert (told["task.dispatched"], told["task.succeeded"]) == (30, 31)
    text = ended["deliverables"]["o-t29"]["inline"]
    assert text.count("(") == 30, "each had the output of the one before, made in the same statement"


async def test_chain_is_made_of_links_and_what_is_more_than_one_is_left_to_the_relay(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[tuple[str, bool]] = Counter()
    plain = Loop._asked

    async def counted(self: Loop, verb: str, arguments: Sequence[Any]) -> Any:
        rows = await plain(self, verb, arguments)
        asked[verb, rows is not None] += 1
        return rows

    monkeypatch.setattr(Loop, "_asked", counted)
    await system.start_scheduler()
    system.perform("custom.a")
    links = await system.submit(plan={"tasks": chain("custom.a", *(f"t{n}" for n in range(20)))})
    assert (await system.finished(links))["status"] == "done"
    assert asked["link", True] >= 17
    assert asked["relay", True] == 0
    fork = [*chain("custom.a", "x"), *({"key": k, "lane": "custom.a", "inputs": ["o-x"]} for k in "yz")]
    assert (await system.finished(await system.submit(plan={"tasks": fork})))["status"] == "done"
    assert (asked["link", False], asked["relay", True]) >= (1, 1), "two go at once"
    nobody = [*chain("custom.a", "v"), {"key": "w", "lane": "custom.b", "inputs": ["o-v"]}]
    goal, before = await system.submit(plan={"tasks": nobody}), asked["relay", True]
    await system.until(goal, "w", "ready")
    assert asked["relay", True] == before + 1, "there is no room on the lane of the next"


async def test_more_than_there_is_room_for_is_ready_and_follows(system: System, ways: Counter[str]) -> None:
    await system.start_scheduler()
    system.perform("custom.a", slots=2)
    goal = await system.submit(plan={"tasks": wide(40)})
    assert (await system.finished(goal))["status"] == "done"
    assert ways["done"] >= 1
    assert Counter(epoch for _, epoch, _ in system.performed) == {1: 42}
    assert Counter(await kinds(system, goal))["task.dispatched"] == 42


async def test_what_a_paused_goal_frees_stays_here(system: System, ways: Counter[str]) -> None:
    await system.start_scheduler()
    go = {"x": asyncio.Event(), "v": asyncio.Event(), "y": asyncio.Event()}

    async def hold(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] in go:
            await go[work["spec"]["key"]].wait()
        return echo(work)

    system.perform("custom.a", hold)
    plan = [*chain("custom.a", "x", "y"), *chain("custom.a", "v", "w")]
    goal = await system.submit(plan={"tasks": plan})
    await system.until(goal, "v", "dispatched")
    await system.request("control.pause", {"goal_id": goal})
    for first, then in (("x", "y"), ("v", "w")):
        go[first].set()
        await system.until(goal, first, "succeeded")
        assert (await system.task(goal, then))["state"] == "ready"
    assert ways["done"] == 1, (
        "the leader has forgotten where the events of a paused goal were, and reads it once"
    )
    go["y"].set()
    await system.request("control.resume", {"goal_id": goal})
    assert (await system.finished(goal))["status"] == "done"


async def test_question_that_an_answer_leads_to_is_asked(system: System, ways: Counter[str]) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    question = {
        "key": "q",
        "lane": "human",
        "inputs": ["o-x"],
        "outputs": [{"name": "o-q"}],
        "question": {"text": "?"},
    }
    goal = await system.submit(plan={"tasks": [*chain("custom.a", "x"), question]})
    await system.until(goal, "q", "parked")
    assert (ways["begun"], ways["done"]) == (1, 0)
    assert (await system.request("query.inbox", {}))["questions"][0]["goal_id"] == goal


async def test_answers_that_are_more_than_plain_go_the_long_way(system: System, ways: Counter[str]) -> None:
    """A note, a checked answer, a failure, a lane without look-ahead."""
    await system.start_scheduler()

    def noted(work: Any) -> dict[str, Any]:
        return {**echo(work), "notes": ["seen"]}

    def fails_once(work: Any) -> dict[str, Any]:
        error = {"code": "timeout", "message": "?", "retryable": True}
        return echo(work) if work["epoch"] > 1 else {"kind": "failed", "error": error}

    system.perform("custom.a", noted)
    system.perform("custom.b", fails_once)
    system.perform("custom.short")
    tasks = [*chain("custom.a", "a"), *chain("custom.b", "b"), *chain("custom.short", "c")]
    goal = await system.submit(plan={"tasks": tasks})
    assert (await system.finished(goal))["status"] == "done"
    assert ways["done"] <= 1, "only the second answer of b is plain"
    assert ways["long"] >= 1


async def test_answer_of_a_lost_lease_undoes_the_whole_statement_and_nothing_else(
    system: System, ways: Counter[str]
) -> None:
    """Two answers in one message, one of which is late for its task: the other one counts."""
    await system.start_scheduler()
    works: list[Any] = []

    async def keep(work: Any) -> None:
        works.append(work)

    system.perform("custom.a", keep)
    goal = await system.submit(plan={"tasks": [*chain("custom.a", "x", "y"), *chain("custom.a", "late")]})

    async def both() -> bool:
        return len(works) == 2

    await wait_for(both)
    assert (await system.request("control.skip", {"goal_id": goal, "task_id": "late"}))["ok"]
    names = ("goal_id", "task_id", "epoch")
    batch = [{**{name: work[name] for name in names}, **echo(work)} for work in works]
    await system.client.jetstream().publish("outcomes.custom.a", json.dumps(batch).encode())
    await system.until(goal, "x", "succeeded")
    assert ways["done"] == 0
    assert (await system.task(goal, "late"))["state"] == "skipped"
    assert "o-late" not in (await system.goal(goal))["deliverables"]


async def test_leader_that_has_more_to_read_while_a_relay_runs_waits_its_turn(
    system: System, ways: Counter[str]
) -> None:
    """A task that failed goes out with its errors, which are read while Postgres works on the next answers."""
    await system.start_scheduler()

    def fails_once(work: Any) -> dict[str, Any]:
        error = {"code": "timeout", "message": "?", "retryable": True}
        number = int(work["spec"]["key"][1:])
        if work["epoch"] > 1:
            assert [e["code"] for e in work["attempt_errors"]] == ["timeout"]
        return {"kind": "failed", "error": error} if number % 3 == 0 and work["epoch"] == 1 else echo(work)

    system.perform("custom.a", fails_once, slots=16)
    tasks = [{"key": f"t{n}", "lane": "custom.a", "outputs": [{"name": f"o{n}"}]} for n in range(600)]
    goal = await system.submit(plan={"tasks": tasks})
    assert (await system.finished(goal, 60))["status"] == "done"
    assert Counter(epoch for _, epoch, _ in system.performed) == {1: 600, 2: 200}
    assert ways["done"] >= 10
    db = await asyncpg.connect(system.dsn)
    assert await db.fetchval("SELECT term FROM leader") == 1, "nobody lost the lead over it"
    await db.close()


async def test_output_that_is_made_again_is_the_new_one(system: System, ways: Counter[str]) -> None:
    """A task that is done again by hand names its output anew; who needs it gets the new one."""
    await system.start_scheduler()
    made: Counter[str] = Counter()

    def answer(work: Any) -> dict[str, Any]:
        key = work["spec"]["key"].partition(".")[0]  # of a goal that goes on after its end: `y.r1`
        made[key] += 1
        if key == "y" and made[key] == 1:
            return {"kind": "failed", "error": {"code": "bad", "message": "?", "retryable": False}}
        name = work["spec"]["outputs"][0]["name"]
        given = ",".join(ref["inline"] for ref in work["inputs"].values())
        return {"kind": "done", "outputs": {name: artifact(name, f"{key}{made[key]}({given})")}}

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y", "z")})
    await system.until(goal, "y", "dead")
    ended = await system.finished(goal)
    assert ended["status"] in ("failed", "partial")
    assert (await system.request("control.retry", {"goal_id": goal, "task_id": "y"}))["ok"]

    async def done() -> Any:
        answered = await system.goal(goal)
        return answered if answered["status"] == "done" else None

    assert (await wait_for(done))["deliverables"]["o-z"]["inline"] == "z1(y2(x1()))"
    assert ways["done"] >= 1


async def test_relay_that_waits_for_a_takeover_finds_its_term_over_and_changes_nothing(
    postgres_dsn: str,
) -> None:
    """Another takes the lead between the moment the relay looked at Postgres and the moment it holds on to the row."""
    await migrations.migrate(postgres_dsn)
    first, second = await asyncpg.connect(postgres_dsn), await asyncpg.connect(postgres_dsn)
    await first.execute(
        """INSERT INTO goal (owner, goal_id, status, budget, created_at, deadline)
           VALUES ('o', 'g', 'running', 0, now(), now() + interval '1 day');
           INSERT INTO task (id, goal, lane, state, epoch, due_at) VALUES (1, 1, 'custom.a', 'dispatched', 1, now())"""
    )
    term = await first.fetchval(SQL["lead"], "first", -1.0)
    answer = ([1], [1], [0.5], [""], [None], [None], ["w"])
    told = ([1], [1], [1], ['{"seq":1}'])
    arguments = (*answer, *([] for _ in range(6)), [], [], [], [], [], *told)

    async def stored() -> tuple[Any, ...]:
        (row,) = await first.fetch(
            """SELECT (SELECT state FROM task), (SELECT count(*) FROM task_result), (SELECT count(*) FROM outbox),
                      (SELECT next_seq FROM goal)"""
        )
        return tuple(row)

    before = await stored()
    assert before == ("dispatched", 0, 0, 1)
    taking = second.transaction()
    await taking.start()
    assert await second.fetchval(SQL["lead"], "second", 3.0) == term + 1
    relayed = asyncio.create_task(first.fetch(SQL["relay"], term, "first", *arguments))

    async def waits() -> bool:
        found: int = await second.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return found == 1

    await wait_for(waits)
    await taking.commit()
    assert await relayed == []
    assert await stored() == before
    rows = await second.fetch(SQL["relay"], term + 1, "second", *arguments)
    assert {row["what"] for row in rows} == {"lead", "outbox"}, "the same of the one who leads is taken"
    assert await stored() == ("succeeded", 1, 1, 2)
    await first.close()
    await second.close()
