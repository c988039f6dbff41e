"""Sixty-four performers race for one budget while performers and schedulers are killed: never a cent beyond it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from support.performer import Manner
from support.system import System, wait_for

from failure import witness

LANE = "agent.generalist"
PROCESSES, SLOTS = 8, 8
MANNER = Manner(seconds=(0.0, 0.1), failing=0.1, usage=1.25)
"""One call in ten fails after it was billed, one in five costs more than was held for it."""
BUDGET, MORE = 0.1, 0.1


@pytest.mark.parametrize(
    ("tasks", "kills"),
    [pytest.param(150, 4), pytest.param(1500, 40, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])],
)
async def test_budget_holds_at_every_commit(world: System, tasks: int, kills: int) -> None:
    await witness.watch_money(world.dsn)
    await world.start_scheduler_process()
    for _ in range(PROCESSES):
        world.start_performer_process([LANE], SLOTS, MANNER)
    plan = [{"key": f"t-{n}", "lane": LANE, "max_failures": 99} for n in range(tasks)]
    goal = await world.submit(plan={"tasks": plan}, budget_usd=BUDGET)
    payer = asyncio.create_task(pay_again_and_again(world, goal))
    for number in range(kills):
        await asyncio.sleep(random.uniform(0, 1))  # the moment is the fault
        await kill_one(world, scheduler=number % 4 == 3)
    ended = await world.finished(goal, 60 + tasks / 10)
    paid = await payer
    assert (ended["status"], ended["counts"]) == ("done", {"succeeded": tasks + 1})
    most, beyond, changes = await witness.money_seen(world.dsn)
    assert beyond == 0, f"{most} were spent and held"  # at a cap that was reached, and never beyond
    assert changes > tasks / 4, "a turn takes some answers at once, not all"
    assert paid > 1
    ledger = await world.request("query.ledger", {"goal_id": goal})
    assert ledger["held_usd"] == 0
    assert ledger["overrun_usd"] > 0
    billed = sum(entry["usd"] for entry in ledger["entries"])
    assert billed == pytest.approx(ledger["spent_usd"] + ledger["overrun_usd"])


async def pay_again_and_again(system: System, goal: str) -> int:
    """A person who adds to the budget whenever the goal asks; how often."""
    paid = 0

    async def asked_or_ended() -> Any:
        answer = await system.tried(system.goal(goal))
        return answer if answer.get("finished_at") or answer.get("status") == "paused" else None

    while not (answer := await wait_for(asked_or_ended, 200)).get("finished_at"):
        assert answer["reason"] == "budget", answer["reason"]
        wanted = {"goal_id": goal, "budget_usd": round(answer["budget_usd"] + MORE, 6)}
        answer = await system.tried(system.request("control.budget", wanted))
        paid += answer.get("ok", False)
    return paid


async def kill_one(system: System, *, scheduler: bool) -> None:
    """The scheduler, or some performer; another comes for it."""
    chosen = next(p for p in system.processes if (p.role == "scheduler") is scheduler)
    await system.kill(chosen)
    if scheduler:
        await system.start_scheduler_process()
    else:
        system.start_performer_process([LANE], SLOTS, MANNER)
