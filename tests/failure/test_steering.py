"""People steer while much is under way: cancel reaches what runs, pause stops what waits, through a takeover too."""

from __future__ import annotations

import asyncio

from goalwright_shared.messages import Outcome, Work
from goalwright_shared.worker import Attempt
from support.performer import Call, Manner
from support.system import System, wait_for

from failure.goals import OTHER, PERFORMED, ended_whole, layered, progress

MANNER = Manner((0.02, 0.06))
TASKS = 8 * 6 + 1


class Endless:
    """`Perform` whose tries only end when they are cancelled."""

    def __init__(self) -> None:
        self.running: set[str] = set()

    async def __call__(self, work: Work, attempt: Attempt) -> Outcome:
        """One endless try."""
        self.running.add(work.spec.key)
        try:
            await asyncio.Event().wait()
        finally:
            self.running.discard(work.spec.key)
        raise AssertionError


async def test_cancel_reaches_running_work_within_two_seconds(world: System) -> None:
    await world.start_scheduler_process()
    await world.start_performer([PERFORMED], 20, Call(MANNER))
    endless = await world.start_performer([OTHER], 30, Endless())
    busy = [await world.submit(plan={"tasks": layered(PERFORMED, layers=30, seed=n)}) for n in range(3)]
    plan = [{"key": f"t-{n}", "lane": OTHER} for n in range(30)]
    goal = await world.submit(plan={"tasks": plan})
    await wait_for(lambda: runs(endless, 30))
    async with asyncio.timeout(2):
        answer = await world.request("control.cancel", {"goal_id": goal})
        await wait_for(lambda: runs(endless, 0))
    assert answer["changed"]
    for other in busy:
        await ended_whole(world, other, 30 * 6 + 1)


async def test_pause_and_resume_under_load_lose_nothing(world: System) -> None:
    await world.start_scheduler_process()
    call = await world.start_performer([PERFORMED], 12, Call(MANNER))
    goal = await world.submit(plan={"tasks": layered(PERFORMED, layers=20)})
    other = await world.submit(plan={"tasks": layered(PERFORMED, seed=2)})
    for least in (10, 30, 60):
        await progress(world, goal, least)
        assert (await world.request("control.pause", {"goal_id": goal}))["changed"]
        await wait_for(lambda: nothing_dispatched(world, goal))
        at_rest = (await world.goal(goal))["counts"]["succeeded"]
        await asyncio.sleep(0.3)  # in which a goal that was not paused would go on
        assert (await world.goal(goal))["counts"]["succeeded"] == at_rest
        assert (await world.request("control.resume", {"goal_id": goal}))["changed"]
    await ended_whole(world, goal, 20 * 6 + 1)
    await ended_whole(world, other, TASKS)
    assert call.twice() == []


async def test_pause_outlives_a_takeover(world: System) -> None:
    leader = await world.start_scheduler_process()
    await world.start_performer([PERFORMED], 6, Call(MANNER))
    goal = await world.submit(plan={"tasks": layered(PERFORMED)})
    await progress(world, goal, 10)
    await world.request("control.pause", {"goal_id": goal})
    await world.kill(leader)
    await world.start_scheduler_process()
    await wait_for(lambda: nothing_dispatched(world, goal))
    assert (await world.goal(goal))["status"] == "paused"
    await world.request("control.resume", {"goal_id": goal})
    await ended_whole(world, goal, TASKS)


async def runs(endless: Endless, count: int) -> bool:
    """Whether exactly so many tries are running."""
    return len(endless.running) == count


async def nothing_dispatched(system: System, goal: str) -> bool:
    """Whether a goal has nothing under way."""
    return not (await system.goal(goal))["counts"].get("dispatched")
