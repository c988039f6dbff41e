"""The same conversation for a model that knows no tools: calls and results as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from goalwright_agent.core.prompt import ChatMessages

_HOW = """\

You call a tool by replying with one JSON object and nothing else: {"name": "<tool>", "arguments": {…}}. Its result
comes in the next message. The tools:
"""


def in_words(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> ChatMessages:
    """Messages without tool calls and tool roles, which say the same; roles still alternate."""
    said: ChatMessages = []
    for at, message in enumerate(messages):
        role, text = _in_words(message)
        if at == 0 and role == "system":
            functions = (json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
            text += _HOW + "\n".join(functions)
        if said and said[-1]["role"] == role:
            said[-1]["content"] += f"\n\n{text}"
        else:
            said.append({"role": role, "content": text})
    return said


def _in_words(message: Mapping[str, Any]) -> tuple[str, str]:
    content = str(message.get("content") or "")
    if message["role"] == "tool":
        return "user", f"Result of {message['tool_call_id']}:\n{content}"
    lines = [content] if content else []
    for call in message.get("tool_calls") or ():
        function = call["function"]
        made = {"name": function["name"], "arguments": json.loads(function["arguments"])}
        lines.append(json.dumps(made, ensure_ascii=False))
    return message["role"], "\n".join(lines)
