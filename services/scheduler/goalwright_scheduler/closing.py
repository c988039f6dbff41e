"""End a goal that has run out: a writer tells what there is, paid from what was kept back; else a listing does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from goalwright_shared.messages import OutputSpec, TaskSpec

from goalwright_scheduler import expansion, goals
from goalwright_scheduler.change import Change
from goalwright_scheduler.core import listing, money
from goalwright_scheduler.core.states import GoalStatus

_WRITER_SECONDS = 300.0
_SHOWN = 20


async def conclude(change: Change, goal: int, reason: str) -> None:
    """End a goal with what it has (`partial`), by a summary when its budget keeps money for one."""
    row = await change.db.fetchrow(
        "SELECT num, root_task, fenced, closing FROM goal WHERE num = $1 AND finished_at IS NULL", goal
    )
    if row is None:
        return
    made, missing = await goals.deliverables(change, goal, row["root_task"])
    if not made or row["closing"] is not None or not row["fenced"] or money.WRITER not in change.lanes:
        await goals.finish(change, goal, GoalStatus.PARTIAL, reason)
        return
    await goals.end_open_tasks(change, goal, "the goal is closing")
    await change.flush_results()
    await change.flush_bills()
    for name, ref in made.items():
        change.artifacts.append((goal, 0, 0, name, row["root_task"], ref.model_dump_json()))
    await change.flush_results()
    task = await expansion.insert_aside(change, goal, _writers_task(list(made), missing, reason))
    await change.db.execute(
        """UPDATE goal SET status = 'running', reason = $2, closing = $3, fenced = 0, ask_until = $4
           WHERE num = $1""",
        goal, reason, task, change.now + timedelta(seconds=_WRITER_SECONDS),
    )  # fmt: skip
    change.active[goal] = True
    change.reload.add(goal)


def _writers_task(made: Sequence[str], missing: Sequence[str], reason: str) -> TaskSpec:
    return TaskSpec(
        key="closing-summary",
        title="Sum up what the goal has",
        instruction=f"The goal ended before it was complete: {reason}. Sum up in at most 300 words, for whoever "
        f"asked for it, what the inputs hold. Say that these are missing: {', '.join(missing[:_SHOWN]) or 'none'}.",
        lane=money.WRITER,
        inputs=list(made[:_SHOWN]),
        outputs=[OutputSpec(name=listing.SUMMARY)],
        max_failures=1,
        max_turns=4,
    )


async def finish_closed(change: Change) -> None:
    """Goals whose closing summary is written, or cannot be."""
    for row in await change.fetch("load_closed"):
        await goals.finish(change, row["num"], GoalStatus.PARTIAL, row["reason"])
