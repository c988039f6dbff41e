"""Settings of the planner and the row of its lane."""

from __future__ import annotations

from goalwright_shared.messages import Lane
from goalwright_shared.settings import ServiceSettings
from pydantic import Field

from goalwright_planner.core.compiler import PLAN_LANE, Limits


class PlannerSettings(ServiceSettings):
    """`GOALWRIGHT_*`: how large plans may be and how often a bad one is repaired."""

    planner_slots: int = Field(default=8, ge=1, description="plans worked on at a time by a process")
    plan_max_tasks: int = Field(default=100, ge=1, le=100_000, description="tasks of one plan or revision")
    plan_max_depth: int = Field(default=4, ge=1, le=16, description="plans inside plans; the goal's is 1")
    plan_max_repairs: int = Field(
        default=2, ge=0, le=10, description="times a model may repair its answer before the fallback"
    )
    plan_split_floor_tokens: int = Field(
        default=3000, ge=0, description="a part estimated below this many tokens is not planned but done"
    )


def limits(settings: PlannerSettings) -> Limits:
    """The caps the compiler keeps."""
    return Limits(max_tasks=settings.plan_max_tasks, max_depth=settings.plan_max_depth)


def lanes(settings: PlannerSettings) -> list[Lane]:
    """The lane that the planner performs."""
    return [
        Lane(
            name=PLAN_LANE,
            description="plans a part of the goal that is too large or unclear for one performer",
            lease_seconds=60,
            look_ahead=settings.planner_slots,
            may=["done", "expand", "revise", "failed", "throttled"],
            child_lanes=["agent.*", "custom.*", "exec", "human", PLAN_LANE],
            plannable=True,
        )
    ]
