"""A short account of turns that no longer fit a prompt: what was said, called, and what came of it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from goalwright_agent.core.clipping import clip

_SAID, _ARGUMENTS, _RESULT = 200, 160, 240
"""Characters of each that a recap keeps."""

_NAME, _COUNTED = 40, 12
"""Characters of a tool's name (models invent some), and how many kinds of calls are counted."""

_TOLD = ("error", "stderr", "stdout", "text", "summary")
"""Fields of a result that tell most of it, the first that is there."""


class Recap(BaseModel):
    """What the oldest turns of a task were: the newest of them one by one, those before them counted."""

    model_config = ConfigDict(frozen=True)

    turns: list[dict[str, Any]] = []
    turns_counted: int = 0
    calls_counted: dict[str, int] = {}  # "<tool> <status>": how often

    @property
    def total(self) -> int:
        """Turns that it stands for."""
        return len(self.turns) + self.turns_counted

    def extended(self, messages: Sequence[Mapping[str, Any]], chars: int) -> Recap:
        """The recap with the turns of `messages` at its end; its single turns take at most `chars` characters."""
        turns = [*self.turns, *_turns(messages, self.total + 1)]
        told: list[dict[str, Any]] = []
        for turn in reversed(turns):
            chars -= len(_json(turn))
            if chars < 0:
                break
            told.insert(0, turn)
        before = turns[: len(turns) - len(told)]
        calls = Counter(self.calls_counted)
        calls.update(f"{call['tool']} {call['status']}" for turn in before for call in turn["calls"])
        return Recap(
            turns=told,
            turns_counted=self.turns_counted + len(before),
            calls_counted=dict(calls.most_common(_COUNTED)),
        )

    def messages(self) -> list[dict[str, Any]]:
        """What stands for these turns in a prompt: a pair of messages, so that roles alternate. It is data."""
        return [
            {
                "role": "assistant",
                "content": "(My first turns are left out here; a recap of them follows.)",
            },
            {
                "role": "user",
                "content": f"## Recap\n```json\n{_json(self.model_dump())}\n```\n"
                "What these turns made can still be read by its name. Go on with the task.",
            },
        ]


def _json(value: Any) -> str:
    """The same text for equal values: a database keeps the keys of an object in an order of its own."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _turns(messages: Sequence[Mapping[str, Any]], first: int) -> Iterator[dict[str, Any]]:
    """One entry for each assistant message with what answers it, numbered from `first` on."""
    begins = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    for number, (begin, end) in enumerate(itertools.pairwise([*begins, len(messages)]), first):
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
