"""The verbs of a task's life: complete, close, resume, retry, park, and what follows upward and downward."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from goalwright_shared.messages import ArtifactRef, Done, Outcome, TaskError

from goalwright_scheduler import bills, people, replans
from goalwright_scheduler.change import (
    AskEnded,
    Bill,
    Change,
    ChecksEnded,
    Flight,
    GoalEnds,
    ReplanEnded,
    TaskRow,
    TwinEnded,
    VotesCast,
    checks_of,
)
from goalwright_scheduler.core import money, retry
from goalwright_scheduler.core.digests import digest, result_digest
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import GoalStatus, State

IN_FLIGHT = (State.DISPATCHED, State.RETRY_WAIT)
_IN_FLIGHT = [str(state) for state in IN_FLIGHT]


@dataclass(frozen=True, slots=True)
class Answer:
    """A plain answer that may be taken: its flight, its outputs as ArtifactRef JSON with their content hashes."""

    flight: Flight
    outcome: Done
    refs: tuple[tuple[str, str], ...]
    hashes: tuple[tuple[str, str], ...]


async def take_answers(change: Change, answers: Sequence[Answer]) -> None:
    """Complete tasks with their answers: outputs, tries, states and dependants in one statement."""
    if not answers:
        return
    made = [
        (a.flight.id, a.flight.goal, a.flight.parent or 0, a.flight.generation, name, ref)
        for a in answers
        for name, ref in a.refs
    ]
    seconds = [(change.now - a.flight.dispatched_at).total_seconds() for a in answers]
    ids = [a.flight.id for a in answers]
    epochs = [a.flight.epoch for a in answers]
    outcomes = [a.outcome for a in answers]
    rows = await change.fetch(
        "complete", ids, epochs, _IN_FLIGHT, change.now,
        *(map(list, zip(*made, strict=True)) if made else ([] for _ in range(6))),
        ids, epochs, seconds, [o.summary for o in outcomes],
        [o.program.model_dump_json() if o.program else None for o in outcomes],
        [checks_of(o) for o in outcomes],
        [o.worker for o in outcomes], [o.call.model_dump_json() if o.call else None for o in outcomes],
    )  # fmt: skip
    ended = {row["id"] for row in rows if row["what"] == "ended"}
    for answer, took in zip(answers, seconds, strict=True):
        flight = answer.flight
        if flight.id in ended:
            change.landed.append(flight.id)
            kind, task, data = answered(answer, took, _paid(change, answer))
            change.emit(flight.goal, kind, task, **data)
    await _follow(change, rows)  # after the events of the children come those of their parents


def _paid(change: Change, answer: Answer) -> int:
    """Settle what an answer has cost, and learn from it. Returns micro-dollars."""
    flight, usage = answer.flight, answer.outcome.usage
    if flight.estimate is None:
        return 0
    cost = bills.settle(change, flight, answer.outcome, answered=True)
    bills.observe(change, flight, flight.estimate, cost, usage.seconds if usage else 0.0)
    return cost


def answered(answer: Answer, seconds: float, cost: int = 0) -> tuple[str, int, dict[str, Any]]:
    """The event of a plain answer that cost so many micro-dollars: its kind, its task and its data."""
    flight = answer.flight
    usage = answer.outcome.usage if flight.estimate is not None else None
    return (
        "task.succeeded",
        flight.id,
        {
            "key": flight.key, "lane": flight.lane, "epoch": flight.epoch, "seconds": seconds,
            "cost_usd": money.usd(cost) if cost else 0, "tokens_in": usage.tokens_in if usage else 0,
            "tokens_out": usage.tokens_out if usage else 0, "summary": answer.outcome.summary,
            "outputs": sorted(name for name, _ in answer.hashes), "result": result_digest(answer.hashes),
            "parent": text(flight.parent),
        },
    )  # fmt: skip


async def complete(change: Change, ended: Sequence[tuple[int, int]], states: Sequence[State]) -> set[int]:
    """End tasks (id, epoch) with success, release dependants, end or resume parents. Returns ids that ended.

    Their outputs must have been named before (`Change.name_values`).
    """
    if not ended:
        return set()
    await change.flush_results()
    rows = await change.fetch(
        "complete", [i for i, _ in ended], [e for _, e in ended], [str(s) for s in states], change.now,
        *([] for _ in range(14)),
    )  # fmt: skip
    return await _follow(change, rows)


async def _follow(change: Change, rows: Sequence[Any]) -> set[int]:
    """What follows from completed tasks: others are ready, questions are asked, parents end."""
    done: set[int] = set()
    whole: list[int] = []
    parked: list[int] = []
    for row in rows:
        match row["what"]:
            case "ended":
                done.add(row["id"])
                _twins_of(change, row["id"])
            case "ready":
                change.ready.append(
                    Ready(row["id"], row["goal"], row["lane"], row["rank"], screened=row["screened"])
                )
            case "parked":
                parked.append(row["id"])
            case "whole":
                whole.append(row["id"])
    await people.ask(change, sorted(parked))
    await parents_ended(change, sorted(whole))
    return done


async def close(change: Change, ids: Sequence[int], state: State, reason: str) -> None:
    """End open tasks without success (dead, cancelled, skipped), with everything under them."""
    if not ids:
        return
    under = [row["id"] for row in await change.fetch("subtree", list(ids))]
    below = [task for task in under if task not in set(ids)]
    whole: list[int] = []
    for group, to in ((list(ids), state), (below, State.CANCELLED)):
        if not group:
            continue
        for row in await change.fetch("close", group, str(to)):
            if row["what"] == "whole":
                whole.append(row["id"])
            else:
                closed(change, row, to, reason)
    await change.flush_results()
    await parents_ended(change, [task for task in whole if task not in set(under)])


def _twins_of(change: Change, task: int) -> None:
    if task in change.leaders or task in change.new_leaders:
        change.followups.append(TwinEnded(task))


def closed(change: Change, row: Any, state: State, reason: str) -> None:
    change.landed.append(row["id"])
    _twins_of(change, row["id"])
    if replans.is_replan(row["lane"], row["key"]):
        change.followups.append(ReplanEnded(row["id"]))
    if row["was"] == State.DISPATCHED:
        change.cancels.append(row["id"])
        if row["held"]:
            # the call may be under way: nobody will tell what it cost, so the hold is charged
            change.bills.append(Bill(row["id"], row["epoch"], row["held"], 0, str(state)))
    if state in (State.CANCELLED, State.SKIPPED):
        change.emit(
            row["goal"], f"task.{state}", row["id"],
            key=row["key"], lane=row["lane"], epoch=row["epoch"], reason=reason, parent=text(row["parent"]),
        )  # fmt: skip


def text(task: int | None) -> str | None:
    return None if task is None else str(task)


async def fail(
    change: Change, row: TaskRow, error: TaskError, *, counts: bool = True, outcome: Outcome | None = None
) -> None:
    """A try of a dispatched (or checking) task failed: it waits for another, or it is dead. `outcome` is what its
    performer answered, if it did."""
    failures = row.failures + (1 if counts else 0)
    final = (not error.retryable and counts) or failures >= row.spec.max_failures
    data: dict[str, Any] = {
        "key": row.key, "lane": row.lane, "epoch": row.epoch, "failures": failures, "final": final,
        "error": error.model_dump(mode="json", exclude={"logs"}), "parent": text(row.parent),
        "result": digest(error.code, error.message),
    }  # fmt: skip
    change.emit(row.goal, "task.failed", row.id, **data)
    if outcome is None:
        change.record(row, "failed", error=error.model_dump_json())
    else:
        change.record_outcome(row, outcome, kind="failed", error=error.model_dump_json())
    if final:
        await die(change, row, error)
        return
    wait = timedelta(seconds=retry.delay_seconds(row.id, row.epoch, failures))
    at = change.now + wait
    if await change.fetchrow("retry", row.id, row.epoch, at, 1 if counts else 0):
        change.due.append((at, row.id))
        change.emit(
            row.goal, "task.retried", row.id, key=row.key, lane=row.lane, epoch=row.epoch, at=at.isoformat()
        )


async def die(change: Change, row: TaskRow, error: TaskError) -> None:
    """A task is dead: its policy says what becomes of those who needed it."""
    await change.flush_results()
    if row.spec.asked is not None:
        change.followups.append(AskEnded(row.id))
    if row.spec.on_dead == "fail_goal" and not row.is_root:
        await close(change, [row.id], State.DEAD, error.message)
        why = f"task {row.key} failed: {error.message}"
        change.followups.append(GoalEnds(row.goal, GoalStatus.FAILED, why))
        return
    if row.spec.on_dead == "replan" and await replans.open_for_dead(change, row, error):
        await close(change, [row.id], State.DEAD, error.message)
        return
    below = [r["id"] for r in await change.fetch("descendants", [row.id])]
    await close(change, below, State.SKIPPED, f"needs {row.key}, which failed")
    await close(change, [row.id], State.DEAD, error.message)
    if row.is_root:
        change.followups.append(GoalEnds(row.goal, GoalStatus.FAILED, error.message))


def replanned(change: Change, row: TaskRow) -> None:
    """A task has ended for good: if it was a replan, those whom it has not helped are looked at."""
    if replans.is_replan(row.lane, row.key):
        change.followups.append(ReplanEnded(row.id))


async def skip_orphans(change: Change, parent: int, generation: int) -> None:
    """Skip open tasks that need a dead one, when no revision has given them another producer."""
    dead = await change.db.fetch(
        "SELECT id FROM task WHERE parent = $1 AND generation = $2 AND state = 'dead'", parent, generation
    )
    below = [row["id"] for row in await change.fetch("descendants", [row["id"] for row in dead])]
    await close(change, below, State.SKIPPED, "needs a task that failed")


async def parents_ended(change: Change, parents: Sequence[int]) -> None:
    """All children of these tasks are final: resume them, end them, or read their checks' verdict."""
    for row in (await change.load(parents)).values():
        expansion = await change.db.fetchrow(
            "SELECT kind FROM expansion WHERE parent = $1 AND generation = $2", row.id, row.expansions
        )
        if expansion is None or row.open_children:
            continue
        match expansion["kind"]:
            case "resume" if row.state is State.EXPANDED:
                await resume(change, row, (State.EXPANDED,))
            case "replace" if row.state is State.EXPANDED:
                await end_with_children(change, row)
            case "check" if row.state is State.CHECKING:
                change.followups.append(ChecksEnded(row.id))
            case "vote" if row.state is State.EXPANDED:
                change.followups.append(VotesCast(row.id))


async def resume(change: Change, row: TaskRow, states: Sequence[State], turns: int = 1) -> bool:
    """Ready again, with its first `ready_at`; a new epoch comes with the next dispatch."""
    ready = await change.fetchrow("resume", row.id, row.epoch, [str(s) for s in states], turns)
    if ready is None:
        return False
    change.ready.append(Ready(ready["id"], ready["goal"], ready["lane"], ready["rank"]))
    return True


async def end_with_children(change: Change, row: TaskRow) -> None:
    """A parent without continuation ends with what its children made of its declared outputs."""
    await change.flush_results()
    made = await change.db.fetch(
        """SELECT DISTINCT ON (name) name, ref FROM artifact
           WHERE goal = $1 AND scope = $2 AND generation = $3 AND name = ANY($4::text[])
           ORDER BY name, generation DESC""",
        row.goal, row.id, row.expansions, [output.name for output in row.spec.outputs],
    )  # fmt: skip
    change.name_values(row, [(r["name"], r["ref"]) for r in made])
    missing = sorted({output.name for output in row.spec.outputs} - {r["name"] for r in made})
    if missing:
        error = await _lost(change, row, missing)
        change.emit(
            row.goal, "task.failed", row.id,
            key=row.key, lane=row.lane, epoch=row.epoch, failures=row.failures + 1, final=True,
            error=error.model_dump(mode="json", exclude={"logs"}), parent=text(row.parent),
            result=digest(error.code, error.message),
        )  # fmt: skip
        change.record(row, "failed", error=error.model_dump_json())
        await die(change, row, error)
        return
    change.record(row, "done", summary="done by its children")
    change.emit(
        row.goal, "task.succeeded", row.id,
        key=row.key, lane=row.lane, epoch=row.epoch, seconds=seconds_of(change, row), cost_usd=0,
        summary="done by its children", outputs=[r["name"] for r in made], parent=text(row.parent),
    )  # fmt: skip
    ended = await complete(change, [(row.id, row.epoch)], [State.EXPANDED])
    if row.spec.asked is not None:
        change.followups.append(AskEnded(row.id))
    replanned(change, row)
    if ended and row.is_root:
        change.followups.append(GoalEnds(row.goal, GoalStatus.DONE))


async def _lost(change: Change, row: TaskRow, missing: list[str]) -> TaskError:
    dead = await change.db.fetchrow(
        """SELECT s.key, r.error FROM task t JOIN task_spec s ON s.id = t.id
           JOIN task_result r ON r.task = t.id AND r.error IS NOT NULL
           WHERE t.parent = $1 AND t.generation = $2 AND t.state = 'dead' ORDER BY r.at DESC LIMIT 1""",
        row.id, row.expansions,
    )  # fmt: skip
    why = "no task produced it"
    if dead is not None:
        why = f"task {dead['key']} failed: {json.loads(dead['error'])['message']}"
    names = ", ".join(missing)
    return TaskError(code="output_lost", message=f"{names} cannot be delivered: {why}", retryable=False)


def seconds_of(change: Change, row: TaskRow) -> float | None:
    return (change.now - row.dispatched_at).total_seconds() if row.dispatched_at else None


def succeeded_event(
    change: Change,
    row: TaskRow,
    summary: str,
    outputs: dict[str, ArtifactRef],
    cost: int,
    tokens: tuple[int, int],
    **more: Any,
) -> None:
    """Tell that an answer was taken."""
    change.emit(
        row.goal, "task.succeeded", row.id,
        key=row.key, lane=row.lane, epoch=row.epoch, seconds=seconds_of(change, row), cost_usd=money.usd(cost),
        tokens_in=tokens[0], tokens_out=tokens[1], summary=summary, outputs=sorted(outputs),
        result=result_digest((name, ref.sha256) for name, ref in outputs.items()),
        parent=text(row.parent), **more,
    )  # fmt: skip
    if row.spec.asked is not None:
        change.followups.append(AskEnded(row.id))
