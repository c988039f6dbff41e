"""Every message between clients and services, as frozen pydantic models.

Messages are the API. Times are RFC 3339 UTC, durations are seconds, money is US dollars with at most six
decimals on the wire (integer micro-dollars in Postgres). Parsing is strict: a wrong type is an error that
names the field. Clients and custom performers may send unknown fields (`parse_lenient` reports them as
warnings); between our own services an unknown field is an error (`parse_strict`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

SCHEMA_VERSION = 1

INLINE_BYTES = 8 * 1024
"""Artifacts up to this many bytes travel inside messages; larger ones are objects."""

BODY_BYTES = 512 * 1024
"""Messages above this many bytes travel as an artifact, named by `body_ref`."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
GoalId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
LaneName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*(\.[A-Za-z0-9_-]+)*$", max_length=128)]
Owner = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Usd = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Value = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Message(BaseModel):
    """Base of all messages: frozen, strict types, unknown fields refused (see `parse_lenient`)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", ser_json_inf_nan="null")

    def to_json(self) -> bytes:
        """UTF-8 JSON; fields at their default are kept, so that a reader sees the whole shape."""
        return self.model_dump_json(by_alias=True).encode()


# --- artifacts -----------------------------------------------------------------------------------------


class ArtifactType(StrEnum):
    """What a named value is; decides which checks the collector runs."""

    TEXT = "text"
    JSON = "json"
    TABLE = "table"  # CSV or Parquet
    DATASET = "dataset"  # several tables
    DATABASE = "database"  # a SQLite file
    FILE = "file"
    FOLDER = "folder"  # carried as a tar


Typed = Annotated[ArtifactType, Field(strict=False)]


class ArtifactRef(Message):
    """A named, typed, content-addressed value: `inline` text (≤ 8 KiB) or `object` in bucket ARTIFACTS."""

    name: str
    type: Typed
    media_type: str = "application/octet-stream"
    size: Count
    sha256: str
    inline: str | None = None
    object: str | None = None
    private: bool = True  # false: fetched from outside, or made without anything that is private

    @model_validator(mode="after")
    def _has_one_body(self) -> Self:
        if (self.inline is None) == (self.object is None):
            raise ValueError("an artifact has exactly one of inline and object")
        return self

    @classmethod
    def of_text(
        cls, name: str, text: str, type: ArtifactType = ArtifactType.TEXT, media_type: str | None = None
    ) -> ArtifactRef:
        """An inline artifact; raises ValueError above `INLINE_BYTES`."""
        body = text.encode()
        if len(body) > INLINE_BYTES:
            raise ValueError(f"{len(body)} bytes do not fit inline ({INLINE_BYTES})")
        default = "application/json" if type is ArtifactType.JSON else "text/plain"
        return cls(
            name=name,
            type=type,
            media_type=media_type or default,
            size=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            inline=text,
        )


class OutputSpec(Message):
    """A declared output of a task: `schema` is JSON Schema for json, the table form for tables."""

    name: Name
    type: Typed = ArtifactType.TEXT
    description: str = ""
    schema_: dict[str, JsonValue] | None = Field(default=None, alias="schema")


# --- tasks ---------------------------------------------------------------------------------------------


class SchemaCheck(Message):
    """The output matches its declared schema (implied for every output that has one)."""

    kind: Literal["schema"] = "schema"


class RowsCheck(Message):
    """A table has between `min` and `max` rows (header not counted)."""

    kind: Literal["rows"] = "rows"
    min: Count | None = None
    max: Count | None = None
    output: Name | None = None


class RegexCheck(Message):
    """The text of an output contains a match of `pattern` (RE syntax of Python)."""

    kind: Literal["regex"] = "regex"
    pattern: str
    output: Name | None = None


class ProgramSpec(Message):
    """A program for the executor: `source` text or the name of an `artifact` that holds it."""

    language: Literal["python", "shell"] = "python"
    source: str | None = None
    artifact: Name | None = None
    args: list[str] = Field(default_factory=list)
    stdin: str | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.source is None) == (self.artifact is None):
            raise ValueError("a program has exactly one of source and artifact")
        return self


class ProgramCheck(Message):
    """A program that sees the task's outputs as `in/<name>` and exits 0 when they are acceptable."""

    kind: Literal["program"] = "program"
    program: ProgramSpec


class RubricCheck(Message):
    """A judge reads the outputs against `text`."""

    kind: Literal["rubric"] = "rubric"
    text: str


Check = Annotated[
    SchemaCheck | RowsCheck | RegexCheck | ProgramCheck | RubricCheck, Field(discriminator="kind")
]


class Effort(Message):
    """The estimate of one try, before calibration."""

    tokens_in: Count = 0
    tokens_out: Count = 0
    seconds: Seconds = 0


class ChatMessage(Message):
    """One message of a prompt, in the form of chat completions."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[dict[str, JsonValue]] | None = None
    tool_call_id: str | None = None


class PromptSpec(Message):
    """Lane `agent.ask`: a given prompt; the answer goes to the task's one declared output."""

    messages: list[ChatMessage]
    schema_: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    tools: list[dict[str, JsonValue]] | None = None
    max_output_tokens: Count | None = None


def _inline(text: str) -> str:
    if len(text.encode("utf-8", "replace")) > INLINE_BYTES:
        raise ValueError(f"it may have {INLINE_BYTES} bytes")
    return text


class QuestionSpec(Message):
    """Lane `human`: a question; unanswered in time, `default` is taken, else the task fails."""

    text: str
    options: list[str] = Field(default_factory=list)
    default: Annotated[str, AfterValidator(_inline)] | None = None
    timeout_seconds: Seconds | None = None


class Asked(Message):
    """Who has asked for a task: agents set it on the questions that they put to other roles."""

    by: Name  # the key of the asking task
    roles: list[str]  # the roles that the question has passed, the first asker's first

    @property
    def hops(self) -> int:
        """How often it has been asked on: 1 for a first question."""
        return len(self.roles)


class TaskSpec(Message):
    """One task of a graph, as planners, performers and clients write it."""

    key: Name
    title: str = ""
    instruction: str = ""
    lane: LaneName
    inputs: list[Name] = Field(default_factory=list)
    outputs: list[OutputSpec] = Field(default_factory=list)
    after: list[Name] = Field(default_factory=list)
    value: Value = 1.0
    effort: Effort = Effort()
    confidence: Annotated[float, Field(ge=0, le=1)] = 1.0
    acceptance: list[Check] = Field(default_factory=list)
    max_failures: Annotated[int, Field(ge=1, le=100)] = 3
    max_turns: Annotated[int, Field(ge=1, le=1000)] = 24
    timeout_seconds: Seconds | None = None
    on_dead: Literal["skip", "fail_goal", "replan"] = "skip"
    effects: Literal["none", "idempotent", "external"] = "none"
    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    program: ProgramSpec | None = None
    prompt: PromptSpec | None = None
    question: QuestionSpec | None = None
    params: JsonValue = None
    asked: Asked | None = None


class Contract(Message):
    """What a goal is about, agreed before work starts."""

    objective: str
    deliverables: list[Name] = Field(default_factory=list)
    constraints: list[str] = Field(default_factory=list)
    out_of_scope: list[str] = Field(default_factory=list)
    assumptions: list[str] = Field(default_factory=list)
    questions: list[QuestionSpec] = Field(default_factory=list)


# --- goals ---------------------------------------------------------------------------------------------


class GoalInput(Message):
    """A value the client brings: `inline` text, or the name of an `object` already put in ARTIFACTS."""

    name: Name
    type: Typed = ArtifactType.FILE
    media_type: str | None = None
    inline: str | None = None
    object: str | None = None

    @model_validator(mode="after")
    def _has_one_body(self) -> Self:
        if (self.inline is None) == (self.object is None):
            raise ValueError("an input has exactly one of inline and object")
        return self


class Deliverable(Message):
    """Something the goal must hand back."""

    name: Name
    type: Typed = ArtifactType.FILE
    description: str = ""
    schema_: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    acceptance: list[Check] = Field(default_factory=list)
    value: Value = 1.0


class SubmittedPlan(Message):
    """A ready-made graph: no planning call is made for it."""

    tasks: list[TaskSpec] = Field(min_length=1)


class GoalSubmission(Message):
    """What a client publishes on `goals.submit` (plain text is taken as `text`)."""

    schema_version: Literal[1] = 1
    text: str = ""
    id: GoalId | None = None
    inputs: list[GoalInput] = Field(default_factory=list)
    deliverables: list[Deliverable] = Field(default_factory=list)
    budget_usd: Usd | None = None
    deadline_seconds: Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False)] | None = None
    value: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    approve_plan: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    from_goal: GoalId | None = None
    plan: SubmittedPlan | None = None


class GoalAnswer(Message):
    """The answer of `goals.request`, sent after the commit."""

    goal_id: str
    status: str
    duplicate: bool
    warnings: list[str] = Field(default_factory=list)


class ErrorBody(Message):
    """What was wrong, where, and what to do."""

    code: str
    message: str
    field: str | None = None
    hint: str | None = None


class ErrorAnswer(Message):
    """The answer to anything that was refused."""

    error: ErrorBody


# --- work and outcomes ---------------------------------------------------------------------------------


class TaskError(Message):
    """Why a try failed. `code` is the failure class."""

    code: str
    message: str
    retryable: bool = False
    too_big: bool = False
    logs: str | None = None


class ChildResult(Message):
    """One task of the generation that has ended, as its resumed parent sees it."""

    key: str
    task_id: str
    status: str
    outputs: dict[str, ArtifactRef] = Field(default_factory=dict)
    error: TaskError | None = None
    summary: str = ""


class LlmGrant(Message):
    """The one model call that a `Work` on an LLM lane pays for."""

    provider: str = "openai"
    key_name: str
    model: str
    max_input_tokens: Count
    max_output_tokens: Count
    hold_usd: Usd
    reasoning_effort: str | None = None


class LaneInfo(Message):
    """A lane as planners and performers see it."""

    name: str
    description: str = ""


class Note(Message):
    """A line on a goal's blackboard; `pinned` ones come from the reflector or a person. `number` grows with each
    note; `key` is the task that posted it, on lane `author`."""

    number: Count = 0
    text: str
    author: str = ""
    key: str | None = None
    pinned: bool = False


class Work(Message):
    """One try of one task, handed to a performer. On an LLM lane it pays for exactly one model call."""

    schema_version: Literal[1] = 1
    goal_id: str
    owner: str = "public"
    task_id: str
    epoch: int
    turn: int = 0
    depth: int = 0
    lane: str
    spec: TaskSpec
    contract: Contract | None = None
    inputs: dict[str, ArtifactRef] = Field(default_factory=dict)
    children: list[ChildResult] = Field(default_factory=list)
    continuation: JsonValue = None
    budget_left_usd: float = 0
    deadline: datetime | None = None
    lease_seconds: Seconds = 60
    llm: LlmGrant | None = None
    lanes: list[LaneInfo] = Field(default_factory=list)
    notes: list[Note] = Field(default_factory=list)
    attempt_errors: list[TaskError] = Field(default_factory=list)
    prompt_variant: str | None = None
    ancestor_hashes: list[str] = Field(default_factory=list)


class Usage(Message):
    """What the provider says a call used (estimates are never sent here)."""

    model: str
    tokens_in: Count
    tokens_cached: Count = 0
    tokens_out: Count
    seconds: Seconds = 0


class CallRecord(Message):
    """Prompt and reply of one model call, kept as artifacts."""

    prompt: ArtifactRef | None = None
    reply: ArtifactRef | None = None
    finish_reason: str | None = None
    request_id: str | None = None


class RateSeen(Message):
    """Limits read in a provider's headers."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None


class ProgramRun(Message):
    """What a program did, told by the sandbox that ran it."""

    exit_code: int | None = None
    signal: int | None = None
    limit: str | None = None
    wall_seconds: Seconds = 0
    cpu_seconds: Seconds = 0
    peak_memory_bytes: Count = 0
    stdout: str = ""
    stderr: str = ""
    sandbox: str = ""
    lacks: list[str] = Field(
        default_factory=list, description="what that sandbox does not bound on its machine"
    )
    dropped: list[str] = Field(
        default_factory=list, description="what the program printed or left that nobody keeps, in words"
    )


class CheckResult(Message):
    """One acceptance check, with what was seen."""

    check: str
    passed: bool
    evidence: str = ""


class Pruned(Message):
    """A task the planner left out, and why."""

    key: str
    reason: str


class _Outcome(Message):
    schema_version: Literal[1] = 1
    goal_id: str
    task_id: str
    epoch: int
    usage: Usage | None = None
    call: CallRecord | None = None
    program: ProgramRun | None = None
    rate: RateSeen | None = None
    notes: list[str] = Field(default_factory=list)
    worker: str | None = None


class Done(_Outcome):
    """The declared outputs, each checked against its type and acceptance."""

    kind: Literal["done"] = "done"
    outputs: dict[str, ArtifactRef] = Field(default_factory=dict)
    summary: str = ""
    checks: list[CheckResult] = Field(default_factory=list)


class Expand(_Outcome):
    """First do these tasks. With a `continuation` the task comes back with their results; without one the
    children produce the parent's outputs. No tasks and a continuation: another turn, please. `artifacts` are values
    of earlier turns that these tasks may read by name, beside the parent's inputs."""

    kind: Literal["expand"] = "expand"
    tasks: list[TaskSpec] = Field(default_factory=list)
    artifacts: dict[Name, ArtifactRef] = Field(default_factory=dict)
    continuation: JsonValue = None
    contract: Contract | None = None
    deliverables: list[Deliverable] = Field(default_factory=list)
    pruned: list[Pruned] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if not self.tasks and self.continuation is None:
            raise ValueError("an expand needs tasks, a continuation, or both")
        return self


class AddTask(Message):
    """Add a task to the target's generation."""

    op: Literal["add"] = "add"
    task: TaskSpec


class DropTask(Message):
    """Drop a task; a dispatched one is cancelled and its bill settles."""

    op: Literal["drop"] = "drop"
    key: Name
    reason: str = ""


class EstimateTask(Message):
    """Correct an estimate."""

    op: Literal["estimate"] = "estimate"
    key: Name
    effort: Effort


class MoveTask(Message):
    """Give a task to another role."""

    op: Literal["role"] = "role"
    key: Name
    lane: LaneName


class ValueTask(Message):
    """Set a task's value."""

    op: Literal["value"] = "value"
    key: Name
    value: Value


Operation = Annotated[AddTask | DropTask | EstimateTask | MoveTask | ValueTask, Field(discriminator="op")]


class Revise(_Outcome):
    """A change to an earlier expansion (a replan), against a named target, generation and revision."""

    kind: Literal["revise"] = "revise"
    target_task_id: str
    generation: int
    base_revision: int
    operations: list[Operation]
    summary: str = ""


class Failed(_Outcome):
    """This try failed. Retryable failures count towards `max_failures`; others end the task."""

    kind: Literal["failed"] = "failed"
    error: TaskError


class Throttled(_Outcome):
    """Cannot now: not a failure, try again after a time (0 hands the work back)."""

    kind: Literal["throttled"] = "throttled"
    retry_after_seconds: Seconds = 0
    reason: str | None = None


Outcome = Done | Expand | Revise | Failed | Throttled
OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Annotated[Outcome, Field(discriminator="kind")])
_OUTCOMES: TypeAdapter[list[Outcome]] = TypeAdapter(list[Annotated[Outcome, Field(discriminator="kind")]])


class BodyRef(Message):
    """Stands for a message over 512 KiB: `body_ref` is an ArtifactRef to its whole JSON."""

    body_ref: ArtifactRef


class Alive(Message):
    """A performer's presence: the tasks it holds, as (task_id, epoch) pairs."""

    worker: str
    slots: Count = 1
    tasks: list[tuple[str, int]] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _pairs(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("tasks"), list):
            pairs = [tuple(pair) if isinstance(pair, list) else pair for pair in data["tasks"]]
            data = {**data, "tasks": pairs}
        return data


class Event(Message):
    """One fact about a goal; `seq` is gapless per goal."""

    event_id: str
    seq: int
    goal_id: str
    owner: str
    kind: str
    task_id: str | None = None
    at: datetime
    data: dict[str, JsonValue] = Field(default_factory=dict)


# --- lanes ---------------------------------------------------------------------------------------------


class Lane(Message):
    """A row of the `lane` table: who performs, what it may do, what it may spend."""

    name: LaneName
    description: str = ""
    performer: Literal["service", "human", "custom"] = "service"
    pool: str | None = None  # "<key name>/<model>" on LLM lanes
    max_input_tokens: Count = 0
    max_output_tokens: Count = 0
    input_usd_per_mtok: Annotated[float, Field(ge=0)] = 0
    output_usd_per_mtok: Annotated[float, Field(ge=0)] = 0
    lease_seconds: Annotated[float, Field(gt=0)] = 60
    look_ahead: Count = 0
    may: list[Literal["done", "expand", "revise", "failed", "throttled"]] = ["done", "failed", "throttled"]
    child_lanes: list[str] = []  # exact names, or a prefix with a trailing "*"
    tools: list[str] = Field(default_factory=list)
    libraries: list[str] = Field(default_factory=list)
    plannable: bool = False  # offered to planners as a lane for tasks


class PoolLimit(Message):
    """The provider's limits of one pool; None means unlimited."""

    pool: str
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None


# --- parsing -------------------------------------------------------------------------------------------

M = TypeVar("M")


class BadMessage(ValueError):
    """A message that does not parse: `code`, `field` and `message` say what and where."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


def _adapter(model: type[M] | TypeAdapter[M]) -> TypeAdapter[M]:
    return model if isinstance(model, TypeAdapter) else _adapter_of(model)  # type: ignore[arg-type]  # classes are hashable


@functools.cache
def _adapter_of(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _json(payload: bytes | str) -> JsonValue:
    try:
        text = payload.decode("utf-8") if isinstance(payload, bytes) else payload
    except UnicodeDecodeError as error:
        raise BadMessage("not_utf8", f"the payload is not UTF-8: byte {error.start} is invalid") from error
    try:
        value: JsonValue = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadMessage("not_json", f"the payload is not JSON: {error}") from error
    return value


_ESCAPES = (b"\\u0000", b"\\ud", b"\\uD")
"""How a text in JSON may come to hold what no database keeps and no UTF-8 says: NUL, and half of a pair."""


def _refuse_unstorable(payload: bytes | str) -> None:
    """Raises `BadMessage` that names the first text which cannot be stored."""
    data = payload.encode("utf-8", "surrogatepass") if isinstance(payload, str) else payload
    if not any(escape in data for escape in _ESCAPES):
        return
    left: list[tuple[str, JsonValue]] = [("", _json(payload))]
    while left:
        path, value = left.pop()
        if isinstance(value, str) and "\0" in value:
            raise BadMessage("bad_text", f"{path or 'the payload'} holds a NUL character", path or None)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise BadMessage(
                "not_utf8", f"{path or 'the payload'} holds half of a surrogate pair", path or None
            )
        if isinstance(value, dict):
            left += [(f"{path}.{name}".lstrip("."), part) for name, part in value.items()]
            left += [(path, name) for name in value]
        elif isinstance(value, list):
            left += [(f"{path}.{at}".lstrip("."), part) for at, part in enumerate(value)]


def _steps(error: Any, data: JsonValue) -> list[str | int]:
    """Where in `data` a validation error is, without pydantic's union tags."""
    at: Any = data
    steps: list[str | int] = []
    for step in error["loc"]:
        in_list = isinstance(at, list) and isinstance(step, int) and step < len(at)
        if in_list or (isinstance(at, dict) and step in at):
            steps.append(step)
            at = at[step]
        elif step == error["loc"][-1] and error["type"] == "missing":
            steps.append(step)
    return steps


def _path(error: Any, data: JsonValue) -> str:
    return ".".join(str(step) for step in _steps(error, data))


def _refusal(error: ValidationError, data: JsonValue) -> BadMessage:
    first = error.errors(include_url=False, include_context=False)[0]
    field = _path(first, data) or None
    message = first["msg"].removeprefix("Value error, ")
    where = f"{field}: " if field else ""
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return BadMessage("bad_field" if field else "bad_message", f"{where}{message}{more}", field)


def _validate(adapter: TypeAdapter[M], data: JsonValue) -> M:
    """Validate in JSON mode, so that strictness does not refuse JSON's own forms of times and enums."""
    try:
        body = json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:  # a lone surrogate, escaped in the JSON
        raise BadMessage("not_utf8", f"a string holds an invalid character: {error.reason}") from error
    return adapter.validate_json(body)


def parse_strict(model: type[M] | TypeAdapter[M], payload: bytes | str) -> M:
    """Parse a message of our own services; raises `BadMessage` on anything unknown or wrong."""
    try:
        return _adapter(model).validate_json(payload)
    except ValidationError as error:
        raise _refusal(error, _json(payload)) from error


def parse_lenient(model: type[M] | TypeAdapter[M], payload: bytes | str) -> tuple[M, list[str]]:
    """Parse a message of a client or a custom performer.

    Returns the message and the dotted paths of unknown fields, which were dropped. Raises `BadMessage`.
    """
    _refuse_unstorable(payload)
    with contextlib.suppress(ValidationError):  # the most are right: read once
        return _adapter(model).validate_json(payload), []
    return parse_lenient_value(model, _json(payload))


def parse_lenient_value(model: type[M] | TypeAdapter[M], data: JsonValue) -> tuple[M, list[str]]:
    """As `parse_lenient`, on JSON that was already read."""
    adapter = _adapter(model)
    ignored: list[str] = []
    while True:
        try:
            return _validate(adapter, data), ignored
        except ValidationError as error:
            extras = [e for e in error.errors(include_url=False) if e["type"] == "extra_forbidden"]
            if not extras:
                raise _refusal(error, data) from error
            for extra in extras:
                steps = _steps(extra, data)
                ignored.append(".".join(str(step) for step in steps))
                holder: Any = data
                for step in steps[:-1]:
                    holder = holder[step]
                del holder[steps[-1]]


def read_json(payload: bytes, *, storable: bool = True) -> JsonValue:
    """JSON of a payload; raises `BadMessage` (`not_utf8`, `not_json`; `bad_text` unless it need not be `storable`)."""
    if storable:
        _refuse_unstorable(payload)
    return _json(payload)


def parse_outcomes(payload: bytes, *, trusted: bool) -> tuple[list[Outcome], list[str]]:
    """The outcomes of one message (one object or an array); unknown fields are errors when `trusted`."""
    _refuse_unstorable(payload)
    with contextlib.suppress(ValidationError):  # the most are right: read once
        if payload[:1] == b"[":
            return _OUTCOMES.validate_json(payload), []
        return [OUTCOME.validate_json(payload)], []
    data = _json(payload)
    items = data if isinstance(data, list) else [data]
    found: list[Outcome] = []
    ignored: list[str] = []
    for item in items:
        if trusted:
            try:
                found.append(_validate(OUTCOME, item))
            except ValidationError as error:
                raise _refusal(error, item) from error
        else:
            outcome, dropped = parse_lenient_value(OUTCOME, item)
            found.append(outcome)
            ignored += dropped
    return found, ignored
