"""A short account of turns that no longer fit a prompt: what was said, called, and what came of it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from goalwright_agent.core.clipping import clip

_SAID, _ARGUMENTS, _RESULT = 200, 160, 240
"""Characters of each that an recap keeps."""

_NAME, _COUNTED = 40, 12
"""Characters of a tool's name (models invent some), and how many kinds of calls are counted."""

_TOLD = ("error", "stderr", "stdout", "text", "summary")
"""Fields of a result that tell most of it, the first that is there."""


def recap_messages(messages: Sequence[Mapping[str, Any]], chars: int) -> list[dict[str, Any]]:
    """What stands for these turns: a pair of messages, so that roles alternate. The recap is data, at most about
    `chars` long; the newest turns are told one by one, those before them are counted."""
    body = json.dumps(_recap(messages, chars), ensure_ascii=False)
    return [
        {"role": "assistant", "content": "(My first turns are left out here; an recap of them follows.)"},
        {
            "role": "user",
            "content": f"## Recap\n```json\n{body}\n```\n"
            "What these turns made can still be read by its name. Go on with the task.",
        },
    ]


def _recap(messages: Sequence[Mapping[str, Any]], chars: int) -> dict[str, Any]:
    turns = list(_turns(messages))
    told: list[dict[str, Any]] = []
    left = chars
    for turn in reversed(turns):
        left -= len(json.dumps(turn, ensure_ascii=False))
        if left < 0:
            break
        told.insert(0, turn)
    counted = Counter(
        f"{call['tool']} {call['status']}"
        for turn in turns[: len(turns) - len(told)]
        for call in turn["calls"]
    )
    return {
        "turns_counted": len(turns) - len(told),
        "calls_counted": dict(counted.most_common(_COUNTED)),
        "turns": told,
    }


def _turns(messages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One entry for each assistant message with what answers it."""
    begins = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    for number, (begin, end) in enumerate(itertools.pairwise([*begins, len(messages)]), 1):
        message, answers = messages[begin], messages[begin + 1 : end]
        results = {one.get("tool_call_id"): str(one.get("content") or "") for one in answers}
        entry: dict[str, Any] = {"turn": number, "said": clip(str(message.get("content") or ""), _SAID)}
        entry["calls"] = [_call(call, results) for call in message.get("tool_calls") or ()]
        answered = [str(one.get("content") or "") for one in answers if one["role"] == "user"]
        if answered:
            entry["answered"] = clip(answered[0], _RESULT)
        yield entry


def _call(call: Mapping[str, Any], results: Mapping[Any, str]) -> dict[str, str]:
    function = call["function"]
    try:
        result = json.loads(results.get(call["id"], ""))
    except ValueError:
        result = {}
    result = result if isinstance(result, dict) else {}
    told = next((str(result[field]) for field in _TOLD if result.get(field)), "")
    made = [str(one.get("name")) for one in result.get("outputs") or () if isinstance(one, dict)]
    entry = {
        "tool": clip(str(function["name"]), _NAME),
        "arguments": clip(str(function["arguments"]), _ARGUMENTS),
        "status": clip(str(result.get("status") or "unknown"), _NAME),
        "result": clip(told, _RESULT),
    }
    return entry | ({"made": clip(", ".join(made), _RESULT)} if made else {})
