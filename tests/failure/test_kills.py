"""Kill -9 in the middle of a plan: the goal ends, every task has one effect, no event is lost or doubled."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from support.system import System, echo, wait_for

LAYERS, WIDTH = 8, 6

STORED = b'{"id": "stored", "plan": {"tasks": [{"key": "a", "lane": "custom.a"}]}}'


def layered(lane: str, seed: int) -> list[dict[str, Any]]:
    """A random layered graph: two needs each in the layer above."""
    rng = random.Random(seed)
    tasks = []
    for layer in range(LAYERS):
        for place in range(WIDTH):
            above = [f"o-{layer - 1}-{rng.randrange(WIDTH)}" for _ in range(2)] if layer else []
            tasks.append(
                {
                    "key": f"t-{layer}-{place}",
                    "lane": lane,
                    "inputs": sorted(set(above)),
                    "outputs": [{"name": f"o-{layer}-{place}"}],
                }
            )
    return tasks


def hashed(work: Any) -> dict[str, Any]:
    """An answer whose size does not grow with the depth of the graph, and that is the same at every try."""
    outcome = echo(work)
    for output in outcome["outputs"].values():
        output["inline"] = f"{work['spec']['key']}:{len(work['inputs'])}"
    return outcome


async def progress(system: System, goal: str, least: int) -> None:
    """Wait until at least so many tasks have succeeded."""

    async def there() -> bool:
        answer = await system.tried(system.goal(goal))
        return int(answer.get("counts", {}).get("succeeded", 0)) >= least or bool(answer.get("finished_at"))

    await wait_for(there, 40)


async def ended_whole(system: System, goal: str) -> None:
    """The goal is done, each task succeeded once, its events are gapless."""
    ended = await system.finished(goal, 60)
    assert ended["status"] == "done", ended["reason"]
    assert ended["counts"] == {"succeeded": LAYERS * WIDTH + 1}

    async def told() -> bool:
        events = await system.events(goal)
        return bool(events) and events[-1]["kind"] == "goal.finished"

    await wait_for(told)
    events = {event["seq"]: event for event in await system.events(goal)}
    assert sorted(events) == list(range(1, len(events) + 1))
    succeeded = [e["data"]["key"] for e in events.values() if e["kind"] == "task.succeeded"]
    assert sorted(succeeded) == sorted(set(succeeded))
    assert len(succeeded) == LAYERS * WIDTH + 1


async def test_scheduler_killed_again_and_again_loses_nothing(system: System) -> None:
    scheduler = await system.start_scheduler_process()
    system.perform("custom.short", hashed, slots=8)
    goal = await system.submit(plan={"tasks": layered("custom.short", 1)})
    for done in (5, 20, 35):
        await progress(system, goal, done)
        await system.kill(scheduler)
        scheduler = await system.start_scheduler_process()
    await ended_whole(system, goal)


async def test_standby_takes_over_when_the_leader_is_killed(system: System) -> None:
    leader = await system.start_scheduler_process(GOALWRIGHT_WORKER="first")
    await system.start_scheduler_process(GOALWRIGHT_WORKER="second")
    system.perform("custom.short", hashed, slots=8)
    goal = await system.submit(plan={"tasks": layered("custom.short", 2)})
    await progress(system, goal, 10)
    await system.kill(leader)
    await ended_whole(system, goal)


async def test_goal_survives_a_kill_right_after_it_was_published(system: System) -> None:
    scheduler = await system.start_scheduler_process()
    await system.kill(scheduler)
    await system.client.jetstream().publish(
        "goals.submit", b'{"id": "stored", "plan": {"tasks": [{"key": "a", "lane": "custom.a"}]}}'
    )
    await system.start_scheduler_process()
    system.perform("custom.a")
    assert (await system.finished("stored"))["status"] == "done"


async def test_nats_killed_and_restarted_with_its_store(system: System) -> None:
    await system.start_scheduler_process()
    system.perform("custom.short", hashed, slots=8)
    goal = await system.submit(plan={"tasks": layered("custom.short", 3)})
    await progress(system, goal, 10)
    await system.restart_nats()
    await ended_whole(system, goal)


async def test_nats_killed_and_restarted_with_an_empty_store(system: System) -> None:
    await system.start_scheduler_process()
    system.perform("custom.short", hashed, slots=8)
    goal = await system.submit(plan={"tasks": layered("custom.short", 4)})
    await progress(system, goal, 10)
    await system.restart_nats(wipe=True)
    ended = await system.finished(goal, 60)
    assert ended["status"] == "done"
    assert ended["counts"] == {"succeeded": LAYERS * WIDTH + 1}


async def test_performer_that_vanishes_costs_one_failure_and_another_goes_on(system: System) -> None:
    await system.start_scheduler()
    taken = asyncio.Event()

    def vanish(work: Any) -> None:
        taken.set()

    (performer,) = system.perform("custom.short", vanish, slots=1)
    goal = await system.submit(plan={"tasks": [{"key": "a", "lane": "custom.short"}]})
    await taken.wait()
    performer.cancel()
    system.perform("custom.short")
    assert (await system.finished(goal))["status"] == "done"
    told = await system.task(goal, "a")
    assert (told["failures"], told["attempts"][0]["error"]["code"]) == (1, "expired")
