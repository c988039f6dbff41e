"""Apply outcomes. Each is fenced by epoch and state: one that is not current changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from goalwright_shared.errors import Refused
from goalwright_shared.graph import Compiled, GraphError, compile_generation
from goalwright_shared.messages import (
    INLINE_BYTES,
    ArtifactRef,
    ArtifactType,
    Contract,
    Done,
    Expand,
    Failed,
    Outcome,
    OutputSpec,
    Revise,
    TaskError,
    TaskSpec,
    Throttled,
)

from goalwright_scheduler import bills, checking, expansion, pools, ranking, revision, talk, tasks
from goalwright_scheduler.change import Change, Flight, GoalEnds, TaskRow
from goalwright_scheduler.core import money, rate, submission
from goalwright_scheduler.core.digests import action_digest
from goalwright_scheduler.core.states import GoalStatus, State

POOL_BLOCKED = "pool_blocked:"
"""How a performer begins the reason of a throttle that concerns its whole pool (bad key, no quota)."""


_ID_DIGITS = 18  # what surely fits a bigint


@dataclass(frozen=True, slots=True)
class Arrived:
    """An outcome and the lane it was published on."""

    lane: str
    outcome: Outcome


async def apply(change: Change, batch: Sequence[Arrived]) -> None:
    """Apply a batch: plain answers in one statement, the others one by one."""
    answers: dict[int, tasks.Answer] = {}
    others: list[Arrived] = []
    for arrived in batch:
        flight = change.flights.get(arrived.outcome.task_id)
        answer = plain(flight, arrived) if flight is not None and flight.id not in answers else None
        if answer is None:
            others.append(arrived)
        else:
            answers[answer.flight.id] = answer
    await tasks.take_answers(change, list(answers.values()))
    for arrived in others:
        await _apply_one(change, arrived)


def plain(flight: Flight, arrived: Arrived) -> tasks.Answer | None:
    """An answer to a flight with which nothing is to do but to take it; None when there is more to it."""
    outcome = arrived.outcome
    if (
        not isinstance(outcome, Done)
        or outcome.epoch != flight.epoch
        or outcome.goal_id != flight.goal_id
        or arrived.lane != flight.lane
        or outcome.notes
        or (outcome.call is not None and flight.estimate is None)
        or (outcome.checks and not all(check.passed for check in outcome.checks))
    ):
        return None
    refs, hashes = [], []
    for name, type_ in flight.outputs:
        ref = outcome.outputs.get(name)
        if ref is None or ref.type != type_:
            return None
        sha256, size = ref.sha256, ref.size
        if ref.inline is not None:
            body = ref.inline.encode("utf-8", "replace")
            size = len(body)
            if size > INLINE_BYTES:
                return None
            sha256 = hashlib.sha256(body).hexdigest()
        if ref.name != name or ref.size != size or ref.sha256 != sha256:
            ref = ref.model_copy(update={"name": name, "size": size, "sha256": sha256})
        refs.append((name, ref.model_dump_json()))
        hashes.append((name, sha256))
    return tasks.Answer(flight, outcome, tuple(refs), tuple(hashes))


def _current(rows: Mapping[int, TaskRow], arrived: Arrived) -> TaskRow | None:
    outcome = arrived.outcome
    row = rows.get(int(outcome.task_id))
    if (
        row is None
        or row.epoch != outcome.epoch
        or row.goal_id != outcome.goal_id
        or row.lane != arrived.lane
    ):
        return None
    if row.state is State.RETRY_WAIT:  # late, but good: it saves another try
        good = isinstance(outcome, Done) and not checking.needed(row) and _objection(row, outcome) is None
        return row if good else None
    return row if row.state is State.DISPATCHED else None


async def _apply_one(change: Change, arrived: Arrived) -> None:
    outcome = arrived.outcome
    if not outcome.task_id.isdecimal() or len(outcome.task_id) > _ID_DIGITS:
        return
    row = _current(await change.load([int(outcome.task_id)]), arrived)
    if row is None:
        return
    change.landed.append(row.id)
    lane = change.lanes.get(row.lane)
    if lane is not None and outcome.kind not in (*lane.may, "done", "failed", "throttled"):
        await refuse(
            change, row, outcome, "not_allowed", f"lane {row.lane} may not answer with {outcome.kind}"
        )
        return
    for note in outcome.notes[:20]:
        await talk.post(change, row, note)
    try:
        match outcome:
            case Done():
                await _done(change, row, outcome)
            case Expand():
                await _expand(change, row, outcome)
            case Revise():
                await _revise(change, row, outcome)
            case Failed():
                await _failed(change, row, outcome)
            case Throttled():
                await _throttled(change, row, outcome)
    except Refused as error:
        await refuse(change, row, outcome, error.code, str(error))


async def refuse(change: Change, row: TaskRow, outcome: Outcome, code: str, message: str) -> None:
    """An outcome that cannot be: its bill settles, its task fails with the reason."""
    bills.settle(change, row, outcome, answered=True)
    error = TaskError(code=code, message=message, retryable=False)
    await tasks.fail(change, row, error, outcome=outcome)


# --- done ----------------------------------------------------------------------------------------------


def _objection(row: TaskRow, outcome: Done) -> TaskError | None:
    """Why an answer cannot be taken: outputs that are missing or not what was declared."""
    missing = [output.name for output in row.spec.outputs if output.name not in outcome.outputs]
    if missing:
        return TaskError(code="missing_output", message=f"no output {', '.join(missing)}", retryable=True)
    for output in row.spec.outputs:
        ref = outcome.outputs[output.name]
        if ref.type != output.type:
            message = f"output {output.name} is of type {ref.type}, declared {output.type}"
            return TaskError(code="wrong_type", message=message, retryable=True)
        if ref.inline is not None and len(ref.inline.encode("utf-8", "replace")) > INLINE_BYTES:
            message = f"output {output.name} is inline and over {INLINE_BYTES} bytes: put it as an object"
            return TaskError(code="inline_too_big", message=message, retryable=True)
    failed = [check for check in outcome.checks if not check.passed]
    if failed:
        evidence = "; ".join(f"{check.check}: {check.evidence}" for check in failed)
        return TaskError(code="check_failed", message=evidence, retryable=True)
    return None


def _declared(row: TaskRow, outcome: Done) -> dict[str, ArtifactRef]:
    """The declared outputs, under their names."""
    return {output.name: _measured(output.name, outcome.outputs[output.name]) for output in row.spec.outputs}


def _measured(name: str, ref: ArtifactRef) -> ArtifactRef:
    """An artifact under this name; size and hash of an inline value are our own."""
    if ref.inline is not None:
        body = ref.inline.encode("utf-8", "replace")
        ref = ref.model_copy(update={"size": len(body), "sha256": hashlib.sha256(body).hexdigest()})
    return ref.model_copy(update={"name": name})


def _answer(change: Change, row: TaskRow, outcome: Done) -> None:
    """Everything about a taken answer but the change of state."""
    outputs = _declared(row, outcome)
    cost = bills.settle(change, row, outcome, answered=True)
    seconds = outcome.usage.seconds if outcome.usage else 0.0
    bills.observe(change, row, bills.estimated(change, row.lane, row.spec), cost, seconds)
    change.record_outcome(row, outcome, summary=outcome.summary)
    change.name_values(row, [(name, ref.model_dump_json()) for name, ref in outputs.items()])
    usage = outcome.usage
    tokens = (usage.tokens_in, usage.tokens_out) if usage else (0, 0)
    tasks.succeeded_event(change, row, outcome.summary, outputs, cost, tokens)


async def _done(change: Change, row: TaskRow, outcome: Done) -> None:
    error = _objection(row, outcome)
    if error is not None:
        bills.settle(change, row, outcome, answered=True)
        await tasks.fail(change, row, error, outcome=outcome)
        return
    if checking.needed(row):
        bills.settle(change, row, outcome, answered=True)
        kept = outcome.model_copy(update={"outputs": _declared(row, outcome)})
        await checking.start(change, row, kept)
        return
    _answer(change, row, outcome)
    await tasks.complete(change, [(row.id, row.epoch)], tasks.IN_FLIGHT)
    tasks.replanned(change, row)
    if row.is_root:
        change.followups.append(GoalEnds(row.goal, GoalStatus.DONE))


# --- expand and revise -----------------------------------------------------------------------------------


async def _expand(change: Change, row: TaskRow, outcome: Expand) -> None:
    if row.turn + 1 >= row.spec.max_turns and outcome.continuation is not None:
        raise Refused("too_many_turns", f"task {row.key} has had its {row.spec.max_turns} turns")
    await change.take_time_for(len(outcome.tasks))
    lane = change.lanes.get(row.lane)
    for spec in outcome.tasks:
        if lane is not None and not expansion.may_use(lane.child_lanes, spec.lane):
            raise Refused("not_allowed", f"lane {row.lane} may not expand into {spec.lane}")
    submission.check_lanes(outcome.tasks, change.lanes, "tasks")
    specs, root = list(outcome.tasks), row
    replaces = outcome.continuation is None
    if row.is_root and replaces:
        root, specs = _adopted(row, outcome)
    brought = _brought(specs, outcome)
    compiled = _compiled(root, specs, brought, exports=replaces)
    values = ranking.told_values(root.spec.params) if row.is_root else None
    children = await expansion.insert_generation(
        change, root, specs, compiled, states=[State.DISPATCHED], values=values,
        kind="replace" if replaces else "resume",
        continuation=None if replaces else _json(outcome), artifacts=brought,
    )  # fmt: skip
    if children is None:
        return
    cost = bills.settle(change, row, outcome, answered=True)
    summary = f"expanded into {len(specs)} tasks" if specs else "another turn"
    change.record_outcome(row, outcome, summary=summary)
    usage = outcome.usage
    change.emit(
        row.goal, "task.expanded", row.id,
        key=row.key, lane=row.lane, epoch=row.epoch, generation=row.expansions + 1, continued=not replaces,
        tasks=[{**told, "action": action_digest(spec)} for told, spec in zip(children[:100], specs, strict=False)],
        task_count=len(specs), cost_usd=money.usd(cost), parent=tasks.text(row.parent),
        tokens_in=usage.tokens_in if usage else 0, tokens_out=usage.tokens_out if usage else 0,
    )  # fmt: skip
    if row.is_root and replaces:
        contract = outcome.contract or await _contract(change, row)
        named = [output.name for output in root.spec.outputs]
        contract = contract.model_copy(update={"deliverables": named})
        await expansion.store_contract(change, root, contract, root.spec, outcome.pruned)
        expansion.emit_adopted(
            change, root, children, specs, contract, "planner", outcome.pruned, outcome.warnings
        )
    talk.requested(change, row, specs, children)
    if not specs:
        await tasks.resume(change, row, (State.EXPANDED,))


def _brought(specs: Sequence[TaskSpec], outcome: Expand) -> dict[str, ArtifactRef]:
    """What an expansion brings along for its tasks to read."""
    made = {output.name for spec in specs for output in spec.outputs}
    if both := sorted(made & outcome.artifacts.keys()):
        raise Refused(
            "invalid_expansion", f"{', '.join(both)} is brought along, and made by one of the tasks"
        )
    return {name: _measured(name, ref) for name, ref in outcome.artifacts.items()}


def _json(outcome: Expand) -> str:
    return outcome.model_dump_json(include={"continuation"})


def _compiled(row: TaskRow, specs: Sequence[TaskSpec], brought: Iterable[str], *, exports: bool) -> Compiled:
    if not specs:
        return Compiled(needs={}, producers={}, order=(), exports={}, unconsumed=())
    try:
        return compile_generation(
            specs,
            [*row.spec.inputs, *brought],
            [output.name for output in row.spec.outputs] if exports else [],
        )
    except GraphError as error:
        raise Refused(
            "invalid_expansion", f"{error.code}: {error.message}", field=error.field, hint=error.hint
        ) from error


def _adopted(row: TaskRow, outcome: Expand) -> tuple[TaskRow, list[TaskSpec]]:
    """A plan for the goal: its deliverables are the root's outputs (the client's own stay required), and
    their schemas and checks go to the tasks that produce them."""
    own = {output.name: output for output in row.spec.outputs}
    wanted = dict(own)
    for output in submission.outputs_of(outcome.deliverables):
        wanted.setdefault(output.name, output)
    checks = {item.name: item.acceptance for item in outcome.deliverables if item.acceptance}
    told = {item.name: item.model_dump(mode="json", by_alias=True) for item in outcome.deliverables}
    params = ranking.with_deliverables(row.spec.params, told)
    spec = row.spec.model_copy(update={"outputs": list(wanted.values()), "params": params})
    specs = [_for_deliverables(task, wanted, checks) for task in outcome.tasks]
    return replace(row, spec=spec), specs


def _for_deliverables(
    task: TaskSpec, wanted: Mapping[str, OutputSpec], checks: Mapping[str, Any]
) -> TaskSpec:
    outputs = [
        output.model_copy(update={"schema_": wanted[output.name].schema_})
        if output.name in wanted and output.schema_ is None
        else output
        for output in task.outputs
    ]
    more = [
        check.model_copy(update={"output": output.name}) if hasattr(check, "output") else check
        for output in task.outputs
        for check in checks.get(output.name, ())
    ]
    return task.model_copy(update={"outputs": outputs, "acceptance": [*task.acceptance, *more]})


async def _contract(change: Change, row: TaskRow) -> Contract:
    kept = await change.db.fetchval("SELECT contract FROM goal_spec WHERE goal = $1", row.goal)
    return Contract.model_validate_json(kept)


async def _revise(change: Change, row: TaskRow, outcome: Revise) -> None:
    if row.is_root or row.spec.outputs:
        raise Refused(
            "not_planned", f"task {row.key} is to be planned itself: a revision of another plan makes nothing of it",
            hint="answer with an expansion",
        )  # fmt: skip
    target = (await change.load([int(outcome.target_task_id)])).get(int(outcome.target_task_id))
    if target is None or target.goal != row.goal:
        raise Refused("unknown_task", f"there is no task {outcome.target_task_id} in this goal")
    await revision.apply(
        change, target, outcome.generation, outcome.base_revision, outcome.operations,
        summary=outcome.summary, reason=row.spec.instruction,
    )  # fmt: skip
    bills.settle(change, row, outcome, answered=True)
    if (await change.load([row.id]))[row.id].state is not State.DISPATCHED:  # dropped by its own revision
        return
    change.record_outcome(row, outcome, summary=outcome.summary)
    tasks.succeeded_event(change, row, outcome.summary, {}, 0, (0, 0))
    await tasks.complete(change, [(row.id, row.epoch)], [State.DISPATCHED])
    tasks.replanned(change, row)


# --- failed and throttled --------------------------------------------------------------------------------


async def _failed(change: Change, row: TaskRow, outcome: Failed) -> None:
    error = outcome.error
    bills.settle(change, row, outcome, answered=False, code=error.code)
    if error.code == "redelivered":
        change.record(row, "redelivered", worker=outcome.worker)
        await tasks.resume(change, row, (State.DISPATCHED,), turns=0)
        return
    if error.too_big and row.lane.startswith("agent.") and not row.spec.prompt and "plan" in change.lanes:
        change.record_outcome(row, outcome, error=error.model_dump_json())
        await _split(change, row, error)
        return
    await tasks.fail(change, row, error, outcome=outcome)


async def _split(change: Change, row: TaskRow, error: TaskError) -> None:
    """A task that proved too big for one role is planned as a graph of smaller ones, once: as a `plan` task
    it is split no further (ADaPT, Prasad et al. 2023)."""
    spec = row.spec.model_copy(update={"lane": "plan"})
    await change.db.execute("UPDATE task SET lane = 'plan', failures = failures + 1 WHERE id = $1", row.id)
    await expansion.change_spec(change, row.id, spec)
    change.emit(
        row.goal, "task.failed", row.id,
        key=row.key, lane=row.lane, epoch=row.epoch, failures=row.failures + 1, final=False,
        error=error.model_dump(mode="json", exclude={"logs"}), parent=tasks.text(row.parent), split=True,
    )  # fmt: skip
    await tasks.resume(change, row, (State.DISPATCHED,), turns=0)


async def _throttled(change: Change, row: TaskRow, outcome: Throttled) -> None:
    lane = change.lanes.get(row.lane)
    pools.heard(change, lane, outcome)
    change.settle(row, money.Bill(0, 0), "throttled")
    seconds = outcome.retry_after_seconds
    reason = outcome.reason
    now = change.now.timestamp()
    if lane is not None and lane.pool is not None and reason is not None and reason.startswith(POOL_BLOCKED):
        reason = reason.removeprefix(POOL_BLOCKED).strip()
        seconds = change.settings.pool_park_seconds
        pool = rate.blocked(change.rate_of(lane.pool), now, seconds, reason)
        change.new_rates[lane.pool] = pool
    elif lane is not None and lane.pool is not None and seconds > 0:
        change.new_rates[lane.pool] = rate.throttled(change.rate_of(lane.pool), now, seconds)
    change.emit(
        row.goal, "task.throttled", row.id,
        key=row.key, lane=row.lane, epoch=row.epoch, seconds=seconds, reason=reason, parent=tasks.text(row.parent),
    )  # fmt: skip
    if seconds > 0 and (lane is None or lane.pool is None):
        at = change.now + timedelta(seconds=seconds)
        await change.fetchrow("retry", row.id, row.epoch, at, 0)
        change.due.append((at, row.id))
    else:  # handed back, or paced by its pool's clock
        await tasks.resume(change, row, (State.DISPATCHED,), turns=0)


def answer_of(row: TaskRow, text: str) -> Done:
    """A person's answer as the outcome of the question's current epoch."""
    names = [output.name for output in row.spec.outputs] or ["answer"]
    types = {output.name: output.type for output in row.spec.outputs}
    return Done(
        goal_id=row.goal_id,
        task_id=str(row.id),
        epoch=row.epoch,
        outputs={name: ArtifactRef.of_text(name, text, types.get(name, ArtifactType.TEXT)) for name in names},
        summary=f"answered: {text[:200]}",
    )
