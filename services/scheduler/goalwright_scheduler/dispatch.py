"""Choose and dispatch: the one place where work is ordered, paced and paid before it goes out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from goalwright_shared.graph import canonical_hash
from goalwright_shared.messages import (
    ArtifactRef,
    ChildResult,
    Contract,
    Lane,
    LaneInfo,
    LlmGrant,
    Note,
    TaskError,
    TaskSpec,
    Work,
)

from goalwright_scheduler import goals
from goalwright_scheduler.change import Change
from goalwright_scheduler.core import money, rate
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.memory import Memory, moment
from goalwright_scheduler.outcomes import action_digest

MOST = 512
"""Tasks dispatched in one transaction."""

_NOTES = 20


async def dispatch(change: Change, memory: Memory) -> None:
    """Take the best ready tasks for the free slots, within rates and budgets, and make their Work."""
    chosen: list[tuple[Ready, int]] = []
    for pool, lanes in memory.pools().items():
        for task in _candidates(change, memory, pool, lanes, MOST - len(chosen)):
            held = money.hold(memory.lanes[task.lane])
            if not held or await _reserved(change, memory, task, held):
                chosen.append((task, held))
    if not chosen:
        return
    ids = [task.id for task, _ in chosen]
    leases = [memory.lanes[task.lane].lease_seconds for task, _ in chosen]
    rows = await change.fetch("dispatch", ids, [held for _, held in chosen], leases, change.now)
    gone = {row["id"] for row in rows}
    for task, held in chosen:
        if task.id in gone:
            memory.free[task.lane] = memory.free.get(task.lane, 0) - 1
        elif held:
            await change.db.execute("UPDATE goal SET held = held - $2 WHERE num = $1", task.goal, held)
    if not gone:
        return
    paid = [task.id for task, _ in chosen if task.id in gone and memory.lanes[task.lane].pool is not None]
    if paid:
        await change.execute("open_bills", paid, change.now)
    change.works = await works(change, memory, [task.id for task, _ in chosen if task.id in gone])


def _candidates(change: Change, memory: Memory, pool: str, lanes: Sequence[str], most: int) -> list[Ready]:
    free = {lane: memory.free.get(lane, 0) for lane in lanes}
    if most <= 0 or not any(slots > 0 for slots in free.values()):
        return []
    limits = change.rate_of(pool)
    if not (limits.requests_per_minute or limits.tokens_per_minute or limits.blocked_until):
        return memory.ready.take(lanes, free, most, memory.may_run)
    taken: list[Ready] = []
    now = change.now.timestamp()
    while len(taken) < most and rate.free_at(limits) <= now:
        best = memory.ready.take(lanes, free, 1, memory.may_run)
        if not best:
            break
        lane = memory.lanes[best[0].lane]
        spent = rate.spend(limits, now, lane.max_input_tokens + lane.max_output_tokens)
        assert spent is not None
        limits = change.new_rates[pool] = spent
        free[best[0].lane] -= 1
        taken += best
    return taken


async def _reserved(change: Change, memory: Memory, task: Ready, held: int) -> bool:
    """Hold the money; a goal that has no more of it waits, or pauses when nothing of it is in flight."""
    if await change.fetchrow("reserve", task.goal, held) is not None:
        return True
    memory.short_goals.add(task.goal)
    return False


async def pause_short_goals(change: Change, memory: Memory) -> None:
    """Goals whose next paid task does not fit and that have nothing in flight: pause and ask."""
    for goal in list(memory.short_goals):
        busy = await change.db.fetchval(
            "SELECT count(*) FROM task WHERE goal = $1 AND state = 'dispatched'", goal
        )
        if busy:
            continue
        memory.short_goals.discard(goal)
        row = await change.db.fetchrow("SELECT budget, spent, held FROM goal WHERE num = $1", goal)
        if row is None:
            continue
        change.emit(
            goal, "budget.exhausted", None,
            budget_usd=money.usd(row["budget"]), spent_usd=money.usd(row["spent"]), held_usd=money.usd(row["held"]),
        )  # fmt: skip
        await goals.pause(change, goal, "budget", ask_seconds=change.settings.ask_timeout_seconds)


async def store_rates(change: Change) -> None:
    """Keep the clocks of pools that moved."""
    for pool in change.new_rates.values():
        await change.db.execute(
            """INSERT INTO rate (pool, next_request, next_tokens, blocked_until, blocked_reason)
               VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (pool) DO UPDATE SET next_request = excluded.next_request,
                   next_tokens = excluded.next_tokens, blocked_until = excluded.blocked_until,
                   blocked_reason = excluded.blocked_reason""",
            pool.pool, moment(pool.next_request), moment(pool.next_tokens), moment(pool.blocked_until),
            pool.blocked_reason,
        )  # fmt: skip


async def works(change: Change, memory: Memory, ids: Sequence[int]) -> list[Work]:
    """The Work messages of dispatched tasks, in the order given, and their events."""
    rows = {row["id"]: row for row in await change.fetch("load_work", ids)}
    inputs: dict[int, dict[str, ArtifactRef]] = defaultdict(dict)
    naming = [task for task in ids if rows[task]["inputs"]]
    if naming:
        for row in await change.fetch("load_inputs", naming):
            inputs[row["id"]][row["name"]] = ArtifactRef.model_validate_json(row["ref"])
    children = await _children(change, [task for task in ids if rows[task]["expansions"]])
    errors = await _errors(change, [task for task in ids if rows[task]["failures"]])
    contracts, notes = await _goal_texts(change, memory, list(rows.values()))
    above = await _ancestors(change, [task for task in ids if rows[task]["lane"] == "plan"])
    made = []
    for task in ids:
        row = rows[task]
        spec = TaskSpec.model_validate_json(row["spec"])
        made.append(
            _work(memory.lanes, row, spec, inputs[task], children[task], errors[task],
                  contracts.get(row["goal"]), notes.get(row["goal"], []), above[task])
        )  # fmt: skip
        change.emit(
            row["goal"], "task.dispatched", task,
            key=row["key"], lane=row["lane"], epoch=row["epoch"], turn=row["turn"], action=action_digest(spec),
            parent=None if row["parent"] is None else str(row["parent"]),
        )  # fmt: skip
    return made


def _work(
    lanes: dict[str, Lane], row: Any, spec: TaskSpec, inputs: dict[str, ArtifactRef],
    children: list[ChildResult], errors: list[TaskError], contract: Contract | None, notes: list[Note],
    ancestors: list[str],
) -> Work:  # fmt: skip
    lane = lanes[row["lane"]]
    continuation = None
    if row["expansion_kind"] == "resume":
        continuation = json.loads(row["continuation"])["continuation"]
    return Work(
        goal_id=row["goal_id"],
        owner=row["owner"],
        task_id=str(row["id"]),
        epoch=row["epoch"],
        turn=row["turn"],
        depth=row["depth"],
        lane=row["lane"],
        spec=spec,
        contract=contract,
        inputs=inputs,
        children=children if continuation is not None else [],
        continuation=continuation,
        budget_left_usd=money.usd(row["budget_left"]),
        deadline=row["deadline"],
        lease_seconds=lane.lease_seconds,
        llm=_grant(lane, row["hold"]),
        lanes=_lanes_for(lanes, lane),
        notes=notes if lane.performer == "service" and lane.pool is not None else [],
        attempt_errors=errors,
        ancestor_hashes=ancestors,
    )


def _grant(lane: Lane, held: int) -> LlmGrant | None:
    if lane.pool is None:
        return None
    key_name, _, model = lane.pool.partition("/")
    return LlmGrant(
        key_name=key_name,
        model=model,
        max_input_tokens=lane.max_input_tokens,
        max_output_tokens=lane.max_output_tokens,
        hold_usd=money.usd(held),
    )


def _lanes_for(lanes: dict[str, Lane], lane: Lane) -> list[LaneInfo]:
    """Planners see what they may plan with; others need no list."""
    if lane.name != "plan":
        return []
    return [
        LaneInfo(name=other.name, description=other.description)
        for other in lanes.values()
        if other.plannable or other.performer == "custom"
    ]


async def _children(change: Change, ids: Sequence[int]) -> dict[int, list[ChildResult]]:
    found: dict[int, list[ChildResult]] = defaultdict(list)
    if not ids:
        return found
    for row in await change.fetch("load_children", ids):
        outputs = {
            name: ArtifactRef.model_validate_json(json.dumps(ref))
            for name, ref in json.loads(row["outputs"]).items()
        }
        error = TaskError.model_validate_json(row["error"]) if row["error"] else None
        found[row["parent"]].append(
            ChildResult(
                key=row["key"], task_id=str(row["id"]), status=row["state"], outputs=outputs, error=error,
                summary=row["summary"] or "",
            )
        )  # fmt: skip
    return found


async def _ancestors(change: Change, ids: Sequence[int]) -> dict[int, list[str]]:
    """Hashes of the tasks above a plan task, by which a planner sees that a split would repeat one."""
    found: dict[int, list[str]] = defaultdict(list)
    if ids:
        for row in await change.fetch("load_ancestors", ids):
            found[row["task"]].append(canonical_hash(TaskSpec.model_validate_json(row["spec"]), {}))
    return found


async def _errors(change: Change, ids: Sequence[int]) -> dict[int, list[TaskError]]:
    found: dict[int, list[TaskError]] = defaultdict(list)
    if ids:
        for row in await change.fetch("load_errors", ids):
            found[row["task"]].append(TaskError.model_validate_json(row["error"]))
    return found


async def _goal_texts(
    change: Change, memory: Memory, rows: Sequence[Any]
) -> tuple[dict[int, Contract], dict[int, list[Note]]]:
    """Contracts of the goals, and the newest notes for those with work for a model."""
    goals_of = list({row["goal"] for row in rows})
    contracts = {
        row["goal"]: Contract.model_validate_json(row["contract"])
        for row in await change.db.fetch(
            "SELECT goal, contract FROM goal_spec WHERE goal = ANY($1::bigint[]) AND contract IS NOT NULL",
            goals_of,
        )
    }
    thinking = list({row["goal"] for row in rows if memory.lanes[row["lane"]].pool is not None})
    notes: dict[int, list[Note]] = {}
    for goal in thinking:
        lines = await change.db.fetch(
            "SELECT text, author, pinned FROM note WHERE goal = $1 ORDER BY pinned DESC, id DESC LIMIT $2",
            goal,
            _NOTES,
        )
        notes[goal] = [Note(text=r["text"], author=r["author"], pinned=r["pinned"]) for r in lines]
    return contracts, notes
