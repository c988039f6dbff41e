"""Take up again by hand what has died: a branch of a plan that runs, or all that an ended goal has not finished.

Final is final for tasks: what is taken up again are clones. In a plan that runs they come as a revision; an ended
goal gets a new root task, whose children see what was finished as inputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from goalwright_shared.errors import Refused
from goalwright_shared.graph import GraphError, compile_generation
from goalwright_shared.messages import AddTask, Operation, TaskSpec

from goalwright_scheduler import expansion, replans, revision
from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core import money
from goalwright_scheduler.core.states import GoalStatus, State

_USEFUL = frozenset(State) - {State.DEAD, State.SKIPPED, State.CANCELLED}


async def retry(change: Change, row: TaskRow) -> list[str]:
    """Clone a dead task and the skipped ones that needed it, as a revision of their generation. Returns the new
    keys; none when it was retried already and that clone has not died."""
    assert row.parent is not None
    parent = (await change.load([row.parent]))[row.parent]
    base = await change.db.fetchval(
        "SELECT revision FROM expansion WHERE parent = $1 AND generation = $2", parent.id, row.generation
    )
    siblings = await _generation(change, row.parent, row.generation)
    if any(_name(task.key) == _name(row.key) and task.state in _USEFUL for task in siblings):
        return []
    clones = _clones(_dead_branch(row, siblings), siblings, base + 1)
    operations: list[Operation] = [AddTask(task=spec) for spec in clones]
    await revision.apply(
        change, parent, row.generation, base, operations,
        summary=f"retry of {row.key}", reason="retry by hand", by_hand=True,
    )  # fmt: skip
    return [spec.key for spec in clones]


async def reopen(change: Change, goal: Any) -> list[str]:
    """An ended goal goes on: clones of all that it had not finished, under a new root task, with the time that it
    had at first. Returns their keys; none when there was no plan yet, and it is planned anew. Raises `Refused`."""
    old = (await change.load([goal["root_task"]]))[goal["root_task"]]
    planned = await change.db.fetchval(
        "SELECT kind = 'replace' FROM expansion WHERE parent = $1 AND generation = $2", old.id, old.expansions
    )
    rows = await _generation(change, old.id, old.expansions) if planned else []
    rows = [row for row in rows if not replans.is_replan(row.lane, row.key)]
    made = await change.db.fetch(
        """SELECT a.name, a.task, a.ref FROM artifact a JOIN task t ON t.id = a.task
           WHERE a.goal = $1 AND a.scope = $2 AND a.generation = $3 AND t.state = 'succeeded'""",
        goal["num"], old.id, old.expansions,
    )  # fmt: skip
    made = made if planned else []
    names = {row["name"] for row in made}
    clones = _clones(await _unfinished(change, rows, names), (), goal["revision"] + 1)
    if rows and not clones:
        raise Refused("nothing_open", f"goal {goal['goal_id']} has finished all its tasks")
    spec = old.spec.model_copy(update={"inputs": [*old.spec.inputs, *sorted(names - set(old.spec.inputs))]})
    wanted = [output.name for output in spec.outputs if output.name not in names]
    await _go_on(change, goal, GoalStatus.RUNNING if rows else GoalStatus.PLANNING)
    tasks = goal["tasks"]
    root = await expansion.insert_root(change, goal["num"], spec, goal["value"], planned=bool(rows))
    await expansion.count(change, goal["num"], tasks)
    change.emit(goal["num"], "goal.resumed", None, reopened=True, added=[clone.key for clone in clones][:500])
    if rows:
        for row in made:
            change.artifacts.append((goal["num"], root, 0, row["name"], None, row["ref"]))
            change.artifacts.append((goal["num"], root, 1, row["name"], row["task"], row["ref"]))
        await change.flush_results()
        await _plan(change, root, clones, wanted)
    return [clone.key for clone in clones]


async def _go_on(change: Change, goal: Any, status: GoalStatus) -> None:
    await change.db.execute(
        """UPDATE goal SET status = $2, reason = NULL, finished_at = NULL, closing = NULL, ask_until = NULL,
               fenced = $3, revision = revision + 1, begun_at = $4,
               deadline = $4::timestamptz + (deadline - coalesce(begun_at, created_at))
           WHERE num = $1""",
        goal["num"], str(status), money.fence(goal["budget"], change.lanes), change.now,
    )  # fmt: skip
    await change.db.execute(
        "UPDATE goal_spec SET missing = NULL, summary = NULL WHERE goal = $1", goal["num"]
    )
    change.active[goal["num"]] = True
    change.reload.add(goal["num"])


async def _plan(change: Change, root: int, clones: Sequence[TaskSpec], wanted: Sequence[str]) -> None:
    row = (await change.load([root]))[root]
    try:
        compiled = compile_generation(clones, row.spec.inputs, wanted)
    except GraphError as error:
        raise Refused("invalid_revision", error.message, field=error.field, hint=error.hint) from error
    await expansion.insert_generation(change, row, clones, compiled, states=[State.EXPANDED])


async def _generation(change: Change, parent: int, generation: int) -> list[TaskRow]:
    """The tasks of a generation, oldest first."""
    found = await change.db.fetch(
        "SELECT id FROM task WHERE parent = $1 AND generation = $2 ORDER BY id", parent, generation
    )
    rows = await change.load([r["id"] for r in found])
    return [rows[r["id"]] for r in found]


async def _unfinished(change: Change, rows: Sequence[TaskRow], made: set[str]) -> list[TaskSpec]:
    """What is to be done of a plan that has ended: of a task and its retries the newest, and none that was dropped or
    of which something is made by others."""
    dropped = await change.db.fetch(
        "SELECT DISTINCT task FROM task_result WHERE task = ANY($1::bigint[]) AND kind = $2",
        [row.id for row in rows], revision.DROPPED,
    )  # fmt: skip
    gone = {row["task"] for row in dropped}
    made, known = set(made), {_name(row.key) for row in rows if row.state is State.SUCCEEDED}
    found: list[TaskSpec] = []
    for row in reversed(rows):
        outputs = {output.name for output in row.spec.outputs}
        again = row.state is State.SUCCEEDED or _name(row.key) in known or outputs & made
        if not again and row.id not in gone:
            found.append(row.spec)
            known.add(_name(row.key))
            made |= outputs
    return found[::-1]


def _dead_branch(row: TaskRow, siblings: Sequence[TaskRow]) -> list[TaskSpec]:
    """The dead task and the skipped ones that needed what it or they would have made."""
    skipped = [task for task in siblings if task.state is State.SKIPPED]
    branch, looked_at = [row], 0
    while looked_at < len(branch):  # each may bring more, in whatever order they were inserted
        made, key = {output.name for output in branch[looked_at].spec.outputs}, branch[looked_at].key
        lost = [task for task in skipped if made & set(task.spec.inputs) or key in task.spec.after]
        branch += [task for task in lost if task not in branch]
        looked_at += 1
    return [task.spec for task in branch]


def _clones(specs: Sequence[TaskSpec], siblings: Sequence[TaskRow], number: int) -> list[TaskSpec]:
    """The same tasks under new keys, after those they were after (as far as they live or are cloned too)."""
    renamed = {spec.key: f"{_name(spec.key)[:110]}.r{number}" for spec in specs}
    known = {task.key: task.key for task in siblings if task.state in _USEFUL} | renamed
    return [
        spec.model_copy(
            update={"key": renamed[spec.key], "after": [known[key] for key in spec.after if key in known]}
        )
        for spec in specs
    ]


def _name(key: str) -> str:
    """A task's key without the numbers of its retries."""
    return re.sub(r"(\.r\d+)+$", "", key)
