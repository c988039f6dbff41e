"""One transaction's worth of change: the connection, the database's time, and what must happen after commit.

Verbs (tasks, expansion, revision, goals, money) take a `Change`, write through it and leave in it what the
loop publishes and remembers once the commit has succeeded. Nothing outside Postgres happens before that.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
from goalwright_shared.messages import Lane, TaskSpec, Work
from goalwright_shared.telemetry import redact_value

from goalwright_scheduler.core import money
from goalwright_scheduler.core.rate import PoolRate
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import GoalStatus, State
from goalwright_scheduler.settings import SchedulerSettings
from goalwright_scheduler.sql import SQL


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as decisions see it."""

    id: int
    goal: int
    goal_id: str
    owner: str
    goal_status: str
    root_task: int
    parent: int | None
    generation: int
    depth: int
    lane: str
    state: State
    epoch: int
    turn: int
    failures: int
    unmet: int
    expansions: int
    open_children: int
    hold: int
    announced: bool
    dispatched_at: datetime | None
    head_start: float
    key: str
    spec: TaskSpec

    @property
    def scope(self) -> int:
        """The scope in which this task's inputs and outputs are names."""
        return self.parent or 0

    @property
    def is_root(self) -> bool:
        """True for the task that is the goal."""
        return self.id == self.root_task


@dataclass(frozen=True, slots=True)
class GoalEnds:
    """To do before the commit: the goal ends this way."""

    goal: int
    status: GoalStatus
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ChecksEnded:
    """To do before the commit: read the verdict of a task's checks."""

    task: int


@dataclass(slots=True)
class Bill:
    """A bill to settle with this commit."""

    task: int
    epoch: int
    charged: int
    overrun: int
    why: str
    model: str | None = None
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0


@dataclass(slots=True)
class Change:
    """See the module."""

    db: asyncpg.Connection[asyncpg.Record]
    now: datetime
    settings: SchedulerSettings
    lanes: Mapping[str, Lane]
    rates: Mapping[str, PoolRate]
    events: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    ready: list[Ready] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    bills: list[Bill] = field(default_factory=list)
    results: list[tuple[Any, ...]] = field(default_factory=list)
    artifacts: list[tuple[int, int, int, str, int | None, str]] = field(default_factory=list)
    followups: list[GoalEnds | ChecksEnded] = field(default_factory=list)
    active: dict[int, bool] = field(default_factory=dict)
    reload: set[int] = field(default_factory=set)
    new_rates: dict[str, PoolRate] = field(default_factory=dict)
    new_lanes: dict[str, Lane] = field(default_factory=dict)
    outbox: list[int] = field(default_factory=list)

    async def fetch(self, verb: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a named statement; its rows."""
        return await self.db.fetch(SQL[verb], *arguments)

    async def fetchrow(self, verb: str, *arguments: Any) -> asyncpg.Record | None:
        """Run a named statement; its first row."""
        return await self.db.fetchrow(SQL[verb], *arguments)

    async def execute(self, verb: str, *arguments: Any) -> None:
        """Run a named statement."""
        await self.db.execute(SQL[verb], *arguments)

    async def load(self, ids: Sequence[int]) -> dict[int, TaskRow]:
        """Task rows by id; unknown ids are left out."""
        if not ids:
            return {}
        return {row["id"]: task_row(row) for row in await self.fetch("load_tasks", ids)}

    def emit(self, goal: int, kind: str, task: int | None = None, /, **data: Any) -> None:
        """An event of this commit; secrets are masked."""
        self.events[goal].append(
            {"kind": kind, "task_id": None if task is None else str(task), "data": redact_value(data)}
        )

    def name_values(self, row: TaskRow, refs: Iterable[tuple[str, str]]) -> None:
        """A task's outputs become names in its scope. Pairs of name and ArtifactRef JSON."""
        generation = row.generation if row.parent is not None else 0
        for name, ref in refs:
            self.artifacts.append((row.goal, row.scope, generation, name, row.id, ref))

    def record(
        self,
        row: TaskRow,
        kind: str,
        *,
        epoch: int | None = None,
        summary: str = "",
        error: str | None = None,
        call: str | None = None,
        program: str | None = None,
        checks: str | None = None,
        worker: str | None = None,
    ) -> None:
        """What became of a try, for `query.task` and for the next try."""
        seconds = (self.now - row.dispatched_at).total_seconds() if row.dispatched_at else None
        self.results.append(
            (row.id, row.epoch if epoch is None else epoch, kind, seconds, summary, error, call, program, checks,
             worker)
        )  # fmt: skip

    def fork(self) -> Change:
        """A part of this change that may still be refused: `merge` it when it was not."""
        return Change(self.db, self.now, self.settings, self.lanes, {**self.rates, **self.new_rates})

    def merge(self, part: Change) -> None:
        """Take over a part that succeeded."""
        for goal, events in part.events.items():
            self.events[goal] += events
        self.ready += part.ready
        self.cancels += part.cancels
        self.bills += part.bills
        self.results += part.results
        self.artifacts += part.artifacts
        self.followups += part.followups
        self.active |= part.active
        self.reload |= part.reload
        self.new_rates |= part.new_rates
        self.new_lanes |= part.new_lanes

    def rate_of(self, pool: str) -> PoolRate:
        """A pool's rate as of this change."""
        return self.new_rates.get(pool) or self.rates.get(pool) or PoolRate(pool)

    async def flush_results(self) -> None:
        """Write artifacts and results gathered so far, so that statements after this see them."""
        if self.artifacts:
            columns = list(map(list, zip(*_last_of_each(self.artifacts), strict=True)))
            self.artifacts = []
            await self.execute("store_artifacts", *columns)
        if self.results:
            tries = {(row[0], row[1]): row for row in self.results}
            task, epoch, kind, seconds, *rest = map(list, zip(*tries.values(), strict=True))
            self.results = []
            await self.execute("record_results", task, epoch, kind, self.now, seconds, *rest)

    async def flush_bills(self) -> list[tuple[int, int]]:
        """Settle the bills gathered so far. Returns (goal, overrun) of the goals whose money moved."""
        if not self.bills:
            return []
        bills, self.bills = {(bill.task, bill.epoch): bill for bill in self.bills}.values(), []
        rows = await self.fetch(
            "settle",
            [b.task for b in bills], [b.epoch for b in bills], [b.charged for b in bills],
            [b.overrun for b in bills], [b.model for b in bills], [b.tokens_in for b in bills],
            [b.tokens_cached for b in bills], [b.tokens_out for b in bills], [b.why for b in bills], self.now,
        )  # fmt: skip
        return [(row["num"], row["overrun"]) for row in rows]

    async def flush_events(self) -> None:
        """Number this commit's events and put them in the outbox."""
        if not self.events:
            return
        goals = sorted(self.events)
        bodies = [json.dumps(self.events[goal]) for goal in goals]
        rows = await self.fetch("emit", goals, [len(self.events[g]) for g in goals], bodies, self.now)
        self.outbox = [row["id"] for row in rows]

    def settle(self, row: TaskRow, bill: money.Bill, why: str, **usage: Any) -> None:
        """Settle the bill of a task's current epoch, on lanes that have one."""
        lane = self.lanes.get(row.lane)
        if lane is not None and lane.pool is not None:
            self.bills.append(Bill(row.id, row.epoch, bill.charged, bill.overrun, why, **usage))


def _last_of_each(rows: list[tuple[int, int, int, str, int | None, str]]) -> list[tuple[Any, ...]]:
    return list({row[:4]: row for row in rows}.values())


def task_row(row: asyncpg.Record) -> TaskRow:
    """A row of `load_tasks`."""
    values = dict(row)
    values["state"] = State(values["state"])
    values["spec"] = TaskSpec.model_validate_json(values["spec"])
    values["root_task"] = values["root_task"] or 0
    return TaskRow(**values)
