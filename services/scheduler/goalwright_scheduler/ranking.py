"""Head starts of the tasks of a plan, from what they are worth and what they are likely to cost; and what done
tasks teach about that."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from goalwright_shared.graph import Compiled
from goalwright_shared.messages import TaskSpec
from pydantic import JsonValue

from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core import calibration, estimates, roi
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import State


def head_starts(
    change: Change,
    parent: TaskRow,
    specs: Sequence[TaskSpec],
    compiled: Compiled,
    values: Mapping[str, float] | None,
) -> dict[str, float]:
    """Head starts by key for the tasks of a goal's plan; none for deeper tasks, which go where their parent
    went. `values` are the deliverables'."""
    if not parent.is_root:
        return {}
    return _starts(change, parent, specs, compiled, values or {})


async def rerank(
    change: Change, target: TaskRow, generation: int, specs: Sequence[TaskSpec], compiled: Compiled
) -> None:
    """After a revision of a goal's plan: what is open has the head start that the new plan gives it."""
    if not target.is_root:
        return
    rows = await change.db.fetch(
        """SELECT t.id, s.key FROM task t JOIN task_spec s ON s.id = t.id WHERE t.parent = $1 AND t.generation = $2
           AND t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')""",
        target.id, generation,
    )  # fmt: skip
    ids = {row["key"]: row["id"] for row in rows}
    _, values = await deliverables(change, target.id)
    starts = _starts(change, target, [spec for spec in specs if spec.key in ids], compiled, values)
    moved = await change.fetch("rerank", [ids[key] for key in starts], list(starts.values()))
    ranks = {row["id"]: row["rank"] for row in moved if row["state"] == State.READY}
    change.ready = [  # one may be in it twice: added, and then wired anew
        task._replace(rank=ranks.get(task.id, task.rank)) for task in change.ready
    ]
    known = {task.id for task in change.ready}
    change.ready += [
        Ready(row["id"], row["goal"], row["lane"], row["rank"])
        for row in moved
        if row["id"] in ranks and row["id"] not in known
    ]


async def deliverables(change: Change, root: int) -> tuple[set[str], dict[str, float]]:
    """A goal's deliverables, and the values of those that have one of their own."""
    row = await change.db.fetchrow(
        "SELECT outputs, spec -> 'params' AS params FROM task_spec WHERE id = $1", root
    )
    assert row is not None
    return set(row["outputs"]), told_values(json.loads(row["params"] or "null"))


def told_values(params: object) -> dict[str, float]:
    """Values by deliverable, as the root task's `params` tell them."""
    return {name: float(item["value"]) for name, item in _told(params).items()}


def with_deliverables(params: object, planned: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The root task's `params` with the deliverables that a planner has added; the client's own stay."""
    own = params if isinstance(params, dict) else {}
    return {**own, "deliverables": list({**planned, **_told(params)}.values())}


def _told(params: object) -> dict[str, Any]:
    own = params if isinstance(params, dict) else {}
    return {item["name"]: item for item in own.get("deliverables") or ()}


def _starts(
    change: Change,
    parent: TaskRow,
    specs: Sequence[TaskSpec],
    compiled: Compiled,
    values: Mapping[str, float],
) -> dict[str, float]:
    free = set(compiled.unconsumed) | set(compiled.exports)
    keys = {spec.key for spec in specs}
    estimate = functools.cache(functools.partial(_estimate, change))  # a large plan has few kinds of tasks
    nodes = {}
    for spec in specs:
        effort = spec.effort
        cost, took = estimate(
            spec.lane, effort.tokens_in, effort.tokens_out, effort.seconds, estimates.own_cap(spec)
        )
        nodes[spec.key] = roi.Node(
            spec.key,
            tuple(need for need in compiled.needs[spec.key] if need in keys),
            worth([output.name for output in spec.outputs], spec.value, free, values),
            cost,
            estimates.confidence(spec.confidence, spec.max_failures),
            took,
        )
    order = [key for key in compiled.order if key in keys]
    starts = roi.head_starts(order, nodes, cap_seconds=change.settings.head_start_seconds)
    return {key: start + parent.head_start for key, start in starts.items()}


def _estimate(
    change: Change, lane: str, tokens_in: int, tokens_out: int, seconds: float, cap: int | None
) -> tuple[float, float]:
    """What a task of these estimates is likely to cost, money and time as one, and to take, in seconds."""
    learned = change.calibrations.get(lane, calibration.NONE)
    took = estimates.seconds(seconds, learned)
    raw = estimates.raw_cost(change.lanes.get(lane), tokens_in, tokens_out, cap)
    return estimates.effort(estimates.likely(raw, learned), took), took


def worth(outputs: Sequence[str], value: float, free: set[str], values: Mapping[str, float]) -> float:
    """What a task's own deliverables are worth: its outputs that are `free` (exported, or consumed by nobody)
    at the value of the deliverable, else at the task's own. A task without outputs is worth its value."""
    if not outputs:
        return value
    return sum(values.get(name, value) for name in outputs if name in free)
