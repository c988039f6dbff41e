"""What a submission means: payload → submission, and the root task it becomes. Refuses with reasons."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from goalwright_shared import declarations
from goalwright_shared.errors import Refused
from goalwright_shared.graph import Compiled, GraphError, compile_generation, near_names
from goalwright_shared.messages import (
    BadMessage,
    Contract,
    Deliverable,
    GoalSubmission,
    OutputSpec,
    TaskSpec,
    parse_lenient,
)

_PARTS = {"exec": "program", "agent.ask": "prompt", "human": "question"}
"""Lanes whose tasks cannot be performed without their part of the spec."""

_TEXT_BYTES = 64 * 1024
"""A goal's text is part of every prompt, of events and of answers: what is longer is an input."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A submission, and the unknown fields that were ignored, as warnings."""

    submission: GoalSubmission
    warnings: tuple[str, ...]


def parse(payload: bytes) -> Parsed:
    """A JSON object, or plain text that is the goal itself. Raises `Refused`."""
    if not payload.strip():
        raise Refused(
            "empty_goal", "the goal is empty", field="text", hint="send its text, or JSON with a text"
        )
    try:
        if not payload.lstrip().startswith(b"{"):
            plain = _as_text(payload)
            _check_length(plain.text)
            return Parsed(plain, ())
        submission, ignored = parse_lenient(GoalSubmission, payload)
    except BadMessage as error:
        raise Refused(error.code, error.message, field=error.field, hint=_hint(error)) from error
    if not submission.text.strip() and submission.plan is None:
        raise Refused("empty_goal", "the goal is empty", field="text", hint="give a text, or a plan")
    _check_length(submission.text)
    names = [item.name for item in submission.inputs]
    for name in names:
        if names.count(name) > 1:
            raise Refused("duplicate_input", f"two inputs are named {name}", field="inputs")
    _check_schemas(submission)
    return Parsed(submission, tuple(f"unknown field {field} was ignored" for field in ignored))


def _check_length(text: str) -> None:
    size = len(text.encode("utf-8", "replace"))
    if size > _TEXT_BYTES:
        raise Refused(
            "text_too_long",
            f"the text of the goal has {size} bytes; at most {_TEXT_BYTES} are taken",
            field="text",
            hint="say the goal in short, and give the long part as an input",
        )


def _check_schemas(submission: GoalSubmission) -> None:
    """What nothing could be checked against is refused before anything is spent."""
    places: list[tuple[str, Deliverable | OutputSpec]] = [
        (f"deliverables.{number}", item) for number, item in enumerate(submission.deliverables)
    ]
    for number, task in enumerate(submission.plan.tasks if submission.plan else ()):
        places += [(f"plan.tasks.{number}.outputs.{at}", output) for at, output in enumerate(task.outputs)]
    for place, item in places:
        if (wrong := declarations.fault(item.type, item.name, item.schema_)) is not None:
            raise Refused(
                "bad_schema", f"the schema of {item.name} cannot be checked: {wrong}", field=f"{place}.schema",
                hint="docs/data.md says what a schema may be",
            )  # fmt: skip


def _as_text(payload: bytes) -> GoalSubmission:
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadMessage("not_utf8", f"the payload is not UTF-8: byte {error.start} is invalid") from error
    if "\0" in text:
        raise BadMessage("bad_text", "the text holds a NUL character")
    return GoalSubmission(text=text.strip())


def _hint(error: BadMessage) -> str:
    if error.code == "not_json":
        return "a payload that begins with { must be a JSON object; plain text is taken as the goal"
    if error.code == "not_utf8":
        return "encode the payload as UTF-8"
    return "docs/subjects.md lists every field"


def check_lanes(tasks: Collection[TaskSpec], lanes: Collection[str], at: str) -> None:
    """Every task's lane exists and has what it needs. Raises `Refused`."""
    for index, task in enumerate(tasks):
        if task.lane not in lanes:
            near = near_names(task.lane, lanes)
            hint = f"did you mean {', '.join(near)}?" if near else "`goalwright lane ls` lists the lanes"
            raise Refused(
                "unknown_lane",
                f"task {task.key} is for lane {task.lane}, which does not exist",
                field=f"{at}.{index}.lane",
                hint=hint,
            )
        part = _PARTS.get(task.lane)
        if part is not None and getattr(task, part) is None:
            raise Refused(
                "missing_part",
                f"task {task.key} is for lane {task.lane} and has no {part}",
                field=f"{at}.{index}.{part}",
            )


@dataclass(frozen=True, slots=True)
class Root:
    """The root task of a goal; with a plan also its compiled graph."""

    spec: TaskSpec
    contract: Contract
    deliverables: tuple[Deliverable, ...]
    plan: tuple[TaskSpec, ...] = ()
    compiled: Compiled | None = None


def root(submission: GoalSubmission, goal_text: str, inputs: list[str], lanes: Collection[str]) -> Root:
    """The root task a submission becomes. Raises `Refused` for a plan that does not compile.

    `inputs` are the names of all its inputs, those inherited from another goal included.
    """
    if submission.plan is None:
        deliverables = tuple(submission.deliverables)
        return Root(
            _root_spec(submission, inputs, deliverables), _contract(goal_text, deliverables), deliverables
        )
    tasks = tuple(submission.plan.tasks)
    check_lanes(tasks, lanes, "plan.tasks")
    try:
        compiled = compile_generation(tasks, inputs, [item.name for item in submission.deliverables])
    except GraphError as error:
        raise Refused(
            error.code, error.message, field=f"plan.{error.field}" if error.field else "plan", hint=error.hint
        ) from error
    deliverables = tuple(submission.deliverables) or _unconsumed(tasks, compiled)
    spec = _root_spec(submission, inputs, deliverables)
    return Root(spec, _contract(goal_text, deliverables), deliverables, tasks, compiled)


def _unconsumed(tasks: Collection[TaskSpec], compiled: Compiled) -> tuple[Deliverable, ...]:
    """Without declared deliverables, outputs that no task consumes are the deliverables."""
    free = set(compiled.unconsumed)
    return tuple(
        Deliverable(name=output.name, type=output.type, description=output.description, value=task.value)
        for task in tasks
        for output in task.outputs
        if output.name in free
    )


def _contract(text: str, deliverables: Collection[Deliverable]) -> Contract:
    return Contract(objective=text, deliverables=[item.name for item in deliverables])


def _root_spec(
    submission: GoalSubmission, inputs: list[str], deliverables: Collection[Deliverable]
) -> TaskSpec:
    return TaskSpec(
        key="goal",
        title=submission.text[:120],
        instruction=submission.text,
        lane="plan",
        inputs=inputs,
        outputs=outputs_of(deliverables),
        params={
            "goal": submission.text,
            "approve_plan": submission.approve_plan,
            "labels": dict(submission.labels),
            "deadline_seconds": submission.deadline_seconds,
            "deliverables": [item.model_dump(mode="json", by_alias=True) for item in submission.deliverables],
        },
    )


def outputs_of(deliverables: Collection[Deliverable]) -> list[OutputSpec]:
    """Deliverables as the declared outputs of the root task."""
    return [
        OutputSpec(name=item.name, type=item.type, description=item.description, schema=item.schema_)
        for item in deliverables
    ]


def values_of(deliverables: Collection[Deliverable]) -> Mapping[str, float]:
    """Value by deliverable name."""
    return {item.name: item.value for item in deliverables}
