"""Goals and tasks as the reference model (`support.model`) knows them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from goalwright_shared.messages import TaskSpec

LOST = frozenset({"dead", "cancelled", "skipped"})
FINAL = LOST | frozenset({"succeeded"})
OPEN = ("blocked", "ready", "dispatched", "expanded", "checking", "retry_wait", "parked")
ENDED = frozenset({"done", "partial", "failed", "cancelled", "stopped_loop", "stopped_off_topic"})
CHARGED_WHOLE = frozenset({"timeout", "expired", "redelivered"})
"""Failures without usage whose call may have been billed."""


class Refusal(Exception):
    """What was asked cannot be; nothing changes."""


@dataclass(eq=False)
class Generation:
    """The children of one expansion. kind: `resume` (continuation), `replace` (they make the outputs), `check`, `vote`
    (a replica)."""

    kind: str
    children: list[Task] = field(default_factory=list)
    revision: int = 0
    marks: list[str] = field(
        default_factory=list
    )  # revisions and plans that were, by which one is known again
    continuation: Any = None
    answer: dict[str, str] = field(default_factory=dict)  # outputs that wait for their checks
    made: dict[str, str] = field(default_factory=dict)  # what the goal had made before it was taken up again


@dataclass(eq=False)
class Task:
    """A task. `unmet` and `open_children` follow from the others, and are compared with what Postgres counts."""

    goal: Goal
    parent: Task | None
    generation: int
    spec: TaskSpec
    state: str = "blocked"
    id: int = 0  # known from the first look into Postgres
    lane: str = ""
    epoch: int = 0
    turn: int = 0
    failures: int = 0
    hold: int = 0
    due: float | None = None
    announced: bool = False
    over_budget: bool = False  # parked, because what it serves costs more than is left
    shares: bool = False  # an equal task's result may be its own
    dropped: bool = False  # by a revision
    twin: Task | None = None  # an equal task that is being done, for which it waits
    needs: list[Task] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)  # its outputs, once it has succeeded

    def __post_init__(self) -> None:
        self.goal.tasks.append(self)

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def open(self) -> bool:
        return self.state not in FINAL

    @property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1

    @property
    def unmet(self) -> int:
        return sum(need.state != "succeeded" for need in self.needs)

    @property
    def open_children(self) -> int:
        return sum(child.open for generation in self.generations for child in generation.children)

    @property
    def siblings(self) -> list[Task]:
        """All tasks of its generation, itself included."""
        return [] if self.parent is None else self.parent.generations[self.generation - 1].children

    @property
    def path(self) -> tuple[Any, ...]:
        """What names it for good: keys are unique in a generation."""
        if self.parent is not None:
            return (*self.parent.path, self.generation, self.key)
        before = self.goal.tasks[: self.goal.tasks.index(self)]
        number = sum(other.parent is None and other.key == self.key for other in before)
        return (self.goal.id, number, self.key)

    def given(self) -> dict[str, str]:
        """The values of its inputs: a sibling's, else the parent's."""
        if self.parent is None:
            return {name: text for name, text in self.goal.inputs.items() if name in self.spec.inputs}
        generation = self.parent.generations[self.generation - 1]
        known = {**self.parent.given(), **generation.answer, **generation.made}
        for sibling in generation.children:
            known |= sibling.made
        return {name: known[name] for name in self.spec.inputs if name in known}


@dataclass(eq=False)
class Goal:
    """A goal; money in micro-dollars."""

    id: str
    owner: str
    budget: int
    seconds: float  # from its beginning to its deadline, and again when it is taken up again
    deadline: float
    revision: int = field(init=False, default=0)
    root: Task = field(init=False)
    inputs: dict[str, str] = field(default_factory=dict)
    status: str = "planning"
    reason: str | None = None
    ask_until: float | None = None
    spent: int = 0
    held: int = 0
    overrun: int = 0
    bills: dict[tuple[Task, int], int] = field(default_factory=dict)  # open ones: their hold
    tasks: list[Task] = field(default_factory=list)
    signals: set[str] = field(default_factory=set)  # findings of the reflector
    doing: dict[Hashable, Task] = field(default_factory=dict)  # by contract: who does it, or has done it

    @property
    def may_run(self) -> bool:
        return self.status in ("planning", "running")


@dataclass
class Account:
    """What an owner may spend over all goals, in total or a `day`; money in micro-dollars."""

    budget: int
    per: str


@dataclass
class Limits:
    """Settings the model must know."""

    ask_timeout_seconds: float
    pool_park_seconds: float
    max_depth: int
    max_replans: int
    share_equal_tasks: str
    share_across_goals: bool

    @classmethod
    def of(cls, settings: Any) -> Limits:
        """What the scheduler is set to."""
        return cls(**{name.name: getattr(settings, name.name) for name in fields(cls)})


def is_replan(spec: TaskSpec) -> bool:
    return spec.lane == "plan" and spec.key.startswith("replan-")


def without(task: Task, others: Sequence[Task]) -> list[Task]:
    """Those of the others that cannot go without what this one (or another of them) would have made."""
    lost: list[Task] = [task]
    found: list[Task] = []
    while lost:
        one = lost.pop()
        made = {output.name for output in one.spec.outputs}
        for other in others:
            if other not in found and (made & set(other.spec.inputs) or one.key in other.spec.after):
                found.append(other)
                lost.append(other)
    return found


def dependants(tasks: Sequence[Task]) -> list[Task]:
    """Open siblings that need one of these, directly or not."""
    found: list[Task] = []
    queue = list(tasks)
    while queue:
        one = queue.pop()
        for sibling in one.siblings:
            if one in sibling.needs and sibling not in found:
                found.append(sibling)
                queue.append(sibling)
    return [task for task in found if task.open]


def orphans(siblings: Sequence[Task]) -> list[Task]:
    return dependants([task for task in siblings if task.state == "dead"])


def made_under(generation: Generation) -> dict[str, str]:
    """The values of a plan's names."""
    made = dict(generation.made)
    for child in generation.children:
        made |= child.made
    return made


def under(task: Task) -> list[Task]:
    children = [child for generation in task.generations for child in generation.children]
    return children + [below for child in children for below in under(child)]
