"""Apply a revision to a generation: add, drop, re-estimate, move, revalue; then wire it anew."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from goalwright_shared.errors import Refused
from goalwright_shared.graph import Compiled, GraphError, compile_generation
from goalwright_shared.messages import (
    AddTask,
    DropTask,
    EstimateTask,
    MoveTask,
    Operation,
    TaskSpec,
    ValueTask,
)

from goalwright_scheduler import expansion, people, ranking, replans, tasks, twins
from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core import money, submission
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import FINAL, State

DROPPED = "dropped"
"""How a task has ended that a revision dropped, beside being cancelled: nobody takes it up again."""


async def apply(
    change: Change,
    target: TaskRow,
    generation: int,
    base_revision: int,
    operations: Sequence[Operation],
    *,
    summary: str,
    reason: str,
    by_hand: bool = False,
) -> None:
    """Change the target's current generation. Raises `Refused`: stale_revision, oscillation, and others; what is
    asked `by_hand` may repeat."""
    expanded = await change.db.fetchrow(
        "SELECT kind, revision, revisions FROM expansion WHERE parent = $1 AND generation = $2",
        target.id, generation,
    )  # fmt: skip
    if expanded is None or generation != target.expansions or target.state is not State.EXPANDED:
        raise Refused("stale_revision", f"generation {generation} of task {target.key} has ended")
    if expanded["kind"] == twins.VOTE:
        raise Refused("no_plan", f"task {target.key} is done by its replicas, not by a plan")
    if expanded["revision"] != base_revision:
        raise Refused(
            "stale_revision", f"the plan is at revision {expanded['revision']}, not at {base_revision}"
        )
    rows = await _generation(change, target, generation)
    dropped, added, changed = _sort(rows, operations)
    moved = [spec for key, spec in changed.items() if spec.lane != rows[key].lane]
    submission.check_lanes([*added, *moved], change.lanes, "operations")
    await expansion.limit(change, target, len(added))
    alive = [row for row in rows.values() if row.state not in (State.DEAD, State.SKIPPED, State.CANCELLED)]
    kept = [changed.get(row.key, row.spec) for row in alive if row.key not in dropped]
    exports = [o.name for o in target.spec.outputs] if expanded["kind"] == "replace" else []
    brought = await change.db.fetch(
        """SELECT name FROM artifact WHERE goal = $1 AND scope = $2 AND generation = $3 AND generation > 0
           AND task IS NULL""",
        target.goal, target.id, generation,
    )  # fmt: skip
    seen = [*target.spec.inputs, *(row["name"] for row in brought)]
    try:
        compiled = compile_generation([*kept, *added], seen, exports)
    except GraphError as error:
        raise Refused("invalid_revision", error.message, field=error.field, hint=error.hint) from error
    marks = [
        _digest(op.model_dump_json() for op in operations),
        mark(row.spec for row in alive),
        mark([*kept, *added]),
    ]
    if not by_hand:
        _refuse_repetition(marks[0], marks[1], marks[2], expanded["revisions"])
        await _refuse_beyond_budget(change, target, added)
    await change.db.execute(
        """UPDATE expansion SET revision = revision + 1, revisions = revisions || $3::text[]
           WHERE parent = $1 AND generation = $2""",
        target.id, generation, marks,
    )  # fmt: skip
    await change.db.execute("UPDATE goal SET revision = revision + 1 WHERE num = $1", target.goal)
    await _store_changed(change, rows, changed)
    told = await _add(change, target, generation, rows, added, compiled)
    await _rewire(change, target, generation, compiled)
    for key, why in dropped.items():
        change.record(rows[key], DROPPED, summary=why)
        await tasks.close(change, [rows[key].id], State.CANCELLED, why or "dropped by a revision")
    await ranking.rerank(change, target, generation, [*kept, *added], compiled)
    change.admit.add(target.goal)
    change.emit(
        target.goal, "plan.revised", target.id,
        revision=base_revision + 1, added=told[: expansion.SHOWN_TASKS], summary=summary, reason=reason,
        dropped=[{"key": key, "reason": why} for key, why in dropped.items()],
        changed=sorted(changed),
    )  # fmt: skip


def mark(specs: Iterable[TaskSpec]) -> str:
    """What a plan is, whatever its tasks are called: by it a plan that comes back is known."""
    own = (spec for spec in specs if not replans.is_replan(spec.lane, spec.key))
    return _digest(sorted(spec.model_dump_json(exclude={"key", "title"}) for spec in own))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()[:16]


def _refuse_repetition(operations: str, before: str, after: str, earlier: Collection[str]) -> None:
    if operations in earlier:
        raise Refused("oscillation", "this revision was made before")
    if after != before and after in earlier:
        raise Refused("oscillation", "the plan was like this before, and was revised")


async def _refuse_beyond_budget(change: Change, target: TaskRow, added: Sequence[TaskSpec]) -> None:
    """What is added must be payable by its own estimates; tasks without one count nothing."""
    wanted = sum(
        money.estimate(lane, spec.effort)
        for spec in added
        if (lane := change.lanes.get(spec.lane)) is not None
    )
    if not wanted:
        return
    left: int = await change.db.fetchval(
        "SELECT budget - fenced - spent - held FROM goal WHERE num = $1", target.goal
    )
    if wanted > left:
        raise Refused(
            "over_budget", f"the revision adds {money.usd(wanted):.6f} USD and {money.usd(left):.6f} are left"
        )


async def _generation(change: Change, target: TaskRow, generation: int) -> dict[str, TaskRow]:
    ids = await change.db.fetch(
        "SELECT id FROM task WHERE parent = $1 AND generation = $2 ORDER BY id", target.id, generation
    )
    return {row.key: row for row in (await change.load([r["id"] for r in ids])).values()}


def _sort(
    rows: dict[str, TaskRow], operations: Sequence[Operation]
) -> tuple[dict[str, str], list[TaskSpec], dict[str, TaskSpec]]:
    """Operations as what is dropped (key → reason), added, and changed (key → spec)."""
    dropped: dict[str, str] = {}
    added: list[TaskSpec] = []
    changed: dict[str, TaskSpec] = {}
    for operation in operations:
        if isinstance(operation, AddTask):
            if operation.task.key in rows:
                raise Refused("duplicate_key", f"the plan has a task {operation.task.key} already")
            added.append(operation.task)
            continue
        row = _touchable(rows, operation.key)
        spec = changed.get(row.key, row.spec)
        match operation:
            case DropTask():
                dropped[row.key] = operation.reason
            case EstimateTask():
                changed[row.key] = spec.model_copy(update={"effort": operation.effort})
            case ValueTask():
                changed[row.key] = spec.model_copy(update={"value": operation.value})
            case MoveTask():
                if row.state not in (State.BLOCKED, State.READY):
                    raise Refused("already_started", f"task {row.key} has started on {row.lane}")
                changed[row.key] = spec.model_copy(update={"lane": operation.lane})
    return dropped, added, changed


def _touchable(rows: dict[str, TaskRow], key: str) -> TaskRow:
    row = rows.get(key)
    if row is None:
        raise Refused("unknown_task", f"the plan has no task {key}")
    if row.state in FINAL:
        raise Refused("finished_work", f"task {key} is {row.state} and cannot be changed")
    return row


async def _store_changed(change: Change, rows: dict[str, TaskRow], changed: dict[str, TaskSpec]) -> None:
    for key, spec in changed.items():
        await expansion.change_spec(change, rows[key].id, spec)
        if spec.lane == rows[key].lane:
            continue
        moved = await change.db.fetchrow(
            "UPDATE task SET lane = $2 WHERE id = $1 RETURNING id, goal, lane, rank, state",
            rows[key].id,
            spec.lane,
        )
        if moved is not None and moved["state"] == State.READY:
            change.ready.append(Ready(moved["id"], moved["goal"], moved["lane"], moved["rank"]))


async def _add(
    change: Change,
    target: TaskRow,
    generation: int,
    rows: dict[str, TaskRow],
    added: Sequence[TaskSpec],
    compiled: Compiled,
) -> list[dict[str, Any]]:
    if not added:
        return []
    met = {key for key, row in rows.items() if row.state is State.SUCCEEDED}
    told = await expansion.insert_children(
        change, target, generation, added, compiled.needs, {}, met, share=True
    )
    await change.db.execute(
        "UPDATE task SET open_children = open_children + $2 WHERE id = $1", target.id, len(added)
    )
    return told


async def _rewire(change: Change, target: TaskRow, generation: int, compiled: Compiled) -> None:
    """Every open task of the generation waits for exactly what the new graph says."""
    rows = await _generation(change, target, generation)
    children: dict[str, list[int]] = {key: [] for key in compiled.needs}
    for key, needs in compiled.needs.items():
        for need in needs:
            children[need].append(rows[key].id)
    await change.db.execute(  # nobody waits for what is dropped, or has ended without success
        """UPDATE task SET children = '{}' WHERE parent = $1 AND generation = $2
           AND NOT id = ANY($3::bigint[]) AND children <> '{}'""",
        target.id, generation, [rows[key].id for key in compiled.needs],
    )  # fmt: skip
    known = {
        row["id"]: row["children"]
        for row in await change.db.fetch(
            "SELECT id, children FROM task WHERE parent = $1 AND generation = $2", target.id, generation
        )
    }
    asked = []
    for key, needs in compiled.needs.items():
        row = rows[key]
        unmet = sum(1 for need in needs if rows[need].state is not State.SUCCEEDED)
        state = row.state
        if (
            row.state is State.BLOCKED and row.unmet and not unmet
        ):  # else it waits for a twin, and goes on waiting
            state = State.PARKED if row.lane == "human" else State.READY
        elif row.state is State.READY and unmet:
            state = State.BLOCKED
        elif row.state is State.READY and row.lane == "human":
            state = State.PARKED
        if row.state in FINAL:
            unmet = row.unmet
        if (unmet, children[key], state) == (row.unmet, known[row.id], row.state):
            continue
        ready = await change.db.fetchrow(
            """UPDATE task SET unmet = $2, children = $3, state = $4,
                   ready_at = CASE WHEN $4 = 'ready' THEN coalesce(ready_at, $5) ELSE ready_at END,
                   rank = head_start - extract(epoch FROM coalesce(ready_at, $5::timestamptz))
               WHERE id = $1 RETURNING id, goal, lane, rank, screened AND epoch = 0 AS screened""",
            row.id, unmet, children[key], str(state), change.now,
        )  # fmt: skip
        if ready is not None and state is State.READY:
            change.ready.append(
                Ready(ready["id"], ready["goal"], ready["lane"], ready["rank"], screened=ready["screened"])
            )
        if state is State.PARKED and row.state in (State.BLOCKED, State.READY):
            asked.append(row.id)
    await people.ask(change, asked)
