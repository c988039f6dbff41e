"""One transaction's worth of change: the connection, the database's time, and what must happen after commit.

Verbs (tasks, expansion, revision, goals, money) take a `Change`, write through it and leave in it what the
loop publishes and remembers once the commit has succeeded. Nothing outside Postgres happens before that.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

import asyncpg
import orjson
from goalwright_shared.messages import Done, Lane, Outcome, TaskSpec
from goalwright_shared.telemetry import may_hold_secret, redact_value

from goalwright_scheduler.core import money
from goalwright_scheduler.core.calibration import Calibration
from goalwright_scheduler.core.rate import PoolRate
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import GoalStatus, State
from goalwright_scheduler.settings import SchedulerSettings
from goalwright_scheduler.sql import SQL

_LARGE = 5_000
"""Tasks that may take longer to work out than Postgres waits for a leader that says nothing."""


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


@dataclass(frozen=True, slots=True)
class ReplanEnded:
    """To do before the commit: a replan has ended; who still needs a dead task of its generation is skipped."""

    task: int


@dataclass(frozen=True, slots=True)
class TwinEnded:
    """To do before the commit: those that waited for this task are ready."""

    task: int


@dataclass(frozen=True, slots=True)
class VotesCast:
    """To do before the commit: count the votes of a task's replicas."""

    task: int


@dataclass(frozen=True, slots=True)
class AskEnded:
    """To do before the commit: a question to another role has its answer, or will have none."""

    task: int


Followup: TypeAlias = GoalEnds | ChecksEnded | ReplanEnded | TwinEnded | VotesCast | AskEnded


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


class Flight(NamedTuple):
    """What the leader remembers of a dispatch, so that a plain answer to it needs no look at Postgres. The
    statement that completes it is fenced all the same: a stale flight changes nothing."""

    id: int
    goal: int
    goal_id: str
    lane: str
    epoch: int
    key: str
    parent: int | None
    generation: int  # in which its outputs are names: 0 for a task without parent
    outputs: tuple[tuple[str, str], ...]  # declared names and types
    dispatched_at: datetime
    hold: int
    estimate: tuple[int, float] | None  # of a paid one: its cost and its seconds (`bills.estimated`)


Dispatched: TypeAlias = TaskRow | Flight
"""What has gone out, as its bill knows it: by task, epoch, lane and hold."""


class Sent(NamedTuple):
    """A Work message to publish."""

    lane: str
    task: int
    epoch: int
    payload: bytes


class Told(NamedTuple):
    """An event to publish; `outbox` is the row that holds it, named by the last event of the row."""

    owner: str
    goal_id: str
    kind: str
    seq: int
    payload: bytes
    outbox: int | None = None


class GoalLine(NamedTuple):
    """A goal's event line: who it belongs to and the number of its next event."""

    goal_id: str
    owner: str
    next_seq: int

    def tell(self, now: datetime, events: Iterable[tuple[str, int | None, dict[str, Any]]]) -> list[Told]:
        """The next events of this goal, as they are published; secrets in them are masked."""
        at = now.astimezone(UTC)
        told: list[dict[str, Any]] = [
            {
                "event_id": f"{self.goal_id}:{seq}", "seq": seq, "goal_id": self.goal_id, "owner": self.owner,
                "kind": kind, "task_id": None if task is None else str(task), "at": at, "data": data,
            }
            for seq, (kind, task, data) in enumerate(events, self.next_seq)
        ]  # fmt: skip
        payloads = [_encoded(event) for event in told]
        if may_hold_secret(b"\n".join(payloads)):
            payloads = [_encoded({**event, "data": redact_value(event["data"])}) for event in told]
        return [
            Told(self.owner, self.goal_id, event["kind"], event["seq"], payload)
            for event, payload in zip(told, payloads, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a done task teaches about its lane's estimates; `cost` is that of its last try."""

    task: int
    epoch: int
    lane: str
    estimated_cost: int
    cost: int
    estimated_seconds: float
    seconds: float


@dataclass(slots=True)
class Change:
    """See the module."""

    db: asyncpg.Connection[asyncpg.Record]
    now: datetime
    settings: SchedulerSettings
    lanes: Mapping[str, Lane]
    rates: Mapping[str, PoolRate]
    flights: Mapping[str, Flight] = field(default_factory=dict)
    lines: Mapping[int, GoalLine] = field(default_factory=dict)
    leaders: Set[int] = frozenset()  # tasks that twins wait for
    new_leaders: set[int] = field(default_factory=set)
    gone_leaders: set[int] = field(default_factory=set)
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    events: dict[int, list[tuple[str, int | None, dict[str, Any]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    ready: list[Ready] = field(default_factory=list)
    works: list[Sent] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    new_flights: list[Flight] = field(default_factory=list)
    landed: list[int] = field(default_factory=list)  # their flights are over
    due: list[tuple[datetime, int]] = field(default_factory=list)  # when to look at which task
    new_lines: dict[int, GoalLine] = field(default_factory=dict)
    new_contracts: set[int] = field(default_factory=set)  # goals whose contract is another now
    cancels: list[int] = field(default_factory=list)
    bills: list[Bill] = field(default_factory=list)
    moved: list[tuple[int, int]] = field(default_factory=list)  # settled: goal and overrun
    results: list[tuple[Any, ...]] = field(default_factory=list)
    artifacts: list[tuple[int, int, int, str, int | None, str]] = field(default_factory=list)
    followups: list[Followup] = field(default_factory=list)
    active: dict[int, bool] = field(default_factory=dict)
    reload: set[int] = field(default_factory=set)
    admit: set[int] = field(default_factory=set)  # goals whose plan or money is another now
    lessons: list[Lesson] = field(default_factory=list)
    weights: dict[int, float] = field(default_factory=dict)  # of new goals
    new_rates: dict[str, PoolRate] = field(default_factory=dict)
    new_lanes: dict[str, Lane] = field(default_factory=dict)

    async def fetch(self, verb: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a named statement; its rows."""
        return await self.db.fetch(SQL[verb], *arguments)

    async def fetchrow(self, verb: str, *arguments: Any) -> asyncpg.Record | None:
        """Run a named statement; its first row."""
        return await self.db.fetchrow(SQL[verb], *arguments)

    async def execute(self, verb: str, *arguments: Any) -> None:
        """Run a named statement."""
        await self.db.execute(SQL[verb], *arguments)

    async def take_time_for(self, tasks: int) -> None:
        """Ask Postgres for patience while so many tasks are worked out."""
        if tasks > _LARGE:
            await self.db.execute("SET LOCAL idle_in_transaction_session_timeout = '5min'")

    async def load(self, ids: Sequence[int]) -> dict[int, TaskRow]:
        """Task rows by id, in the order of `ids`; unknown ones are left out."""
        if not ids:
            return {}
        rows = {row["id"]: task_row(row) for row in await self.fetch("load_tasks", ids)}
        return {task: rows[task] for task in ids if task in rows}

    def emit(self, goal: int, kind: str, task: int | None = None, /, **data: Any) -> None:
        """An event of this commit; secrets in it are masked."""
        self.events[goal].append((kind, task, data))

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

    def record_outcome(self, row: TaskRow, outcome: Outcome, *, kind: str | None = None, **more: Any) -> None:
        """The same, with what the performer tells of how it came about."""
        self.record(
            row, kind or outcome.kind, worker=outcome.worker,
            call=outcome.call.model_dump_json() if outcome.call else None,
            program=outcome.program.model_dump_json() if outcome.program else None,
            checks=checks_of(outcome) if isinstance(outcome, Done) else None,
            **more,
        )  # fmt: skip

    def fork(self) -> Change:
        """A part of this change that may still be refused: `merge` it when it was not."""
        return Change(
            self.db, self.now, self.settings, self.lanes, {**self.rates, **self.new_rates},
            flights=self.flights, lines=self.lines, leaders=self.leaders, calibrations=self.calibrations,
        )  # fmt: skip

    def merge(self, part: Change) -> None:
        """Take over a part that succeeded."""
        for goal, events in part.events.items():
            self.events[goal] += events
        self.ready += part.ready
        self.landed += part.landed
        self.new_leaders |= part.new_leaders
        self.gone_leaders |= part.gone_leaders
        self.due += part.due
        self.new_contracts |= part.new_contracts
        self.cancels += part.cancels
        self.bills += part.bills
        self.moved += part.moved
        self.results += part.results
        self.artifacts += part.artifacts
        self.followups += part.followups
        self.active |= part.active
        self.reload |= part.reload
        self.admit |= part.admit
        self.weights |= part.weights
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
            task, epoch, kind, seconds, *rest = map(list, zip(*_one_of_each(self.results), strict=True))
            self.results = []
            await self.execute("record_results", task, epoch, kind, self.now, seconds, *rest)

    async def flush_bills(self) -> None:
        """Settle the bills gathered so far, of two for one dispatch the first; `moved` tells whose money moved."""
        if not self.bills:
            return
        bills, self.bills = {(bill.task, bill.epoch): bill for bill in reversed(self.bills)}.values(), []
        rows = await self.fetch(
            "settle",
            [b.task for b in bills], [b.epoch for b in bills], [b.charged for b in bills],
            [b.overrun for b in bills], [b.model for b in bills], [b.tokens_in for b in bills],
            [b.tokens_cached for b in bills], [b.tokens_out for b in bills], [b.why for b in bills], self.now,
        )  # fmt: skip
        self.moved += [(row["num"], row["overrun"]) for row in rows]

    async def flush_events(self) -> None:
        """Number this commit's events and put them in the outbox, as they will be published."""
        if not self.events:
            return
        await self._know_lines([goal for goal in self.events if goal not in self.lines])
        goals = sorted(self.events)
        told = {goal: self._line(goal).tell(self.now, self.events[goal]) for goal in goals}
        bodies = [b"[%b]" % b",".join(event.payload for event in told[goal]) for goal in goals]
        lines = {goal: self._line(goal) for goal in goals}
        rows = await self.fetch(
            "emit", goals, [lines[goal].next_seq for goal in goals], [len(told[goal]) for goal in goals],
            [body.decode() for body in bodies], self.now,
        )  # fmt: skip
        outbox = {row["goal"]: row["id"] for row in rows}
        for goal in goals:
            if goal not in outbox:
                raise RuntimeError(f"the events of goal {lines[goal].goal_id} were numbered by somebody else")
            self.told += told[goal][:-1]
            self.told.append(told[goal][-1]._replace(outbox=outbox[goal]))
            self.new_lines[goal] = lines[goal]._replace(next_seq=lines[goal].next_seq + len(told[goal]))

    def _line(self, goal: int) -> GoalLine:
        return self.new_lines.get(goal) or self.lines[goal]

    async def _know_lines(self, goals: Sequence[int]) -> None:
        if not goals:
            return
        rows = await self.db.fetch(
            "SELECT num, goal_id, owner, next_seq FROM goal WHERE num = ANY($1::bigint[])", goals
        )
        self.new_lines |= {
            row["num"]: GoalLine(row["goal_id"], row["owner"], row["next_seq"]) for row in rows
        }

    def settle(self, flight: Dispatched, bill: money.Bill, why: str, **usage: Any) -> None:
        """Settle the bill of a dispatch, on lanes that have one."""
        lane = self.lanes.get(flight.lane)
        if lane is not None and lane.pool is not None:
            self.bills.append(Bill(flight.id, flight.epoch, bill.charged, bill.overrun, why, **usage))


def _encoded(event: dict[str, Any]) -> bytes:
    try:  # a copy: orjson's own bytes keep a buffer of 4 KiB each, and events stay for ten seconds
        return bytes(memoryview(orjson.dumps(event, option=orjson.OPT_UTC_Z)))
    except TypeError:  # numbers beyond 64 bits and lone surrogates, which only the standard library writes
        return json.dumps({**event, "at": event["at"].isoformat()}).encode()


def _last_of_each(rows: list[tuple[int, int, int, str, int | None, str]]) -> list[tuple[Any, ...]]:
    return list({row[:4]: row for row in rows}.values())


def checks_of(outcome: Done) -> str | None:
    """The checks that its performer has run, as JSON; None when there are none."""
    checks = [check.model_dump_json() for check in outcome.checks]
    return f"[{','.join(checks)}]" if checks else None


def _one_of_each(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """One row for each try, as `record_results` makes one of two: the later counts, and keeps what only the earlier
    tells (but for kind and summary)."""
    tries: dict[tuple[int, int], tuple[Any, ...]] = {}
    for row in rows:
        known = tries.get(row[:2])
        if known is not None:
            rest = (old if new is None else new for old, new in zip(known[5:], row[5:], strict=True))
            row = (*row[:5], *rest)
        tries[row[:2]] = row
    return list(tries.values())


def task_row(row: asyncpg.Record) -> TaskRow:
    """A row of `load_tasks`."""
    values = dict(row)
    values["state"] = State(values["state"])
    values["spec"] = TaskSpec.model_validate_json(values["spec"])
    values["root_task"] = values["root_task"] or 0
    return TaskRow(**values)
