"""Asking a person whether the plan is right, and what the answer means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from goalwright_shared.messages import Expand, TaskSpec

_TASKS_SHOWN = 50
OPTIONS = ["approve", "reject"]
_YES = frozenset({"approve", "approved", "yes", "y", "ok", "okay", "go"})
_NO = frozenset({"reject", "rejected", "no", "n"})


def decision(answer: str) -> Literal["approve", "reject", "feedback"]:
    """What a person's words mean; anything but a plain yes or no is feedback for another plan."""
    word = answer.strip().strip(".!").casefold()
    return "approve" if word in _YES else "reject" if word in _NO or not word else "feedback"


def estimated_usd(tasks: Sequence[TaskSpec], lanes: Sequence[Mapping[str, Any]]) -> float | None:
    """One try of each task at its lane's price; None when a price is not known."""
    prices = {row.get("name"): row for row in lanes}
    total = 0.0
    for task in tasks:
        row = prices.get(task.lane)
        if row is None:
            return None
        total += task.effort.tokens_in * float(row.get("input_usd_per_mtok") or 0)
        total += task.effort.tokens_out * float(row.get("output_usd_per_mtok") or 0)
    return total / 1e6


def question_text(plan: Expand, usd: float | None, budget_left_usd: float) -> str:
    """The plan as a person reads it before it starts."""
    contract = plan.contract
    lines = [f"Objective: {contract.objective}"] if contract else []
    lines += [f"Delivers: {one.name} ({one.type}) {one.description}".rstrip() for one in plan.deliverables]
    if contract:
        lines += [f"Constraint: {text}" for text in contract.constraints]
        lines += [f"Assumes: {text}" for text in contract.assumptions]
        lines += [f"Takes as answer to “{one.text}”: {one.default or 'none'}" for one in contract.questions]
    lines += ["Tasks:", *(_line(task) for task in plan.tasks[:_TASKS_SHOWN])]
    lines += [f"  … and {len(plan.tasks) - _TASKS_SHOWN} more"] if len(plan.tasks) > _TASKS_SHOWN else []
    lines += [f"Note: {text}" for text in plan.warnings]
    tokens = sum(task.effort.tokens_in + task.effort.tokens_out for task in plan.tasks)
    cost = f"about {usd:.4f} USD" if usd is not None else "cost unknown"
    lines.append(f"Estimated: {tokens} tokens, {cost}, of {budget_left_usd:.2f} USD left.")
    lines.append("Approve, reject, or say what should be different.")
    return "\n".join(lines)


def _line(task: TaskSpec) -> str:
    made = ", ".join(out.name for out in task.outputs)
    reads = f" from {', '.join(task.inputs)}" if task.inputs else ""
    return f"  {task.key} [{task.lane}] {task.title}: {made}{reads}"
