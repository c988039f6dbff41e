"""Fit a prompt into the input cap that was paid for: shorten what matters least first, or say too big."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from goalwright_agent.core.prompt import ChatMessages, card_in, with_card

BYTES_PER_TOKEN = 3.5
"""A conservative estimate: JSON-heavy English measured 3.4 to 4 characters a token."""

_PER_MESSAGE_TOKENS = 8
_BULKY = ("excerpt", "stdout", "stderr", "text", "logs", "evidence", "summary")
"""Fields of cards and tool results whose text may be shortened; instructions never are."""


class TooBig(Exception):
    """The prompt does not fit even when shortened; `tokens` is the smallest it could be made."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


def estimate_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> int:
    """Tokens of a prompt, from its bytes."""
    size = len(json.dumps([list(messages), list(tools)], ensure_ascii=False).encode())
    return math.ceil(size / BYTES_PER_TOKEN) + _PER_MESSAGE_TOKENS * len(messages)


def pack(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], max_tokens: int
) -> ChatMessages:
    """The messages, shortened as little as fits `max_tokens`. Raises TooBig.

    In this order: long tool results of old turns, the card's excerpts, all tool results, old turns whole.
    """
    best = [dict(message) for message in messages]
    smallest = estimate_tokens(best, tools)
    for packed in _ever_smaller(best):
        smallest = min(smallest, estimate_tokens(packed, tools))
        if smallest <= max_tokens:
            return packed
    raise TooBig(smallest)


def _ever_smaller(messages: ChatMessages) -> Iterator[ChatMessages]:
    yield messages
    recent = _last_group(messages)
    for limit in (1500, 400):
        messages = _shortened(messages, limit, lambda at: 2 <= at < recent)
        yield messages
    for limit in (2000, 600, 200):
        messages = _shortened(messages, limit, lambda at: at < 2)
        yield messages
    for limit in (1500, 400, 120):
        messages = _shortened(messages, limit, lambda at: at >= 2)
        yield messages
    while (fewer := _without_oldest_turn(messages)) is not None:
        messages = fewer
        yield messages


def _shortened(messages: ChatMessages, limit: int, chosen: Callable[[int], bool]) -> ChatMessages:
    return [_short_message(m, limit) if chosen(at) else m for at, m in enumerate(messages)]


def _short_message(message: dict[str, Any], limit: int) -> dict[str, Any]:
    content = message.get("content")
    if message["role"] == "user" and isinstance(content, str):
        card = card_in(content)
        return message if card is None else {**message, "content": with_card(content, shorten(card, limit))}
    if message["role"] == "tool" and isinstance(content, str):
        try:
            return {**message, "content": json.dumps(shorten(json.loads(content), limit), ensure_ascii=False)}
        except ValueError:
            return {**message, "content": clip(content, limit)}
    return message


def shorten(value: Any, limit: int, field: str = "") -> Any:
    """JSON with the bulky strings clipped to `limit` characters."""
    if isinstance(value, dict):
        return {key: shorten(part, limit, key) for key, part in value.items()}
    if isinstance(value, list):
        return [shorten(part, limit, field) for part in value]
    if isinstance(value, str) and field in _BULKY:
        return clip(value, limit)
    return value


def clip(text: str, limit: int) -> str:
    """Head and tail of a long text, with how much was left out."""
    if len(text) <= limit:
        return text
    note = f" …[{len(text) - limit} characters left out]… "
    head = limit * 2 // 3
    return text[:head] + note + text[len(text) - (limit - head) :]


def _last_group(messages: ChatMessages) -> int:
    """Where the last turn begins: its assistant message."""
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    return turns[-1] if turns else len(messages)


def _without_oldest_turn(messages: ChatMessages) -> ChatMessages | None:
    """The messages without the oldest turn (an assistant message and what answers it); None: one is left."""
    turns = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    if len(turns) < 2:
        return None
    return messages[: turns[0]] + messages[turns[1] :]
