"""What a plan task is asked: a goal, a part of one (refinement), or another plan (revision)."""

from __future__ import annotations

from typing import Any

from goalwright_shared import graph
from goalwright_shared.messages import BadMessage, Deliverable, LaneInfo, Work, parse_lenient_value

from goalwright_planner.core.compiler import PLAN_LANE, Brief, Limits

WEB_LANE = "tool.web"

_NOT_PLANNED = frozenset({"agent.ask", "agent.embed", "agent.judge", "exec", "reflect", WEB_LANE})
"""Lanes that performers use, and plans do not: they need a prompt or a program of their own."""


def replan_of(work: Work) -> dict[str, Any] | None:
    """The request of a replan: target_task_id, generation, base_revision, reason, evidence."""
    replan = work.spec.params.get("replan") if isinstance(work.spec.params, dict) else None
    return replan if isinstance(replan, dict) else None


def offered_lanes(work: Work, limits: Limits) -> list[LaneInfo]:
    """Who the plan may give tasks to; the lane `plan` only while there is depth left for it."""
    deeper = work.depth + 1 < limits.max_depth
    return [
        lane for lane in work.lanes if lane.name not in _NOT_PLANNED and (deeper or lane.name != PLAN_LANE)
    ]


def web_of(work: Work) -> str | None:
    """Which pages of the web can be fetched, and None where nobody reaches it."""
    return next((lane.description for lane in work.lanes if lane.name == WEB_LANE), None)


def brief_of(work: Work, limits: Limits) -> Brief:
    """The brief of a goal's root task or of a composite task."""
    params = work.spec.params if isinstance(work.spec.params, dict) else {}
    root = "goal" in params
    spec = work.spec
    above = {graph.canonical_hash(spec, {})}
    above.add(graph.canonical_hash(spec, {name: ref.sha256 for name, ref in work.inputs.items()}))
    return Brief(
        objective=str(params["goal"]) if root else spec.instruction or spec.title,
        inputs=tuple(dict.fromkeys([*spec.inputs, *work.inputs])),
        deliverables=_asked(params.get("deliverables")) or _owed(work),
        lanes=tuple(lane.name for lane in offered_lanes(work, limits)),
        limits=limits,
        web=web_of(work) is not None,
        parent=None if root else spec,
        ancestors=frozenset(work.ancestor_hashes) | above,
    )


def why_not_split(work: Work, limits: Limits, floor_tokens: int) -> str | None:
    """Why a composite task is better done in one piece, or None.

    A split must not cost more than the work (unless the work has proved too big), and there is an end to depth.
    """
    if work.depth >= limits.max_depth:
        return f"it is {work.depth} plans deep, and {limits.max_depth} is the limit"
    estimate = work.spec.effort.tokens_in + work.spec.effort.tokens_out
    proved = any(error.too_big for error in work.attempt_errors)
    if 0 < estimate < floor_tokens and not proved:
        return f"planning it would cost more than doing it ({estimate} tokens estimated)"
    return None


def _asked(value: Any) -> tuple[Deliverable, ...]:
    found = []
    for item in value if isinstance(value, list) else ():
        try:
            found.append(parse_lenient_value(Deliverable, item)[0])
        except BadMessage:  # refused at intake already; never a reason to fail a goal here
            continue
    return tuple(found)


def _owed(work: Work) -> tuple[Deliverable, ...]:
    """The declared outputs as deliverables."""
    return tuple(
        Deliverable(name=out.name, type=out.type, description=out.description, schema=out.schema_)
        for out in work.spec.outputs
    )
