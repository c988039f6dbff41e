"""`observe`: one event into the audit of its goal, and the signals that it raises. Pure and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime

from goalwright_shared.messages import Event

from goalwright_reflector.core import checks, plans, reading
from goalwright_reflector.core.checks import Checked
from goalwright_reflector.core.ladder import climb
from goalwright_reflector.core.model import Audit, Finding, Rules, Signal, forget, remember, signal_id

_ACTIONS = 512  # tasks added by performers that are under way
_SAID = 256  # signals remembered as said
_SHAPES = 16  # plans remembered to recognise an old one
_WAITING = 256  # tasks known to wait for a person

_REFLECT, _PLAN = "reflect", "plan"


def observe(audit: Audit, event: Event, now: datetime, rules: Rules) -> tuple[Audit, list[Signal]]:
    """The audit after `event` and what it gives reason to say. An event seen before changes nothing."""
    if audit.state == "finished" or event.seq <= audit.seq:
        return audit, []
    audit = replace(audit, seq=event.seq, last_event_id=event.event_id, heard_at=now)
    cost = reading.number(event.data.get("cost_usd"))
    audit = checks.paid(audit, event, cost) if cost else audit
    step = _STEPS.get(event.kind, _heard)
    audit, findings = step(audit, event, rules)
    return raised(audit, findings + (checks.money(audit, event, rules) if cost else []), rules)


def raised(audit: Audit, findings: Iterable[Finding], rules: Rules) -> tuple[Audit, list[Signal]]:
    """Findings as signals, each on its next rung of the ladder; those said before are left out."""
    signals: list[Signal] = []
    for finding in findings:
        if signal_id(audit.goal_id, finding.signal, finding.evidence) in audit.said:
            continue
        audit, signal = climb(audit, finding, rules)
        if signal is not None:
            signals.append(signal)
            audit = replace(audit, said=remember(audit.said, signal.signal_id, None, _SAID))
    return audit, signals


def _heard(audit: Audit, _: Event, __: Rules) -> Checked:
    """An event that says no more than that the goal lives."""
    return audit, []


# --- the goal itself -----------------------------------------------------------------------------------


def _accepted(audit: Audit, event: Event, _: Rules) -> Checked:
    deadline = event.data.get("deadline")
    return replace(
        audit,
        started_at=event.at,
        budget_usd=reading.number(event.data.get("budget_usd")),
        deadline=reading.time(deadline),
    ), []


def _paused(audit: Audit, _: Event, __: Rules) -> Checked:
    return replace(audit, state="paused"), []


def _resumed(audit: Audit, _: Event, __: Rules) -> Checked:
    """A person looked and said go on: the ladder starts anew."""
    return replace(audit, state="open", rungs={}, threads={}, freshness=(), turns=()), []


def _finished(audit: Audit, event: Event, _: Rules) -> Checked:
    """Nothing more is to be said: only that is kept."""
    return Audit(goal_id=audit.goal_id, owner=audit.owner, seq=event.seq, state="finished"), []


def _waits(audit: Audit, event: Event, _: Rules) -> Checked:
    if event.task_id is None or len(audit.waiting) >= _WAITING or "needs_usd" in event.data:
        return audit, []  # what is parked for money waits for nobody
    return replace(audit, waiting=audit.waiting | {event.task_id}), []


def _answered(audit: Audit, event: Event, _: Rules) -> Checked:
    return replace(audit, waiting=audit.waiting - {event.task_id or ""}), []


# --- the plan ------------------------------------------------------------------------------------------


def _adopted(audit: Audit, event: Event, _: Rules) -> Checked:
    plan = plans.adopted(event.task_id or "", event.data)
    audit = replace(audit, plan=plan, shapes=(plans.shape(plan),))
    if not plan.useless:
        return audit, []
    names = ", ".join(sorted(plan.useless)[:5])
    message = f"{len(plan.useless)} planned tasks make nothing that a deliverable needs: {names}"
    return audit, [Finding("useless_artifact", "plan", (event.event_id,), message, "info")]


def _revised(audit: Audit, event: Event, _: Rules) -> Checked:
    if audit.plan is None:
        return audit, []
    plan = plans.revised(audit.plan, event.data)
    shape = plans.shape(plan)
    again = shape and shape != audit.shapes[-1] and shape in audit.shapes
    audit = replace(audit, plan=plan, shapes=(*audit.shapes, shape)[-_SHAPES:])
    if not again:
        return audit, []
    message = "the plan was changed back to one that had been given up: replanning goes round in circles"
    return audit, [Finding("revision_oscillation", "plan", (event.event_id,), message)]


def _replanned(audit: Audit, _: Event, __: Rules) -> Checked:
    return replace(audit, replans=audit.replans + 1), []


# --- tasks ---------------------------------------------------------------------------------------------


def _dispatched(audit: Audit, event: Event, _: Rules) -> Checked:
    """Remember what an added task is about to do; the first dispatch of a reflect task opens a review."""
    task, action = event.task_id, event.data.get("action")
    if task is None:
        return audit, []
    if reading.lane(event) == _REFLECT:
        return _review_begun(audit, task, event.at), []
    if action and not _is_planned(audit, event):
        return replace(audit, actions=remember(audit.actions, task, str(action), _ACTIONS)), []
    return audit, []


def _expanded(audit: Audit, event: Event, rules: Rules) -> Checked:
    """A turn: what the task was told by its last children, and what it wants done now. A turn without new
    tasks (reading on, waiting) does nothing that could repeat."""
    task, actions = event.task_id, reading.actions(event)
    if task is None or not actions:
        return audit, []
    if reading.lane(event) == _PLAN and event.data.get("continued") is False and audit.plan is not None:
        return replace(audit, plan=plans.refined(audit.plan, task, event.data)), []
    told = "+".join(sorted(audit.told.get(task, ())))
    audit = replace(audit, told=forget(audit.told, task))
    return checks.followed(audit, event, f"{told} → {actions}", rules)


def _succeeded(audit: Audit, event: Event, rules: Rules) -> Checked:
    task = event.task_id or ""
    audit = replace(
        audit,
        threads=forget(audit.threads, task),
        told=forget(audit.told, task),
        answers=forget(audit.answers, task),
        failures=forget(audit.failures, task),
        waiting=audit.waiting - {task},
    )
    if reading.lane(event) == _REFLECT:
        return _reviewed(audit, event)
    if _is_planned(audit, event):
        return _counted(audit, event), []
    return checks.added_result(audit, event, rules)


def _failed(audit: Audit, event: Event, rules: Rules) -> Checked:
    """A try failed; `final` tells whether the task is dead with it."""
    final = event.data.get("final") is True
    if reading.lane(event) == _REFLECT:
        return (_review_closed(audit) if final else audit), []
    audit, repeated = checks.same_failure(audit, event, rules)
    if not final:
        return audit, repeated
    if _is_planned(audit, event):
        return _ended(audit, event, died=True), repeated
    audit, findings = checks.added_result(audit, event, rules)
    return audit, repeated + findings


def _dropped(audit: Audit, event: Event, _: Rules) -> Checked:
    """Skipped or cancelled: it ended without a result."""
    if reading.lane(event) == _REFLECT:
        return _review_closed(audit), []
    return _ended(audit, event, died=event.kind == "task.skipped"), []


def review_opened(audit: Audit, at: datetime) -> Audit:
    """A review starts here: the next one counts from this point."""
    reviews = replace(
        audit.reviews, open_since=at, at=at, completions=audit.completions, spent_usd=audit.spent_usd,
        a_task_died=False,
    )  # fmt: skip
    return replace(audit, reviews=reviews)


def _review_begun(audit: Audit, task: str, at: datetime) -> Audit:
    if task in audit.reviews.seen:
        return audit
    reviews = replace(audit.reviews, seen=audit.reviews.seen | {task})
    return review_opened(replace(audit, reviews=reviews), at)


def _review_closed(audit: Audit) -> Audit:
    return replace(audit, reviews=replace(audit.reviews, open_since=None))


def _is_planned(audit: Audit, event: Event) -> bool:
    return audit.plan is not None and audit.plan.has(reading.key(event), reading.parent(event))


def _counted(audit: Audit, event: Event) -> Audit:
    """A planned task is done; agents' tasks count towards the next review."""
    assert audit.plan is not None
    plan = replace(audit.plan, open=audit.plan.open - {reading.key(event)})
    agent = reading.lane(event).startswith("agent.")
    return replace(audit, plan=plan, done=audit.done + 1, completions=audit.completions + agent)


def _ended(audit: Audit, event: Event, *, died: bool) -> Audit:
    if audit.plan is None or not _is_planned(audit, event):
        return audit
    plan = replace(audit.plan, open=audit.plan.open - {reading.key(event)})
    reviews = replace(audit.reviews, a_task_died=True) if died else audit.reviews
    return replace(audit, plan=plan, ended=audit.ended + 1, reviews=reviews)


# --- what reviews and signals leave in the stream ------------------------------------------------------


def said_by(event: Event) -> str | None:
    """The id of the signal that this event tells was recorded, else None."""
    if event.kind != "reflection.signalled":
        return None
    told = event.data.get("signal_id")
    name = str(event.data.get("signal") or "")
    return str(told) if told else signal_id(event.goal_id, name, reading.strings(event.data.get("evidence")))


def _signalled(audit: Audit, event: Event, _: Rules) -> Checked:
    """A signal was recorded: it is not said again. An off-topic one waits for the end of its review."""
    name, said = event.data.get("signal"), said_by(event)
    assert said is not None
    audit = replace(audit, said=remember(audit.said, said, None, _SAID))
    if name == "off_topic" and event.data.get("action") != "pause":
        audit = replace(audit, off_topic_now=event.event_id)
    return audit, []


def _reviewed(audit: Audit, event: Event) -> Checked:
    """A review has ended; two in a row that found the goal off topic are one too many."""
    audit = _review_closed(audit)
    if audit.off_topic_now is None:
        return replace(audit, off_topic=()), []
    row = (*audit.off_topic, audit.off_topic_now)[-2:]
    audit = replace(audit, off_topic=row, off_topic_now=None)
    if len(row) < 2:
        return audit, []
    message = "two reviews in a row found that the work has left the goal's topic"
    return audit, [Finding("off_topic", event.event_id, row, message)]


def _reported(audit: Audit, event: Event, _: Rules) -> Checked:
    return replace(audit, reported_at=event.at), []


_STEPS: dict[str, Callable[[Audit, Event, Rules], Checked]] = {
    "goal.accepted": _accepted,
    "goal.paused": _paused,
    "goal.resumed": _resumed,
    "goal.finished": _finished,
    "plan.adopted": _adopted,
    "plan.revised": _revised,
    "replan.requested": _replanned,
    "task.dispatched": _dispatched,
    "task.expanded": _expanded,
    "task.succeeded": _succeeded,
    "task.failed": _failed,
    "task.skipped": _dropped,
    "task.cancelled": _dropped,
    "task.parked": _waits,
    "approval.requested": _waits,
    "approval.answered": _answered,
    "reflection.signalled": _signalled,
    "progress.reported": _reported,
}
"""What each kind of event means; other kinds only show that the goal lives."""
