"""A model's answer, read with good will: wrong shapes become the nearest right ones, never an exception.

Servers exist that ignore a schema with HTTP 200, so nothing about an answer is taken for granted.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from goalwright_shared.messages import ArtifactType
from pydantic import JsonValue

_WORDS = {
    ArtifactType.TEXT: ["md", "markdown", "txt", "string", "str", "report", "html", "code"],
    ArtifactType.JSON: ["object", "dict", "list", "array", "number", "integer", "boolean", "value"],
    ArtifactType.TABLE: ["csv", "tsv", "parquet", "dataframe", "spreadsheet"],
    ArtifactType.DATASET: ["tables"],
    ArtifactType.DATABASE: ["sqlite", "db"],
    ArtifactType.FILE: ["image", "png", "svg", "pdf", "xlsx"],
    ArtifactType.FOLDER: ["directory", "dir", "files"],
}
_TYPES = {word: type for type, words in _WORDS.items() for word in [type.value, *words]}


_TASKS = ("tasks", "steps", "subtasks", "task_list", "nodes")
_INPUTS = ("inputs", "input", "needs", "requires", "reads", "consumes", "uses")
_OUTPUTS = ("outputs", "output", "produces", "creates", "writes", "artifacts")
_BEFORE = ("depends_on", "dependencies", "depends", "dependsOn")
_INSTRUCTIONS = ("instruction", "instructions", "description", "prompt", "details")
"""Words that models write for the fields of a plan, the right one first."""


class Unusable(ValueError):
    """An answer that cannot be mended; the message is for the model."""


@dataclass(slots=True)
class Named:
    """An output or a deliverable as the model wrote it."""

    name: str
    type: ArtifactType
    description: str = ""
    typed: bool = True  # the model has written the type


@dataclass(slots=True)
class Draft:
    """A task as the model wrote it; the compiler mends it step by step."""

    key: str
    title: str
    instruction: str
    lane: str
    inputs: list[str]
    outputs: list[Named]
    after: list[str]
    value: float
    tokens_in: int
    tokens_out: int
    seconds: float
    confidence: float
    max_failures: int
    on_dead: str


@dataclass(slots=True)
class Question:
    """Something the model would ask, with what it assumes unanswered."""

    text: str
    options: list[str]
    default: str


@dataclass(slots=True)
class PlanAnswer:
    """The answer `Plan`."""

    objective: str
    deliverables: list[Named]
    constraints: list[str]
    out_of_scope: list[str]
    assumptions: list[str]
    questions: list[Question]
    tasks: list[Draft]


@dataclass(slots=True)
class RevisionAnswer:
    """The answer `Revision`."""

    reason: str
    summary: str
    drop: list[tuple[str, str]] = field(default_factory=list)
    add: list[Draft] = field(default_factory=list)
    values: list[tuple[str, float]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.drop or self.add or self.values)


def read_json(text: str) -> JsonValue:
    """The JSON in an answer, or its text when it is none; only what JSON and Postgres can store."""
    try:
        return _storable(json.loads(text))
    except (ValueError, RecursionError):
        return _storable(text)


def read_plan(answer: object) -> PlanAnswer:
    """The plan in `answer`; raises Unusable when it is no object with tasks."""
    body = _body(answer, _TASKS, "plan")
    return PlanAnswer(
        objective=_text(_first(body, "objective", "goal")),
        deliverables=_named(body.get("deliverables")),
        constraints=_texts(body.get("constraints")),
        out_of_scope=_texts(body.get("out_of_scope")),
        assumptions=_texts(body.get("assumptions")),
        questions=[_question(item) for item in _items(body.get("questions"))],
        tasks=[_draft(item) for item in _items(_first(body, *_TASKS)) if isinstance(item, dict)],
    )


def read_revision(answer: object) -> RevisionAnswer:
    """The revision in `answer`; raises Unusable when it is no object."""
    body = _body(answer, ("add", "drop", "values"), "revision")
    return RevisionAnswer(
        reason=_text(body.get("reason")),
        summary=_text(body.get("summary")),
        drop=[_dropped(item) for item in _items(body.get("drop"))],
        add=[_draft(item) for item in _items(body.get("add")) if isinstance(item, dict)],
        values=[
            (_text(item.get("key")), _number(item.get("value"), 1.0))
            for item in _items(body.get("values"))
            if isinstance(item, dict)
        ],
    )


def artifact_type(text: str, name: str = "") -> ArtifactType:
    """The type a model meant: by its word, else by the file extension of the name, else text."""
    word = text.strip().lower()
    extension = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    return _TYPES.get(word) or _TYPES.get(extension) or ArtifactType.TEXT


def _storable(value: object) -> JsonValue:
    """Without NUL, lone surrogates, NaN and infinity."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {str(_storable(key)): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float) else None


def _body(answer: object, wanted: tuple[str, ...], wrapper: str) -> dict[str, Any]:
    """The answer's object, also when a model wrapped it (or its list) in a field of its own."""
    if isinstance(answer, dict) and not any(name in answer for name in wanted):
        inner = next((v for k, v in answer.items() if k.lower() == wrapper or len(answer) == 1), None)
        inner = {wanted[0]: inner} if isinstance(inner, list) else inner
        answer = inner if isinstance(inner, dict) else answer
    if not isinstance(answer, dict) or not any(name in answer for name in wanted):
        raise Unusable(f"unreadable: the answer must be one JSON object with the field {wanted[0]}")
    return answer


def _first(item: dict[str, Any], *names: str) -> Any:
    """The value under the first of these names that has one."""
    return next((item[name] for name in names if item.get(name) not in (None, "", [], {})), None)


def _draft(item: dict[str, Any]) -> Draft:
    inputs = _texts(_first(item, *_INPUTS))
    before = _texts(_first(item, *_BEFORE))  # of whom it needs the results, unless its inputs say so
    return Draft(
        key=_text(_first(item, "key", "id", "name", "task_id")),
        title=_text(_first(item, "title", "summary")),
        instruction=_text(_first(item, *_INSTRUCTIONS)),
        lane=_text(_first(item, "lane", "role", "agent", "assignee")),
        inputs=inputs or before,
        outputs=_named(_first(item, *_OUTPUTS)),
        after=_texts(item.get("after")) + (before if inputs else []),
        value=_within(_number(item.get("value"), 1.0), 0, 100),
        tokens_in=int(_within(_number(item.get("tokens_in"), 0), 0, 10_000_000)),
        tokens_out=int(_within(_number(item.get("tokens_out"), 0), 0, 10_000_000)),
        seconds=_within(_number(item.get("seconds"), 0), 0, 7 * 86400),
        confidence=_confidence(_number(item.get("confidence"), 1.0)),
        max_failures=int(_within(_number(item.get("max_failures"), 3) or 3, 1, 10)),
        on_dead=_text(item.get("on_dead")),
    )


def _named(value: object) -> list[Named]:
    found = []
    for item in _items(value):
        if isinstance(item, dict):
            name = _text(_first(item, "name", "key", "id", "title"))
            type = _text(item.get("type"))
            found.append(Named(name, artifact_type(type, name), _text(item.get("description")), bool(type)))
        elif _text(item):
            found.append(Named(_text(item), artifact_type("", _text(item)), typed=False))
    return found  # fmt: skip


def _question(item: object) -> Question:
    if not isinstance(item, dict):
        return Question(_text(item), [], "")
    return Question(_text(item.get("text")), _texts(item.get("options")), _text(item.get("default")))


def _dropped(item: object) -> tuple[str, str]:
    if isinstance(item, dict):
        return _text(item.get("key")), _text(item.get("reason"))
    return _text(item), ""


def _items(value: object) -> list[Any]:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = read_json(value)  # JSON inside a string
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
        return [{"key": key, "name": key, **inner} for key, inner in value.items()]  # keyed instead of listed
    return [] if value in (None, "", {}) else [value]


def _texts(value: object) -> list[str]:
    texts = (_text(item.get("name") if isinstance(item, dict) else item) for item in _items(value))
    return [text for text in texts if text]


def _text(value: object) -> str:
    if value is None or isinstance(value, bool | dict | list):
        return ""
    return str(value).replace("\0", "").encode("utf-8", "replace").decode().strip()


def _number(value: object, default: float) -> float:
    if isinstance(value, bool):
        return default
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever it is, it is a number or it raises
    except (TypeError, ValueError, OverflowError):
        return default
    return number if math.isfinite(number) else default


def _within(number: float, low: float, high: float) -> float:
    return min(max(number, low), high)


def _confidence(number: float) -> float:
    return _within(number / 100 if number > 1 else number, 0, 1)  # 80 means 80 %
