"""The shape a chat completion request must have; what lies beside it is ignored, as providers do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from goalwright_rehearsal.messages import Json
from goalwright_rehearsal.wire import ApiError


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Function(_Part):
    name: str
    parameters: dict[str, Any] | None = None


class _Tool(_Part):
    function: _Function


class _CalledFunction(_Part):
    name: str
    arguments: str | None = None


class _Call(_Part):
    id: str
    function: _CalledFunction


class _Message(_Part):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _Named(_Part):
    name: str


class _Choice(_Part):
    function: _Named


class _Schema(_Part):
    name: str
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class _Format(_Part):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class ChatRequest(_Part):
    """What the rehearsal reads of a chat completion request."""

    model: str = Field(min_length=1)
    messages: list[_Message] = Field(min_length=1)
    tools: list[_Tool] | None = None
    tool_choice: str | _Choice | None = None
    response_format: _Format | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)


def check_chat(body: dict[str, Json]) -> None:
    """Refuse, by the name of the parameter, what is malformed and what the rehearsal cannot do."""
    if body.get("stream"):
        message = "the rehearsal model does not stream: send the request without stream"
        raise ApiError(400, "unsupported_value", message, "stream")
    if body.get("n") not in (None, 1):
        raise ApiError(400, "unsupported_value", "the rehearsal model gives one choice", "n")
    try:
        ChatRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
        raise ApiError(400, code, f"{place}: {first['msg']}", place) from error
