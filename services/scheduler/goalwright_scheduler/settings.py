"""Settings of the scheduler."""

from __future__ import annotations

from typing import Literal

from goalwright_shared.messages import Lane
from goalwright_shared.settings import ServiceSettings
from pydantic import Field


class SchedulerSettings(ServiceSettings):
    """What the scheduler needs beside what every service needs."""

    postgres_dsn: str = Field(
        default="postgresql://goalwright@127.0.0.1:5432/goalwright",
        description="Postgres; only the scheduler",
    )
    budget_usd: float = Field(default=1.0, ge=0, description="budget of a goal that names none")
    deadline_hours: float = Field(default=24.0, gt=0, description="deadline of a goal that names none")
    ask_timeout_seconds: float = Field(
        default=3600.0, ge=0, description="how long a goal that is out of budget waits for a person"
    )
    head_start_seconds: float = Field(
        default=600.0, gt=0, description="the most that return on investment may put a task before others"
    )
    max_tasks: int = Field(default=1_000_000, ge=1, description="tasks of one goal, over all expansions")
    max_depth: int = Field(default=16, ge=1, description="nesting of expansions")
    max_replans: int = Field(default=5, ge=0, description="replans of one goal")
    share_equal_tasks: Literal["made", "always", "never"] = Field(
        default="made",
        description="whose equal tasks share one result: those that planners and performers make, also those of "
        "submitted plans (always), or nobody's",
    )
    share_across_goals: bool = Field(
        default=False, description="take results of equal tasks from other goals of the same owner"
    )
    pool_park_seconds: float = Field(
        default=30.0, gt=0, description="how long a pool with a bad key or no quota is left alone"
    )
    leader_lease_seconds: float = Field(default=3.0, gt=0.5, description="a standby takes over after this")
    batch: int = Field(default=256, ge=1, le=4096, description="messages handled in one transaction")


HUMAN_LANE = Lane(
    name="human", description="a question to a person", performer="human", may=["done"], plannable=True
)


def lanes(_: SchedulerSettings | None = None) -> list[Lane]:
    """The lanes that need no performer."""
    return [HUMAN_LANE]
