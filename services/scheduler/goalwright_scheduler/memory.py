"""What the leader holds in memory: a bounded cache of Postgres, rebuilt at takeover and after any error."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
from goalwright_shared.messages import Alive, Lane

from goalwright_scheduler.admission import Admissions
from goalwright_scheduler.change import Change, Flight, GoalLine
from goalwright_scheduler.core import money, rate
from goalwright_scheduler.core.due import DueTimes
from goalwright_scheduler.core.rate import PoolRate
from goalwright_scheduler.core.ready import CACHE_PER_LANE, ReadyTasks
from goalwright_scheduler.goals import ready_entries
from goalwright_scheduler.sql import SQL

_SEEN_SECONDS = 60.0

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Memory:
    """Lanes, ready tasks, rates, and who may run. Changed only from what is committed: by `load`, `learn` and
    `take`."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self._lane_texts: dict[str, str] = {}  # as they are stored: lanes are read often and seldom change
        self.rates: dict[str, PoolRate] = {}
        self.ready = ReadyTasks()
        self.admissions = Admissions()
        self.idle_goals: set[int] = set()  # paused or ended since the load: their entries are dropped
        self.short_goals: dict[int, set[int]] = {}  # their ready tasks that did not fit the budget
        self.free: dict[str, int] = {}  # free slots by lane, as last told by the broker
        self.workers: dict[str, tuple[Alive, str, float]] = {}  # worker → (presence, lane, seen)
        self.flights: dict[str, Flight] = {}  # by task id as messages write it
        self.lines: dict[int, GoalLine] = {}  # event lines of goals that are open
        self.leaders: set[int] = set()  # tasks that twins wait for
        self.contracts: dict[int, str] = {}  # JSON, of goals that are open
        self._due = DueTimes()

    async def load(self, db: Db) -> None:
        """Everything from Postgres, anew."""
        self.lanes = await load_lanes(db)
        self.rates = {row["pool"]: pool_rate(row) for row in await db.fetch("SELECT * FROM rate")}
        self.ready = ReadyTasks()
        for kept in (self.idle_goals, self.short_goals, self.flights, self.lines, self.contracts):
            kept.clear()
        self._charge(self.lanes)
        for row in await db.fetch("SELECT num, value FROM goal WHERE finished_at IS NULL AND value <> 1"):
            self.ready.set_weight(row["num"], row["value"])
        await self.admissions.load(db)
        await self._refill(db, None)
        self._due = DueTimes()
        self._due.add((row["due_at"].timestamp(), row["id"]) for row in await db.fetch(SQL["load_due"]))
        self.leaders = {row["leader"] for row in await db.fetch("SELECT DISTINCT leader FROM follower")}

    async def learn(self, db: Db) -> None:
        """Lanes and limits that `goalwright topology apply` has stored since: live without another leader."""
        rows = await db.fetch("SELECT name, lane FROM lane ORDER BY name")
        new = [row["lane"] for row in rows if self._lane_texts.get(row["name"]) != row["lane"]]
        if new:
            self._lane_texts = {row["name"]: row["lane"] for row in rows}
            lanes = {lane.name: lane for lane in map(Lane.model_validate_json, new)}
            self.lanes |= lanes
            self._charge(lanes)
        for row in await db.fetch("SELECT *, goalwright_clock() AS now FROM rate"):
            stored, now = pool_rate(row), row["now"].timestamp()
            known = self.rates.setdefault(stored.pool, stored)
            limits = stored.requests_per_minute, stored.tokens_per_minute
            self.rates[stored.pool] = rate.limited(known, now, *limits)

    def _charge(self, lanes: dict[str, Lane]) -> None:
        """Turns between goals are charged with what a dispatch reserves."""
        for name, lane in lanes.items():
            self.ready.set_cost(name, money.hold(lane))

    async def _refill(self, db: Db, lanes: list[str] | None) -> None:
        """The best ready tasks of lanes (all: None)."""
        rows = await db.fetch(SQL["load_ready"], lanes, CACHE_PER_LANE)
        self.ready.push(ready_entries(rows))
        for lane, count in Counter(row["lane"] for row in rows).items():
            if count == CACHE_PER_LANE:
                self.ready.mark_truncated(lane)
                last = max(row["turn"] for row in rows if row["lane"] == lane)
                for row in rows:
                    if row["lane"] == lane and row["turn"] >= last - 1:  # its goal may have more
                        self.ready.mark_truncated(lane, row["goal"])

    def due(self, now: datetime, most: int) -> list[int]:
        """Tasks whose time may have come, each named once; who still waits is handed in again (`Change.due`)."""
        return list(dict.fromkeys(self._due.take(now.timestamp(), most)))

    async def take(self, change: Change, db: Db) -> None:
        """Remember a committed change."""
        self.lanes.update(change.new_lanes)
        self._charge(change.new_lanes)
        for goal, weight in change.weights.items():
            self.ready.set_weight(goal, weight)
        self.rates.update(change.new_rates)
        self.lines.update(change.new_lines)
        for task in change.landed:
            self.flights.pop(str(task), None)
        for flight in change.new_flights:
            self.flights[str(flight.id)] = flight
        self.leaders = (self.leaders | change.new_leaders) - change.gone_leaders
        self._due.add((at.timestamp(), task) for at, task in change.due)
        for goal in change.new_contracts:
            self.contracts.pop(goal, None)
        for goal, active in change.active.items():
            (self.idle_goals.discard if active else self.idle_goals.add)(goal)
            if not active:
                self.lines.pop(goal, None)
                self.contracts.pop(goal, None)
        self.ready.push(change.ready)
        change.reload |= await self.eased(change, db)
        for goal in change.reload:
            self.short_goals.pop(goal, None)
            self.ready.push(ready_entries(await db.fetch(SQL["load_ready_of_goal"], goal)))
        empty = self.ready.refilling()
        if empty:
            await self._refill(db, empty)

    async def eased(self, change: Change, db: Db) -> set[int]:
        """Goals that lacked money and whose owner has some again: a call of another goal was settled, or did not go."""
        if not self.short_goals or not (change.moved or change.reload):
            return set()
        rows = await db.fetch(
            """SELECT g.num FROM goal g JOIN account a ON a.owner = g.owner
               WHERE g.num = ANY($1::bigint[]) AND EXISTS (
                   SELECT FROM goal payer WHERE payer.owner = g.owner AND payer.num = ANY($2::bigint[]))""",
            list(self.short_goals), [*change.reload, *(goal for goal, _ in change.moved)],
        )  # fmt: skip
        return {row["num"] for row in rows}

    def may_run(self, goal: int) -> bool:
        """Whether a goal's tasks are candidates (the dispatch statement decides)."""
        return goal not in self.idle_goals

    def seen(self, lane: str, presence: Alive, now: float) -> None:
        """A performer announced itself."""
        self.workers[presence.worker + "@" + lane] = (presence, lane, now)
        if len(self.workers) > 10_000:
            self.workers = {k: v for k, v in self.workers.items() if now - v[2] < _SEEN_SECONDS}

    def pools(self) -> dict[str, list[str]]:
        """Lanes by pool; a lane without a pool is its own."""
        pools: dict[str, list[str]] = {}
        for name, lane in self.lanes.items():
            pools.setdefault(lane.pool or f"lane:{name}", []).append(name)
        return pools


async def load_lanes(db: Db) -> dict[str, Lane]:
    """The lane table."""
    rows = await db.fetch("SELECT lane FROM lane ORDER BY name")
    lanes = [Lane.model_validate_json(row["lane"]) for row in rows]
    return {lane.name: lane for lane in lanes}


def pool_rate(row: Any) -> PoolRate:
    """A row of the rate table."""

    def seconds(column: str) -> float:
        value = row[column]
        return value.timestamp() if isinstance(value, datetime) else 0.0

    return PoolRate(
        pool=str(row["pool"]),
        requests_per_minute=row["requests_per_minute"],
        tokens_per_minute=row["tokens_per_minute"],
        told_requests=row["told_requests"],
        told_tokens=row["told_tokens"],
        next_request=seconds("next_request"),
        next_tokens=seconds("next_tokens"),
        blocked_until=seconds("blocked_until"),
        blocked_reason=row["blocked_reason"],
    )


def moment(seconds: float) -> datetime | None:
    """Seconds of a clock as a time, 0 as none."""
    return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
