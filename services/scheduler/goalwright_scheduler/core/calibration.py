"""Estimates learn from actuals: per lane, the running ratio actual ÷ estimate, for cost and for seconds.

A ratio of sums, so that totals come out right; a prior of 1 that counts as a few tasks, a memory that fades,
and bounds, so that no streak of odd tasks can turn the ranking over.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_PRIOR_TASKS = 5.0
"""How many tasks it takes until what was seen weighs as much as the belief that estimates are right."""

_MEMORY_TASKS = 200.0
"""Older tasks than about this many fade."""

_BOUND = 8.0
"""A ratio is taken within [1/bound, bound]."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """What `tasks` tasks were estimated at, and what they took."""

    tasks: float = 0.0
    estimated: float = 0.0
    actual: float = 0.0

    def factor(self) -> float:
        """What to multiply an estimate by."""
        if self.estimated <= 0:
            return 1.0
        seen = self.actual / self.estimated
        factor = (_PRIOR_TASKS + self.tasks * seen) / (_PRIOR_TASKS + self.tasks)
        return min(_BOUND, max(1 / _BOUND, factor))

    def __add__(self, more: Ratio) -> Ratio:
        """With further tasks; the old ones fade when there are many."""
        tasks = self.tasks + more.tasks
        keep = min(1.0, _MEMORY_TASKS / tasks) if tasks else 1.0
        return Ratio(
            tasks * keep,
            (self.estimated + more.estimated) * keep,
            (self.actual + more.actual) * keep,
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """The ratios of a lane. Cost is in micro-dollars."""

    cost: Ratio = field(default_factory=Ratio)
    seconds: Ratio = field(default_factory=Ratio)

    def __add__(self, more: Calibration) -> Calibration:
        """With further tasks."""
        return Calibration(self.cost + more.cost, self.seconds + more.seconds)


NONE = Calibration()
"""A lane nothing is known of."""


def observed(
    *, estimated_cost: float, actual_cost: float, estimated_seconds: float, actual_seconds: float
) -> Calibration:
    """What one finished task teaches; what had no estimate teaches nothing."""
    cost = Ratio(1.0, estimated_cost, actual_cost) if estimated_cost > 0 else Ratio()
    seconds = Ratio(1.0, estimated_seconds, actual_seconds) if estimated_seconds > 0 else Ratio()
    return Calibration(cost, seconds)


def moved(before: Calibration, after: Calibration, by: float = 1.25) -> bool:
    """Whether the factor of cost has changed so much that admissions are worth deciding again."""
    ratio = after.cost.factor() / before.cost.factor()
    return not 1 / by < ratio < by
