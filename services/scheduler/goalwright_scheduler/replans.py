"""Open plan tasks that will revise a plan, for people, for the reflector, and for dead tasks that ask for it."""

from __future__ import annotations

from collections.abc import Sequence

from goalwright_shared.errors import Refused
from goalwright_shared.messages import TaskError, TaskSpec

from goalwright_scheduler import expansion
from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core.states import State


def is_replan(lane: str, key: str) -> bool:
    """Whether a task is one that `open` made."""
    return lane == "plan" and key.startswith("replan-")


async def open(change: Change, target: TaskRow, reason: str, evidence: Sequence[str]) -> int:
    """A plan task beside the target's children, that will answer with `revise`. Raises `Refused`."""
    expanded = await change.db.fetchrow(
        "SELECT generation, kind, revision FROM expansion WHERE parent = $1 AND generation = $2",
        target.id, target.expansions,
    )  # fmt: skip
    if target.state is not State.EXPANDED or expanded is None or expanded["kind"] != "replace":
        raise Refused("no_plan", f"task {target.key} has no plan that runs", field="target_task_id")
    made = await change.db.fetch(
        """SELECT t.state FROM task t JOIN task_spec s ON s.id = t.id
           WHERE t.goal = $1 AND s.key LIKE 'replan-%'""",
        target.goal,
    )
    if any(State(row["state"]) not in _ENDED for row in made):
        raise Refused("replan_is_open", "a replan of this goal is under way already")
    if len(made) >= change.settings.max_replans:
        raise Refused("too_many_replans", f"a goal may be replanned {change.settings.max_replans} times")
    spec = TaskSpec(
        key=f"replan-{len(made) + 1}",
        title=f"Replan: {reason[:80]}",
        instruction=reason,
        lane="plan",
        max_failures=2,
        params={
            "replan": {
                "target_task_id": str(target.id),
                "generation": target.expansions,
                "base_revision": expanded["revision"],
                "reason": reason,
                "evidence": list(evidence),
            }
        },
    )
    task = await expansion.insert_beside(change, target, spec)
    change.emit(target.goal, "replan.requested", task, reason=reason, evidence=list(evidence), key=spec.key)
    return task


_ENDED = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED, State.SKIPPED})


async def open_for_dead(change: Change, row: TaskRow, error: TaskError) -> bool:
    """A dead task's policy is `replan`: its dependants wait for the revision. False when none can be had."""
    if row.parent is None:
        return False
    parent = (await change.load([row.parent])).get(row.parent)
    if parent is None:
        return False
    reason = f"task {row.key} failed: {error.message}"
    try:
        await open(change, parent, reason, [])
    except Refused:
        return False
    return True
