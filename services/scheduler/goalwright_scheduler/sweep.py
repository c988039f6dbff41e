"""What time brings, each second and bounded: retries due, leases over, deadlines, questions unanswered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import asyncpg
from goalwright_shared.messages import TaskError

from goalwright_scheduler import closing, control, goals, tasks
from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core import money
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import GoalStatus, State

AT_ONCE = 500
"""Tasks whose time may have come, looked at in one pass."""

_LOOK_AGAIN = timedelta(seconds=1)

_PAUSED = {"budget": "budget exhausted", "loop": "paused for a loop"}


@dataclass(frozen=True, slots=True)
class Leases:
    """What a pass needs to know to end leases justly.

    expire: False for a new leader until stored outcomes are drained and presences could be heard.
    unconfirmed: tasks whose Work is not known to be in the stream; their leases have not begun.
    lost_before: NATS lost its memory then; Work dispatched before may be gone without anybody's fault.
    """

    expire: bool
    unconfirmed: frozenset[int] = frozenset()
    lost_before: datetime | None = None


Act = Callable[[Change], Awaitable[None]]
Apart = Callable[[str, Act], Awaitable[bool]]
"""Does something by itself, in the words of the first argument; False when it could not be done."""


async def sweep(change: Change, leases: Leases, due: Sequence[int], apart: Apart | None = None) -> None:
    """One pass; `due` are the tasks whose time may have come. With `apart`, each is looked at by itself, and what
    cannot be done is left out; without, it fails the pass."""
    rows = await change.fetch("expired", due) if due else []
    rows = sorted(rows, key=lambda row: (row["due_at"], row["id"]))  # who is first due, first
    over = [row["id"] for row in rows if row["due_at"] <= change.now and row["state"] != State.RETRY_WAIT]
    waits = [row["id"] for row in rows if row["state"] == State.RETRY_WAIT]
    for row in await change.fetch("wake", change.now, waits) if waits else []:
        change.ready.append(Ready(row["id"], row["goal"], row["lane"], row["rank"]))
    later = change.now + _LOOK_AGAIN
    change.due += [  # until it waits for no time any more
        (row["due_at"] if row["due_at"] > change.now else later, row["id"]) for row in rows
    ]
    if apart is None:
        for task in (await change.load(over)).values():
            await _over(change, task, leases)
    else:
        for id in over:
            if not await apart(f"task {id}", partial(_over_by_id, id, leases)):
                await apart(f"the end of task {id}", partial(_give_up, id))
    ended = await change.db.fetch(
        """SELECT num, reason, closing, deadline <= $1 AS late FROM goal
           WHERE finished_at IS NULL AND (deadline <= $1 OR ask_until <= $1) LIMIT 100""",
        change.now,
    )
    for goal in ended:
        if apart is None:
            await _end(goal, change)
        else:
            await apart(f"goal {goal['num']}", partial(_end, goal))
    await closing.finish_closed(change)


async def _over_by_id(id: int, leases: Leases, change: Change) -> None:
    await _over(change, (await change.load([id]))[id], leases)


async def _over(change: Change, row: TaskRow, leases: Leases) -> None:
    """The time of a question or of a dispatch is over."""
    if row.state is State.PARKED:
        await _unanswered(change, row)
    elif row.id in leases.unconfirmed:
        await _begin_lease(change, row)
    elif leases.expire:
        await _expired(change, row, leases.lost_before)


async def _give_up(id: int, change: Change) -> None:
    """A task with which that cannot be done for which it is time has failed."""
    row = (await change.load([id]))[id]
    error = TaskError(code="cannot_apply", message="what was due could not be done", retryable=False)
    if row.state is State.PARKED:
        await _fail_question(change, row, error)
    else:
        await tasks.fail(change, row, error)


async def _end(goal: asyncpg.Record, change: Change) -> None:
    if goal["late"] or goal["closing"] is not None:
        why = "deadline passed" if goal["late"] else goal["reason"]
        await goals.finish(change, goal["num"], GoalStatus.PARTIAL, why)
    else:
        await closing.conclude(change, goal["num"], f"{_PAUSED[goal['reason']]}, and nobody answered in time")


async def _unanswered(change: Change, row: TaskRow) -> None:
    """A question's time is over: its default, else it has failed."""
    default = row.spec.question.default if row.spec.question else None
    if default is not None:
        await control.answer(change, row, default)
        return
    error = TaskError(code="unanswered", message="nobody answered in time", retryable=False)
    await _fail_question(change, row, error)


async def _fail_question(change: Change, row: TaskRow, error: TaskError) -> None:
    change.emit(
        row.goal, "task.failed", row.id,
        key=row.key, lane=row.lane, epoch=row.epoch, failures=row.failures + 1, final=True,
        error=error.model_dump(mode="json"), parent=tasks.text(row.parent),
    )  # fmt: skip
    change.record(row, "failed", error=error.model_dump_json())
    await tasks.die(change, row, error)


async def _begin_lease(change: Change, row: TaskRow) -> None:
    lane = change.lanes.get(row.lane)
    due = change.now + timedelta(seconds=lane.lease_seconds if lane else 60)
    await change.db.execute("UPDATE task SET due_at = $2 WHERE id = $1 AND state = 'dispatched'", row.id, due)


async def _expired(change: Change, row: TaskRow, lost_before: datetime | None) -> None:
    """A lease is over. Never announced by a performer of ours: its message was lost, and it goes again. Else
    the try is charged in full and counts as a failure; work with external effects waits for a person."""
    lane = change.lanes.get(row.lane)
    change.emit(
        row.goal, "task.expired", row.id,
        key=row.key, lane=row.lane, epoch=row.epoch, announced=row.announced, parent=tasks.text(row.parent),
    )  # fmt: skip
    ours = lane is None or lane.performer == "service"
    gone = lost_before is not None and row.dispatched_at is not None and row.dispatched_at <= lost_before
    if not row.announced and (ours or gone):
        change.settle(row, money.Bill(0, 0), "lost")
        await tasks.resume(change, row, (State.DISPATCHED,), turns=0)
        return
    change.settle(row, money.Bill(row.hold, 0), "expired")
    change.cancels.append(row.id)
    change.landed.append(row.id)
    if row.spec.effects == "external":
        await change.fetchrow("park", row.id, ["dispatched"], None)
        change.emit(
            row.goal, "task.parked", row.id, key=row.key, lane=row.lane, reason="its lease expired and its effects "
            "are external: retry or skip it by hand",
        )  # fmt: skip
        return
    error = TaskError(
        code="expired", message="the performer was not heard of within the lease", retryable=True
    )
    await tasks.fail(change, row, error)
