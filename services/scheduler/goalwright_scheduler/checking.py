"""Acceptance by others: programs and rubrics become child tasks while the task is `checking`."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from goalwright_shared.graph import compile_generation
from goalwright_shared.messages import (
    OUTCOME,
    ArtifactType,
    Done,
    OutputSpec,
    ProgramCheck,
    RubricCheck,
    TaskError,
    TaskSpec,
)
from goalwright_shared.verdict import VERDICT_SCHEMA

from goalwright_scheduler import expansion, tasks
from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core.states import State

_ANSWER_KEPT_AS = "check"


def needed(row: TaskRow) -> list[ProgramCheck | RubricCheck]:
    """The checks of a task that its performer cannot run itself."""
    return [check for check in row.spec.acceptance if isinstance(check, ProgramCheck | RubricCheck)]


async def start(change: Change, row: TaskRow, outcome: Done) -> None:
    """Keep the answer and let child tasks check it: they see the outputs as inputs."""
    specs = [_check_task(row, index, check, outcome) for index, check in enumerate(needed(row), 1)]
    names = list(outcome.outputs)
    compiled = compile_generation(specs, [*row.spec.inputs, *names])
    for name, ref in outcome.outputs.items():
        change.artifacts.append((row.goal, row.id, 0, name, None, ref.model_dump_json()))
    await expansion.insert_generation(
        change, row, specs, compiled, states=[State.DISPATCHED], kind=_ANSWER_KEPT_AS,
        continuation=outcome.model_dump_json(by_alias=True), to=State.CHECKING,
    )  # fmt: skip


def _check_task(row: TaskRow, index: int, check: ProgramCheck | RubricCheck, outcome: Done) -> TaskSpec:
    names = [name for name in outcome.outputs if name not in row.spec.inputs]
    if isinstance(check, ProgramCheck):
        return TaskSpec(
            key=f"check-{index}", title=f"Check {row.key}", lane="exec", inputs=names, program=check.program,
            max_failures=2,
        )  # fmt: skip
    verdict = _free(f"verdict-{index}", {*row.spec.inputs, *outcome.outputs})
    return TaskSpec(
        key=f"check-{index}",
        title=f"Judge {row.key}",
        lane="agent.judge",
        instruction=f"Judge whether the result fulfils this rubric: {check.text}",
        inputs=names,
        outputs=[OutputSpec(name=verdict, type=ArtifactType.JSON, schema=VERDICT_SCHEMA)],
        params={"rubric": check.text, "task": row.spec.title or row.key, "summary": outcome.summary},
        max_failures=2,
    )


def _free(name: str, taken: Collection[str]) -> str:
    """A name that what is judged does not have."""
    while name in taken:
        name += "-"
    return name


async def verdict(change: Change, row: TaskRow) -> None:
    """All checks have ended: the kept answer is taken, or the try failed with the evidence; unless the task has ended
    with its goal."""
    if row.state is not State.CHECKING:
        return
    await change.flush_results()
    kept = await change.db.fetchval(
        "SELECT continuation FROM expansion WHERE parent = $1 AND generation = $2", row.id, row.expansions
    )
    outcome = OUTCOME.validate_json(kept)
    assert isinstance(outcome, Done)
    evidence = [
        line for child in await change.fetch("load_children", [row.id]) if (line := _objection(child))
    ]
    if evidence:
        error = TaskError(code="check_failed", message="; ".join(evidence), retryable=True)
        await tasks.fail(change, row, error, outcome=outcome)
        return
    change.record_outcome(row, outcome, summary=outcome.summary)
    change.name_values(row, [(name, ref.model_dump_json()) for name, ref in outcome.outputs.items()])
    tasks.succeeded_event(change, row, outcome.summary, outcome.outputs, 0, (0, 0))
    await tasks.complete(change, [(row.id, row.epoch)], [State.CHECKING])


def _objection(child: Any) -> str | None:
    """What a check has against the answer; None when it has nothing."""
    outputs = json.loads(child["outputs"])
    if child["state"] != "succeeded":
        error = json.loads(child["error"]) if child["error"] else {"message": child["state"]}
        return f"{child['key']}: {error['message']}"
    for ref in outputs.values():  # of a judge one, of a program none
        judged = json.loads(ref.get("inline") or "{}")
        if not judged.get("passed", False):
            return f"{child['key']}: {judged.get('summary') or 'not fulfilled'}"
    return None
