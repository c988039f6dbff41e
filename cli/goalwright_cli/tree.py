"""Which tasks of a goal are shown, and as what rows. Pure; drawing is `render`'s.

A goal may have a thousand tasks and a terminal twenty lines. What runs now is shown with its ancestors; what
is settled or still waits is folded into one row per group, ever more tightly until the rows fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from goalwright_cli.view import WAITING, GoalView, TaskView


@dataclass(frozen=True, slots=True)
class _Tightness:
    """How many settled and waiting tasks of a group are shown one by one; `deep`: settled subtrees too."""

    settled: int = 10**9
    waiting: int = 10**9
    deep: bool = False


_TIGHTER = [_Tightness(), *(_Tightness(*pair) for pair in ((8, 8), (4, 4), (2, 3), (1, 1), (0, 1), (0, 0)))]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the tree: a task, or a fold of several (`task` is None, `text` says what)."""

    guide: str
    task: TaskView | None
    text: str = ""
    state: str = ""
    cost_usd: float = 0.0


class Forest:
    """The tasks of a view by display parent, in plan order."""

    def __init__(self, view: GoalView) -> None:
        self.children: dict[str | None, list[TaskView]] = {}
        tasks = sorted((_shown(view, task) for task in view.tasks.values()), key=lambda task: task.order)
        for task in tasks:
            self.children.setdefault(_shown_parent(view, task), []).append(task)
        self._settled: dict[str, bool] = {}
        self._cost: dict[str, float] = {}
        for task in reversed(tasks):
            self._settle(task)
            self._add_up(task)

    def _settle(self, task: TaskView) -> bool:
        known = self._settled.get(task.task_id)
        if known is None:
            known = task.final and all(self._settle(child) for child in self.children.get(task.task_id, ()))
            self._settled[task.task_id] = known
        return known

    def _add_up(self, task: TaskView) -> float:
        known = self._cost.get(task.task_id)
        if known is None:
            below = sum(self._add_up(child) for child in self.children.get(task.task_id, ()))
            known = self._cost[task.task_id] = task.cost_usd + below
        return known

    def cost(self, task: TaskView) -> float:
        """What the task and everything shown under it cost."""
        return self._cost[task.task_id]

    def settled(self, task: TaskView) -> bool:
        """True when the task and everything under it is final."""
        return self._settled[task.task_id]

    def waiting(self, task: TaskView) -> bool:
        """True when the task waits and has nothing under it."""
        return task.state in WAITING and not self.children.get(task.task_id)


def _shown(view: GoalView, task: TaskView) -> TaskView:
    """A task as it is shown: planning is over when the plan is there, though the root lives to the end."""
    if task.task_id != view.root or task.state not in ("expanded", "succeeded"):
        return task
    count = len(view.planned()) + view.unseen
    return replace(task, title="Plan the goal", state="succeeded", summary=f"{count} tasks planned")


def _shown_parent(view: GoalView, task: TaskView) -> str | None:
    """The row a task hangs under; the plan stands beside the root that planned it, not under it.

    A parent was told of before its children, so rows never hang in a circle, whatever events say.
    """
    parent = view.tasks.get(task.parent or "")
    return parent.task_id if parent and parent.order < task.order and not view.plans(task) else None


def whole(view: GoalView) -> list[Row]:
    """Every task, settled subtrees too."""
    return list(_group(Forest(view), None, "", _Tightness(deep=True)))


def rows(view: GoalView, height: int) -> list[Row]:
    """The rows worth seeing now, at most `height` (at least one)."""
    forest = Forest(view)
    height = max(1, height)
    found: list[Row] = []
    for tightness in _TIGHTER:
        found = list(_group(forest, None, "", tightness))
        if len(found) <= height:
            return found
    rest = len(found) - height + 1
    return [*found[: height - 1], Row("", None, f"… {rest} more rows", "blocked")]


def _group(forest: Forest, parent: str | None, guide: str, tightness: _Tightness) -> Iterator[Row]:
    """The rows under one parent, folded."""
    units = _fold(forest, forest.children.get(parent, ()), tightness)
    for number, unit in enumerate(units):
        last = number == len(units) - 1
        turn, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        if parent is None:
            turn = below = ""
        if isinstance(unit, Row):
            yield Row(guide + turn, None, unit.text, unit.state, unit.cost_usd)
            continue
        yield Row(guide + turn, unit, cost_usd=forest.cost(unit))
        if tightness.deep or not forest.settled(unit):
            yield from _group(forest, unit.task_id, guide + below, tightness)


def _fold(forest: Forest, tasks: Sequence[TaskView], tightness: _Tightness) -> list[TaskView | Row]:
    """One group's tasks: open ones as they are, the latest settled and the next waiting, folds for the rest.

    Dead ones are the last to be folded away.
    """
    done = sorted((t for t in tasks if forest.settled(t)), key=lambda task: task.state == "dead")
    later = [task for task in tasks if forest.waiting(task)]
    hidden_done = done[: len(done) - tightness.settled] if len(done) > tightness.settled + 1 else []
    hidden_later = later[tightness.waiting :] if len(later) > tightness.waiting + 1 else []
    hidden = {task.task_id for task in (*hidden_done, *hidden_later)}
    units: list[TaskView | Row] = [task for task in tasks if task.task_id not in hidden]
    if hidden_done:
        units.insert(0, _fold_of(forest, hidden_done, ""))
    if hidden_later:
        units.append(_fold_of(forest, hidden_later, "more "))
    return units


def _fold_of(forest: Forest, tasks: Sequence[TaskView], word: str) -> Row:
    counts: dict[str, int] = {}
    for task in tasks:
        state = "waiting" if task.state in WAITING else task.state
        counts[state] = counts.get(state, 0) + 1
    text = ", ".join(f"{count:,} {word}{state}" for state, count in counts.items())
    worst = next((s for s in ("dead", "skipped", "cancelled") if s in counts), tasks[0].state)
    return Row("", None, f"… {text}", worst, sum(map(forest.cost, tasks)))
