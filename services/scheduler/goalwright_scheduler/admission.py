"""Admission of deliverables under a budget, and what estimates learn from actuals.

When the open tasks of a plan are likely to cost more than is left, the deliverables that bring most are done and
the tasks of the others are parked, visibly; they come back when the budget is raised or the estimates fall. A goal
of which only such tasks are left asks for money, as one does that has run out of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from graphlib import TopologicalSorter
from typing import Any, TypeAlias

import asyncpg

from goalwright_scheduler import ranking
from goalwright_scheduler.change import Change
from goalwright_scheduler.core import admission, calibration, estimates, money, roi
from goalwright_scheduler.core.calibration import Calibration, Ratio
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import GoalStatus, State

Row: TypeAlias = asyncpg.Record

_LOOK_SECONDS = 1.0
"""How often goals with parked tasks are looked at."""

_MOST_TASKS = 50_000
"""Open priced tasks of a goal above which nothing is parked: order alone decides, and the goal asks at its cap."""

_MOVED_SHARE = 0.05
"""Admission is decided again when this share of the budget has been spent since."""


class Admissions:
    """What the leader remembers of admission: goals with tasks parked over their budget, and what lanes have
    taught. Part of its memory: loaded at takeover and after any error."""

    def __init__(self) -> None:
        self.calibrations: dict[str, Calibration] = {}
        self._parked: set[int] = set()
        self._spent: dict[int, int] = {}  # by open goal, when it was last decided
        self._look_at: datetime | None = None

    async def load(self, db: asyncpg.Connection[Row]) -> None:
        """Everything from Postgres, anew."""
        self.calibrations = {
            row["lane"]: Calibration(
                Ratio(row["cost_tasks"], row["cost_estimated"], row["cost_actual"]),
                Ratio(row["seconds_tasks"], row["seconds_estimated"], row["seconds_actual"]),
            )
            for row in await db.fetch("SELECT * FROM lane_calibration")
        }
        rows = await db.fetch("SELECT DISTINCT goal FROM task WHERE over_budget IS NOT NULL")
        self._parked = {row["goal"] for row in rows}
        self._spent.clear()
        self._look_at = None

    async def review(self, change: Change, short: dict[int, set[int]], *, look: bool) -> None:
        """Decide anew for the goals that this change asks for, and from time to time for those with parked
        tasks. A goal that nothing can go on in joins the `short` ones (with their tasks that were too dear), which
        pause and ask for money."""
        await self._learn(change)
        asked = set(change.admit)
        due = asked | (self._due(change.now, short) if look else set())
        if not due:
            return
        rows = {row["num"]: row for row in await change.fetch("load_money", sorted(due))}
        for ended in due - set(rows):
            self._parked.discard(ended)
            self._spent.pop(ended, None)
        for goal, row in rows.items():
            paused = row["status"] == GoalStatus.PAUSED
            if goal not in asked and (paused or not self._changed(row, short)):
                continue
            if await self._admit(change, row):
                change.reload.add(goal)
            elif goal in self._parked and not row["busy"] and not paused:
                short.setdefault(goal, set())

    def _changed(self, goal: Row, short: Collection[int]) -> bool:
        """Whether much has been spent since the last decision; for a goal in need, whether anything has."""
        num = goal["num"]
        since = goal["spent"] - self._spent.get(num, 0)
        return not goal["busy"] or since >= _MOVED_SHARE * goal["budget"] or (num in short and since != 0)

    def _due(self, now: datetime, short: Mapping[int, object]) -> set[int]:
        if self._look_at is not None and now < self._look_at:
            return set()
        self._look_at = now + timedelta(seconds=_LOOK_SECONDS)
        return self._parked | short.keys()

    async def _admit(self, change: Change, goal: Row) -> bool:
        """Park what the goal cannot pay for, and bring back what it can. True when something came back."""
        num, root = goal["num"], goal["root_task"]
        self._spent[num] = goal["spent"]
        nested, decides = await self._estimated(change, goal)
        if not decides and num not in self._parked:
            return False
        rows = await change.fetch("load_plan", root)
        nodes, reserve = _plan(change, rows, self.calibrations, await ranking.deliverables(change, root))
        order = list(TopologicalSorter({task: node.needs for task, node in nodes.items()}).static_order())
        left = goal["may_spend"]
        begun = [row["id"] for row in rows if _begun(row)]
        choice = admission.choose(order, nodes, left - nested, started=begun, reserve=reserve)
        waits = await _park(change, num, rows, choice, _needs(order, nodes, choice), left)
        back = [row["id"] for row in rows if row["over_budget"] is not None and row["id"] in choice.tasks]
        returned = await change.fetch("readmit", back, change.now) if back else []
        for row in returned:
            if row["state"] == State.READY:
                change.ready.append(
                    Ready(row["id"], row["goal"], row["lane"], row["rank"], screened=row["screened"])
                )
        (self._parked.add if waits else self._parked.discard)(num)
        return bool(returned)

    async def _estimated(self, change: Change, goal: Row) -> tuple[int, bool]:
        """What the tasks below those of the plan are likely to cost, and whether there is anything to decide: all
        may fit anyhow, or be too much to decide about in one transaction."""
        priced = {name: money.hold(lane) for name, lane in change.lanes.items() if money.hold(lane)}
        nested = whole = tasks = 0
        for row in await change.fetch("load_estimates", goal["num"], list(priced)) if priced else ():
            raw = row["unknown"] * estimates.unknown(priced[row["lane"]])
            if row["tokens_in"] + row["tokens_out"]:
                raw += estimates.raw_cost(change.lanes[row["lane"]], row["tokens_in"], row["tokens_out"])
            likely = estimates.likely(raw, self.calibrations.get(row["lane"], calibration.NONE))
            whole += likely
            tasks += row["tasks"]
            nested += likely if row["nested"] else 0
        fits = not whole or whole + max(priced.values()) <= goal["may_spend"]
        return nested, not fits and tasks <= _MOST_TASKS

    async def _learn(self, change: Change) -> None:
        """Add what this commit teaches, one statement for all lanes. Much news has admissions decided anew."""
        if not change.lessons:
            return
        again = [lesson.task for lesson in change.lessons if lesson.epoch > 1]
        rows = await change.fetch("load_costs", again) if again else []
        paid = {row["task"]: row["paid"] for row in rows}
        taught: dict[str, Calibration] = {}
        for lesson in change.lessons:
            once = lesson.epoch == 1 and lesson.seconds > 0
            taught[lesson.lane] = taught.get(lesson.lane, calibration.NONE) + calibration.observed(
                estimated_cost=lesson.estimated_cost,
                actual_cost=lesson.cost + paid.get(lesson.task, 0),
                estimated_seconds=lesson.estimated_seconds if once else 0.0,
                actual_seconds=lesson.seconds,
            )
        change.lessons.clear()
        for lane, seen in taught.items():
            known = self.calibrations.get(lane, calibration.NONE)
            self.calibrations[lane] = known + seen
            if calibration.moved(known, self.calibrations[lane]):
                change.admit |= self._parked
        kept = [(lane, self.calibrations[lane]) for lane in sorted(taught)]
        await change.execute(
            "calibrate", [lane for lane, _ in kept],
            [c.cost.tasks for _, c in kept], [c.cost.estimated for _, c in kept], [c.cost.actual for _, c in kept],
            [c.seconds.tasks for _, c in kept], [c.seconds.estimated for _, c in kept],
            [c.seconds.actual for _, c in kept],
        )  # fmt: skip


def _begun(row: Row) -> bool:
    """Tasks that were dispatched, expanded or asked are under way: they are never parked."""
    waits = row["state"] in (State.BLOCKED, State.READY) and not row["epoch"]
    return not waits and row["over_budget"] is None


def _plan(
    change: Change, rows: Sequence[Row], learned: Mapping[str, Calibration], deliverables: Any
) -> tuple[dict[int, roi.Node[int]], dict[int, float]]:
    """The open tasks as nodes whose cost is what they are likely to cost still, in micro-dollars; and how much
    more than that must be free when each goes."""
    exports, values = deliverables
    consumed = {name for row in rows for name in row["inputs"]}
    free = exports | ({name for row in rows for name in row["outputs"]} - consumed)
    needs: dict[int, list[int]] = {row["id"]: [] for row in rows}
    for row in rows:
        for child in row["children"]:
            if child in needs:
                needs[child].append(row["id"])
    nodes, reserve = {}, {}
    for row in rows:
        task, lane = row["id"], change.lanes.get(row["lane"])
        raw = estimates.raw_cost(lane, row["tokens_in"], row["tokens_out"], row["output_cap"])
        likely = estimates.likely(raw, learned.get(row["lane"], calibration.NONE))
        if row["state"] in _UNDER_WAY:
            likely = max(0, likely - row["paid"])
        nodes[task] = roi.Node(
            task,
            tuple(needs[task]),
            ranking.worth(row["outputs"], row["value"], free, values),
            likely,
            estimates.confidence(row["confidence"], row["max_failures"]),
            0.0,
        )
        reserve[task] = max(0.0, estimates.hold(lane, row["output_cap"]) - likely)
    return nodes, reserve


_UNDER_WAY = (State.DISPATCHED, State.EXPANDED, State.CHECKING)


def _needs(
    order: Sequence[int], nodes: Mapping[int, roi.Node[int]], choice: admission.Admission[int]
) -> dict[int, int]:
    """What the cheapest deliverable of each task that is not admitted would need; linear in the graph."""
    needs: dict[int, int] = {}
    for task in reversed(order):
        if task in choice.tasks:
            continue
        if task in choice.declined:
            needs[task] = min(round(choice.declined[task]), needs.get(task, _MUCH))
        for need in nodes[task].needs:
            needs[need] = min(needs.get(task, _MUCH), needs.get(need, _MUCH))
    return needs


_MUCH = 2**62


async def _park(
    change: Change,
    goal: int,
    rows: Sequence[Row],
    choice: admission.Admission[int],
    needs: Mapping[int, int],
    left: int,
) -> bool:
    """Park what is not admitted and has not begun; questions cost nothing and stay. True when tasks of the goal
    are parked now."""
    others = [row for row in rows if row["id"] not in choice.tasks]
    out = [
        row["id"] for row in others if row["state"] in (State.BLOCKED, State.READY) and row["lane"] != "human"
    ]
    for row in await change.fetch("park_over_budget", out, [needs[task] for task in out]) if out else ():
        change.emit(
            goal, "task.parked", row["id"], key=row["key"], lane=row["lane"],
            reason="over budget: what it serves would need more than is left",
            needs_usd=money.usd(row["over_budget"]), left_usd=money.usd(left),
        )  # fmt: skip
    return bool(out) or any(row["over_budget"] is not None for row in others)
