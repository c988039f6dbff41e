"""Writes docs/subjects.md from the code, so that the page cannot drift; `--check` only compares.

The subjects come from `goalwright_shared.subjects`, the streams from `goalwright_shared.topology`, the fields
from the message models.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from goalwright_shared import messages, subjects, topology
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

PAGE = Path(__file__).parent / "subjects.md"

PAYLOADS: dict[str, tuple[str, str]] = {
    "submit": ("any client → scheduler", "GoalSubmission, or plain text"),
    "request": ("any client → scheduler", "GoalSubmission; answered GoalAnswer or ErrorAnswer"),
    "control": ("clients, reflector → scheduler", "request/reply, JSON"),
    "query": ("any client → scheduler", "request/reply, JSON, read only"),
    "work": ("scheduler → performers", "Work"),
    "outcomes": ("performers → scheduler", "Done, Expand, Revise, Failed or Throttled; one or an array"),
    "alive": ("performers → scheduler", "Alive"),
    "cancel": ("scheduler → performers", "empty"),
    "event": ("scheduler → clients, reflector", "Event"),
    "events_of": ("", "a subscription"),
    "logs": ("agent, executor → clients", "a line of text"),
    "dead": ("any service → operator", "what could not be handled, with the reason"),
}

WHOLE_MESSAGES: tuple[type[BaseModel], ...] = (
    messages.GoalSubmission, messages.GoalAnswer, messages.ErrorAnswer, messages.Work, messages.Done,
    messages.Expand, messages.Revise, messages.Failed, messages.Throttled, messages.Event, messages.Alive,
    messages.BodyRef, messages.Lane,
)  # fmt: skip


def page() -> str:
    """The whole page."""
    return "\n".join([*_head(), *_subjects(), *_streams(), *_messages()]) + "\n"


def _head() -> Iterator[str]:
    yield "# Subjects, streams and messages"
    yield ""
    yield "Generated from `shared/goalwright_shared` by `make docs`; do not edit. Words are explained in the"
    yield "[glossary](glossary.md), the way of a goal in [architecture](architecture.md)."
    yield ""


def _subjects() -> Iterator[str]:
    yield "## Subjects"
    yield ""
    yield "`[.<owner>]` may be left out: the bare form belongs to the default owner"
    yield f"`{subjects.DEFAULT_OWNER}` and to the operator."
    yield ""
    yield "| subject | what | from → to | payload |"
    yield "|---|---|---|---|"
    for name, (direction, payload) in PAYLOADS.items():
        build = cast("Callable[..., str]", getattr(subjects, name))
        yield f"| `{_example(build)}` | {_first_line(build)} | {direction} | {payload} |"
    yield ""
    yield f"Control verbs: {_codes(subjects.CONTROL_VERBS)}."
    yield ""
    yield f"Queries: {_codes(subjects.QUERIES)}."
    yield ""


def _example(build: Callable[..., str]) -> str:
    parameters = inspect.signature(build).parameters.values()
    optional_owner = any(p.name == "owner" and p.default is None for p in parameters)
    given = {p.name: f"<{p.name}>" for p in parameters if not (p.name == "owner" and p.default is None)}
    return build(**given) + ("[.<owner>]" if optional_owner else "")


def _streams() -> Iterator[str]:
    yield "## Streams"
    yield ""
    yield "`goalwright topology apply` creates them; services only check that they are there."
    yield ""
    yield "| stream | subjects | retention | storage | oldest |"
    yield "|---|---|---|---|---|"
    for stream in topology.streams():
        age = f"{stream.max_age / 86_400:.0f} days" if stream.max_age else "until handled"
        captured = "<br>".join(f"`{subject}`" for subject in stream.subjects or [])
        retention = str(stream.retention.value).replace("workqueue", "work queue") if stream.retention else ""
        yield f"| {stream.name} | {captured} | {retention} | {_storage(stream)} | {age} |"
    yield ""
    lane = topology.lane_consumer("custom.<name>")
    yield f"Artifacts are objects of bucket `{subjects.ARTIFACTS}`, each named by the hex SHA-256 of its"
    yield f"content. A performer pulls from its lane's durable consumer of stream {subjects.WORK}:"
    yield f"`{lane.durable_name}` for lane `custom.<name>` (dots become dashes), filtered on"
    yield f"`{lane.filter_subject}`, explicit acks, {lane.ack_wait:.0f} s to ack or to report progress."
    yield ""


def _storage(stream: Any) -> str:
    return str(stream.storage.value) if stream.storage else ""


def _messages() -> Iterator[str]:
    _, whole = models_json_schema([(model, "validation") for model in WHOLE_MESSAGES], by_alias=True)
    definitions: dict[str, dict[str, Any]] = whole["$defs"]
    first = [model.__name__ for model in WHOLE_MESSAGES]
    yield "## Messages"
    yield ""
    yield f"JSON, `schema_version` {messages.SCHEMA_VERSION}. Durations are seconds, money is US dollars,"
    yield f"times are RFC 3339 UTC. A message over {messages.BODY_BYTES // 1024} KiB travels as a BodyRef."
    yield "Unknown fields of clients and custom performers are ignored with a warning; a wrong type is"
    yield "refused and named."
    yield ""
    for name in first:
        yield from _message(name, definitions[name])
    yield "## Parts of messages"
    yield ""
    for name in sorted(set(definitions) - set(first)):
        if "properties" in definitions[name]:
            yield from _message(name, definitions[name])


def _message(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    yield " ".join(str(schema.get("description", "")).split())
    yield ""
    yield "| field | type | default |"
    yield "|---|---|---|"
    required = set(schema.get("required", []))
    for field, about in schema["properties"].items():
        default = "**required**" if field in required else f"`{_default(about)}`"
        yield f"| `{field}` | {_type(about)} | {default} |"
    yield ""


def _default(schema: dict[str, Any]) -> str:
    empty: dict[str, object] = {
        "array": [],
        "object": {},
    }  # a schema does not tell what a factory makes; ours make empty ones
    text = json.dumps(schema.get("default", empty.get(schema.get("type", ""))))
    return text if len(text) <= 60 else "see there"


def _type(schema: dict[str, Any]) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return _reference(name)
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return " or ".join(_type(option) for option in schema[choice])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return _codes(schema["enum"])
    return _plain_type(schema)


def _reference(name: str) -> str:
    if name == "JsonValue":
        return "any JSON"
    if name == "ArtifactType":
        return _codes([each.value for each in messages.ArtifactType])
    return f"[{name}](#{name.lower()})"


def _plain_type(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if kind == "array":
        inside = schema.get("items") or {"anyOf": schema.get("prefixItems", [])}
        return f"list of {_type(inside)}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) else "object"
    if kind is None:
        return "any JSON"
    limits = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "maxLength": "length ≤"}
    bounds = [f"{sign} {_number(schema[key])}" for key, sign in limits.items() if key in schema]
    if "pattern" in schema:
        bounds.append("matches `" + schema["pattern"].replace("|", "\\|") + "`")
    if "format" in schema:
        bounds.append(schema["format"])
    return " ".join([str(kind), *bounds])


def _number(value: float) -> str:
    """Plain digits: 9007199254740992 and 0.5, never 9e+15."""
    return str(int(value)) if value == int(value) else str(value)


def _codes(names: Any) -> str:
    return " ".join(f"`{name}`" for name in names)


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n", maxsplit=1)[0].rstrip(".")


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` say whether it is current."""
    wanted = page()
    if arguments == ["--check"]:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted
        if not current:
            sys.stderr.write(f"{PAGE} is not what the code says: run `make docs`\n")
        return 0 if current else 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
