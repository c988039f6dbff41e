"""The verbs of a goal's life: accept, pause, resume, finish."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from goalwright_shared import ids
from goalwright_shared.artifacts import inline_ref
from goalwright_shared.errors import Refused
from goalwright_shared.messages import ArtifactRef, ArtifactType, GoalInput, GoalSubmission

from goalwright_scheduler import expansion, tasks
from goalwright_scheduler.change import Change
from goalwright_scheduler.core import listing, money, submission
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.core.states import GOAL_FINAL, GoalStatus, State

_MEDIA = {
    ArtifactType.TABLE: "text/csv",
    ArtifactType.JSON: "application/json",
    ArtifactType.TEXT: "text/plain",
}


async def find(change: Change, owner: str, goal_id: str) -> Any:
    """The goal's row; raises `Refused` (`not_found`)."""
    row = await change.db.fetchrow("SELECT * FROM goal WHERE owner = $1 AND goal_id = $2", owner, goal_id)
    if row is None:
        raise Refused(
            "not_found", f"there is no goal {goal_id}", field="goal_id", hint="`goalwright ls` lists goals"
        )
    return row


async def accept(
    change: Change, owner: str, parsed: submission.Parsed, sizes: Mapping[str, int], message_id: str | None
) -> tuple[str, str, bool]:
    """Store a goal and its root task. Returns (goal_id, status, duplicate). Raises `Refused`.

    `sizes` are the bytes of input objects, which were looked up before the transaction.
    """
    wanted = parsed.submission
    goal_id = wanted.id or message_id or ids.new_goal_id()
    known = await change.db.fetchrow(
        "SELECT status FROM goal WHERE owner = $1 AND goal_id = $2", owner, goal_id
    )
    if known is not None:
        return goal_id, known["status"], True
    await change.take_time_for(len(wanted.plan.tasks) if wanted.plan is not None else 0)
    refs = [input_ref(item, sizes) for item in wanted.inputs]
    refs += await _inherited(change, owner, wanted, {ref.name for ref in refs})
    objective = wanted.text or f"the submitted plan {goal_id}"
    plan = submission.root(wanted, objective, [ref.name for ref in refs], change.lanes)
    settings = change.settings
    budget = money.micro(settings.budget_usd if wanted.budget_usd is None else wanted.budget_usd)
    seconds = wanted.deadline_seconds or settings.deadline_hours * 3600
    deadline = change.now + timedelta(seconds=seconds)
    status = GoalStatus.PLANNING if plan.compiled is None else GoalStatus.RUNNING
    goal: int = await change.db.fetchval(
        """INSERT INTO goal (owner, goal_id, status, value, budget, fenced, created_at, deadline)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING num""",
        owner, goal_id, str(status), wanted.value, budget, money.fence(budget, change.lanes),
        change.now, deadline,
    )  # fmt: skip
    await change.db.execute(
        "INSERT INTO goal_spec (goal, text, labels, contract) VALUES ($1, $2, $3, $4)",
        goal, wanted.text, json.dumps(wanted.labels), plan.contract.model_dump_json(),
    )  # fmt: skip
    for ref in refs:
        change.artifacts.append((goal, 0, 0, ref.name, None, ref.model_dump_json()))
    await change.flush_results()
    change.active[goal] = True
    change.weights[goal] = wanted.value
    change.emit(
        goal, "goal.accepted", None,
        text=wanted.text, labels=wanted.labels, budget_usd=money.usd(budget), deadline=deadline.isoformat(),
        warnings=list(parsed.warnings),
    )  # fmt: skip
    root = await expansion.insert_root(
        change, goal, plan.spec, wanted.value, planned=plan.compiled is not None
    )
    if plan.compiled is not None:
        row = (await change.load([root]))[root]
        values = submission.values_of(plan.deliverables)
        children = await expansion.insert_generation(
            change,
            row,
            list(plan.plan),
            plan.compiled,
            states=[State.EXPANDED],
            values=values,
            share=change.settings.share_equal_tasks == "always",
        )
        expansion.emit_adopted(change, row, children, plan.plan, plan.contract, "client")
    return goal_id, str(status), False


async def _inherited(
    change: Change, owner: str, wanted: GoalSubmission, taken: set[str]
) -> list[ArtifactRef]:
    """The deliverables of `from_goal`, as inputs."""
    if wanted.from_goal is None:
        return []
    source = await find(change, owner, wanted.from_goal)
    rows = await change.db.fetch(
        "SELECT ref FROM artifact WHERE goal = $1 AND scope = 0 AND task IS NOT NULL", source["num"]
    )
    refs = [ArtifactRef.model_validate_json(row["ref"]) for row in rows]
    return [ref for ref in refs if ref.name not in taken]


def input_ref(item: GoalInput, sizes: Mapping[str, int]) -> ArtifactRef:
    """The reference of a submitted input; raises `Refused` when it cannot be one."""
    media = item.media_type or _MEDIA.get(item.type, "application/octet-stream")
    if item.object is not None:
        if item.object not in sizes:
            raise Refused(
                "no_object", f"input {item.name} names object {item.object}, which is not in bucket ARTIFACTS",
                field="inputs", hint="put it there under the hex SHA-256 of its content first",
            )  # fmt: skip
        return ArtifactRef(
            name=item.name, type=item.type, media_type=media, size=sizes[item.object], sha256=item.object,
            object=item.object,
        )  # fmt: skip
    assert item.inline is not None
    ref = inline_ref(item.name, item.type, item.inline.encode(), media)
    if ref is None:
        raise Refused(
            "input_too_big", f"input {item.name} is over 8 KiB (or holds a NUL) and cannot be inline",
            field="inputs", hint="put it into bucket ARTIFACTS under its hex SHA-256 and name it as `object`",
        )  # fmt: skip
    return ref


async def pause(change: Change, goal: int, reason: str, *, ask_seconds: float | None = None) -> bool:
    """Stop dispatching; what runs goes on. False when the goal was not running."""
    until = change.now + timedelta(seconds=ask_seconds) if ask_seconds is not None else None
    row = await change.db.fetchrow(
        """UPDATE goal SET status = 'paused', reason = $2, ask_until = $3
           WHERE num = $1 AND status IN ('accepted', 'planning', 'running') RETURNING num""",
        goal, reason, until,
    )  # fmt: skip
    if row is None:
        return False
    change.active[goal] = False
    change.emit(goal, "goal.paused", None, reason=reason, until=until.isoformat() if until else None)
    return True


async def resume(change: Change, goal: int) -> bool:
    """Dispatch again. False when the goal was not paused."""
    row = await change.db.fetchrow(
        """UPDATE goal g SET status = CASE WHEN EXISTS (
                 SELECT FROM task t WHERE t.id = g.root_task AND t.state = 'expanded' AND t.expansions > 0
                 AND EXISTS (SELECT FROM expansion x WHERE x.parent = t.id AND x.kind = 'replace'))
               THEN 'running' ELSE 'planning' END, reason = NULL, ask_until = NULL
           WHERE num = $1 AND status = 'paused' RETURNING num""",
        goal,
    )
    if row is None:
        return False
    change.active[goal] = True
    change.reload.add(goal)
    change.emit(goal, "goal.resumed", None)
    return True


async def finish(change: Change, goal: int, status: GoalStatus, reason: str | None) -> bool:
    """End a goal with what it has: open tasks are cancelled, deliverables and what is missing are told.

    False when it had ended already.
    """
    row = await change.db.fetchrow(
        """UPDATE goal SET status = $2, reason = $3, finished_at = $4, ask_until = NULL
           WHERE num = $1 AND finished_at IS NULL RETURNING root_task, goal_id""",
        goal, str(status), reason, change.now,
    )  # fmt: skip
    if row is None:
        return False
    assert status in GOAL_FINAL
    change.active[goal] = False
    change.weights[goal] = 1.0  # nothing to remember
    await end_open_tasks(change, goal, f"the goal ended: {status}")
    await change.flush_results()
    await change.flush_bills()
    delivered, missing = await deliverables(change, goal, row["root_task"])
    spent: int = await change.db.fetchval("SELECT spent + overrun FROM goal WHERE num = $1", goal)
    told = await _summary(change, goal, status, delivered, missing)
    await change.db.execute(
        "UPDATE goal_spec SET missing = $2, summary = $3 WHERE goal = $1", goal, missing, told
    )
    change.emit(
        goal, "goal.finished", None,
        status=str(status), reason=reason, spent_usd=money.usd(spent), missing=missing, summary=told,
        deliverables={name: ref.model_dump(mode="json") for name, ref in delivered.items()},
    )  # fmt: skip
    return True


async def _summary(
    change: Change, goal: int, status: str, delivered: Mapping[str, ArtifactRef], missing: Sequence[str]
) -> str:
    """What a goal ended with, in words: its writer's, else a listing."""
    ref = await change.db.fetchval(
        "SELECT ref FROM artifact WHERE goal = $1 AND scope = 0 AND generation = 0 AND name = $2",
        goal, listing.SUMMARY,
    )  # fmt: skip
    written = ArtifactRef.model_validate_json(ref).inline if ref else None
    if written:
        return written
    rows = await change.db.fetch("SELECT state, count(*) AS n FROM task WHERE goal = $1 GROUP BY state", goal)
    return listing.summary(status, delivered, missing, {row["state"]: row["n"] for row in rows})


async def end_open_tasks(change: Change, goal: int, reason: str) -> None:
    """Cancel everything open in one statement: parents and children end together, nothing cascades."""
    rows = await change.db.fetch(
        """SELECT id FROM task
           WHERE goal = $1 AND state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped') ORDER BY id""",
        goal,
    )
    for row in await change.fetch("close", [row["id"] for row in rows], str(State.CANCELLED)):
        if row["what"] == "ended":
            tasks.closed(change, row, State.CANCELLED, reason)


async def deliverables(change: Change, goal: int, root: int) -> tuple[dict[str, ArtifactRef], list[str]]:
    """What the goal hands back (exported, or already made inside the root's generation), and what is missing."""
    rows = await change.fetch("load_deliverables", goal, root)
    wanted: list[str] = await change.db.fetchval("SELECT outputs FROM task_spec WHERE id = $1", root)
    made = {row["name"]: ArtifactRef.model_validate_json(row["ref"]) for row in rows}
    return made, [name for name in wanted if name not in made]


def ready_entries(rows: Sequence[Any]) -> list[Ready]:
    """Rows of `load_ready…` as entries of the heaps."""
    return [Ready(row["id"], row["goal"], row["lane"], row["rank"]) for row in rows]
