"""Builders of answers and briefs for the planner's tests."""

from __future__ import annotations

from typing import Any

from goalwright_planner.core.compiler import Brief, Limits, Plan, Rejected, compile_plan
from goalwright_shared.messages import Deliverable

LANES = (
    "agent.researcher", "agent.analyst", "agent.coder", "agent.writer", "agent.critic", "agent.generalist",
    "custom.etl", "human", "plan",
)  # fmt: skip


def task(
    key: str,
    inputs: list[str] | None = None,
    outputs: list[str] | None = None,
    lane: str = "agent.coder",
    **more: Any,
) -> dict[str, Any]:
    """A task as a model writes it; an output may be `name:type`."""
    named = [name.partition(":") for name in outputs or []]
    return {
        "key": key,
        "title": key.title(),
        "instruction": f"Do {key}",
        "lane": lane,
        "inputs": inputs or [],
        "outputs": [{"name": name, "type": type or "text", "description": ""} for name, _, type in named],
        "after": [],
        "value": 1,
        "tokens_in": 1000,
        "tokens_out": 500,
        "seconds": 10,
        "confidence": 0.9,
        "max_failures": 3,
        "on_dead": "skip",
        **more,
    }


def answer(tasks: list[Any], deliverables: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """A plan as a model writes it."""
    named = [name.partition(":") for name in deliverables or []]
    return {
        "objective": "Report on sales",
        "deliverables": [
            {"name": name, "type": type or "text", "description": ""} for name, _, type in named
        ],
        "constraints": [],
        "out_of_scope": [],
        "assumptions": [],
        "questions": [],
        "tasks": tasks,
        **more,
    }


def brief(
    *, inputs: tuple[str, ...] = ("orders",), deliverables: tuple[Deliverable, ...] = (), **more: Any
) -> Brief:
    """A brief for a small shop."""
    return Brief(
        objective="Report on sales", inputs=inputs, deliverables=deliverables, **{"lanes": LANES, **more}
    )


def compiled(tasks: list[Any], deliverables: list[str] | None = None, of: Brief | None = None) -> Plan:
    """The plan, which must compile."""
    plan = compile_plan(answer(tasks, deliverables), of or brief())
    assert isinstance(plan, Plan), plan
    return plan


def errors(tasks: list[Any], deliverables: list[str] | None = None, of: Brief | None = None) -> list[str]:
    """What is wrong with a plan that must not compile."""
    plan = compile_plan(answer(tasks, deliverables), of or brief())
    assert isinstance(plan, Rejected), plan
    return list(plan.errors)


def few(max_tasks: int) -> Brief:
    """A brief that allows few tasks."""
    return brief(limits=Limits(max_tasks=max_tasks))
