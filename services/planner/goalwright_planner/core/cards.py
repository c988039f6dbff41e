"""What a model is told: the card (all facts, as data) and the messages around it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from goalwright_shared.messages import ArtifactRef, ChatMessage, LaneInfo, Work

from goalwright_planner.core.briefs import web_of
from goalwright_planner.core.compiler import Brief
from goalwright_planner.core.revision import Situation
from goalwright_planner.core.schemas import PLAN, REVISION, Schema

_TASKS_SHOWN = 200
"""Tasks of a plan in a card; of more, those that are still open come first."""

_SUMMARY_CHARS = 300


@dataclass(frozen=True, slots=True)
class Prompts:
    """The texts of `prompts/`: templates of `string.Template`."""

    plan: str
    revise: str
    repair: str


def inputs_card(refs: Mapping[str, ArtifactRef], excerpts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each input by name, type and size, with the beginning of its text."""
    return [
        {
            "name": name,
            "type": ref.type.value,
            "media_type": ref.media_type,
            "size": ref.size,
            "excerpt": excerpts.get(name, ""),
        }
        for name, ref in refs.items()
    ]


def plan_card(
    work: Work, brief: Brief, lanes: Sequence[LaneInfo], excerpts: Mapping[str, str], feedback: str = ""
) -> dict[str, Any]:
    """The card of a goal, or of the part of one that a composite task stands for."""
    params = work.spec.params if isinstance(work.spec.params, dict) else {}
    card: dict[str, Any] = {
        "kind": "plan",
        "goal": brief.objective,
        "inputs": inputs_card(work.inputs, excerpts),
        "deliverables": [one.model_dump(mode="json", by_alias=True) for one in brief.deliverables],
        "lanes": lanes_card(lanes),
        "web": web_of(work),
        "budget_usd": work.budget_left_usd,
        "deadline_seconds": params.get("deadline_seconds"),
        "approve_plan": bool(params.get("approve_plan")),
        "limits": {"max_tasks": brief.limits.max_tasks, "max_depth": brief.limits.max_depth},
    }
    if brief.parent is not None and work.contract is not None:
        card["part_of"] = {"objective": work.contract.objective, "constraints": work.contract.constraints}
    if work.attempt_errors:
        card["errors"] = [{"code": one.code, "message": one.message} for one in work.attempt_errors]
    if work.notes:
        card["notes"] = [note.text for note in work.notes]
    if feedback:
        card["feedback"] = feedback  # what a person said about the plan before this one
    return card


def revise_card(
    work: Work, now: Situation, lanes: Sequence[LaneInfo], replan: Mapping[str, Any]
) -> dict[str, Any]:
    """The card of a replan: the graph as it stands and why it is questioned."""
    contract = work.contract
    ordered = sorted(now.tasks, key=lambda task: task.state == "succeeded")  # stable: open ones first
    return {
        "kind": "revise",
        "goal": contract.objective if contract else work.spec.instruction,
        "contract": contract.model_dump(mode="json", by_alias=True) if contract else None,
        "reason": str(replan.get("reason") or ""),
        "evidence": replan.get("evidence") or [],
        "revision": replan.get("base_revision"),
        "generation": replan.get("generation"),
        "inputs": list(now.inputs),
        "deliverables": list(now.exports),
        "tasks": [
            {
                "key": task.key,
                "title": task.title,
                "lane": task.lane,
                "state": task.state,
                "inputs": list(task.inputs),
                "outputs": list(task.outputs),
                "after": list(task.after),
                "summary": task.summary[:_SUMMARY_CHARS],
            }
            for task in ordered[:_TASKS_SHOWN]
        ],
        "tasks_not_shown": max(0, len(ordered) - _TASKS_SHOWN),
        "lanes": lanes_card(lanes),
        "budget_left_usd": work.budget_left_usd,
    }


def lanes_card(lanes: Sequence[LaneInfo]) -> list[dict[str, str]]:
    """Who can be given tasks."""
    return [{"name": lane.name, "description": lane.description} for lane in lanes]


def plan_messages(prompts: Prompts, card: Mapping[str, Any]) -> list[ChatMessage]:
    """The first prompt for a plan."""
    return _messages(prompts.plan, PLAN, "Plan this goal.", card)


def revise_messages(prompts: Prompts, card: Mapping[str, Any]) -> list[ChatMessage]:
    """The first prompt for a revision."""
    return _messages(prompts.revise, REVISION, "Revise this plan, or leave it as it is.", card)


def with_repair(
    prompts: Prompts, messages: Sequence[ChatMessage], answer: object, errors: Sequence[str]
) -> list[ChatMessage]:
    """`messages`, the answer they got and what is wrong with it."""
    listed = "\n".join(f"- {error}" for error in errors)
    return [
        *messages,
        ChatMessage(role="assistant", content=json.dumps(answer, ensure_ascii=False)),
        ChatMessage(role="user", content=Template(prompts.repair).substitute(errors=listed).strip()),
    ]


def _messages(system: str, schema: Schema, request: str, card: Mapping[str, Any]) -> list[ChatMessage]:
    written = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return [
        ChatMessage(role="system", content=Template(system).substitute(schema=written).strip()),
        ChatMessage(role="user", content=f"{request}\n\n## Card\n{_fenced(card)}"),
    ]


def _fenced(card: Mapping[str, Any]) -> str:
    """The card in a code block that nothing inside it can close."""
    text = json.dumps(card, ensure_ascii=False, indent=1)
    return "```json\n" + text.replace("```", r"\u0060\u0060\u0060") + "\n```"
