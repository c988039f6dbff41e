"""Plays the scheduler for one task: hands out its work, performs its children as told, gives it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from goalwright_agent.handlers import Agent
from goalwright_shared import graph
from goalwright_shared.messages import (
    OUTCOME,
    ArtifactRef,
    ArtifactType,
    ChildResult,
    Contract,
    Expand,
    LlmGrant,
    Outcome,
    TaskError,
    TaskSpec,
    Work,
    parse_strict,
)
from goalwright_shared.worker import Attempt
from support.artifacts import MemoryArtifacts

Child = Callable[[TaskSpec], ChildResult]


def work_of(spec: TaskSpec, **fields: Any) -> Work:
    """The first work of a task, as the scheduler would hand it out."""
    grant = LlmGrant(
        key_name="default", model="test-model", max_input_tokens=20_000, max_output_tokens=4_000, hold_usd=0.1
    )
    facts: dict[str, Any] = {
        "goal_id": "g",
        "task_id": "1",
        "epoch": 1,
        "lane": spec.lane,
        "spec": spec,
        "contract": Contract(objective="Learn the total", deliverables=["report"], constraints=["be brief"]),
        "llm": grant,
        "budget_left_usd": 0.5,
    }
    return Work(**facts | fields)


def text_ref(name: str, text: str, type: ArtifactType = ArtifactType.TEXT) -> ArtifactRef:
    """A small artifact."""
    return ArtifactRef.of_text(name, text, type)


def done_child(spec: TaskSpec, **outputs: str) -> ChildResult:
    """A child that succeeded with these texts (by name, `-` written as `_`)."""
    types = {out.name: out.type for out in spec.outputs}
    texts = {name.replace("_", "-") if name not in types else name: text for name, text in outputs.items()}
    refs = {name: text_ref(name, text, types[name]) for name, text in texts.items()}
    return ChildResult(key=spec.key, task_id=f"t-{spec.key}", status="succeeded", outputs=refs)


def dead_child(spec: TaskSpec, message: str, logs: str = "") -> ChildResult:
    """A child that is dead."""
    error = TaskError(code="program_failed", message=message, logs=logs)
    return ChildResult(key=spec.key, task_id=f"t-{spec.key}", status="dead", error=error)


class Lines:
    """Stands for the NATS connection of an attempt: keeps what it logs."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def publish(self, _: str, payload: bytes) -> None:
        """Keep a line."""
        self.lines.append(payload.decode())


@dataclass
class Play:
    """One task from its first work to its end."""

    agent: Agent
    artifacts: MemoryArtifacts = field(default_factory=MemoryArtifacts)
    child: Child | None = None
    reports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # task id → program report
    lines: Lines = field(default_factory=Lines)
    outcomes: list[Outcome] = field(default_factory=list)
    generations: list[list[TaskSpec]] = field(default_factory=list)

    async def step(self, work: Work) -> Outcome:
        """One try; the messages take the road over the wire."""
        work = parse_strict(Work, work.to_json())
        attempt = Attempt(work, self.lines, self.artifacts, self._query)  # type: ignore[arg-type]
        outcome = parse_strict(OUTCOME, (await self.agent.perform(work, attempt)).to_json())
        self.outcomes.append(outcome)
        return outcome

    async def to_end(self, work: Work, *, limit: int = 30) -> Outcome:
        """Turns until the task is no longer expanded."""
        for _ in range(limit):
            outcome = await self.step(work)
            if not isinstance(outcome, Expand):
                return outcome
            work = self.resumed(work, outcome)
        raise AssertionError(f"not ended after {limit} turns")

    def resumed(self, work: Work, outcome: Expand) -> Work:
        """The next work of an expanded task, after its children."""
        children = []
        if outcome.tasks:
            graph.compile_generation(
                outcome.tasks, [*work.spec.inputs, *outcome.artifacts]
            )  # the scheduler would refuse it
            self.generations.append(list(outcome.tasks))
            assert self.child is not None, "the task expanded, and nobody performs children"
            children = [self.child(spec) for spec in outcome.tasks]
        changes = {
            "epoch": work.epoch + 1,
            "turn": work.turn + 1,
            "continuation": outcome.continuation,
            "children": children,
        }
        return work.model_copy(update=changes)

    async def _query(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        assert what == "task"
        report = self.reports.get(str(body["task_id"]))
        return {"attempts": [{"epoch": 1, "program": dict(report)}] if report else []}


def output_text(outcome: Outcome, name: str) -> str:
    """The inline text of a delivered output."""
    assert outcome.kind == "done", outcome
    text = outcome.outputs[name].inline
    assert text is not None
    return text


def output_json(outcome: Outcome, name: str) -> Any:
    """The JSON of a delivered output."""
    return json.loads(output_text(outcome, name))
