"""Why a task is not running: one reason, the nearest, with the fact that shows it. Read only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
from goalwright_shared.messages import Lane

from goalwright_scheduler.core import money, rate
from goalwright_scheduler.core.states import FINAL, State
from goalwright_scheduler.memory import load_lanes, moment, pool_rate
from goalwright_scheduler.sql import SQL

Reason = tuple[str, str]
"""A code for programs, and words."""

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Crew:
    """The performers of a lane as its consumer sees them: pulls that wait, and work in hand."""

    waiting: int
    in_hand: int


CrewOf = Callable[[str], Awaitable[Crew | None]]
"""The crew of a lane; None when the broker cannot tell."""


async def reason(
    pool: asyncpg.Pool[asyncpg.Record], crew_of: CrewOf, goal: asyncpg.Record, row: asyncpg.Record
) -> Reason:
    """Why a task (with its text) of a goal is where it is."""
    state = State(row["state"])
    if state in FINAL:
        return "ended", f"it is {state}"
    match state:
        case State.DISPATCHED:
            return "running", f"dispatched {ago(row['dispatched_at'])} on {row['lane']}"
        case State.EXPANDED:
            return "waits_for_children", await _children(pool, row, "tasks under it are open")
        case State.CHECKING:
            return "checks_under_way", await _children(pool, row, "checks of its answer are open")
        case State.PARKED:
            return _parked(goal, row)
        case State.BLOCKED:
            found = await _waits_for(pool, row) if row["unmet"] else await _waits_for_twin(pool, row)
        case State.RETRY_WAIT:
            found = "retry_at", f"tried again at {_iso(row['due_at'])} after {row['failures']} failures"
        case _ if goal["status"] == "paused":
            return "goal_paused", f"the goal is paused: {goal['reason']}"
        case _:
            return await _waits_to_go(pool, crew_of, goal, row)
    paused = f"; and the goal is paused: {goal['reason']}" if goal["status"] == "paused" else ""
    return found[0], found[1] + paused


def _parked(goal: asyncpg.Record, row: asyncpg.Record) -> Reason:
    if row["over_budget"] is not None:
        left = goal["budget"] - goal["fenced"] - goal["spent"] - goal["held"]
        needs = f"what it serves would need {money.usd(row['over_budget']):.6f} USD"
        return "over_budget", f"{needs} and {money.usd(left):.6f} are left"
    if row["lane"] == "human":
        until = f" until {_iso(row['due_at'])}" if row["due_at"] else ""
        return "waits_for_person", f"asks a person{until}"
    return "waits_for_person", "its lease expired and its effects are external: retry or skip it by hand"


async def _children(pool: asyncpg.Pool[asyncpg.Record], row: asyncpg.Record, what: str) -> str:
    rows = await pool.fetch(
        """SELECT s.key, t.state FROM task t JOIN task_spec s ON s.id = t.id
           WHERE t.parent = $1 AND t.generation = $2 AND t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')
           ORDER BY t.id LIMIT $3""",
        row["id"], row["expansions"], _NAMED,
    )  # fmt: skip
    named = ", ".join(f"{child['key']} ({child['state']})" for child in rows)
    more = f" and {row['open_children'] - len(rows)} more" if row["open_children"] > len(rows) else ""
    return f"{row['open_children']} {what}: {named}{more}"


async def _waits_for(pool: asyncpg.Pool[asyncpg.Record], row: asyncpg.Record) -> Reason:
    needs = await pool.fetch(
        """SELECT t.lane, t.state, t.dispatched_at, s.key, s.outputs FROM task t
           JOIN task_spec s ON s.id = t.id
           WHERE t.parent = $1 AND t.generation = $2 AND $3 = ANY(t.children) AND t.state <> 'succeeded'
           ORDER BY t.id LIMIT $4""",
        row["parent"], row["generation"], row["id"], _NAMED,
    )  # fmt: skip
    parts = []
    for need in needs:
        wanted = [name for name in need["outputs"] if name in row["inputs"]]
        what = f"{', '.join(wanted)}, from task {need['key']}" if wanted else f"task {need['key']}"
        since = f" {ago(need['dispatched_at'])}" if need["state"] == "dispatched" else ""
        parts.append(f"{what} ({need['state']}{since} on {need['lane']})")
    more = f" and {row['unmet'] - len(parts)} more" if row["unmet"] > len(parts) else ""
    return "waits_for_input", "; ".join(parts) + more


async def _waits_for_twin(pool: asyncpg.Pool[asyncpg.Record], row: asyncpg.Record) -> Reason:
    twin = await pool.fetchrow(
        """SELECT s.key, t.state, t.lane FROM follower f JOIN task t ON t.id = f.leader
           JOIN task_spec s ON s.id = t.id WHERE f.task = $1""",
        row["id"],
    )
    if twin is None:
        return "waits_for_twin", "for an equal task, which has just ended"
    return "waits_for_twin", f"task {twin['key']} does the same ({twin['state']} on {twin['lane']})"


async def _waits_to_go(
    pool: asyncpg.Pool[asyncpg.Record], crew_of: CrewOf, goal: asyncpg.Record, row: asyncpg.Record
) -> Reason:
    async with pool.acquire() as db:
        lane = (await load_lanes(db)).get(row["lane"])  # type: ignore[arg-type]  # a pool's proxy is a connection
    if lane is None:
        return "no_lane", f"lane {row['lane']} does not exist any more"
    short = await _over_budget(pool, goal, row, lane)
    if short is not None:
        return "over_budget", short
    if lane.pool is not None:
        wait = await _paced(pool, lane.pool)
        if wait is not None:
            return "waits_for_rate", wait
    return await _waits_for_slot(pool, await crew_of(lane.name), row)


async def _over_budget(
    pool: asyncpg.Pool[asyncpg.Record], goal: asyncpg.Record, row: asyncpg.Record, lane: Lane
) -> str | None:
    most = money.hold(lane)
    if not most:
        return None
    if lane.name == money.ASK:
        caps = await pool.fetch(SQL["own_caps"], [row["id"]])
        most = money.hold(lane, caps[0]["cap"] if caps else None)
    left = goal["budget"] - goal["fenced"] - goal["spent"] - goal["held"]
    if most > left:
        kept = f", {money.usd(goal['fenced']):.6f} kept for a summary" if goal["fenced"] else ""
        return f"it may cost {money.usd(most):.6f} USD and {money.usd(left):.6f} are left{kept}"
    account = await pool.fetchrow(
        """SELECT per, budget - held - CASE WHEN per = 'day' AND since < date_trunc('day', goalwright_clock(), 'UTC')
               THEN 0 ELSE spent END AS remains FROM account WHERE owner = $1""",
        goal["owner"],
    )
    if account is not None and most > account["remains"]:
        span = "today" if account["per"] == "day" else "in all"
        return (
            f"it may cost {money.usd(most):.6f} USD and owner {goal['owner']} has "
            f"{money.usd(account['remains']):.6f} left {span}"
        )
    return None


async def _paced(pool: asyncpg.Pool[asyncpg.Record], name: str) -> str | None:
    row = await pool.fetchrow("SELECT *, goalwright_clock() AS now FROM rate WHERE pool = $1", name)
    if row is None:
        return None
    limits = pool_rate(row)
    free_at = rate.free_at(limits)
    if free_at <= row["now"].timestamp():
        return None
    why = "its limits of requests and tokens are used up"
    if limits.blocked_until >= free_at:
        why = limits.blocked_reason or "the provider asked to wait"
    return f"pool {name}: {why}; again at {_iso(moment(free_at))}"


async def _waits_for_slot(
    pool: asyncpg.Pool[asyncpg.Record], crew: Crew | None, row: asyncpg.Record
) -> Reason:
    counts = await pool.fetchrow(
        """SELECT count(*) FILTER (WHERE t.state = 'dispatched') AS running,
               count(*) FILTER (WHERE t.state = 'ready' AND t.goal = $2 AND t.rank > $3) AS ahead,
               count(*) FILTER (WHERE t.state = 'ready' AND t.goal <> $2
                                AND g.status IN ('accepted', 'planning', 'running')) AS others
           FROM goal g JOIN task t ON t.goal = g.num WHERE g.finished_at IS NULL AND t.lane = $1""",
        row["lane"], row["goal"], row["rank"],
    )  # fmt: skip
    assert counts is not None
    queue = f"{counts['ahead']} ahead"
    if counts["others"]:
        queue += f", {counts['others']} of other goals in turn"
    if crew is not None and not crew.waiting and not crew.in_hand:
        return "no_performer", f"no performer waits on lane {row['lane']} ({queue})"
    return "waits_for_slot", f"for a free slot on lane {row['lane']} ({queue}, {counts['running']} running)"


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None


def ago(at: datetime | None) -> str:
    """How long ago, in words."""
    return f"{(datetime.now(UTC) - at).total_seconds():.1f} s ago" if at is not None else "a while ago"
