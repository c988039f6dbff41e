"""The ladder: what to do when a finding comes for the first, second, third time.

nudge (`note`) → `retry` with another prompt or model → `replan` → `pause` and ask, or `stop_loop`.
A client's own plan gets no paid help: it is noted, and stopped when it goes round in circles.
"""

from __future__ import annotations

from dataclasses import replace

from goalwright_reflector.core.model import Action, Audit, Finding, Rules, Signal, remember

_KEPT_RUNGS = 512
_LOOP: tuple[Action, ...] = ("note", "replan", "stop_loop")
_NOTE: tuple[Action, ...] = ("note",)

PLANNED: dict[str, tuple[Action, ...]] = {
    "repetition": _LOOP,
    "ping_pong": _LOOP,
    "no_new_evidence": ("note", "retry", "replan", "pause"),
    "near_duplicate": ("note", "retry", "replan", "pause"),
    "same_failure": ("replan", "pause"),
    "revision_oscillation": ("pause",),
    "off_topic": ("pause",),
    "cost_without_value": ("note", "replan"),
    "useless_artifact": _NOTE,
    "budget_risk": _NOTE,
    "deadline_risk": _NOTE,
    "stalled": _NOTE,
}
"""Signal → what its first, second, … finding about the same subject leads to; after the last, nothing."""

CLIENTS: dict[str, tuple[Action, ...]] = {
    "repetition": ("note", "note", "stop_loop"),
    "ping_pong": ("note", "note", "stop_loop"),
}
"""The same for a goal whose plan the client brought; what is not named here is noted once."""


def climb(audit: Audit, finding: Finding, rules: Rules) -> tuple[Audit, Signal | None]:
    """The next rung for this finding, and the audit that remembers it; None beyond the last rung."""
    at = (finding.signal, finding.subject)
    rung = audit.rungs.get(at, 0)
    ladder = _ladder(audit, finding.signal)
    if rung >= len(ladder):
        return audit, None
    action = ladder[rung]
    if action == "replan" and audit.replans >= rules.max_replans:
        action = "pause"  # replanning did not help: a person should look
    signal = Signal(
        goal_id=audit.goal_id,
        owner=audit.owner,
        signal=finding.signal,
        evidence=finding.evidence,
        severity="critical" if action in ("pause", "stop_loop") else finding.severity,
        action=action,
        message=finding.message,
        task_id=finding.task_id,
    )
    return replace(audit, rungs=remember(audit.rungs, at, rung + 1, _KEPT_RUNGS)), signal


def _ladder(audit: Audit, signal: str) -> tuple[Action, ...]:
    if audit.plan is not None and audit.plan.source == "client":
        return CLIENTS.get(signal, _NOTE)
    return PLANNED[signal]
