"""Long texts made short, with how much was left out."""

from __future__ import annotations

from typing import Any

_BULKY = ("excerpt", "stdout", "stderr", "text", "logs", "evidence", "summary", "error", "message")
"""Fields of cards and tool results whose text may be shortened; instructions never are."""


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
