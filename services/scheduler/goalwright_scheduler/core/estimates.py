"""What a task is likely to cost and to take: its estimate, as its lane's actuals have corrected it."""

from __future__ import annotations

import math

from goalwright_shared.messages import Lane, TaskSpec

from goalwright_scheduler.core import money
from goalwright_scheduler.core.calibration import Calibration

_LEAST_SECONDS = 0.1

_UNKNOWN_SHARE = 0.25
"""What a task without an estimate is taken to cost, against the most that a call may: caps are seldom used up."""

_USD_PER_SECOND = 0.001
"""What a second of waiting counts against money in the cost by which returns are ranked."""


def raw_cost(lane: Lane | None, tokens_in: float, tokens_out: float, output_cap: int | None = None) -> int:
    """Micro-dollars by the estimate alone; without one, a part of what a call may cost. 0 on lanes without price."""
    if lane is None:
        return 0
    if not tokens_in and not tokens_out:
        return unknown(hold(lane, output_cap))
    return math.ceil(tokens_in * lane.input_usd_per_mtok + tokens_out * lane.output_usd_per_mtok)


def own_cap(spec: TaskSpec) -> int | None:
    """Output tokens that a task's own prompt allows."""
    return spec.prompt.max_output_tokens if spec.prompt else None


def unknown(most: int) -> int:
    """Micro-dollars of a task without an estimate that may cost this at most."""
    return math.ceil(_UNKNOWN_SHARE * most)


def hold(lane: Lane | None, output_cap: int | None) -> int:
    """Micro-dollars that dispatching a task sets aside; on `agent.ask` its prompt may have a cap of its own."""
    if lane is None:
        return 0
    return money.hold(lane, output_cap if lane.name == money.ASK else None)


def likely(raw: int, learned: Calibration) -> int:
    """Micro-dollars that a task is likely to cost, by what its lane has taught."""
    return math.ceil(raw * learned.cost.factor())


def seconds(estimate: float, learned: Calibration) -> float:
    """Seconds that a task is likely to take."""
    return max(_LEAST_SECONDS, estimate * learned.seconds.factor())


def confidence(once: float, tries: int) -> float:
    """The probability that one of several tries succeeds."""
    return 1.0 - (1.0 - once) ** tries


def effort(micro_dollars: int, took: float) -> float:
    """Money and time as one cost, in seconds."""
    return took + money.usd(micro_dollars) / _USD_PER_SECOND
