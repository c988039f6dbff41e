"""What waits for a turn, and for whom it waits."""

from __future__ import annotations

import asyncio

from goalwright_scheduler.arrivals import Arrivals
from goalwright_scheduler.items import Item, Outcomes
from goalwright_shared.messages import Done
from support.rig import outcomes, presence

BATCH = 5


def answer(lane: str, *tasks: int) -> Item:
    """One message of answers."""
    return outcomes(
        lane, *(Done(goal_id="g", task_id=str(task), epoch=1, outputs={}, summary="") for task in tasks)
    )


def told(items: list[Item]) -> list[str]:
    """Whose answers these are."""
    return [one.outcome.task_id for item in items if isinstance(item, Outcomes) for one in item.arrived]


async def after_a_turn() -> Arrivals:
    """Answers of `paid` gather, and a turn has just been."""
    arrivals = Arrivals(BATCH, lambda lane: lane == "paid")
    arrivals.put(answer("paid", 0))
    assert told(await arrivals.take(1.0)) == ["0"]
    return arrivals


async def test_answers_to_calls_that_come_shortly_after_a_turn_share_the_next_one() -> None:
    arrivals = await after_a_turn()
    arrivals.put(answer("paid", 1))
    taking = asyncio.create_task(arrivals.take(1.0))
    await asyncio.sleep(0)
    arrivals.put(answer("paid", 2))
    assert told(await taking) == ["1", "2"]
    assert arrivals.unread("paid") == 0


async def test_nobody_waits_beside_an_answer_that_may_not() -> None:
    arrivals = await after_a_turn()
    arrivals.put(answer("paid", 1))
    arrivals.put(answer("custom.a", 2))
    taking = asyncio.create_task(arrivals.take(1.0))
    await asyncio.sleep(0)
    arrivals.put(answer("paid", 3))
    assert told(await taking) == ["1", "2"]
    assert arrivals.unread("paid") == 1


async def test_a_full_batch_waits_for_nobody() -> None:
    arrivals = await after_a_turn()
    for first in range(0, 2 * BATCH, 2):
        arrivals.put(answer("paid", first, first + 1))
    taking = asyncio.create_task(arrivals.take(1.0))
    await asyncio.sleep(0)
    arrivals.put(answer("paid", 99))
    assert len(told(await taking)) in (BATCH, BATCH + 1)  # a message is never cut


async def test_presences_wait_for_a_tick_and_are_handed_out_once() -> None:
    arrivals = await after_a_turn()
    arrivals.put(presence("paid", ("1", 1)))
    arrivals.put(presence("paid", ("2", 1)))
    assert arrivals.empty()
    assert await arrivals.take(0.0) == []
    assert len(arrivals.presences()) == 2
    assert arrivals.presences() == []
