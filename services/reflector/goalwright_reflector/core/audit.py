"""`observe`: one event into the audit of its goal, and the signals that it raises. Pure and bounded.

Loops are looked for per task (its turns and retries), never over a whole goal: a client may rightly submit
a thousand equal tasks. What the tasks of one goal have in common is judged only where performers add tasks
themselves (tools, questions to other roles), because there nothing but a loop repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from goalwright_shared.messages import Event

from goalwright_reflector.core import plans
from goalwright_reflector.core.ladder import climb
from goalwright_reflector.core.model import Audit, Finding, Rules, Signal, forget, remember, signal_id
from goalwright_reflector.core.patterns import alternates, smallest_period, stale

_ACTIONS = 512  # tasks added by performers that are under way
_THREADS = 256  # tasks whose turns are followed at a time
_TOLD = 64  # results of a task's last children
_SEEN = 512  # results remembered as known
_SAID = 256  # signals remembered as said
_SHAPES = 16  # plans remembered to recognise an old one
_WAITING = 256  # tasks known to wait for a person

_Checked = tuple[Audit, list[Finding]]
_REFLECT, _PLAN = "reflect", "plan"
_NOT_REDONE = frozenset({"redelivered"})


def observe(audit: Audit, event: Event, now: datetime, rules: Rules) -> tuple[Audit, list[Signal]]:
    """The audit after `event` and what it gives reason to say. An event seen before changes nothing."""
    if audit.state == "finished" or event.seq <= audit.seq:
        return audit, []
    audit = replace(audit, seq=event.seq, last_event_id=event.event_id, heard_at=now)
    cost = _number(event.data.get("cost_usd"))
    audit = _paid(audit, event, cost) if cost else audit
    step = _STEPS.get(event.kind, _heard)
    audit, findings = step(audit, event, rules)
    return raised(audit, findings + (_money(audit, event, rules) if cost else []), rules)


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


def _heard(audit: Audit, _: Event, __: Rules) -> _Checked:
    """An event that says no more than that the goal lives."""
    return audit, []


# --- the goal itself -----------------------------------------------------------------------------------


def _accepted(audit: Audit, event: Event, _: Rules) -> _Checked:
    deadline = event.data.get("deadline")
    return replace(
        audit,
        started_at=event.at,
        budget_usd=_number(event.data.get("budget_usd")),
        deadline=_time(deadline),
    ), []


def _paused(audit: Audit, _: Event, __: Rules) -> _Checked:
    return replace(audit, state="paused"), []


def _resumed(audit: Audit, _: Event, __: Rules) -> _Checked:
    """A person looked and said go on: the ladder starts anew."""
    return replace(audit, state="open", rungs={}, threads={}, freshness=(), turns=()), []


def _finished(audit: Audit, _: Event, __: Rules) -> _Checked:
    return replace(audit, state="finished"), []


def _waits(audit: Audit, event: Event, _: Rules) -> _Checked:
    if event.task_id is None or len(audit.waiting) >= _WAITING:
        return audit, []
    return replace(audit, waiting=audit.waiting | {event.task_id}), []


def _answered(audit: Audit, event: Event, _: Rules) -> _Checked:
    return replace(audit, waiting=audit.waiting - {event.task_id or ""}), []


# --- the plan ------------------------------------------------------------------------------------------


def _adopted(audit: Audit, event: Event, _: Rules) -> _Checked:
    plan = plans.adopted(event.task_id or "", event.data)
    audit = replace(audit, plan=plan, shapes=(plans.shape(plan),))
    if not plan.useless:
        return audit, []
    names = ", ".join(sorted(plan.useless)[:5])
    message = f"{len(plan.useless)} planned tasks make nothing that a deliverable needs: {names}"
    return audit, [Finding("useless_artifact", "plan", (event.event_id,), message, "info")]


def _revised(audit: Audit, event: Event, _: Rules) -> _Checked:
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


def _replanned(audit: Audit, _: Event, __: Rules) -> _Checked:
    return replace(audit, replans=audit.replans + 1), []


# --- tasks ---------------------------------------------------------------------------------------------


def _dispatched(audit: Audit, event: Event, _: Rules) -> _Checked:
    """Remember what an added task is about to do; the first dispatch of a reflect task opens a review."""
    task, action = event.task_id, event.data.get("action")
    if task is None:
        return audit, []
    if _lane(event) == _REFLECT:
        return _review_begun(audit, task, event.at), []
    if action and not _is_planned(audit, event):
        return replace(audit, actions=remember(audit.actions, task, str(action), _ACTIONS)), []
    return audit, []


def _expanded(audit: Audit, event: Event, rules: Rules) -> _Checked:
    """A turn: what the task was told by its last children, and what it wants done now. A turn without new
    tasks (reading on, waiting) does nothing that could repeat."""
    task, actions = event.task_id, _actions(event)
    if task is None or not actions:
        return audit, []
    if _lane(event) == _PLAN and event.data.get("continued") is False and audit.plan is not None:
        return replace(audit, plan=plans.refined(audit.plan, task, event.data)), []
    told = "+".join(sorted(audit.told.get(task, ())))
    audit = replace(audit, told=forget(audit.told, task))
    return _followed(audit, event, f"{told} → {actions}", rules)


def _succeeded(audit: Audit, event: Event, rules: Rules) -> _Checked:
    task = event.task_id or ""
    audit = replace(
        audit,
        threads=forget(audit.threads, task),
        told=forget(audit.told, task),
        failures=forget(audit.failures, task),
        waiting=audit.waiting - {task},
    )
    if _lane(event) == _REFLECT:
        return _reviewed(audit, event)
    if _is_planned(audit, event):
        return _counted(audit, event), []
    return _added_result(audit, event, rules)


def _failed(audit: Audit, event: Event, rules: Rules) -> _Checked:
    """A try failed; `final` tells whether the task is dead with it."""
    final = event.data.get("final") is True
    if _lane(event) == _REFLECT:
        return (_review_closed(audit) if final else audit), []
    audit, repeated = _same_failure(audit, event, rules)
    if not final:
        return audit, repeated
    if _is_planned(audit, event):
        return _ended(audit, event, died=True), repeated
    audit, findings = _added_result(audit, event, rules)
    return audit, repeated + findings


def _dropped(audit: Audit, event: Event, _: Rules) -> _Checked:
    """Skipped or cancelled: it ended without a result."""
    if _lane(event) == _REFLECT:
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
    return audit.plan is not None and audit.plan.has(_key(event), _parent(event))


def _counted(audit: Audit, event: Event) -> Audit:
    """A planned task is done; agents' tasks count towards the next review."""
    assert audit.plan is not None
    plan = replace(audit.plan, open=audit.plan.open - {_key(event)})
    agent = _lane(event).startswith("agent.")
    return replace(audit, plan=plan, done=audit.done + 1, completions=audit.completions + agent)


def _ended(audit: Audit, event: Event, *, died: bool) -> Audit:
    if audit.plan is None or not _is_planned(audit, event):
        return audit
    plan = replace(audit.plan, open=audit.plan.open - {_key(event)})
    reviews = replace(audit.reviews, a_task_died=True) if died else audit.reviews
    return replace(audit, plan=plan, ended=audit.ended + 1, reviews=reviews)


# --- the checks ----------------------------------------------------------------------------------------


def _followed(audit: Audit, event: Event, token: str, rules: Rules) -> _Checked:
    """Repetition: the tail of a task's turns is a period that came `repeats` times over."""
    assert event.task_id is not None
    kept = rules.max_period * rules.repeats
    thread = (*audit.threads.get(event.task_id, ()), (token, event.event_id))[-kept:]
    period = smallest_period([digest for digest, _ in thread], rules.max_period, rules.repeats)
    if period is None:
        return replace(audit, threads=remember(audit.threads, event.task_id, thread, _THREADS)), []
    evidence = tuple(event_id for _, event_id in thread[-period * rules.repeats :])
    steps = "the same step" if period == 1 else f"the same {period} steps"
    message = f"task {_key(event)} did {steps} {rules.repeats} times with the same result"
    audit = replace(audit, threads=forget(audit.threads, event.task_id))
    return audit, [Finding("repetition", event.task_id, evidence, message, task_id=event.task_id)]


def _same_failure(audit: Audit, event: Event, rules: Rules) -> _Checked:
    """The same failure class `same_failures` times on one task; one try counts once."""
    if event.task_id is None:
        return audit, []
    code, epoch = _failure_class(event), _epoch(event)
    tries = audit.failures.get(event.task_id, ())
    if code in _NOT_REDONE or any(at == epoch for at, _, _ in tries):
        return audit, []
    tries = (*tries, (epoch, code, event.event_id))[-rules.same_failures :]
    same = len(tries) == rules.same_failures and len({code for _, code, _ in tries}) == 1
    if not same:
        return replace(audit, failures=remember(audit.failures, event.task_id, tries, _THREADS)), []
    evidence = tuple(event_id for _, _, event_id in tries)
    message = f"task {_key(event)} failed {rules.same_failures} times with {code}"
    audit = replace(audit, failures=forget(audit.failures, event.task_id))
    return audit, [Finding("same_failure", code, evidence, message, task_id=event.task_id)]


def _added_result(audit: Audit, event: Event, rules: Rules) -> _Checked:
    """A task that a performer added has ended: its parent is told. Is there anything new in it, and who asks
    whom?"""
    audit = _told(audit, event)
    action = audit.actions.get(event.task_id or "")
    audit = replace(audit, actions=forget(audit.actions, event.task_id or ""))
    result = event.data.get("result")
    if audit.plan is None or not action or not result:
        return audit, []
    digest = f"{action} {result}"
    new = digest not in audit.seen
    audit = replace(
        audit,
        seen=remember(audit.seen, digest, None, _SEEN),
        freshness=(*audit.freshness, (new, event.event_id))[-rules.stale_window :],
    )
    audit, stalled = _no_new_evidence(audit, event, rules)
    audit, talking = _ping_pong(audit, event, action, rules)
    return audit, stalled + talking


def _told(audit: Audit, event: Event) -> Audit:
    parent, result = _parent(event), event.data.get("result")
    if parent is None or not result:
        return audit
    results = audit.told.get(parent, frozenset())
    if len(results) >= _TOLD:
        return audit
    told = remember(audit.told, parent, results | {f"{_lane(event)} {result}"}, _THREADS)
    return replace(audit, told=told)


def _no_new_evidence(audit: Audit, event: Event, rules: Rules) -> _Checked:
    fresh = [new for new, _ in audit.freshness]
    if not stale(fresh, rules.stale_window, rules.stale_limit):
        return audit, []
    evidence = tuple(event_id for _, event_id in audit.freshness)
    message = f"of the last {rules.stale_window} results, {fresh.count(False)} had been seen before"
    finding = Finding("no_new_evidence", "goal", evidence, message, task_id=event.task_id)
    return replace(audit, freshness=()), [finding]


def _ping_pong(audit: Audit, event: Event, action: str, rules: Rules) -> _Checked:
    """Two roles that ask each other the same again, in whatever words they answer."""
    lane = _lane(event)
    if not lane.startswith("agent."):
        return audit, []
    turns = (*audit.turns, (lane, action, event.event_id))[-rules.ping_pong :]
    audit = replace(audit, turns=turns)
    distinct = {(lane, action) for lane, action, _ in turns}
    if (
        not alternates([lane for lane, _, _ in turns], rules.ping_pong)
        or len(distinct) > rules.ping_pong // 2
    ):
        return audit, []
    a, b = sorted({lane.removeprefix("agent.") for lane, _, _ in turns})
    finding = Finding(
        "ping_pong", f"{a}/{b}", tuple(event_id for _, _, event_id in turns),
        f"{a} and {b} hand the same questions to each other", task_id=event.task_id,
    )  # fmt: skip
    return replace(audit, turns=()), [finding]


def _paid(audit: Audit, event: Event, cost: float) -> Audit:
    useless = audit.plan is not None and _key(event) in audit.plan.useless
    return replace(
        audit, spent_usd=audit.spent_usd + cost, useless_usd=audit.useless_usd + (cost if useless else 0.0)
    )


def _money(audit: Audit, event: Event, rules: Rules) -> list[Finding]:
    """What was it spent on, and will the budget do?"""
    return _useless_cost(audit, event, rules) + _budget_risk(audit, event, rules)


def _useless_cost(audit: Audit, event: Event, rules: Rules) -> list[Finding]:
    if not audit.useless_usd or audit.useless_usd < rules.useless_cost_share * audit.spent_usd:
        return []
    share = round(100 * audit.useless_usd / audit.spent_usd)
    message = f"{share} % of the cost so far went into tasks that serve no deliverable"
    return [Finding("cost_without_value", "plan", (event.event_id,), message)]


def _budget_risk(audit: Audit, event: Event, rules: Rules) -> list[Finding]:
    if not audit.done or audit.spent_usd < rules.budget_risk_share * audit.budget_usd or not audit.budget_usd:
        return []
    forecast = audit.spent_usd * (1 + audit.left / audit.done)
    if forecast <= audit.budget_usd:
        return []
    message = (
        f"{audit.spent_usd:.2f} of {audit.budget_usd:.2f} USD are spent with {audit.left} tasks left; "
        f"at this rate it takes {forecast:.2f}"
    )
    return [Finding("budget_risk", "goal", (event.event_id,), message)]


# --- what reviews and signals leave in the stream ------------------------------------------------------


def said_by(event: Event) -> str | None:
    """The id of the signal that this event tells was recorded, else None."""
    if event.kind != "reflection.signalled":
        return None
    told = event.data.get("signal_id")
    name = str(event.data.get("signal") or "")
    return str(told) if told else signal_id(event.goal_id, name, _strings(event.data.get("evidence")))


def _signalled(audit: Audit, event: Event, _: Rules) -> _Checked:
    """A signal was recorded: it is not said again. An off-topic one waits for the end of its review."""
    name, said = event.data.get("signal"), said_by(event)
    assert said is not None
    audit = replace(audit, said=remember(audit.said, said, None, _SAID))
    if name == "off_topic" and event.data.get("action") != "pause":
        audit = replace(audit, off_topic_now=event.event_id)
    return audit, []


def _reviewed(audit: Audit, event: Event) -> _Checked:
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


def _reported(audit: Audit, event: Event, _: Rules) -> _Checked:
    return replace(audit, reported_at=event.at), []


# --- reading events ------------------------------------------------------------------------------------


def _key(event: Event) -> str:
    return str(event.data.get("key") or event.task_id or "")


def _lane(event: Event) -> str:
    return str(event.data.get("lane") or "")


def _epoch(event: Event) -> int:
    epoch = event.data.get("epoch")
    return epoch if isinstance(epoch, int) else event.seq


def _failure_class(event: Event) -> str:
    error = event.data.get("error")
    code = error.get("code") if isinstance(error, Mapping) else None
    return str(code or event.kind.removeprefix("task."))


def _parent(event: Event) -> str | None:
    parent = event.data.get("parent")
    return None if parent is None else str(parent)


def _actions(event: Event) -> str:
    """What the tasks of an expansion would do, in any order."""
    tasks = event.data.get("tasks")
    items = tasks if isinstance(tasks, list) else []
    return " ".join(sorted(str(item.get("action")) for item in items if isinstance(item, Mapping)))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None else None


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


_STEPS: dict[str, Callable[[Audit, Event, Rules], _Checked]] = {
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
