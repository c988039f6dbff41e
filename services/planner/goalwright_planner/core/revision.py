"""A replan: the model's answer → operations against the graph as it stands, or what is wrong with it.

Finished work stays. What is dropped must leave nobody without an input and the goal with its deliverables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from goalwright_shared import graph
from goalwright_shared.messages import AddTask, DropTask, Operation, OutputSpec, TaskSpec, ValueTask

from goalwright_planner.core import mend, names
from goalwright_planner.core.answers import Draft, RevisionAnswer, Unusable, read_revision
from goalwright_planner.core.approval import estimated_usd
from goalwright_planner.core.compiler import DEFAULT_LIMITS, PLAN_LANE, Limits, Rejected, graph_errors, told

_BROKEN = frozenset({"dead", "cancelled", "skipped"})
_FINISHED = "succeeded"


@dataclass(frozen=True, slots=True)
class Standing:
    """A task of the generation that is being revised, as it stands."""

    key: str
    state: str
    lane: str = mend.GENERALIST
    title: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """The generation, what its tasks see from above, and what they owe."""

    tasks: tuple[Standing, ...]  # without the replans beside them
    inputs: tuple[str, ...]
    exports: tuple[str, ...]
    lanes: tuple[str, ...]  # not empty
    limits: Limits = DEFAULT_LIMITS
    reserved: tuple[str, ...] = ()  # keys of the replans


@dataclass(frozen=True, slots=True)
class Revision:
    """Operations that compile; none when the plan is to stay as it is."""

    operations: list[Operation]
    summary: str
    warnings: list[str]


def read_situation(
    rows: Sequence[Mapping[str, Any]],
    target_task_id: str,
    generation: int,
    *,
    lanes: tuple[str, ...],
    limits: Limits,
    exports: Sequence[str] = (),
) -> Situation | None:
    """The generation of the target in the rows of `query.graph`; None when it is not there.

    `exports` counts when the target declares no outputs (a goal whose plan named the deliverables).
    """
    target = next((row for row in rows if _id(row["task_id"]) == target_task_id), None)
    members = [
        row
        for row in rows
        if _id(row.get("parent")) == target_task_id and row.get("generation") == generation
    ]
    planned = [row for row in members if row.get("lane") != PLAN_LANE or row.get("outputs")]
    if target is None or not planned:
        return None
    return Situation(
        tasks=tuple(_standing(row) for row in planned),
        inputs=tuple(_names(target.get("inputs"))),
        exports=tuple(_names(target.get("outputs")) or exports),
        lanes=lanes,
        limits=limits,
        reserved=tuple(str(row["key"]) for row in members if row not in planned),
    )


def compile_revision(answer: object, now: Situation) -> Revision | Rejected:
    """What `answer` changes, or what is wrong with it."""
    try:
        revision = read_revision(answer)
    except Unusable as error:
        return Rejected((str(error),))
    warnings: list[str] = []
    drops, errors = _drops(revision, now, warnings)
    left = [task for task in now.tasks if task.key not in drops and task.state not in _BROKEN]
    drafts, meant = _drafts(revision, now, left, warnings)
    mend.settle_inputs(drafts, {*now.inputs, *_made(left)}, meant, warnings)
    mend.settle_after(drafts, [task.key for task in left], meant, warnings)
    drafts = _serving(drafts, left, now.exports, warnings)
    added = [mend.to_spec(draft) for draft in drafts]
    errors += _problems(left, added, now)
    if errors:
        return Rejected(told(errors))
    operations: list[Operation] = [DropTask(key=key, reason=reason) for key, reason in drops.items()]
    operations += [AddTask(task=spec) for spec in added]
    operations += _values(revision, left, warnings)
    return Revision(operations, revision.summary or revision.reason or "the plan was revised", warnings)


def affordable(
    revision: Revision, lanes: Sequence[Mapping[str, Any]], budget_left_usd: float
) -> Revision | Rejected:
    """The revision, unless what it adds is estimated above what is left (unknown prices do not count)."""
    added = [op.task for op in revision.operations if isinstance(op, AddTask)]
    usd = estimated_usd(added, lanes)
    if usd is None or usd <= budget_left_usd:
        return revision
    return Rejected(
        (
            f"over_budget: the new tasks are estimated at {usd:.4f} USD, and {budget_left_usd:.4f} USD are left",
        )
    )


def _drops(revision: RevisionAnswer, now: Situation, warn: list[str]) -> tuple[dict[str, str], list[str]]:
    """Open tasks to drop with the reasons, and what cannot be dropped. What is broken is out already."""
    standing = {task.key: task for task in now.tasks}
    drops: dict[str, str] = {}
    errors: list[str] = []
    for written, reason in revision.drop:
        key = names.match(written, standing)
        if key is None:
            near = graph.near_names(written, standing)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            errors.append(f"unknown_key: there is no task {written} to drop{hint}")
        elif standing[key].state == _FINISHED:
            errors.append(
                f"finished: task {key} has succeeded and stays; to replace what it made, add a task with "
                "a new output name and replace the tasks that consume it"
            )
        elif standing[key].state not in _BROKEN:
            if key != written:
                warn.append(f"drop {written} was read as {key}")
            drops[key] = reason or revision.reason
    return drops, errors


def _drafts(
    revision: RevisionAnswer, now: Situation, left: Sequence[Standing], warn: list[str]
) -> tuple[list[Draft], dict[str, list[str]]]:
    """The added tasks with keys, lanes and output names of their own."""
    used = [*(task.key for task in now.tasks), *now.reserved]
    drafts, meant, _ = mend.settle_keys(revision.add, used, warn)
    mend.settle_lanes(drafts, now.lanes, warn)
    mend.settle_outputs(drafts)
    standing = _made(left)
    gone = dict.fromkeys(name for task in now.tasks for name in task.outputs if name not in standing)
    for name in gone:  # a replacement may have spelt the output otherwise
        made = {out.name for draft in drafts for out in draft.outputs}
        meaning = None if name in made else names.match(name, made - gone.keys())
        if meaning:
            mend.rename_artifact(drafts, meaning, name)
            warn.append(f"the output {meaning} was read as {name}, which nothing else makes")
    return drafts, meant


def _serving(
    drafts: list[Draft], left: Sequence[Standing], exports: Sequence[str], warn: list[str]
) -> list[Draft]:
    """Added tasks without those that serve neither a deliverable nor a task that still waits."""
    if not exports:
        return drafts
    wanted = {*exports, *(name for task in left if task.state != _FINISHED for name in task.inputs)}
    makers = {out.name: draft.key for draft in drafts for out in draft.outputs}
    needs = {
        draft.key: [makers[name] for name in draft.inputs if name in makers] + draft.after for draft in drafts
    }
    start = {makers[name] for name in wanted if name in makers}
    serving = start | graph.ancestors(needs, start)
    warn.extend(f"the new task {d.key} serves nobody; left out" for d in drafts if d.key not in serving)
    return [draft for draft in drafts if draft.key in serving]


def _problems(left: Sequence[Standing], added: Sequence[TaskSpec], now: Situation) -> list[str]:
    """What keeps the tasks that are left, with those added, from being a graph."""
    after = [_as_spec(task) for task in left] + list(added)
    errors = graph_errors(after, now.inputs, now.exports)
    if len(added) > now.limits.max_tasks:
        errors.append(f"too_many_tasks: {len(added)} new tasks, at most {now.limits.max_tasks} are allowed")
    return errors


def _as_spec(task: Standing) -> TaskSpec:
    return TaskSpec(
        key=task.key,
        lane=task.lane,
        inputs=list(task.inputs),
        outputs=[OutputSpec(name=name) for name in task.outputs],
        after=list(task.after),
    )


def _values(revision: RevisionAnswer, left: Sequence[Standing], warn: list[str]) -> list[Operation]:
    open_keys = [task.key for task in left if task.state != _FINISHED]
    found: dict[str, Operation] = {}
    for written, value in revision.values:
        key = names.match(written, open_keys)
        if key is None:
            warn.append(f"the value of {written} was not set: no such open task")
        else:
            found[key] = ValueTask(key=key, value=min(max(value, 0.0), 100.0))
    return list(found.values())


def _made(tasks: Sequence[Standing]) -> set[str]:
    return {name for task in tasks for name in task.outputs}


def _standing(row: Mapping[str, Any]) -> Standing:
    return Standing(
        key=str(row["key"]),
        state=str(row["state"]),
        lane=str(row.get("lane") or mend.GENERALIST),
        title=str(row.get("title") or ""),
        inputs=tuple(_names(row.get("inputs"))),
        outputs=tuple(_names(row.get("outputs"))),
        after=tuple(_names(row.get("after"))),
        summary=str(row.get("summary") or ""),
    )


def _names(value: Any) -> list[str]:
    """Names in a row, which lists them bare, as objects or as keys."""
    return [str(item["name"]) if isinstance(item, Mapping) else str(item) for item in value or ()]


def _id(value: Any) -> str:
    return "" if value is None else str(value)
