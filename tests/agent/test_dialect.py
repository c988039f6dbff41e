"""How a server is asked, before and after its refusals."""

from __future__ import annotations

from typing import Any

import pytest
from goalwright_agent.core.dialect import Dialect, after_refusal, default_cap_field, is_strict, schema_of


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://team.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("http://127.0.0.1:11434/v1", "max_tokens"),
        ("https://openai.com.example.org/v1", "max_tokens"),
        ("https://api.mistral.ai/v1", "max_tokens"),
    ],
)
def test_name_of_the_output_cap_follows_the_address(url: str, field: str) -> None:
    assert default_cap_field(url) == field


CLOSED: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
CLOSED |= {"required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        (CLOSED | {"required": []}, False),
        (CLOSED | {"additionalProperties": True}, False),
        (CLOSED | {"properties": {"a": {"type": "string", "default": "x"}}}, False),
        (CLOSED | {"properties": {"a": {"oneOf": [{"type": "string"}]}}}, False),
        (CLOSED | {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, True),
        (CLOSED | {"properties": {"a": {"type": "array", "items": CLOSED}}}, True),
        (CLOSED | {"properties": {"a": {"type": "array"}}}, False),
        (CLOSED | {"properties": {"a": {}}}, False),
    ],
)
def test_only_portable_schemas_are_called_strict(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict


def test_schema_is_named_by_its_title_in_letters_that_servers_take() -> None:
    assert schema_of({"title": "Plan"}, "x").name == "Plan"
    assert schema_of({"title": "My plan!"}, "x").name == "My_plan_"
    assert schema_of({}, "out.json").name == "out_json"


@pytest.mark.parametrize(
    ("said", "parameters"),
    [
        ("messages: at least one is required", {"max_tokens": 5, "tools": []}),
        ("messages with role 'tool' must follow tool_calls", {"max_tokens": 5, "tools": []}),
        ("max_tokens is too large", {"max_completion_tokens": 5}),
        ("the schema is bad", {"max_tokens": 5}),
    ],
)
def test_refusal_of_something_else_teaches_nothing(said: str, parameters: dict[str, Any]) -> None:
    assert after_refusal(Dialect(), said, parameters) is None


def test_ladder_ends_at_text() -> None:
    bottom = Dialect(rung="text")
    assert after_refusal(bottom, "response_format is not supported", {"max_tokens": 5}) is None


def test_of_two_dialects_the_humbler_counts() -> None:
    one, other = Dialect(rung="tool", effort=False), Dialect(rung="json_object", tools=False)
    assert one.lower(other) == Dialect(rung="tool", effort=False, tools=False)
