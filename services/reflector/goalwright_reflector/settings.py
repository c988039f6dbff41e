"""Settings of the reflector and the row of its lane."""

from __future__ import annotations

from goalwright_shared.messages import Lane
from goalwright_shared.settings import ServiceSettings
from pydantic import Field

from goalwright_reflector.core.model import Rules

LANE = "reflect"


class ReflectorSettings(ServiceSettings):
    """`GOALWRIGHT_*`: when to look, when to speak."""

    review_every_completions: int = Field(
        default=3, ge=1, description="planned tasks of agents completed between two reviews by a model"
    )
    review_every_budget_share: float = Field(
        default=0.25, gt=0, le=1, description="share of the budget spent between two reviews"
    )
    review_every_seconds: float = Field(default=300.0, gt=0, description="time between two reviews")
    max_reviews: int = Field(default=3, ge=0, description="reviews of one goal; 0 = structural checks only")
    max_replans: int = Field(
        default=3, ge=0, description="replans of one goal, after which the reflector pauses it and asks"
    )
    progress_seconds: float = Field(default=30.0, gt=0, description="time between two progress reports")
    stall_seconds: float = Field(
        default=300.0, gt=0, description="silence of a running goal that is called a stall"
    )
    reflector_slots: int = Field(default=4, ge=1, description="reviews worked on at a time by a process")
    reflector_goals: int = Field(
        default=4096, ge=1, description="audits kept in memory; others are rebuilt from the event stream"
    )


def rules(settings: ReflectorSettings) -> Rules:
    """The thresholds of the core; those that are not settings are facts about loops, not taste."""
    return Rules(
        review_every_completions=settings.review_every_completions,
        review_every_budget_share=settings.review_every_budget_share,
        review_every_seconds=settings.review_every_seconds,
        max_reviews=settings.max_reviews,
        max_replans=settings.max_replans,
        progress_seconds=settings.progress_seconds,
        stall_seconds=settings.stall_seconds,
    )


def lanes(settings: ReflectorSettings) -> list[Lane]:
    """The lane that the reflector performs."""
    return [
        Lane(
            name=LANE,
            description="reviews how a goal is going and asks for another plan when one would be better",
            lease_seconds=60,
            may=["done", "expand", "failed", "throttled"],
            child_lanes=["agent.judge"],
        )
    ]
