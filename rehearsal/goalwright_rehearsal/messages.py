"""What a request says: its card, the schema it wants, and the turns that went before."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

LABEL = "Rehearsal, no intelligence"
"""Opens every text the rehearsal writes in its own name."""

Json = Any  # JSON that others wrote: looked at with care, never trusted


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool."""

    name: str
    arguments: dict[str, Json]


@dataclass(frozen=True)
class Reply:
    """What the model says: text, or calls of tools."""

    text: str | None = None
    calls: list[ToolCall] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """The JSON a request asks for: by response format, or as the arguments of one forced tool."""

    name: str
    schema: dict[str, Json]
    tool: str | None = None


@dataclass(frozen=True)
class Turn:
    """A tool call of an earlier turn and what came of it."""

    call: ToolCall
    result: dict[str, Json]


def content_of(message: dict[str, Json]) -> str:
    """The text of a message (content may be a list of parts)."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def card_of(messages: list[dict[str, Json]]) -> dict[str, Json] | None:
    """The JSON object after the last `## Card` line of the first user message that has one."""
    for message in messages:
        text = content_of(message)
        start = ("\n" + text).rfind("\n## Card")
        if message.get("role") != "user" or start < 0:
            continue
        brace = text.find("{", start)
        try:
            card, _ = json.JSONDecoder().raw_decode(text, brace)
        except ValueError:
            continue
        if isinstance(card, dict):
            return card
    return None


def wanted_of(request: dict[str, Json]) -> Wanted | None:
    """The schema a request asks for, or None; JSON without a schema asks for the empty one."""
    form = request.get("response_format") or {}
    if form.get("type") == "json_schema":
        body = form.get("json_schema") or {}
        return Wanted(str(body.get("name") or ""), body.get("schema") or {})
    forced = request.get("tool_choice")
    if isinstance(forced, dict):
        name = (forced.get("function") or {}).get("name")
        for tool in tools_of(request):
            if tool.get("name") == name:
                return Wanted(str(name), tool.get("parameters") or {}, tool=name)
    return Wanted("", {}) if form.get("type") == "json_object" else None


def tools_of(request: dict[str, Json]) -> list[dict[str, Json]]:
    """The functions a request offers."""
    return [tool.get("function") or {} for tool in request.get("tools") or []]


def turns_of(messages: list[dict[str, Json]]) -> list[Turn]:
    """The tool calls that were answered, in order."""
    calls: dict[str, ToolCall] = {}
    turns = []
    for message in messages:
        for call in message.get("tool_calls") or []:
            function = call.get("function") or {}
            calls[call.get("id")] = ToolCall(str(function.get("name")), _object(function.get("arguments")))
        if message.get("role") == "tool" and message.get("tool_call_id") in calls:
            turns.append(Turn(calls[message["tool_call_id"]], _object(content_of(message))))
    return turns


def _object(text: str | None) -> dict[str, Json]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {"text": text}
    return value if isinstance(value, dict) else {"value": value}
