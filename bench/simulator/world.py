"""A world of workers and a budget in simulated time, in which the scheduler's own decisions are followed.

Ranks, heaps, fair turns, admission and calibration are the shipped ones (`goalwright_scheduler.core`); only
time, workers and money are simulated: a hold before each task, settlement after it, nothing beyond the budget.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from goalwright_scheduler.core import admission, calibration, roi
from goalwright_scheduler.core.ready import Ready, ReadyTasks

from bench.simulator.graphs import Problem

HEAD_START_SECONDS = 600.0
"""The default of GOALWRIGHT_HEAD_START_SECONDS."""

_READMIT_SHARE = 0.05
"""Admission is decided again when this share of the budget has moved, or when nothing is left to do."""

_LANE = "lane"


@dataclass(frozen=True, slots=True)
class Policy:
    """An order. `start` gives a task's head start; `ages` is False for strict priorities."""

    name: str
    start: Callable[[Problem], dict[str, float]]
    ages: bool = True
    admits: bool = False


def _roi(problem: Problem) -> dict[str, float]:
    return roi.head_starts(problem.order, problem.nodes, cap_seconds=HEAD_START_SECONDS)


POLICIES = (
    Policy("FIFO", lambda problem: dict.fromkeys(problem.order, 0.0)),
    Policy(
        "value÷effort", lambda problem: {k: n.value / n.cost for k, n in problem.nodes.items()}, ages=False
    ),
    Policy("critical path", lambda problem: roi.critical_seconds(problem.order, problem.nodes), ages=False),
    Policy("ROI order", _roi),
    Policy("ROI + admission", _roi, admits=True),
)


@dataclass(slots=True)
class Result:
    """What came of one run. `delivered` is a share of all value; `completion` is weighted by value."""

    delivered: float
    completion: float
    makespan: float
    spent: float


@dataclass(slots=True)
class World:
    """One goal on one lane. `budget` None means enough for everything; `hold` is the reserve ÷ the estimate."""

    problem: Problem
    policy: Policy
    workers: int
    budget: float | None = None
    hold: float = 2.0
    now: float = 0.0
    spent: float = 0.0
    held: float = 0.0
    heaps: ReadyTasks = field(default_factory=ReadyTasks)
    done: dict[str, float] = field(default_factory=dict)
    running: list[tuple[float, str, float]] = field(default_factory=list)  # end, task, hold
    ready_at: dict[str, float] = field(default_factory=dict)
    admitted: frozenset[str] | None = None
    admitted_at: float = 0.0
    learned: calibration.Calibration = calibration.NONE

    def run(self) -> Result:
        """Until nothing runs and nothing may go."""
        names = {key: number for number, key in enumerate(self.problem.order)}
        keys = list(self.problem.order)
        starts = self.policy.start(self.problem)
        unmet = {key: len(node.needs) for key, node in self.problem.nodes.items()}
        users: dict[str, list[str]] = {key: [] for key in keys}
        for key, node in self.problem.nodes.items():
            for need in node.needs:
                users[need].append(key)
        self.ready_at = {key: 0.0 for key in keys if not unmet[key]}
        self._admit()
        while True:
            self._push(names, starts)
            while self._dispatch(keys):
                pass
            if not self.running:
                if self._admit():
                    continue
                break
            for key in self._finish():
                for user in users[key]:
                    unmet[user] -= 1
                    if not unmet[user]:
                        self.ready_at[user] = self.now
            if abs(self.spent - self.admitted_at) >= _READMIT_SHARE * (self.budget or float("inf")):
                self._admit()
        return self._result()

    def _push(self, names: dict[str, int], starts: dict[str, float]) -> None:
        """Everything ready that may go; what did not fit the budget before is tried again."""
        self.heaps.push(
            Ready(names[key], 1, _LANE, starts[key] - (at if self.policy.ages else 0.0))
            for key, at in self.ready_at.items()
            if self.admitted is None or key in self.admitted
        )

    def _dispatch(self, keys: list[str]) -> int:
        free = self.workers - len(self.running)
        taken = self.heaps.take([_LANE], {_LANE: free}, free, lambda _: True)
        for task in taken:
            key = keys[task.id]
            hold = self.hold * self.problem.nodes[key].cost
            if self.budget is not None and self.spent + self.held + hold > self.budget:
                continue  # short: it is pushed again after the next settlement
            if self.admitted is not None and key not in self.admitted:
                continue  # parked meanwhile
            self.held += hold
            del self.ready_at[key]
            heapq.heappush(self.running, (self.now + self.problem.actual[key], key, hold))
        return len(taken)

    def _finish(self) -> list[str]:
        """The next ones that end, settled."""
        ended = []
        self.now = self.running[0][0]
        while self.running and self.running[0][0] <= self.now:
            _, key, hold = heapq.heappop(self.running)
            self.held -= hold
            actual, estimate = self.problem.actual[key], self.problem.nodes[key].cost
            self.spent += actual
            if self.budget is not None and self.spent > self.budget:
                continue  # a hard stop: what was billed beyond the budget brings nothing
            self.done[key] = self.now
            self.learned += calibration.observed(
                estimated_cost=estimate, actual_cost=actual, estimated_seconds=estimate, actual_seconds=actual
            )
            ended.append(key)
        return ended

    def _admit(self) -> bool:
        """Decide anew what may run; True when something ready may now go that could not before."""
        if not self.policy.admits or self.budget is None:
            return False
        self.admitted_at = self.spent
        before = self.admitted or frozenset()
        started = {key for _, key, _ in self.running}
        factor = self.learned.cost.factor()
        order = [key for key in self.problem.order if key not in self.done]
        nodes = {}
        for key in order:
            node = self.problem.nodes[key]
            needs = tuple(need for need in node.needs if need not in self.done)
            cost = 0.0 if key in started else node.cost * factor  # what runs is held already
            nodes[key] = replace(node, needs=needs, cost=cost)
        reserve = {key: max(0.0, self.hold * self.problem.nodes[key].cost - nodes[key].cost) for key in order}
        room = self.budget - self.spent - self.held
        self.admitted = admission.choose(order, nodes, room, started=started, reserve=reserve).tasks
        return any(key in self.admitted and key not in before for key in self.ready_at)

    def _result(self) -> Result:
        nodes = self.problem.nodes
        total = sum(node.value for node in nodes.values())
        made = {key: at for key, at in self.done.items() if nodes[key].value > 0}
        delivered = sum(nodes[key].value for key in made)
        weighted = sum(nodes[key].value * at for key, at in made.items())
        return Result(
            delivered / total, weighted / delivered if delivered else 0.0, max(self.done.values(), default=0.0),
            self.spent,
        )  # fmt: skip
