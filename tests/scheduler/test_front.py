"""Requests while leaders change: any scheduler takes them, and one that comes between two leaders is held."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import asyncpg
import nats.errors
import pytest
from nats.errors import Error as NatsError
from support.system import System, chain, wait_for


async def schedulers(system: System, count: int) -> list[Any]:
    """Processes of schedulers that all take requests; the first leads. One that tries to lead takes them already."""
    db = await asyncpg.connect(system.dsn)
    await db.execute(
        """CREATE TABLE tried (holder text);
           CREATE FUNCTION note_try() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO tried VALUES (NEW.holder); RETURN NEW; END $$;
           CREATE TRIGGER note_try BEFORE INSERT ON leader FOR EACH ROW EXECUTE FUNCTION note_try()"""
    )
    made = [await system.start_scheduler_process(GOALWRIGHT_WORKER=f"worker-{n}") for n in range(count)]

    async def all_tried() -> bool:
        return bool(await db.fetchval("SELECT count(DISTINCT holder) FROM tried") >= count)

    await wait_for(all_tried)
    await db.close()
    return made


async def test_request_between_two_leaders_is_answered_by_the_next(system: System) -> None:
    leader, _ = await schedulers(system, 2)
    goal = await system.submit(plan={"tasks": chain("custom.b", "x")})
    await system.kill(leader)

    async def answer(subject: str, body: Any) -> Any:
        """As a client asks: again, when nobody answers (NATS may have given it to the dead one)."""
        async with asyncio.timeout(30):
            while True:
                try:
                    reply = await system.client.request(subject, json.dumps(body).encode(), timeout=5)
                except (NatsError, TimeoutError):
                    continue
                return json.loads(reply.data)

    paused, submitted = await asyncio.gather(
        answer("control.pause", {"goal_id": goal}),
        answer("goals.request", {"id": "between", "plan": {"tasks": chain("custom.a", "x")}}),
    )
    assert paused["status"] == "paused"
    assert submitted["goal_id"] == "between"
    system.perform("custom.a")
    assert (await system.finished(submitted["goal_id"]))["status"] == "done"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_requests_in_hand_while_leaders_change_are_done_once(
    system: System, number: signal.Signals
) -> None:
    """Those that a killed scheduler itself had taken go unanswered; all others are answered, each goal once. One
    that is stopped answers all: with `no_leader` what it holds at its end."""
    leader, *_ = await schedulers(system, 3)
    tasks = {"tasks": chain("custom.b", "x")}

    async def submit(place: int) -> Any:
        body = json.dumps({"text": f"goal {place}", "plan": tasks}).encode()
        try:
            return json.loads((await system.client.request("goals.request.many", body, timeout=10)).data)
        except (nats.errors.Error, TimeoutError):
            return None

    wave: list[asyncio.Task[Any]] = []
    for place in range(120):
        wave.append(asyncio.create_task(submit(place)))
        if place == 60:
            leader.send_signal(number)
        await asyncio.sleep(0.002)  # spread over the change
    answers = await asyncio.gather(*wave)
    await system.kill(leader)
    told = [answer for answer in answers if answer is not None]
    answered = [answer for answer in told if "goal_id" in answer]
    assert {answer["error"]["code"] for answer in told if "error" in answer} <= {"no_leader"}
    if number == signal.SIGTERM:
        assert len(told) == len(answers)
    assert len({answer["goal_id"] for answer in answered}) == len(answered) > 60
    db = await asyncpg.connect(system.dsn)
    texts = [row["text"] for row in await db.fetch("SELECT text FROM goal_spec")]
    await db.close()
    assert len(texts) == len(set(texts))
    assert len(texts) >= len(answered)


async def test_standby_passes_a_request_on(system: System) -> None:
    """Two schedulers share one queue: half of the requests come to the one that does not lead."""
    for worker in ("one", "two"):
        await system.start_scheduler(worker=worker)
    system.perform("custom.a")
    goals = [await system.submit(plan={"tasks": chain("custom.a", f"x{n}")}) for n in range(12)]
    assert len(set(goals)) == 12
    for goal in goals:
        assert (await system.finished(goal))["status"] == "done"
    refused = await system.request("goals.request", {"plan": {"tasks": []}})
    assert refused["error"]["field"] == "plan.tasks"
    big = {"text": "t", "plan": {"tasks": [{"key": f"k{n}", "lane": "custom.b"} for n in range(3000)]}}
    assert (await system.request("goals.request", big))["duplicate"] is False


async def test_scheduler_that_stops_says_that_nobody_leads(system: System) -> None:
    await system.start_scheduler(worker="one")
    front = next(part for part in system.parts if type(part).__name__ == "Front")
    leadership = next(part for part in system.parts if type(part).__name__ == "Leadership")
    await leadership.stop()
    asked = asyncio.create_task(system.request("control.pause", {"goal_id": "g"}))
    await asyncio.sleep(0)
    await front.stop()
    error = (await asked)["error"]
    assert (error["code"], "again" in error["hint"]) == ("no_leader", True)
