"""Choose and dispatch: the one place where work is ordered, paced and paid before it goes out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import asyncpg
import orjson
from goalwright_shared.graph import canonical_hash
from goalwright_shared.messages import SCHEMA_VERSION, Lane, LlmGrant, TaskSpec

from goalwright_scheduler import accounts, bills, goals, talk
from goalwright_scheduler.change import Change, Flight, Sent
from goalwright_scheduler.core import money, rate
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.memory import Memory, moment

Row: TypeAlias = asyncpg.Record

MOST = 512
"""Tasks dispatched in one transaction."""

_CONTRACT_BYTES, _DELIVERABLES = 4_096, 50
"""A contract over so many bytes travels with so many deliverables; `query.goal` has them all."""


async def dispatch(change: Change, memory: Memory) -> None:
    """Take the best ready tasks for the free slots, within rates and budgets, and make their Work."""
    wanted: list[Ready] = []
    for pool, lanes in memory.pools().items():
        wanted += _candidates(change, memory, pool, lanes, MOST - len(wanted))
    holds = await accounts.holds(change, [(task.id, memory.lanes[task.lane]) for task in wanted])
    chosen = await _affordable(change, memory, list(zip(wanted, holds, strict=True)))
    if not chosen:
        return
    rows = await change.fetch(
        "dispatch",
        [task.id for task, _ in chosen], [held for _, held in chosen],
        [memory.lanes[task.lane].lease_seconds for task, _ in chosen], change.now,
    )  # fmt: skip
    sent = {row["id"]: row for row in rows}
    for task, held in chosen:
        if task.id in sent:
            memory.free[task.lane] = memory.free.get(task.lane, 0) - 1
        elif held:
            await change.db.execute("UPDATE goal SET held = held - $2 WHERE num = $1", task.goal, held)
            change.reload.add(task.goal)  # who was refused because of it fits now
    _spend(change, memory, [task for task, _ in chosen if task.id in sent])
    paid = [task.id for task, _ in chosen if task.id in sent and memory.lanes[task.lane].pool is not None]
    if paid:
        await change.execute("open_bills", paid, change.now)
    ordered = [sent[task.id] for task, _ in chosen if task.id in sent]
    change.works = await works(change, memory, ordered)
    for row in ordered:
        change.due.append((row["due_at"], row["id"]))
        change.emit(
            row["goal"], "task.dispatched", row["id"],
            key=row["key"], lane=row["lane"], epoch=row["epoch"], turn=row["turn"], action=row["action"],
            parent=None if row["parent"] is None else str(row["parent"]),
        )  # fmt: skip


def _candidates(change: Change, memory: Memory, pool: str, lanes: Sequence[str], most: int) -> list[Ready]:
    free = {lane: memory.free.get(lane, 0) for lane in lanes}
    if most <= 0 or not any(slots > 0 for slots in free.values()):
        return []
    limits = change.rate_of(pool)
    if not _paced(limits):
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
        limits = spent
        free[best[0].lane] -= 1
        taken += best
    return taken


def _paced(limits: rate.PoolRate) -> bool:
    return bool(limits.requests or limits.tokens or limits.blocked_until)


def _spend(change: Change, memory: Memory, sent: Sequence[Ready]) -> None:
    """Advance the clocks of the pools by what went out; what lost its race or had no money costs no call."""
    for task in sent:
        lane = memory.lanes[task.lane]
        if lane.pool is None or not _paced(limits := change.rate_of(lane.pool)):
            continue
        spent = rate.spend(limits, change.now.timestamp(), lane.max_input_tokens + lane.max_output_tokens)
        assert spent is not None  # no more went than were chosen within the rate
        change.new_rates[lane.pool] = spent


async def _affordable(
    change: Change, memory: Memory, wanted: Sequence[tuple[Ready, int]]
) -> list[tuple[Ready, int]]:
    """Those of `wanted`, each with what it holds, that their goals can pay: the money is held now. A goal that has no
    more of it waits, or pauses when nothing of it can go on."""
    sums: Counter[int] = Counter()
    for task, held in wanted:
        sums[task.goal] += held
    whole = {
        goal
        for goal, most in sums.items()
        if most and await change.fetchrow("reserve", goal, most) is not None
    }
    chosen: list[tuple[Ready, int]] = []
    for task, held in wanted:
        if not held or task.goal in whole or await change.fetchrow("reserve", task.goal, held) is not None:
            chosen.append((task, held))
        else:
            memory.short_goals.setdefault(task.goal, set()).add(task.id)
    return chosen


async def pause_short_goals(change: Change, memory: Memory) -> None:
    """Goals of which nothing can go on for want of money, and nothing is in flight: pause and ask. Those that have some
    again since this turn are tried first."""
    short = memory.short_goals.keys() - change.reload - await memory.eased(change, change.db)
    if not short:
        return
    refused = [task for goal in short for task in memory.short_goals[goal]]
    for row in await change.fetch("load_short", list(short), refused):
        if row["busy"]:
            continue
        del memory.short_goals[row["num"]]
        if not row["short"]:  # what was too dear has been skipped, dropped or ended by hand
            continue
        change.emit(
            row["num"], "budget.exhausted", None,
            budget_usd=money.usd(row["budget"]), spent_usd=money.usd(row["spent"]), held_usd=money.usd(row["held"]),
        )  # fmt: skip
        await goals.pause(change, row["num"], "budget", ask_seconds=change.settings.ask_timeout_seconds)


async def store_rates(change: Change) -> None:
    """Keep the clocks of pools that moved, and what their providers have told."""
    for pool in change.new_rates.values():
        await change.db.execute(
            """INSERT INTO rate (pool, told_requests, told_tokens, next_request, next_tokens, blocked_until,
                                 blocked_reason)
               VALUES ($1, $2, $3, $4, $5, $6, $7)
               ON CONFLICT (pool) DO UPDATE SET told_requests = excluded.told_requests,
                   told_tokens = excluded.told_tokens, next_request = excluded.next_request,
                   next_tokens = excluded.next_tokens, blocked_until = excluded.blocked_until,
                   blocked_reason = excluded.blocked_reason""",
            pool.pool, pool.told_requests, pool.told_tokens, moment(pool.next_request), moment(pool.next_tokens),
            moment(pool.blocked_until), pool.blocked_reason,
        )  # fmt: skip


async def works(change: Change, memory: Memory, rows: Sequence[Any]) -> list[Sent]:
    """The Work messages of rows of `dispatch` or `load_work`, in their order."""
    children = await _children(change, [row["id"] for row in rows if row["expansion_kind"] == "resume"])
    errors = await _errors(change, [row["id"] for row in rows if row["failures"]])
    contracts = await _contracts(change, memory, {row["goal"] for row in rows})
    notes = await talk.notes(change, {row["goal"] for row in rows if _listens(memory.lanes[row["lane"]])})
    above = await _ancestors(change, [row["id"] for row in rows if row["lane"] == "plan"])
    made = []
    for row in rows:
        task, lane = row["id"], memory.lanes[row["lane"]]
        resumed = row["expansion_kind"] == "resume"
        body = {
            "schema_version": SCHEMA_VERSION,
            "goal_id": row["goal_id"],
            "owner": row["owner"],
            "task_id": str(task),
            "epoch": row["epoch"],
            "turn": row["turn"],
            "depth": row["depth"],
            "lane": lane.name,
            "spec": orjson.Fragment(row["spec"]),
            "contract": orjson.Fragment(contracts[row["goal"]]),
            "inputs": orjson.Fragment(f"{{{row['inputs'] or ''}}}"),
            "children": children[task],
            "continuation": _fragment(row["continuation"]) if resumed else None,
            "budget_left_usd": money.usd(row["budget_left"]),
            "deadline": row["deadline"],
            "lease_seconds": lane.lease_seconds,
            "llm": _grant(lane, row["hold"]),
            "lanes": _lanes_for(memory.lanes, lane),
            "notes": notes.get(row["goal"], []) if _listens(lane) else [],
            "attempt_errors": errors[task],
            "prompt_variant": None,
            "ancestor_hashes": above[task],
        }
        payload = bytes(memoryview(orjson.dumps(body, option=orjson.OPT_UTC_Z)))  # without its spare buffer
        made.append(Sent(lane.name, task, row["epoch"], payload))
        change.new_flights += _flight(change, row, lane)
    return made


def _flight(change: Change, row: Row, lane: Lane) -> list[Flight]:
    """What to remember of a dispatch whose answer is simply taken: nothing is checked, planned or told to an asker."""
    spec = orjson.loads(row["spec"])
    if (
        lane.name == "plan"
        or row["id"] == row["root_task"]
        or any(check["kind"] in ("program", "rubric") for check in spec["acceptance"])
        or spec.get("asked") is not None
    ):
        return []
    outputs = tuple((output["name"], output["type"]) for output in spec["outputs"])
    return [
        Flight(
            row["id"], row["goal"], row["goal_id"], lane.name, row["epoch"], row["key"], row["parent"],
            row["generation"] if row["parent"] is not None else 0, outputs, row["dispatched_at"], row["hold"],
            None if lane.pool is None else bills.estimated(change, lane.name, TaskSpec.model_validate(spec)),
        )
    ]  # fmt: skip


def _listens(lane: Lane) -> bool:
    """Whether a lane's performers get the goal's notes: those that ask a model."""
    return lane.performer == "service" and lane.pool is not None


def _grant(lane: Lane, held: int) -> dict[str, Any] | None:
    if lane.pool is None:
        return None
    key_name, _, model = lane.pool.partition("/")
    return LlmGrant(
        key_name=key_name,
        model=model,
        max_input_tokens=lane.max_input_tokens,
        max_output_tokens=lane.max_output_tokens,
        hold_usd=money.usd(held),
    ).model_dump(mode="json")


def _lanes_for(lanes: Mapping[str, Lane], lane: Lane) -> list[dict[str, str]]:
    """Planners see what they may plan with; others need no list."""
    if lane.name != "plan":
        return []
    return [
        {"name": other.name, "description": other.description}
        for other in lanes.values()
        if other.plannable or other.performer == "custom"
    ]


async def _children(change: Change, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    if not ids:
        return found
    for row in await change.fetch("load_children", ids):
        found[row["parent"]].append(
            {
                "key": row["key"], "task_id": str(row["id"]), "status": row["state"],
                "outputs": orjson.Fragment(row["outputs"]), "error": _fragment(row["error"]),
                "summary": row["summary"] or "",
            }
        )  # fmt: skip
    return found


def _fragment(json_text: str | None) -> orjson.Fragment | None:
    return None if json_text is None else orjson.Fragment(json_text)


async def _ancestors(change: Change, ids: Sequence[int]) -> dict[int, list[str]]:
    """Hashes of the tasks above a plan task, by which a planner sees that a split would repeat one."""
    found: dict[int, list[str]] = defaultdict(list)
    if ids:
        for row in await change.fetch("load_ancestors", ids):
            found[row["task"]].append(canonical_hash(TaskSpec.model_validate_json(row["spec"]), {}))
    return found


async def _errors(change: Change, ids: Sequence[int]) -> dict[int, list[orjson.Fragment]]:
    found: dict[int, list[orjson.Fragment]] = defaultdict(list)
    if ids:
        for row in await change.fetch("load_errors", ids):
            found[row["task"]].append(orjson.Fragment(row["error"]))
    return found


async def _contracts(change: Change, memory: Memory, goals_of: set[int]) -> Mapping[int, str]:
    """Contracts of goals as JSON; what is not remembered is read."""
    unknown = [goal for goal in goals_of if goal not in memory.contracts or goal in change.new_contracts]
    if unknown:
        for row in await change.db.fetch(
            "SELECT goal, coalesce(contract::text, 'null') AS contract FROM goal_spec WHERE goal = ANY($1::bigint[])",
            unknown,
        ):
            memory.contracts[row["goal"]] = _told_contract(row["contract"])
    return memory.contracts


def _told_contract(contract: str) -> str:
    """The contract as it travels with every task: of a long list of deliverables only the first."""
    if len(contract) <= _CONTRACT_BYTES:
        return contract
    body = json.loads(contract)
    return json.dumps({**body, "deliverables": body["deliverables"][:_DELIVERABLES]})
