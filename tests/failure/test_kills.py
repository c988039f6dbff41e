"""Kill -9 at random times: the goal ends, every task has one effect, no event is lost or doubled."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from goalwright_cli.embedded_postgres import EmbeddedPostgres
from support.performer import Call, Manner
from support.system import System, wait_for

from failure.goals import PERFORMED, done, ended_whole, layered, progress

SLOTS = 16
QUICK, SOME, MANY = Manner((0.0, 0.05)), Manner((0.0, 0.1)), Manner((0.1, 0.3))


async def at_random_times(
    system: System, goal: str, times: int, fault: Callable[[], Awaitable[None]], *, between: float
) -> int:
    """Do `fault` up to so many times, at random moments while the goal is worked on; how often it was done."""
    for done_already in range(times):
        if (await system.tried(system.goal(goal))).get("finished_at"):
            return done_already
        await asyncio.sleep(random.uniform(0, between))  # the moment is the fault
        await fault()
    return times


def counts(few: int, many: int) -> pytest.MarkDecorator:
    """A few faults in `make test`, all of them in `make chaos`."""
    return pytest.mark.parametrize(
        "times", [pytest.param(few), pytest.param(many, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])]
    )


def graph_for(times: int, each: int) -> tuple[list[dict[str, Any]], int]:
    """A layered plan that is worked on through so many faults, and how many tasks its goal has."""
    layers = max(12, times * each // 20)
    return layered(PERFORMED, layers=layers, width=20), layers * 20 + 1


@counts(4, 50)
async def test_scheduler_killed_at_random_times(world: System, times: int) -> None:
    scheduler = await world.start_scheduler_process()
    performer = await world.start_performer([PERFORMED], SLOTS, Call(MANY))
    plan, tasks = graph_for(times, 30)
    goal = await world.submit(plan={"tasks": plan})

    async def fault() -> None:
        nonlocal scheduler
        await world.kill(scheduler)
        scheduler = await world.start_scheduler_process()

    killed = await at_random_times(world, goal, times, fault, between=0.6)
    await ended_whole(world, goal, tasks, seconds=200)
    assert killed == times
    assert performer.twice() == []


async def test_standby_takes_over_within_five_seconds_of_a_kill(world: System) -> None:
    world.environment["GOALWRIGHT_LEADER_LEASE_SECONDS"] = "3"  # as shipped
    leader = await world.start_scheduler_process(GOALWRIGHT_WORKER="first")
    await world.start_scheduler_process(GOALWRIGHT_WORKER="second")
    await world.start_performer([PERFORMED], SLOTS, Call(QUICK))
    goal = await world.submit(plan={"tasks": layered(PERFORMED)})
    await progress(world, goal, 10)
    await world.kill(leader)
    async with asyncio.timeout(5):
        await wait_for(world.answers)
    await ended_whole(world, goal, 49)


async def test_goal_survives_a_kill_right_after_it_was_published(world: System) -> None:
    scheduler = await world.start_scheduler_process()
    await world.kill(scheduler)
    goal = {"id": "stored", "plan": {"tasks": [{"key": "a", "lane": "custom.a"}]}}
    await world.client.jetstream().publish("goals.submit", json.dumps(goal).encode())
    await world.start_scheduler_process()
    world.perform("custom.a")
    await ended_whole(world, "stored", 2)


@counts(2, 20)
async def test_nats_killed_and_restarted_with_its_store(world: System, times: int) -> None:
    await _nats_killed(world, times, wipe=False)


@counts(2, 20)
async def test_nats_killed_and_restarted_with_an_empty_store(world: System, times: int) -> None:
    await _nats_killed(world, times, wipe=True)


async def _nats_killed(world: System, times: int, *, wipe: bool) -> None:
    await world.start_scheduler_process()
    await world.start_performer([PERFORMED], SLOTS, Call(MANY))
    plan, tasks = graph_for(times, 60)
    goal = await world.submit(plan={"tasks": plan})
    await progress(world, goal, 10)

    async def fault() -> None:
        before = (await world.tried(world.goal(goal))).get("counts", {}).get("succeeded", 0)
        await world.restart_nats(wipe=wipe)
        await progress(world, goal, before + 1)

    killed = await at_random_times(world, goal, times, fault, between=1)
    await ended_whole(world, goal, tasks, seconds=200, events=not wipe)
    assert killed == times


@counts(2, 20)
async def test_postgres_killed_and_restarted(
    world: System, postgres_server: EmbeddedPostgres, times: int
) -> None:
    await world.start_scheduler_process()
    performer = await world.start_performer([PERFORMED], SLOTS, Call(MANY))
    plan, tasks = graph_for(times, 40)
    goal = await world.submit(plan={"tasks": plan})
    await progress(world, goal, 10)

    async def fault() -> None:
        assert postgres_server.process is not None
        postgres_server.process.kill()
        await postgres_server.start()
        await wait_for(world.answers, 30)

    killed = await at_random_times(world, goal, times, fault, between=1.5)
    # a reign of less than ten seconds settles no event, and after two minutes the stream forgets that it had it
    await ended_whole(world, goal, tasks, seconds=200, once=False)
    assert killed == times
    assert performer.twice() == []


async def test_performer_that_vanishes_costs_one_failure_and_another_goes_on(system: System) -> None:
    await system.start_scheduler()
    taken = asyncio.Event()

    def vanish(work: Any) -> None:
        taken.set()

    (performer,) = system.perform("custom.short", vanish, slots=1)
    goal = await system.submit(plan={"tasks": [{"key": "a", "lane": "custom.short"}]})
    await taken.wait()
    performer.cancel()
    system.perform("custom.short", done)
    assert (await system.finished(goal))["status"] == "done"
    told = await system.task(goal, "a")
    assert (told["failures"], told["attempts"][0]["error"]["code"]) == (1, "expired")
