"""What a person sees of a goal, folded from its events. Pure: events in, frozen values out.

`apply` folds one event into a `GoalView`. Nothing here knows a terminal, a clock or NATS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from goalwright_shared.messages import ArtifactRef, BadMessage, Event, parse_lenient_value

_GIST = 500
"""How much of an error or a reason is kept."""

FINAL = frozenset({"succeeded", "dead", "cancelled", "skipped"})
WAITING = frozenset({"blocked", "ready"})
ENDED = frozenset({"done", "partial", "stopped_loop", "stopped_off_topic", "failed", "cancelled"})
"""States of a goal that never change again."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task: where it stands, what it cost, what it said last."""

    task_id: str
    key: str
    order: int
    title: str = ""
    lane: str = ""
    parent: str | None = None
    generation: int = 0
    needs: tuple[str, ...] = ()
    state: str = "blocked"
    since: datetime | None = None
    started: datetime | None = None
    epoch: int = 0
    turn: int = 0
    failures: int = 0
    cost_usd: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    summary: str = ""
    error: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """What to call it: its title, else its key."""
        if not self.title and self.lane == "plan" and self.parent is None:
            return "Plan the goal"
        return self.title or self.key

    @property
    def final(self) -> bool:
        """True when its state never changes again."""
        return self.state in FINAL


@dataclass(frozen=True, slots=True)
class Question:
    """Something a person must decide."""

    task_id: str
    text: str
    options: tuple[str, ...] = ()
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Replan:
    """One revision of the plan: what changed and why."""

    revision: int
    reason: str
    summary: str
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GoalView:
    """A goal as far as its events tell; `seq` is the last one folded in.

    The plan is the `generation` of tasks under `root`; `unseen` of them were too many for the event to list.
    """

    goal_id: str
    seq: int = 0
    text: str = ""
    status: str = "accepted"
    reason: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    budget_usd: float | None = None
    spent_usd: float = 0.0
    started: datetime | None = None
    ended: datetime | None = None
    last: datetime | None = None
    contract: Mapping[str, Any] = field(default_factory=dict)
    estimate_usd: float | None = None
    plan_source: str = ""
    root: str | None = None
    generation: int = 0
    unseen: int = 0
    pruned: int = 0
    warnings: tuple[str, ...] = ()
    tasks: Mapping[str, TaskView] = field(default_factory=dict)
    replans: tuple[Replan, ...] = ()
    questions: Mapping[str, Question] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    deliverables: Mapping[str, ArtifactRef] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """True when the goal has ended."""
        return self.status in ENDED

    def planned(self) -> list[TaskView]:
        """The tasks of the plan itself, without what they were expanded into."""
        return [task for task in self.tasks.values() if self.plans(task)]

    def plans(self, task: TaskView) -> bool:
        """Whether a task is one of the plan's own."""
        return self.root is not None and (task.parent, task.generation) == (self.root, self.generation)

    def counts(self) -> dict[str, int]:
        """The plan's tasks per state (all tasks while there is no plan); unseen ones are blocked."""
        found = {"blocked": self.unseen} if self.unseen else {}
        for task in self.planned() or self.tasks.values():
            found[task.state] = found.get(task.state, 0) + 1
        return found


# --- the fold ------------------------------------------------------------------------------------------


def apply(view: GoalView, event: Event) -> GoalView:
    """`view` after `event`; an event at or before `view.seq` changes nothing."""
    if event.seq <= view.seq:
        return view
    view = replace(view, seq=event.seq, last=event.at)
    fold = _FOLDS.get(event.kind)
    return fold(view, event) if fold else view


def with_account(view: GoalView, answer: Mapping[str, Any]) -> GoalView:
    """`view` with the money that `query.goal` tells (events tell it only when tasks end)."""
    spent = float(answer.get("spent_usd") or 0) + float(answer.get("overrun_usd") or 0)
    return replace(
        view,
        spent_usd=max(view.spent_usd, spent),
        budget_usd=answer.get("budget_usd", view.budget_usd),
        text=view.text or str(answer.get("text") or ""),
    )


def with_note(view: GoalView, task_id: str, note: str) -> GoalView:
    """`view` with what `query.why` says about a waiting task."""
    task = view.tasks.get(task_id)
    if task is None or task.state not in WAITING or task.note == note:
        return view
    return _put(view, replace(task, note=note))


def _put(view: GoalView, *tasks: TaskView) -> GoalView:
    return replace(view, tasks={**view.tasks, **{task.task_id: task for task in tasks}})


def _accepted(view: GoalView, event: Event) -> GoalView:
    data = event.data
    return replace(
        view,
        text=_text(data.get("text")),
        labels=_texts(data.get("labels")),
        budget_usd=_number(data.get("budget_usd")) if data.get("budget_usd") is not None else None,
        started=event.at,
    )


def _plan_adopted(view: GoalView, event: Event) -> GoalView:
    data = event.data
    contract = data.get("contract")
    estimate = data.get("estimate_usd")
    view = replace(
        view,
        status="running",
        reason=None,
        root=event.task_id,
        unseen=max(0, int(_number(data.get("task_count"))) - len(_list(data.get("tasks")))),
        contract=contract if isinstance(contract, dict) else {},
        estimate_usd=_number(estimate) if estimate is not None else None,
        plan_source=_text(data.get("source")),
        pruned=len(_list(data.get("pruned"))),
        warnings=tuple(_text(warning) for warning in _list(data.get("warnings"))),
    )
    view = _add_tasks(view, event, data.get("tasks"))
    told = [view.tasks[_text(row.get("task_id"))] for row in _dicts(data.get("tasks"))]
    view = replace(view, generation=max((task.generation for task in told), default=1))
    root = view.tasks.get(event.task_id or "")
    if root is None or root.started is None:
        return view
    return _put(view, replace(root, seconds=(event.at - root.started).total_seconds()))


def _plan_revised(view: GoalView, event: Event) -> GoalView:
    data = event.data
    added = _dicts(data.get("added"))
    reasons = {_text(row.get("key")): _text(row.get("reason")) for row in _dicts(data.get("dropped"))}
    names = {task.key: task.name for task in view.tasks.values() if task.parent == event.task_id}
    replan = Replan(
        revision=int(_number(data.get("revision"))),
        reason=_text(data.get("reason")),
        summary=_text(data.get("summary")),
        added=tuple(_text(task.get("title")) or _text(task.get("key")) for task in added),
        dropped=tuple(names.get(key, key) for key in reasons),
    )
    view = replace(view, replans=(*view.replans, replan))
    view = _add_tasks(view, event, added)
    gone = [
        replace(task, state="cancelled", since=event.at, error=f"dropped: {reasons[task.key]}")
        for task in view.tasks.values()
        if task.parent == event.task_id and task.key in reasons and not task.final
    ]
    return _put(view, *gone)


def _add_tasks(view: GoalView, event: Event, rows: Any) -> GoalView:
    """Insert children of the event's task; one that is there already (told by two events) is only completed.

    They name what they need by key, among themselves or their older siblings.
    """
    generation = int(_number(event.data.get("generation"))) or view.generation
    ids = {task.key: task.task_id for task in view.tasks.values() if task.parent == event.task_id}
    ids |= {_text(row.get("key")): _text(row.get("task_id")) for row in _dicts(rows)}
    tasks = dict(view.tasks)
    for row in _dicts(rows):
        task_id = _text(row.get("task_id"))
        have = tasks.get(task_id) or TaskView(task_id, _text(row.get("key")), order=len(tasks))
        needs = tuple(ids.get(need, need) for need in map(_text, _list(row.get("needs"))))
        tasks[task_id] = replace(
            have,
            title=_text(row.get("title")) or have.title,
            lane=_text(row.get("lane")) or have.lane,
            parent=have.parent or event.task_id,
            generation=have.generation or generation,
            needs=needs or have.needs,
            since=have.since or event.at,
        )
    return _unblock(replace(view, tasks=tasks), tasks)


def _unblock(view: GoalView, candidates: Iterable[str]) -> GoalView:
    """Blocked tasks whose needs have all succeeded are ready."""
    ready = [
        replace(task, state="ready")
        for task in (view.tasks[task_id] for task_id in candidates)
        if task.state == "blocked" and all(_met(view, need) for need in task.needs)
    ]
    return _put(view, *ready) if ready else view


def _met(view: GoalView, need: str) -> bool:
    task = view.tasks.get(need)
    return task is None or task.final  # one that failed or was dropped is no longer waited for


def _task_of(view: GoalView, event: Event) -> TaskView | None:
    """The task of a `task.*` event, made up from the event when no plan told of it."""
    if event.task_id is None:
        return None
    data = event.data
    task = view.tasks.get(event.task_id) or TaskView(
        event.task_id,
        _text(data.get("key")) or event.task_id,
        order=len(view.tasks),
        since=event.at,
        generation=view.generation,
    )
    return replace(
        task,
        lane=_text(data.get("lane")) or task.lane,
        parent=task.parent or _text(data.get("parent")) or None,
        epoch=int(_number(data.get("epoch"))) or task.epoch,
        turn=int(_number(data.get("turn"))) or task.turn,
    )


def _moved(view: GoalView, event: Event, state: str, **changes: Any) -> GoalView:
    """The event's task in another state; final is final."""
    task = _task_of(view, event)
    if task is None or task.final:
        return view
    if task.task_id not in view.tasks and view.plans(task):
        view = replace(view, unseen=max(0, view.unseen - 1))
    return _put(view, replace(task, **{"state": state, "since": event.at, "note": "", **changes}))


def _dispatched(view: GoalView, event: Event) -> GoalView:
    if view.status == "accepted" and event.data.get("lane") == "plan":
        view = replace(view, status="planning")
    task = view.tasks.get(event.task_id or "")
    return _moved(view, event, "dispatched", started=(task.started if task else None) or event.at)


def _expanded(view: GoalView, event: Event) -> GoalView:
    tasks = _dicts(event.data.get("tasks"))
    view = _moved(view, event, "expanded" if tasks else "ready", **_paid(view, event))
    return _add_tasks(view, event, tasks)


def _paid(view: GoalView, event: Event) -> dict[str, Any]:
    """What the event's task has cost with this try."""
    data, task = event.data, view.tasks.get(event.task_id or "")
    before = (task.cost_usd, task.tokens_in, task.tokens_out) if task else (0.0, 0, 0)
    return {
        "cost_usd": before[0] + _number(data.get("cost_usd")),
        "tokens_in": before[1] + int(_number(data.get("tokens_in"))),
        "tokens_out": before[2] + int(_number(data.get("tokens_out"))),
    }


def _succeeded(view: GoalView, event: Event) -> GoalView:
    data = event.data
    view = _moved(
        view,
        event,
        "succeeded",
        summary=_text(data.get("summary")),
        seconds=_seconds(view, event),
        **_paid(view, event),
    )
    view = replace(view, repairs=(*view.repairs, *_repair(view, event.task_id)))
    waiting = [t.task_id for t in view.tasks.values() if t.state == "blocked" and event.task_id in t.needs]
    return _unblock(view, waiting)


def _seconds(view: GoalView, event: Event) -> float:
    """From a task's first start to its end; planning ended when the plan was there."""
    task = view.tasks.get(event.task_id or "")
    if task is None or task.started is None:
        return _number(event.data.get("seconds"))
    if task.task_id == view.root and task.seconds:
        return task.seconds
    return (event.at - task.started).total_seconds()


def _repair(view: GoalView, task_id: str | None) -> list[str]:
    """One sentence when this task has succeeded after it, or a task it had asked for, had failed."""
    task = view.tasks.get(task_id or "")
    if task is None:
        return []
    broken = [t for t in view.tasks.values() if t.parent == task.task_id and t.state == "dead"]
    if broken:
        first = broken[0]
        more = f" after {len(broken)} failures" if len(broken) > 1 else ""
        what = "its program" if first.lane == "exec" else f"“{first.name}”"
        return [f"“{task.name}”: {what} failed ({first.error}) and was repaired{more}"]
    if task.failures:
        return [f"“{task.name}” failed ({task.error}); succeeded on try {task.failures + 1}"]
    return []


def _failed(view: GoalView, event: Event) -> GoalView:
    data = event.data
    error = data.get("error")
    told = error if isinstance(error, dict) else {"message": _text(error)}
    message = _text(told.get("message")) or _text(told.get("code"))
    task = _task_of(view, event)
    failures = int(_number(data.get("failures"))) or (task.failures + 1 if task else 1)
    return _moved(
        view,
        event,
        "dead" if data.get("final") else "retry_wait",
        failures=failures,
        error=_gist(message),
        **_paid(view, event),
    )


def _throttled(view: GoalView, event: Event) -> GoalView:
    view = _moved(view, event, "ready")
    return with_note(view, event.task_id or "", f"throttled: {_text(event.data.get('reason')) or 'busy'}")


def _asked(view: GoalView, event: Event) -> GoalView:
    if event.task_id is None:
        return view
    data = event.data
    default = data.get("default")
    question = Question(
        event.task_id,
        _text(data.get("text")),
        tuple(_text(option) for option in _list(data.get("options"))),
        None if default is None else _text(default),
    )
    view = replace(view, questions={**view.questions, event.task_id: question})
    return _moved(view, event, "parked")


def _answered(view: GoalView, event: Event) -> GoalView:
    rest = {task_id: q for task_id, q in view.questions.items() if task_id != event.task_id}
    return replace(view, questions=rest)


def _ended_with(state: str) -> Any:
    def fold(view: GoalView, event: Event) -> GoalView:
        reason = _gist(_text(event.data.get("reason")))
        return _answered(_moved(view, event, state, error=reason), event)

    return fold


def _paused(view: GoalView, event: Event) -> GoalView:
    return replace(view, status="paused", reason=_text(event.data.get("reason")) or None)


def _resumed(view: GoalView, event: Event) -> GoalView:
    return replace(view, status="running" if view.contract else "planning", reason=None)


def _replan_requested(view: GoalView, event: Event) -> GoalView:
    """A plan task stands beside the plan's tasks until its revision is there."""
    task = _task_of(view, event)
    if task is None:
        return view
    task = replace(task, title=f"Replan {len(view.replans) + 1}", lane="plan", state="ready")
    return _put(view, replace(task, parent=view.root, generation=view.generation))


def _finished(view: GoalView, event: Event) -> GoalView:
    data = event.data
    refs = {}
    for name, row in _table(data.get("deliverables")).items():
        try:
            refs[name], _ = parse_lenient_value(ArtifactRef, row)
        except BadMessage:
            continue  # a reference that a newer system writes differently: the rest is still of use
    return replace(
        view,
        status=_text(data.get("status")) or "done",
        reason=_text(data.get("reason")) or None,
        spent_usd=max(view.spent_usd, _number(data.get("spent_usd"))),
        missing=tuple(_text(name) for name in _list(data.get("missing"))),
        deliverables=refs,
        questions={},
        ended=event.at,
    )


_FOLDS: dict[str, Any] = {
    "goal.accepted": _accepted,
    "goal.paused": _paused,
    "goal.resumed": _resumed,
    "goal.finished": _finished,
    "plan.adopted": _plan_adopted,
    "plan.revised": _plan_revised,
    "replan.requested": _replan_requested,
    "task.dispatched": _dispatched,
    "task.expanded": _expanded,
    "task.succeeded": _succeeded,
    "task.failed": _failed,
    "task.retried": lambda view, event: _moved(view, event, "ready"),
    "task.throttled": _throttled,
    "task.expired": lambda view, event: _moved(view, event, "ready"),
    "task.parked": lambda view, event: _moved(view, event, "parked", note=_text(event.data.get("reason"))),
    "task.skipped": _ended_with("skipped"),
    "task.cancelled": _ended_with("cancelled"),
    "approval.requested": _asked,
    "approval.answered": _answered,
}


# --- reading JSON that others wrote --------------------------------------------------------------------


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _gist(text: str) -> str:
    """The line that says it: the last one of a traceback, else the first."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()] or [""]
    return (lines[-1] if "Traceback" in text else lines[0])[:_GIST]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [row for row in _list(value) if isinstance(row, dict)]


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> dict[str, str]:
    return {key: _text(item) for key, item in _table(value).items()}
