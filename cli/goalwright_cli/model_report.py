"""What a goal's events say of the model that worked on it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from goalwright_shared.messages import Event

ASK = "agent.ask"
_AROUND = ("plan", "human", "reflect", ASK)
"""Lanes whose tasks plan, ask and audit: not the first task of the work itself."""

_IN_SEQUENCE = "one after the other"
_LABEL = {True: "yes", False: "no", None: "-"}


@dataclass(frozen=True)
class Row:
    """One goal. Times are seconds from its acceptance; `right` is None where nothing was looked for."""

    name: str
    plan: str  # first try | repaired n times | in sequence | refused | none
    tasks: int
    repairs: int
    status: str
    accepted: bool
    right: bool | None
    cost_usd: float
    first_task_seconds: float | None
    seconds: float | None
    why: str = ""


def measured(name: str, events: Iterable[Event], *, refusal: bool = False) -> Row:
    """The row of a goal, from its events. `refusal`: it should be refused, and nothing else is right."""
    accepted_at: datetime | None = None
    first: float | None = None
    asked = repairs = 0
    adopted: Mapping[str, Any] | None = None
    finished: Event | None = None
    wrong = ""
    for event in events:
        data: dict[str, Any] = dict(event.data)
        match event.kind:
            case "goal.accepted":
                accepted_at = event.at
            case "task.expanded" if data.get("lane") == "plan" and adopted is None:
                asked += any(task.get("lane") == ASK for task in data.get("tasks", ()))
            case "task.expanded" if data.get("lane") == ASK and data.get("tokens_in"):
                repairs += 1  # an answer that was sent back; a step down the ladder costs no tokens
            case "task.failed":
                repairs += not data.get("final")
                wrong = str((data.get("error") or {}).get("message") or wrong)
            case "plan.adopted" if adopted is None:
                adopted = data
            case "task.dispatched" if first is None and data.get("lane") not in _AROUND and accepted_at:
                first = _between(accepted_at, event.at) if adopted is not None else None
            case "goal.finished":
                finished = event
    ended: dict[str, Any] = dict(finished.data) if finished else {}
    status = str(ended.get("status") or "open")
    done = status == "done" and not ended.get("missing")
    plan_repairs = max(0, asked - 1)
    refused = adopted is None and status == "failed" and asked > 0
    return Row(
        name=name,
        plan=_plan(adopted, plan_repairs, refused),
        tasks=int(adopted["task_count"]) if adopted else 0,
        repairs=repairs + plan_repairs,
        status=status,
        accepted=refused if refusal else done,
        right=None,
        cost_usd=float(ended.get("spent_usd") or 0),
        first_task_seconds=first,
        seconds=_between(accepted_at, finished.at) if accepted_at and finished else None,
        why="" if done else str(ended.get("reason") or wrong),
    )


def _plan(adopted: Mapping[str, Any] | None, repairs: int, refused: bool) -> str:
    if adopted is None:
        return "refused" if refused else "none"
    if any(_IN_SEQUENCE in warning for warning in adopted.get("warnings") or ()):
        return "in sequence"
    return f"repaired {repairs}x" if repairs else "first try"


def _between(before: datetime, after: datetime) -> float:
    return round((after - before).total_seconds(), 2)


def table(rows: Sequence[Row]) -> str:
    """For people: a line a goal, and the sums."""
    head = ["goal", "plan", "tasks", "repairs", "ended", "accepted", "right", "USD", "s to first task", "s"]
    lines = [
        [row.name, row.plan, str(row.tasks), str(row.repairs), row.status, _LABEL[row.accepted], _LABEL[row.right],
         f"{row.cost_usd:.4f}", _seconds(row.first_task_seconds), _seconds(row.seconds)]
        for row in rows
    ]  # fmt: skip
    asked = [row.right for row in rows if row.right is not None]
    firsts = sorted(row.first_task_seconds for row in rows if row.first_task_seconds is not None)
    sums = {
        "goal": f"{len(rows)} goals",
        "plan": f"{sum(row.plan == 'first try' for row in rows)} at first",
        "tasks": str(sum(row.tasks for row in rows)),
        "repairs": str(sum(row.repairs for row in rows)),
        "ended": f"{sum(row.status == 'done' for row in rows)} done",
        "accepted": str(sum(row.accepted for row in rows)),
        "right": f"{sum(asked)} of {len(asked)}",
        "USD": f"{sum(row.cost_usd for row in rows):.4f}",
        "s to first task": _seconds(firsts[len(firsts) // 2] if firsts else None),
    }
    lines.append([sums.get(column, "") for column in head])
    widths = [max(len(line[at]) for line in [head, *lines]) for at in range(len(head))]
    cells = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [head, *lines])
    said = ["  ".join(line).rstrip() for line in cells]
    said.insert(1, "-" * len(said[0]))
    said.insert(-1, "-" * len(said[0]))
    reasons = [f"  {row.name}: {row.why}" for row in rows if row.why and not row.accepted]
    return "\n".join([*said, *(["", "What went wrong:"] if reasons else []), *reasons])


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
