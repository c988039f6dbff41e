"""How a server is asked: which form of structured output it knows, and how it names the output cap.

A server's dialect is learned from its refusals (HTTP 400 or 422) and from answers that do not keep to what was asked
for, never guessed from its name: each step down the ladder json_schema → json_object → forced tool → text is another
turn, because one Work is one call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from goalwright_shared.checks import check_output
from goalwright_shared.messages import ArtifactType, OutputSpec
from pydantic import BaseModel, ConfigDict

from goalwright_agent.core.answers import extract_json

Rung = Literal["json_schema", "json_object", "tool", "text"]
LADDER: tuple[Rung, ...] = ("json_schema", "json_object", "tool", "text")

CapField = Literal["max_tokens", "max_completion_tokens"]

_CAP_FIELDS = ("max_completion_tokens", "max_tokens")
_ABOUT_STRUCTURE = re.compile(
    r"response_format|json_schema|json_object|json mode|structured output|schema|grammar|guided"
    r"|tool_choice|\btools?\b|function call",
    re.I,
)
_NO_TOOLS = re.compile(
    r"\b(not|no|un\w*|unable|without)\b.*\btools?\b|\btools?\b.*(not|un)[ -]?(supported|recogni[sz]ed|permitted|known)"
    r"|auto-tool-choice|tool-call-parser|\btools?\b.*requires?\b.*--",
    re.I | re.S,
)
_TOO_LONG = re.compile(
    r"context_length_exceeded|context length|context window|context size|prompt is too long|too many tokens"
    r"|maximum context|reduce the length|input is too long|exceed(s|ed)? the (maximum|limit)[^.]*tokens",
    re.I,
)
_FILTERED = re.compile(
    r"content_filter|content management policy|content_policy|requires moderation|was flagged", re.I
)


class Dialect(BaseModel):
    """What is known about one (server, model)."""

    model_config = ConfigDict(frozen=True)

    rung: Rung = "json_schema"
    cap_field: CapField | None = None  # None: by the server's address
    effort: bool = True  # takes reasoning_effort
    tools: bool = True  # takes tools; else they are described in words

    def lower(self, other: Dialect) -> Dialect:
        """The humbler of two: what either has learned counts."""
        return Dialect(
            rung=max(self.rung, other.rung, key=LADDER.index),
            cap_field=self.cap_field or other.cap_field,
            effort=self.effort and other.effort,
            tools=self.tools and other.tools,
        )


class Schema(BaseModel):
    """A JSON Schema to be asked for, and the name it is asked under."""

    model_config = ConfigDict(frozen=True)

    name: str
    body: dict[str, Any]

    @property
    def is_object(self) -> bool:
        """Only objects can be asked for by the upper rungs."""
        return self.body.get("type") == "object" or "properties" in self.body


def schema_of(body: Mapping[str, Any], fallback_name: str) -> Schema:
    """The schema under its title (or `fallback_name`), in the letters servers take."""
    title = body.get("title")
    name = re.sub(r"[^A-Za-z0-9_-]", "_", title if isinstance(title, str) and title else fallback_name)[:64]
    return Schema(name=name, body=dict(body))


def is_strict(schema: Any) -> bool:
    """Whether servers that enforce the portable-strict subset take it: closed objects, every field required,
    no defaults, no free dicts, no mixes."""
    if not isinstance(schema, dict):
        return False
    if any(word in schema for word in ("default", "oneOf", "allOf", "not", "patternProperties")):
        return False
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required", ())) != set(properties):
            return False
        return all(is_strict(part) for part in properties.values())
    if schema.get("type") == "array":
        return is_strict(schema.get("items"))
    if "anyOf" in schema:
        return all(is_strict(part) for part in schema["anyOf"])
    return "type" in schema or "enum" in schema or "const" in schema or "$ref" in schema


def structure_parameters(schema: Schema | None, rung: Rung) -> dict[str, Any]:
    """The request parameters that ask for `schema` on `rung`."""
    if schema is None or not schema.is_object:
        return {}
    if rung == "json_schema":
        body = {"name": schema.name, "strict": is_strict(schema.body), "schema": schema.body}
        return {"response_format": {"type": "json_schema", "json_schema": body}}
    if rung == "json_object":
        return {"response_format": {"type": "json_object"}}
    if rung == "tool":
        function = {"name": schema.name, "description": "Give the answer.", "parameters": schema.body}
        return {
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": {"name": schema.name}},
        }
    return {}


_SHAPE = (
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "const",
    "anyOf",
    "$ref",
    "$defs",
)
"""What servers that enforce a schema enforce; bounds and patterns are left to our own checks by many."""


def _shape(schema: Any) -> Any:
    """The schema without what a server may rightly leave unenforced."""
    if not isinstance(schema, dict):
        return schema
    found = {key: part for key, part in schema.items() if key in _SHAPE}
    for key in ("properties", "$defs"):
        if isinstance(found.get(key), dict):
            found[key] = {name: _shape(part) for name, part in found[key].items()}
    if "items" in found:
        found["items"] = _shape(found["items"])
    if isinstance(found.get("anyOf"), list):
        found["anyOf"] = [_shape(part) for part in found["anyOf"]]
    return found


def keeps_form(answer: str, schema: Schema, rung: Rung) -> bool | None:
    """Whether an answer that ended by itself has the form that was asked for on `rung`: a server may take the
    parameter and ignore it. None: that cannot be told."""
    if rung == "text" or not schema.is_object:
        return None
    text = extract_json(answer, want_object=True)
    if rung != "json_schema" or text is None:
        return text is not None
    if not is_strict(schema.body):
        return None
    spec = OutputSpec(name="answer", type=ArtifactType.JSON, schema=_shape(schema.body))
    return all(found.passed for found in check_output(spec, text.encode("utf-8", "surrogatepass")))


def one_rung_down(dialect: Dialect) -> Dialect:
    """The dialect with the next humbler form of structured output; not for the last one."""
    return dialect.model_copy(update={"rung": LADDER[LADDER.index(dialect.rung) + 1]})


def default_cap_field(base_url: str) -> CapField:
    """OpenAI's own endpoints refuse `max_tokens` for reasoning models; most others know only that."""
    modern = re.match(r"https?://([^/]*\.)?(openai\.com|azure\.com)(:|/|$)", base_url)
    return "max_completion_tokens" if modern else "max_tokens"


def after_refusal(dialect: Dialect, message: str, parameters: Mapping[str, Any]) -> Dialect | None:
    """The dialect to try next when `parameters` were refused; None: the request itself is bad."""
    text = message.lower()
    if "reasoning_effort" in parameters and "reasoning" in text:
        return dialect.model_copy(update={"effort": False})
    used = next((field for field in _CAP_FIELDS if field in parameters), None)
    if used and used in text and dialect.cap_field is None:
        other = next(field for field in _CAP_FIELDS if field != used)
        return dialect.model_copy(update={"cap_field": other})
    structured = "response_format" in parameters or "tool_choice" in parameters
    if structured and _ABOUT_STRUCTURE.search(text):
        return one_rung_down(dialect)
    if "tools" in parameters and _NO_TOOLS.search(text):
        return dialect.model_copy(update={"tools": False})
    return None


def is_too_long(message: str) -> bool:
    """Whether a refusal says that the prompt does not fit the model."""
    return bool(_TOO_LONG.search(message))


def is_filtered(message: str) -> bool:
    """Whether a refusal is the provider's content filter."""
    return bool(_FILTERED.search(message))
