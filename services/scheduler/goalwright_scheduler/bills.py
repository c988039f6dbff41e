"""The bill of a dispatch: what its outcome says was used, settled once; and what that teaches."""

from __future__ import annotations

from goalwright_shared.messages import Outcome, TaskSpec

from goalwright_scheduler import pools
from goalwright_scheduler.change import Change, Dispatched, Lesson
from goalwright_scheduler.core import estimates, money


def settle(
    change: Change, flight: Dispatched, outcome: Outcome, *, answered: bool, code: str | None = None
) -> int:
    """Settle with what the outcome says was used, and hear what it says of its pool. Returns the cost in
    micro-dollars; 0 on lanes that are not paid."""
    lane = change.lanes.get(flight.lane)
    pools.heard(change, lane, outcome)
    if lane is None or lane.pool is None:
        return 0
    bill = money.settle(flight.hold, lane, outcome.usage, answered=answered, code=code)
    usage = outcome.usage
    change.settle(
        flight, bill, outcome.kind,
        model=usage.model if usage else None,
        tokens_in=usage.tokens_in if usage else 0,
        tokens_cached=usage.tokens_cached if usage else 0,
        tokens_out=usage.tokens_out if usage else 0,
    )  # fmt: skip
    return bill.charged + bill.overrun


def estimated(change: Change, lane: str, spec: TaskSpec) -> tuple[int, float]:
    """What a task was estimated to cost, in micro-dollars before its lane's calibration, and its seconds."""
    effort, cap = spec.effort, estimates.own_cap(spec)
    return estimates.raw_cost(
        change.lanes.get(lane), effort.tokens_in, effort.tokens_out, cap
    ), effort.seconds


def observe(
    change: Change, flight: Dispatched, estimate: tuple[int, float], cost: int, seconds: float
) -> None:
    """A task has been done, by an answer that did cost this much: remember it for its lane's calibration."""
    change.lessons.append(
        Lesson(flight.id, flight.epoch, flight.lane, estimate[0], cost, estimate[1], seconds)
    )
