"""A scheduler that dies at a named point, thrice in one goal, loses nothing and does nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from goalwright_cli.embedded_postgres import EmbeddedPostgres
from support import crashing
from support.nats import fresh_server
from support.postgres import fresh_database
from support.system import System, opened

from failure.goals import BUSY_TASKS, LANES, busy, done, ended_whole, perform_busy, performed_once

pytestmark = pytest.mark.timeout(300)

ONCE_A_LIFE = (1, 1, 1)
"""At which passing of the point each of three schedulers dies: where the first passing makes no progress, and
there is only one in a life."""
LATER_AND_LATER = (1, 1, 2)
"""A busy goal takes few commits: what ends and what begins is one."""

TAKEOVER = ["the lead is taken, memory is not loaded", "memory is loaded, nothing was published again"]
GOAL = [
    "a plan is half inserted", "a goal is inserted and not committed", "a goal is committed and not acked",
]  # fmt: skip
LEASE = "an expired lease is seen and not committed"
ASKED = "a goal is committed and not answered"
CANCEL = "a cancel is committed and not told"
OTHERS = [name for name in crashing.POINTS if name not in (*TAKEOVER, *GOAL, LEASE, ASKED, CANCEL)]


async def dies_thrice(
    postgres: EmbeddedPostgres, point: str, times: Sequence[int], preparing: asyncio.Lock
) -> None:
    """One world of its own: a busy goal, three schedulers that die at `point`, and one that lives."""
    async with contextlib.AsyncExitStack() as world:
        async with preparing:  # migrations know one environment a process
            server = await world.enter_async_context(fresh_server())
            dsn = await world.enter_async_context(fresh_database(postgres))
            system = await world.enter_async_context(opened(server, dsn, LANES))
        perform_busy(system)
        goal = {"id": "busy", "plan": {"tasks": busy()}}
        await system.client.jetstream().publish("goals.submit", json.dumps(goal).encode())
        for time in times:
            await dies(system, point, time)
        await system.start_scheduler_process()
        await ended_whole(system, "busy", BUSY_TASKS)
        performed_once(system)


async def dies(system: System, point: str, time: int) -> None:
    """A scheduler that dies when it passes the point for the `time`-th time."""
    scheduler = await system.start_scheduler_process(awaited=False, CRASH_POINT=point, CRASH_AT=str(time))
    async with asyncio.timeout(40):
        assert await scheduler.wait() == crashing.CODE
    system.processes.remove(scheduler)


async def all_of(postgres: EmbeddedPostgres, points: Sequence[str], times: Sequence[int]) -> None:
    """Several worlds beside one another: most of the time they wait for leases and redeliveries."""
    several, preparing = asyncio.Semaphore(14), asyncio.Lock()

    async def one(point: str) -> None:
        async with several:
            try:
                await dies_thrice(postgres, point, times, preparing)
            except BaseException as error:
                error.add_note(f"the point: {point}")
                raise

    results = await asyncio.gather(*(one(point) for point in points), return_exceptions=True)
    errors = [error for error in results if isinstance(error, Exception)]
    if errors:
        raise ExceptionGroup("points", errors)


async def test_death_while_taking_the_lead_or_a_goal(postgres_server: EmbeddedPostgres) -> None:
    await all_of(postgres_server, [*TAKEOVER, *GOAL], ONCE_A_LIFE)


async def test_death_at_any_step_of_the_loop(postgres_server: EmbeddedPostgres) -> None:
    await all_of(postgres_server, OTHERS, LATER_AND_LATER)


@pytest.mark.chaos
async def test_death_while_leases_expire(world: System) -> None:
    """Slow, as a new leader waits with expired leases until performers can have been heard."""
    vanished = []

    def vanish(work: Any) -> Any:
        vanished.append(work["epoch"])
        return None if len(vanished) <= 4 else done(work)

    world.perform("custom.short", vanish, slots=4)
    await world.start_scheduler_process()
    goal = await world.submit(plan={"tasks": [{"key": "a", "lane": "custom.short", "max_failures": 9}]})
    await world.kill(world.processes[0])
    for time in ONCE_A_LIFE:
        await dies(world, LEASE, time)
    await world.start_scheduler_process()
    await ended_whole(world, goal, 2)


async def test_client_that_asks_again_after_a_death_gets_its_goal_once(world: System) -> None:
    request = {"id": "asked", "plan": {"tasks": [{"key": "a", "lane": "custom.a"}]}}
    scheduler = await world.start_scheduler_process(CRASH_POINT=ASKED)
    with pytest.raises(TimeoutError):
        await world.client.request("goals.request", json.dumps(request).encode(), timeout=2)
    assert await scheduler.wait() == crashing.CODE
    await world.start_scheduler_process()
    again = await world.request("goals.request", request)
    assert (again["goal_id"], again["duplicate"]) == ("asked", True)
    world.perform("custom.a", done)
    await ended_whole(world, "asked", 2)


async def test_cancel_that_was_committed_before_a_death_ends_the_goal(world: System) -> None:
    scheduler = await world.start_scheduler_process(CRASH_POINT=CANCEL)
    goal = await world.submit(plan={"tasks": [{"key": "a", "lane": "custom.a"}]})
    began = asyncio.Event()
    world.perform("custom.a", lambda work: began.set(), slots=1)
    await began.wait()
    await world.client.publish("control.cancel", json.dumps({"goal_id": goal}).encode())
    assert await scheduler.wait() == crashing.CODE
    await world.start_scheduler_process()
    assert (await world.finished(goal))["status"] == "cancelled"
