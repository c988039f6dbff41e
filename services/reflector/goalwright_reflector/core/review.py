"""A review by a model: what the judge is shown, the form of its verdict, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

_SHOWN_TASKS = 120
"""Tasks in the card; the judge's input is capped, and so is what a review costs."""

_SHOWN_TEXT = 400
_FINAL = ("dead", "skipped", "cancelled", "succeeded")

INSTRUCTION = (
    "Review how a goal is going. The card's params.review holds the goal, its contract, its tasks with their "
    "states and summaries, and what was spent. Judge only from those facts. Is the work on topic? Is it "
    "progressing? Are the remaining tasks still the right ones, given what the finished ones found? Ask for "
    "another plan (plan_relevant false, better_plan filled) only if the gain is worth the cost of the "
    "change, and say exactly which tasks to add or drop. Name task keys as evidence."
)


class Verdict(BaseModel):
    """The judge's answer. Unparsable is unknown, never `fine`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    on_topic: bool
    progressing: bool
    plan_relevant: bool
    better_plan: str
    evidence: list[str]
    score: float
    passed: bool
    summary: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What follows from a verdict: whether the goal has left its topic, and why to replan (None: go on)."""

    off_topic: bool
    replan: str | None
    evidence: tuple[str, ...]
    summary: str


def read_verdict(text: bytes | str) -> Verdict | str:
    """The verdict in a judge's output, or what is wrong with it."""
    try:
        return Verdict.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        return f"the verdict is not readable: {'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"


def advice(verdict: Verdict) -> Advice:
    """Replan when the plan is no longer relevant, the work off topic or not progressing."""
    go_on = verdict.plan_relevant and verdict.on_topic and verdict.progressing
    reason = verdict.better_plan.strip() or verdict.summary.strip() or "the review found the plan wanting"
    return Advice(
        off_topic=not verdict.on_topic,
        replan=None if go_on else reason,
        evidence=tuple(verdict.evidence),
        summary=verdict.summary,
    )


def card(
    goal: Mapping[str, Any],
    contract: Mapping[str, Any] | None,
    tasks: Iterable[Mapping[str, Any]],
    elapsed_seconds: float,
) -> dict[str, Any]:
    """The review card: the planned tasks; failed and open ones first when there are too many to show."""
    work = planned(list(tasks))
    shown = work if len(work) <= _SHOWN_TASKS else sorted(work, key=_interest)[:_SHOWN_TASKS]
    return {
        "goal": str(goal.get("text") or ""),
        "contract": dict(contract or {}),
        "tasks": [_row(task) for task in shown],
        "states": dict(Counter(str(task.get("state")) for task in work)),
        "spent_usd": goal.get("spent_usd") or 0,
        "budget_usd": goal.get("budget_usd") or 0,
        "elapsed_seconds": round(elapsed_seconds, 1),
    }


def planned(tasks: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The tasks of the goal's plans: children of plan tasks that are neither reviews nor replans. What
    performers added (tools, questions to other roles) is their parents' business."""
    plans = {task.get("task_id") for task in tasks if task.get("lane") == "plan"}
    return [task for task in tasks if task.get("parent") in plans and not _is_about_the_plan(task)]


def _is_about_the_plan(task: Mapping[str, Any]) -> bool:
    lane = task.get("lane")
    return lane == "agent.ask" or (lane == "plan" and not task.get("outputs"))


def _interest(task: Mapping[str, Any]) -> int:
    state = task.get("state")
    return 1 if state == "dead" else 2 if state not in _FINAL else 3


def _row(task: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": task.get("key"),
        "title": str(task.get("title") or "")[:_SHOWN_TEXT],
        "lane": task.get("lane"),
        "state": task.get("state"),
        "inputs": _names(task.get("inputs")),
        "outputs": _names(task.get("outputs")),
        "summary": str(task.get("summary") or "")[:_SHOWN_TEXT],
    }


def _names(value: Any) -> list[str]:
    """Names of inputs or outputs, however the graph gives them: names, specs, or {name: reference}."""
    if isinstance(value, Mapping):
        return [str(name) for name in value]
    items = value if isinstance(value, list) else []
    return [str(item.get("name")) if isinstance(item, Mapping) else str(item) for item in items]
