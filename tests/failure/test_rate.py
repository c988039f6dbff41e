"""Eight performers of uneven demand share one provider's limit, a third of them is killed midway."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import structlog
from goalwright_scheduler.lanes import store_lanes
from goalwright_shared.messages import PoolLimit
from support.performer import Manner, Provider
from support.system import System, wait_for

from failure.goals import LANES, ended_whole

LANE = "agent.generalist"
KILLED = (1, 4, 6)
PER_MINUTE = 3_500
WINDOW = 6.0
"""Seconds over which the provider counts: a tenth of a minute, as its latency is a tenth of ten seconds."""
_IN_ONE_GOAL = 5_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Load:
    """How many times 3,500 calls a minute for how long, and by how many slots of each performer."""

    times: int
    seconds: int
    slots: tuple[int, ...] = (4, 6, 8, 12, 16, 20, 24, 30)

    @property
    def per_second(self) -> float:
        """The limit."""
        return PER_MINUTE * self.times / 60

    @property
    def tasks(self) -> int:
        """As many as the limit allows in that time."""
        return round(self.per_second * self.seconds)

    def goals(self) -> list[int]:
        """The tasks in goals of a size that one message carries."""
        many, rest = divmod(self.tasks, _IN_ONE_GOAL)
        return [_IN_ONE_GOAL] * many + [rest] * bool(rest)


async def run(system: System, load: Load, provider: Provider) -> None:
    """All calls of the load; midway some performers are killed."""
    lane = next(lane for lane in LANES if lane.name == LANE).model_copy(update={"lease_seconds": 15.0})
    limit = PoolLimit(pool="k/m", requests_per_minute=PER_MINUTE * load.times)
    await store_lanes(system.dsn, [lane], [limit])
    await system.start_scheduler_process()
    manner = Manner(provider=provider.port)
    performers = [system.start_performer_process([LANE], n * load.times, manner) for n in load.slots]
    goals = {await submit(system, size): size for size in load.goals()}

    async def half_done() -> bool:
        return len(provider.calls) > load.tasks / 2

    await wait_for(half_done, 3 * load.seconds)
    for number in KILLED:
        await system.kill(performers[number])
    for goal, size in goals.items():
        await ended_whole(system, goal, size + 1, seconds=3 * load.seconds, events=False)


async def submit(system: System, tasks: int) -> str:
    """A goal of so many calls."""
    plan = [{"key": f"t-{n}", "lane": LANE, "max_failures": 9} for n in range(tasks)]
    return await system.submit(plan={"tasks": plan}, budget_usd=1_000)


def provider_of(load: Load, *, burst_seconds: float) -> Provider:
    """Answers after a second, and refuses what is beyond the limit and a burst."""
    return Provider(
        round(load.per_second * WINDOW), WINDOW, burst=round(load.per_second * burst_seconds), seconds=1.0
    )


def used(provider: Provider, load: Load) -> float:
    """The share of the limit that was used, from three seconds after the first call until work ran short."""
    begin = provider.calls[0] + 3
    end = provider.calls[int(load.tasks * 0.97)]
    return sum(begin <= at < end for at in provider.calls) / (load.per_second * (end - begin))


async def test_nothing_is_refused_and_nobody_starves(world: System) -> None:
    load = Load(times=1, seconds=14)
    async with provider_of(load, burst_seconds=2) as provider:  # a second of ours, one of a busy machine
        await run(world, load, provider)
    assert provider.refused <= load.tasks / 1000
    survivors = [n for number, n in enumerate(load.slots) if number not in KILLED]
    taken = sorted(provider.by_caller)
    assert len(taken) == len(load.slots)
    assert taken[0] >= load.tasks * min(survivors) / sum(load.slots) / 4


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("times", [1, 10])
async def test_limit_is_used_to_98_percent(world: System, times: int) -> None:
    load = Load(times, seconds=40)
    async with provider_of(load, burst_seconds=1.25) as provider:  # a second of ours, and what the way adds
        await run(world, load, provider)
    share, refused = used(provider, load), provider.refused / load.tasks
    log.info("rate", used=round(share, 4), refused=round(refused, 5), most_in_window=provider.most_at_once())
    assert refused < 0.001
    assert share >= 0.98
