"""Insert tasks: the root of a goal, the generations of expansions, single tasks beside them."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from goalwright_shared.errors import Refused
from goalwright_shared.graph import Compiled
from goalwright_shared.messages import ArtifactRef, Contract, Pruned, TaskSpec

from goalwright_scheduler import people, ranking
from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core import money, twins
from goalwright_scheduler.core.digests import action_digest
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import State

SHOWN_TASKS = 500
"""Tasks listed in one event; larger plans are read with `query.graph`."""

_TAKEN_IN_AT_ONCE = 500
"""Records between two moments in which what is made of them leaves."""

_TASK = (
    "id", "goal", "parent", "generation", "depth", "lane", "state", "unmet", "children", "head_start", "rank",
    "ready_at", "screened",
)  # fmt: skip
_SPEC = ("id", "key", "inputs", "outputs", "value", "action", "spec")


class NotExpandable(Refused):
    """An expansion that cannot be: too deep, too many tasks, lanes it may not use."""


async def insert_root(change: Change, goal: int, spec: TaskSpec, weight: float, *, planned: bool) -> int:
    """The root task of a goal: ready for the planner, or (with a plan) waiting for its children."""
    task: int = await change.db.fetchval("SELECT nextval('task_ids')")
    head_start = change.settings.head_start_seconds / 2 + 10 * math.log2(weight)
    state = State.EXPANDED if planned else State.READY
    await _insert(change, [_task_record(change, task, goal, None, 0, 0, spec, state, 0, [], head_start)])
    await _insert_specs(change, [(task, spec)])
    await change.db.execute("UPDATE goal SET root_task = $2, tasks = 1 WHERE num = $1", goal, task)
    return task


async def insert_beside(change: Change, parent: TaskRow, spec: TaskSpec) -> int:
    """One more child in the parent's current generation, needing no sibling (a replan)."""
    task: int = await change.db.fetchval("SELECT nextval('task_ids')")
    record = _task_record(
        change, task, parent.goal, parent.id, parent.expansions, parent.depth + 1, spec, State.READY, 0, [],
        parent.head_start + change.settings.head_start_seconds,
    )  # fmt: skip
    await _insert(change, [record])
    await _insert_specs(change, [(task, spec)])
    await count(change, parent.goal, 1)
    await change.db.execute("UPDATE task SET open_children = open_children + 1 WHERE id = $1", parent.id)
    return task


async def insert_aside(change: Change, goal: int, spec: TaskSpec) -> int:
    """A task of the goal outside its plan (a review): it delays nothing and ends with the goal."""
    task: int = await change.db.fetchval("SELECT nextval('task_ids')")
    head_start = change.settings.head_start_seconds
    await _insert(
        change, [_task_record(change, task, goal, None, 0, 0, spec, State.READY, 0, [], head_start)]
    )
    await _insert_specs(change, [(task, spec)])
    await count(change, goal, 1)
    return task


async def insert_generation(
    change: Change,
    parent: TaskRow,
    specs: Sequence[TaskSpec],
    compiled: Compiled,
    *,
    states: Sequence[State],
    kind: str = "replace",
    continuation: str | None = None,
    to: State = State.EXPANDED,
    values: Mapping[str, float] | None = None,
    share: bool = True,
    artifacts: Mapping[str, ArtifactRef] | None = None,
) -> list[dict[str, Any]] | None:
    """Children for a parent that was in one of `states` at its epoch; None when that race was lost.

    Returns the first children as events tell them. `continuation` is JSON; `values` are the deliverables'.
    `share`: whether equal ones of them may share a result. `artifacts` are names that only this generation sees.
    """
    share = share and change.settings.share_equal_tasks != "never"
    if kind == "check":  # checks never nest
        await count(change, parent.goal, len(specs))
    else:
        await limit(change, parent, len(specs))
    row = await change.fetchrow(
        "expand", parent.id, parent.epoch, str(to), len(specs), [str(state) for state in states]
    )
    if row is None:
        await count(change, parent.goal, -len(specs))
        return None
    generation: int = row["expansions"]
    await change.db.execute(
        "INSERT INTO expansion (parent, generation, kind, continuation) VALUES ($1, $2, $3, $4)",
        parent.id, generation, kind, continuation,
    )  # fmt: skip
    if not specs:
        return []
    await bring_inputs(change, parent)
    for name, ref in (artifacts or {}).items():
        change.artifacts.append((parent.goal, parent.id, generation, name, None, ref.model_dump_json()))
    starts = ranking.head_starts(change, parent, specs, compiled, values)
    return await insert_children(
        change, parent, generation, specs, compiled.needs, starts, set(), share=share and kind != "check"
    )


async def insert_children(
    change: Change,
    parent: TaskRow,
    generation: int,
    specs: Sequence[TaskSpec],
    needs: Mapping[str, Sequence[str]],
    starts: Mapping[str, float],
    met: set[str],
    *,
    share: bool,
) -> list[dict[str, Any]]:
    """Insert tasks whose `needs` are among themselves or already `met`; the first of them as events tell them."""
    ids = await _new_ids(change, len(specs))
    by_key = {spec.key: task for spec, task in zip(specs, ids, strict=True)}
    children: dict[str, list[int]] = {spec.key: [] for spec in specs}
    for spec in specs:
        for need in needs[spec.key]:
            if need in children:
                children[need].append(by_key[spec.key])
    asked = []

    def records() -> Iterator[tuple[Any, ...]]:
        for task, spec in zip(ids, specs, strict=True):
            unmet = sum(1 for need in needs[spec.key] if need not in met)
            state = State.BLOCKED if unmet else State.PARKED if spec.lane == "human" else State.READY
            if state is State.PARKED:
                asked.append(task)
            yield _task_record(
                change, task, parent.goal, parent.id, generation, parent.depth + 1, spec, state, unmet,
                children[spec.key], starts.get(spec.key, parent.head_start),
                twins.screened(spec, share=share),
            )  # fmt: skip

    await _insert(change, records())
    await _insert_specs(change, zip(ids, specs, strict=True))
    await people.ask(change, asked)
    return [told(by_key[spec.key], spec, needs[spec.key]) for spec in specs[:SHOWN_TASKS]]


def told(task: int, spec: TaskSpec, needs: Sequence[str]) -> dict[str, Any]:
    """A task as events tell it."""
    return {
        "task_id": str(task), "key": spec.key, "title": spec.title, "lane": spec.lane, "needs": list(needs),
        "inputs": list(spec.inputs), "outputs": [output.name for output in spec.outputs], "value": spec.value,
    }  # fmt: skip


def emit_adopted(
    change: Change,
    root: TaskRow,
    children: Sequence[dict[str, Any]] | None,
    specs: Sequence[TaskSpec],
    contract: Contract,
    source: str,
    pruned: Sequence[Pruned] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Tell the plan of a goal: `source` is planner or client."""
    change.admit.add(root.goal)
    change.emit(
        root.goal, "plan.adopted", root.id,
        source=source, contract=contract.model_dump(mode="json"), tasks=list(children or ()),
        task_count=len(specs), estimate_usd=estimate_usd(change, specs), warnings=list(warnings),
        pruned=[item.model_dump() for item in pruned],
    )  # fmt: skip


def estimate_usd(change: Change, specs: Sequence[TaskSpec]) -> float:
    """What the plan's paid tasks may cost at most, one call each, in dollars."""
    counts = Counter(spec.lane for spec in specs)
    return money.usd(
        sum(n * money.hold(change.lanes[lane]) for lane, n in counts.items() if lane in change.lanes)
    )


async def limit(change: Change, parent: TaskRow, more: int) -> None:
    """Count new tasks; refuse what would be nested too deep or make too many. Raises `NotExpandable`."""
    if parent.depth + 1 > change.settings.max_depth:
        raise NotExpandable("too_deep", f"expansions are nested deeper than {change.settings.max_depth}")
    if more and await count(change, parent.goal, more) > change.settings.max_tasks:
        raise NotExpandable("too_many_tasks", f"a goal may have at most {change.settings.max_tasks} tasks")


async def count(change: Change, goal: int, more: int) -> int:
    """Count tasks of a goal that are inserted. Returns how many it has then."""
    have: int = await change.db.fetchval(
        "UPDATE goal SET tasks = tasks + $2 WHERE num = $1 RETURNING tasks", goal, more
    )
    return have


def may_use(lanes: Sequence[str], lane: str) -> bool:
    """Whether a child lane is allowed: exact names, or prefixes with a trailing star."""
    return any(
        lane == allowed or (allowed[-1:] == "*" and lane.startswith(allowed[:-1])) for allowed in lanes
    )


async def bring_inputs(change: Change, parent: TaskRow) -> None:
    """The parent's inputs become names that its children see (generation 0 of its scope)."""
    await change.flush_results()
    await change.db.execute(
        """INSERT INTO artifact (goal, scope, generation, name, task, ref)
           SELECT DISTINCT ON (name) goal, $2, 0, name, NULL, ref FROM artifact
           WHERE goal = $1 AND scope = $3 AND generation IN (0, $4) AND name = ANY($5::text[])
           ORDER BY name, generation DESC
           ON CONFLICT DO NOTHING""",
        parent.goal, parent.id, parent.scope, parent.generation, list(parent.spec.inputs),
    )  # fmt: skip


def _task_record(
    change: Change, task: int, goal: int, parent: int | None, generation: int, depth: int, spec: TaskSpec,
    state: State, unmet: int, children: list[int], head_start: float, screened: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    ready = state is State.READY
    rank = head_start - change.now.timestamp() if ready else 0.0
    if ready:
        change.ready.append(Ready(task, goal, spec.lane, rank, screened=screened))
    return (task, goal, parent, generation, depth, spec.lane, str(state), unmet, children, head_start, rank,
            change.now if ready else None, screened)  # fmt: skip


async def _new_ids(change: Change, count: int) -> range:
    """Ids in a row: there is one writer."""
    last: int = await change.db.fetchval(
        "SELECT setval('task_ids', nextval('task_ids') + $1::bigint - 1)", max(count, 1)
    )
    return range(last - count + 1, last + 1)


async def _insert(change: Change, records: Iterable[tuple[Any, ...]]) -> None:
    await change.db.copy_records_to_table("task", records=_streamed(records), columns=_TASK)


async def _insert_specs(change: Change, specs: Iterable[tuple[int, TaskSpec]]) -> None:
    records = (
        (task, spec.key, spec.inputs, [o.name for o in spec.outputs], spec.value, action_digest(spec),
         spec.model_dump_json(by_alias=True))
        for task, spec in specs
    )  # fmt: skip
    await change.db.copy_records_to_table("task_spec", records=_streamed(records), columns=_SPEC)


async def _streamed(records: Iterable[tuple[Any, ...]]) -> AsyncIterator[tuple[Any, ...]]:
    """Postgres takes in the first while the rest is made."""
    for number, record in enumerate(records, 1):
        yield record
        if number % _TAKEN_IN_AT_ONCE == 0:
            await asyncio.sleep(0)


async def change_spec(change: Change, task: int, spec: TaskSpec) -> None:
    """A task that is inserted already gets another text."""
    await change.db.execute(
        "UPDATE task_spec SET outputs = $2, spec = $3, action = $4, value = $5 WHERE id = $1",
        task, [output.name for output in spec.outputs], spec.model_dump_json(by_alias=True), action_digest(spec),
        spec.value,
    )  # fmt: skip


async def store_contract(
    change: Change, root: TaskRow, contract: Contract, spec: TaskSpec, pruned: Sequence[Pruned]
) -> None:
    """The planner's contract becomes the goal's, its deliverables the root's outputs."""
    await change.db.execute(
        "UPDATE goal_spec SET contract = $2, pruned = $3 WHERE goal = $1",
        root.goal, contract.model_dump_json(), json.dumps([item.model_dump() for item in pruned]),
    )  # fmt: skip
    change.new_contracts.add(root.goal)
    await change_spec(change, root.id, spec)
    await change.db.execute(
        "UPDATE goal SET status = 'running' WHERE num = $1 AND status IN ('accepted', 'planning')", root.goal
    )
