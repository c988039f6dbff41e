"""Decided when a task becomes ready: do it, wait for a twin that is being done, take what a twin has made, or have
it done several times and vote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import asyncpg
import orjson
from goalwright_shared.messages import ArtifactRef, TaskError, TaskSpec

from goalwright_scheduler import expansion, tasks
from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core import twins
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import State

_WORTH_WAITING_FOR = frozenset({State.READY, State.DISPATCHED, State.RETRY_WAIT, State.CHECKING})
"""Never an expanded one: it may be above the task that would wait for it. So no two can wait for each other."""

VOTE = "vote"
"""Expansions of this kind hold one replica each."""


async def screen(change: Change) -> None:
    """Of the tasks that became ready, keep those to dispatch; those that need no performer of their own are settled
    (which may make more tasks ready, to be screened in turn)."""
    looked_at = {task.id: task for task in change.ready if task.screened}
    change.ready[:] = [task for task in change.ready if not task.screened]
    await change.flush_results()
    rows = {row["id"]: row for row in await change.fetch("load_work", list(looked_at))}
    sharing: list[tuple[bytes, Ready, asyncpg.Record]] = []
    for task in sorted(looked_at.values(), key=lambda task: (-task.rank, task.id)):
        row = rows[task.id]
        if row["state"] != State.READY:
            continue  # its goal has ended, or a revision has changed it
        spec = TaskSpec.model_validate_json(row["spec"])
        if spec.replicas > 1:
            await _have_voted_on(change, task.id)
        else:
            sharing.append((twins.contract_hash(spec, _hashes(row["inputs"])), task, row))
    await _share(change, sharing)


def _hashes(inputs: str | None) -> dict[str, str]:
    """Content hashes of inputs, out of the row's JSON members."""
    refs = orjson.loads(f"{{{inputs or ''}}}")
    return {name: ref["sha256"] for name, ref in refs.items()}


async def _share(change: Change, sharing: Sequence[tuple[bytes, Ready, asyncpg.Record]]) -> None:
    if not sharing:
        return
    goals, hashes = [task.goal for _, task, _ in sharing], [contract for contract, _, _ in sharing]
    first = {(row["goal"], row["hash"]): row for row in await change.fetch("load_contracts", goals, hashes)}
    elsewhere = {}
    if change.settings.share_across_goals:
        elsewhere = {
            (row["goal"], row["hash"]): row["task"]
            for row in await change.fetch("load_contracts_elsewhere", goals, hashes)
        }
    led: dict[tuple[int, bytes], int] = {}
    takes: list[tuple[Ready, asyncpg.Record, int]] = []
    waits: list[tuple[int, int]] = []
    for contract, task, row in sharing:
        key = (task.goal, contract)
        known = first.get(key)
        if key in led:
            waits.append((task.id, led[key]))
        elif known is not None and _is_twin(known, row) and known["state"] == State.SUCCEEDED:
            takes.append((task, row, known["task"]))
        elif known is not None and _is_twin(known, row) and State(known["state"]) in _WORTH_WAITING_FOR:
            waits.append((task.id, known["task"]))
        elif known is None and key in elsewhere:
            takes.append((task, row, elsewhere[key]))
        else:
            led[key] = task.id
            change.ready.append(task._replace(screened=False))
    if led:
        await change.execute("lead_contracts", [g for g, _ in led], [h for _, h in led], list(led.values()))
    if waits:
        await change.execute("wait_for_twin", [task for task, _ in waits], [twin for _, twin in waits])
        change.new_leaders.update(twin for _, twin in waits)
    for task, row, twin in takes:
        await _take(change, task, row, twin)


def _is_twin(known: asyncpg.Record, row: asyncpg.Record) -> bool:
    """Whether a task that did the same counts for this one: not the task itself, and no earlier turn of its parent,
    which has seen that result and asks again."""
    another_turn = known["parent"] == row["parent"] and known["generation"] != row["generation"]
    return bool(known["task"] != row["id"] and not another_turn)


async def _take(change: Change, task: Ready, row: asyncpg.Record, twin: int) -> None:
    """End a task with what its twin has made: outputs go by their places."""
    made = await change.fetchrow("load_made", twin)
    refs = {} if made is None else dict(zip(made["names"] or (), made["refs"] or (), strict=True))
    mine = [output["name"] for output in orjson.loads(row["spec"])["outputs"]]
    theirs: list[str] = [] if made is None else made["outputs"]
    if made is None or len(theirs) != len(mine) or any(name not in refs for name in theirs):
        change.ready.append(task._replace(screened=False))  # gone meanwhile: do it after all
        return
    taken = (await change.load([task.id]))[task.id]
    outputs = {
        name: ArtifactRef.model_validate_json(refs[other]).model_copy(update={"name": name})
        for name, other in zip(mine, theirs, strict=True)
    }
    summary = made["summary"] or ""
    change.name_values(taken, [(name, ref.model_dump_json()) for name, ref in outputs.items()])
    change.record(taken, "done", summary=summary, program=made["program"], checks=made["checks"])
    tasks.succeeded_event(change, taken, summary, outputs, 0, (0, 0), shared_with=str(twin))
    await tasks.complete(change, [(taken.id, taken.epoch)], [State.READY])


async def release(change: Change, leaders: Iterable[int]) -> None:
    """These have ended, well or not: who waited for them is ready, to take their results or to do it itself."""
    gone = list(leaders)
    change.gone_leaders.update(gone)
    for row in await change.fetch("release_twins", gone):
        change.ready.append(Ready(row["id"], row["goal"], row["lane"], row["rank"], screened=True))


# --- votes -----------------------------------------------------------------------------------------------


async def _have_voted_on(change: Change, task: int) -> None:
    """Have a task done by its replicas, each a generation of its own: they make the same names. Like checks they
    are no deeper plan, so no limit refuses them."""
    row = (await change.load([task]))[task]
    specs = twins.replicas(row.spec)
    await expansion.count(change, row.goal, len(specs))
    first = row.expansions + 1
    state = State.READY
    await expansion.bring_inputs(change, row)
    for spec in specs:
        expanded = await change.fetchrow(
            "expand", row.id, row.epoch, str(State.EXPANDED), len(specs), [str(state)]
        )
        assert expanded is not None, "a task that has just become ready is ready"
        state = State.EXPANDED
        await change.db.execute(
            "INSERT INTO expansion (parent, generation, kind, continuation) VALUES ($1, $2, $3, $4)",
            row.id, expanded["expansions"], VOTE, json.dumps({"first": first}),
        )  # fmt: skip
        starts = {spec.key: row.head_start}
        await expansion.insert_children(
            change, row, expanded["expansions"], [spec], {spec.key: ()}, starts, set(), share=False
        )
    change.emit(
        row.goal, "task.expanded", row.id,
        key=row.key, lane=row.lane, epoch=row.epoch, generation=first, continued=False, task_count=len(specs),
        tasks=[], cost_usd=0, parent=tasks.text(row.parent), tokens_in=0, tokens_out=0, vote=True,
    )  # fmt: skip


async def count_votes(change: Change, row: TaskRow) -> None:
    """All replicas have ended: the answer that most gave is the task's, unless it has ended with its goal."""
    if row.state is not State.EXPANDED:
        return
    await change.flush_results()
    continuation = await change.db.fetchval(
        "SELECT continuation FROM expansion WHERE parent = $1 AND generation = $2", row.id, row.expansions
    )
    cast = await change.fetch("load_votes", row.id, json.loads(continuation)["first"])
    given = [
        ([ArtifactRef.model_validate_json(ref) for ref in vote["refs"]], vote["summary"] or "")
        for vote in cast
        if vote["state"] == State.SUCCEEDED
    ]
    if not given:
        error = TaskError(code="no_votes", message=f"none of {len(cast)} replicas succeeded", retryable=False)
        change.emit(
            row.goal, "task.failed", row.id,
            key=row.key, lane=row.lane, epoch=row.epoch, failures=row.failures + 1, final=True,
            error=error.model_dump(mode="json", exclude={"logs"}), parent=tasks.text(row.parent),
        )  # fmt: skip
        change.record(row, "failed", error=error.model_dump_json())
        await tasks.die(change, row, error)
        return
    place, votes = twins.winner([tuple(ref.sha256 for ref in refs) for refs, _ in given])
    refs, summary = given[place]
    outputs = {ref.name: ref for ref in refs}
    change.name_values(row, [(name, ref.model_dump_json()) for name, ref in outputs.items()])
    change.record(row, "done", summary=summary)
    tasks.succeeded_event(change, row, summary, outputs, 0, (0, 0), votes=votes, replicas=len(cast))
    await tasks.complete(change, [(row.id, row.epoch)], [State.EXPANDED])
