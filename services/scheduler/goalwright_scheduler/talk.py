"""Talk between performers: questions that roles put to one another, and the goal's blackboard."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from goalwright_shared.messages import TaskSpec

from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core import money

_WORDS = 2_000
"""Characters of a question, an answer or a note in an event."""

_KEPT = 200
"""Notes of performers that a goal keeps; the oldest go."""


# --- questions -------------------------------------------------------------------------------------------


def requested(
    change: Change, asker: TaskRow, specs: Sequence[TaskSpec], told: Sequence[Mapping[str, Any]]
) -> None:
    """Tell which of a task's new children are questions to other roles; `told` are the children as events tell them."""
    for spec, child in zip(specs, told, strict=False):
        if spec.asked is not None:
            change.emit(
                asker.goal, "ask.requested", int(child["task_id"]),
                key=spec.key, lane=spec.lane, by=spec.asked.by, parent=str(asker.id), hops=spec.asked.hops,
                question=spec.instruction[:_WORDS], inputs=list(spec.inputs),
            )  # fmt: skip


async def answered(change: Change, task: int) -> None:
    """Tell the answer to a question, or that there will be none, and what it cost with all that was done for it."""
    await change.flush_results()
    await change.flush_bills()
    for row in await change.fetch("load_asked", [task], None):
        told = exchange(row)
        change.emit(
            row["goal"], "ask.answered", task,
            key=row["key"], lane=row["lane"], by=told["by"], parent=str(row["parent"]), status=row["state"],
            answer=told["answer"], error=told["error"], cost_usd=told["cost_usd"],
        )  # fmt: skip


def exchange(row: asyncpg.Record) -> dict[str, Any]:
    """A row of `load_asked` as questions and answers are told."""
    spec = json.loads(row["spec"])
    return {
        "task_id": str(row["id"]), "key": row["key"], "lane": row["lane"], "by": spec["asked"]["by"],
        "state": row["state"], "question": spec["instruction"][:_WORDS],
        "answer": (row["answer"] or row["summary"] or "")[:_WORDS],
        "error": json.loads(row["error"]) if row["error"] else None, "cost_usd": money.usd(int(row["cost"])),
    }  # fmt: skip


# --- notes -----------------------------------------------------------------------------------------------


async def post(change: Change, row: TaskRow, text: str) -> None:
    """A performer's line for the goal's blackboard; one that stands there is not repeated."""
    new = await change.fetchrow("post_note", row.goal, row.lane, row.key, text[:_WORDS], change.now, _KEPT)
    if new is not None:
        change.emit(row.goal, "note.posted", row.id, text=text[:_WORDS], author=row.lane, key=row.key)


async def notes(change: Change, goals: set[int]) -> dict[int, list[dict[str, Any]]]:
    """The newest notes of goals as their performers get them: pinned ones first."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    if goals:
        for row in await change.fetch("load_notes", list(goals)):
            found[row["goal"]].append(told_note(row))
    return found


def told_note(row: asyncpg.Record) -> dict[str, Any]:
    """A row of `load_notes` as a `Note`."""
    return {name: row[name] for name in ("number", "text", "author", "key", "pinned")}
