"""When to look: reviews by a model, findings of the clock, progress reports. Pure decisions over an audit."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from goalwright_reflector.core.audit import raised, review_opened
from goalwright_reflector.core.model import Audit, Finding, Rules, Signal

_NEXT = 3


def review_due(audit: Audit, now: datetime, rules: Rules) -> str | None:
    """Why a review should be opened now, or None.

    Only for plans of our planner (a client's own plan costs no paid call), while something is left to
    change, never two at a time, never more than `max_reviews`.
    """
    reviews, plan = audit.reviews, audit.plan
    if plan is None or plan.source != "planner" or audit.state != "open" or not audit.left:
        return None
    if reviews.count >= rules.max_reviews or _review_open(audit, now, rules):
        return None
    completions = audit.completions - reviews.completions
    if completions >= rules.review_every_completions:
        return f"{completions} tasks were completed since the last look"
    if reviews.a_task_died:
        return "a planned task has died"
    if completions and audit.left == 1 and plan.total > rules.review_every_completions:
        return "one task is left: the last chance for another plan"
    spent = audit.spent_usd - reviews.spent_usd
    if completions and audit.budget_usd and spent >= rules.review_every_budget_share * audit.budget_usd:
        return f"{spent:.2f} USD were spent since the last look"
    since = reviews.at or audit.started_at
    if completions and since and (now - since).total_seconds() >= rules.review_every_seconds:
        return f"{(now - since).total_seconds():.0f} s have passed since the last look"
    return None


def review_asked(audit: Audit, now: datetime, *, granted: bool) -> Audit:
    """The audit after `control.review` was answered; a refused one is asked again at the next occasion."""
    audit = review_opened(audit, now)
    reviews = audit.reviews
    if granted:
        return replace(audit, reviews=replace(reviews, asked=reviews.count + 1))
    return replace(audit, reviews=replace(reviews, open_since=None))


def _review_open(audit: Audit, now: datetime, rules: Rules) -> bool:
    """A review that never ended is given up after `review_seconds`."""
    since = audit.reviews.open_since
    return since is not None and (now - since).total_seconds() < rules.review_seconds


def tick(audit: Audit, now: datetime, rules: Rules) -> tuple[Audit, list[Signal]]:
    """What only the clock can find: stalls and a deadline that will be missed."""
    if audit.state != "open" or audit.plan is None:
        return audit, []
    return raised(audit, _stall(audit, now, rules) + _deadline_risk(audit, now, rules), rules)


def _stall(audit: Audit, now: datetime, rules: Rules) -> list[Finding]:
    """Nothing was heard for long, though nobody is being waited for. A new silence is a new finding."""
    if audit.heard_at is None or audit.waiting:
        return []
    silent = (now - audit.heard_at).total_seconds()
    if silent < rules.stall_seconds:
        return []
    message = f"nothing has happened for {silent:.0f} s with {audit.left} planned tasks left"
    return [Finding("stalled", audit.last_event_id, (audit.last_event_id,), message)]


def _deadline_risk(audit: Audit, now: datetime, rules: Rules) -> list[Finding]:
    eta = eta_seconds(audit, now)
    if eta is None or audit.deadline is None or audit.started_at is None:
        return []
    span = (audit.deadline - audit.started_at).total_seconds()
    if (now - audit.started_at).total_seconds() < rules.deadline_risk_share * span:
        return []
    late = (now + timedelta(seconds=eta) - audit.deadline).total_seconds()
    if late <= 0:
        return []
    message = f"at this rate the goal ends {late:.0f} s after its deadline"
    return [Finding("deadline_risk", "goal", (audit.last_event_id,), message)]


def eta_seconds(audit: Audit, now: datetime) -> float | None:
    """Time left at the pace so far; None before the first planned task is done."""
    if audit.started_at is None or not audit.done:
        return None
    return max(0.0, (now - audit.started_at).total_seconds()) / audit.done * audit.left


def progress(audit: Audit, now: datetime, rules: Rules) -> tuple[Audit, Signal | None]:
    """A report for people, at most one every `progress_seconds` while the goal runs. Its evidence is the
    number of the interval, so that several reflectors report each once."""
    since = audit.reported_at or audit.started_at
    if audit.state != "open" or audit.plan is None or audit.started_at is None or since is None:
        return audit, None
    if (now - since).total_seconds() < rules.progress_seconds:
        return audit, None
    report = progress_data(audit, now)
    signal = Signal(
        goal_id=audit.goal_id,
        owner=audit.owner,
        signal="progress",
        evidence=(f"interval {int((now - audit.started_at).total_seconds() // rules.progress_seconds)}",),
        severity="info",
        action="none",
        message=_sentence(report),
        data=report,
    )
    return replace(audit, reported_at=now), signal


def progress_data(audit: Audit, now: datetime) -> dict[str, Any]:
    """What is done, what it cost, what is next, how long it takes, what may go wrong."""
    eta = eta_seconds(audit, now)
    plan = audit.plan
    return {
        "done": audit.done,
        "total": plan.total if plan else 0,
        "spent_usd": round(audit.spent_usd, 6),
        "next": [title for key, title in plan.titles.items() if key in plan.open][:_NEXT] if plan else [],
        "eta_seconds": None if eta is None else round(eta, 1),
        "risks": sorted({name for name, _ in audit.rungs}),
    }


def _sentence(report: dict[str, Any]) -> str:
    parts = [f"{report['done']} of {report['total']} tasks done", f"{report['spent_usd']:.4f} USD spent"]
    if report["next"]:
        parts.append("next: " + ", ".join(report["next"]))
    if report["eta_seconds"] is not None:
        parts.append(f"about {report['eta_seconds']:.0f} s left")
    if report["risks"]:
        parts.append("risks: " + ", ".join(report["risks"]))
    return "; ".join(parts)
