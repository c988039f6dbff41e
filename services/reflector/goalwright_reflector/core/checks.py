"""The structural checks: each looks at one event in the light of the audit, and says what it finds.

Loops are looked for per task (its turns and retries), never over a whole goal: a client may rightly submit
a thousand equal tasks. What the tasks of one goal have in common is judged only where performers add tasks
themselves (tools, questions to other roles), because there nothing but a loop repeats.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

from goalwright_shared.messages import Event

from goalwright_reflector.core import reading
from goalwright_reflector.core.model import Audit, Finding, Rules, forget, remember
from goalwright_reflector.core.patterns import alternates, similarity, smallest_period, stale

_THREADS = 256  # tasks whose turns or tries are followed at a time
_TOLD = 64  # results of a task's last children
_SEEN = 512  # results remembered as known
_ANSWERS = 64  # tasks whose askings of other roles are followed
_ANSWER = 500  # characters compared of an answer
_SHORT = 40  # shorter answers are alike by nature

_NOT_ASKED = ("agent.judge", "agent.ask", "agent.embed")  # checks and plumbing repeat rightly
_NOT_REDONE = frozenset({"redelivered"})

Checked = tuple[Audit, list[Finding]]


def followed(audit: Audit, event: Event, token: str, rules: Rules) -> Checked:
    """Repetition: the tail of a task's turns is a period that came `repeats` times over."""
    assert event.task_id is not None
    kept = rules.max_period * rules.repeats
    digest = hashlib.sha256(token.encode()).hexdigest()[:16]
    thread = (*audit.threads.get(event.task_id, ()), (digest, event.event_id))[-kept:]
    period = smallest_period([digest for digest, _ in thread], rules.max_period, rules.repeats)
    if period is None:
        return replace(audit, threads=remember(audit.threads, event.task_id, thread, _THREADS)), []
    evidence = tuple(event_id for _, event_id in thread[-period * rules.repeats :])
    steps = "the same step" if period == 1 else f"the same {period} steps"
    message = f"task {reading.key(event)} did {steps} {rules.repeats} times with the same result"
    audit = replace(audit, threads=forget(audit.threads, event.task_id))
    return audit, [Finding("repetition", event.task_id, evidence, message, task_id=event.task_id)]


def same_failure(audit: Audit, event: Event, rules: Rules) -> Checked:
    """The same failure class `same_failures` times on one task; one try counts once."""
    if event.task_id is None:
        return audit, []
    code, epoch = reading.failure_class(event), reading.epoch(event)
    tries = audit.failures.get(event.task_id, ())
    if code in _NOT_REDONE or any(at == epoch for at, _, _ in tries):
        return audit, []
    tries = (*tries, (epoch, code, event.event_id))[-rules.same_failures :]
    same = len(tries) == rules.same_failures and len({code for _, code, _ in tries}) == 1
    if not same:
        return replace(audit, failures=remember(audit.failures, event.task_id, tries, _THREADS)), []
    evidence = tuple(event_id for _, _, event_id in tries)
    message = f"task {reading.key(event)} failed {rules.same_failures} times with {code}"
    audit = replace(audit, failures=forget(audit.failures, event.task_id))
    return audit, [Finding("same_failure", code, evidence, message, task_id=event.task_id)]


def added_result(audit: Audit, event: Event, rules: Rules) -> Checked:
    """A task that a performer added has ended: its parent is told. Is there anything new in it, and who asks
    whom?"""
    audit = _told(audit, event)
    audit, alike = _near_duplicate(audit, event, rules)
    action = audit.actions.get(event.task_id or "")
    audit = replace(audit, actions=forget(audit.actions, event.task_id or ""))
    result = event.data.get("result")
    if audit.plan is None or not action or not result:
        return audit, alike
    digest = f"{action} {result}"
    new = digest not in audit.seen
    audit = replace(
        audit,
        seen=remember(audit.seen, digest, None, _SEEN),
        freshness=(*audit.freshness, (new, event.event_id))[-rules.stale_window :],
    )
    audit, stalled = _no_new_evidence(audit, event, rules)
    audit, talking = _ping_pong(audit, event, action, rules)
    return audit, alike + stalled + talking


def _told(audit: Audit, event: Event) -> Audit:
    parent, result = reading.parent(event), event.data.get("result")
    if parent is None or not result:
        return audit
    results = audit.told.get(parent, frozenset())
    if len(results) >= _TOLD:
        return audit
    told = remember(audit.told, parent, results | {f"{reading.lane(event)} {result}"}, _THREADS)
    return replace(audit, told=told)


def _no_new_evidence(audit: Audit, event: Event, rules: Rules) -> Checked:
    fresh = [new for new, _ in audit.freshness]
    if not stale(fresh, rules.stale_window, rules.stale_limit):
        return audit, []
    evidence = tuple(event_id for _, event_id in audit.freshness)
    message = f"of the last {rules.stale_window} results, {fresh.count(False)} had been seen before"
    finding = Finding("no_new_evidence", "goal", evidence, message, task_id=event.task_id)
    return replace(audit, freshness=()), [finding]


def _ping_pong(audit: Audit, event: Event, action: str, rules: Rules) -> Checked:
    """Two roles that ask each other the same again, in whatever words they answer."""
    lane = reading.lane(event)
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


def _near_duplicate(audit: Audit, event: Event, rules: Rules) -> Checked:
    """Roles that a task asks answer it almost the same again and again."""
    parent, text = reading.parent(event), str(event.data.get("summary") or "")[:_ANSWER]
    role = reading.lane(event).startswith("agent.") and reading.lane(event) not in _NOT_ASKED
    if parent is None or not role or len(text) < _SHORT:
        return audit, []
    answers = (*audit.answers.get(parent, ()), (text, event.event_id))[-rules.near_duplicates :]
    texts = [text for text, _ in answers]
    alike = all(similarity(a, b) >= rules.near_duplicate_similarity for a, b in pairwise(texts))
    if len(answers) < rules.near_duplicates or not alike:
        return replace(audit, answers=remember(audit.answers, parent, answers, _ANSWERS)), []
    evidence = tuple(event_id for _, event_id in answers)
    message = f"{rules.near_duplicates} answers in a row say almost the same"
    finding = Finding("near_duplicate", parent, evidence, message, task_id=parent)
    return replace(audit, answers=forget(audit.answers, parent)), [finding]


def paid(audit: Audit, event: Event, cost: float) -> Audit:
    useless = audit.plan is not None and reading.key(event) in audit.plan.useless
    return replace(
        audit, spent_usd=audit.spent_usd + cost, useless_usd=audit.useless_usd + (cost if useless else 0.0)
    )


def money(audit: Audit, event: Event, rules: Rules) -> list[Finding]:
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
