"""Fit a prompt into the input cap that was paid for: shorten what matters least first, or say too big.

What was sent once is sent again unchanged, so that providers' caches hold, until it no longer fits; then one step
makes room for several turns.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from goalwright_agent.core.clipping import clip, shorten
from goalwright_agent.core.prompt import ChatMessages, card_in, with_card
from goalwright_agent.core.recap import Recap

BYTES_PER_TOKEN = 3.5
"""A conservative estimate for words: JSON-heavy English measured 3.4 to 4 characters a token."""

_DIGITS = b"0123456789"
_DIGITS_PER_TOKEN = 1.7
"""Vocabularies hold groups of at most three digits; the numbers of tables are mostly shorter."""

_MARKS = b",.;:|/-_=+()[]{}<>\"'\\\n"
_TOKENS_PER_MARK = 0.7
"""A comma between numbers is a token; the marks of JSON often share one."""

_PER_MESSAGE_TOKENS = 8

_LOW_WATER = 0.7
"""Of the room: where a step ends, so that the next one is some turns away."""

_RECAP_CHARS = 6_000
_RECAP_SHARE = 0.5
"""Characters of the recap of condensed turns: so many, or this part of the tokens there is room for."""


class TooBig(Exception):
    """The prompt does not fit even when shortened; `tokens` is the smallest it could be made."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


class Packing(BaseModel):
    """How a transcript is shown; kept from turn to turn. A position counts the messages of the transcript."""

    model_config = ConfigDict(frozen=True)

    shortened: int = 0  # texts in results before this message have at most `old_chars`
    old_chars: int | None = None
    card_chars: int | None = None  # of each text in the card
    chars: int | None = None  # of each text in any result, the latest too


@dataclass(frozen=True)
class Packed:
    """A transcript as it is sent: `told` of its messages after the opening have been left to the recap, and
    `packing` is that of the transcript without them."""

    messages: ChatMessages
    packing: Packing
    recap: Recap
    told: int = 0


def estimate_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> int:
    """Tokens of a prompt, from its bytes, digits and punctuation."""
    sizes = sum(map(_message_tokens, messages))
    return math.ceil(sizes + (_text_tokens(_json(list(tools))) if tools else 0))


def _message_tokens(message: Mapping[str, Any]) -> float:
    calls = message.get("tool_calls")
    text = str(message.get("content") or "") + (_json(calls) if calls else "")
    return _text_tokens(text) + _PER_MESSAGE_TOKENS


def _text_tokens(text: str) -> float:
    data = text.encode("utf-8", "replace")
    no_digits = data.translate(None, _DIGITS)
    words = no_digits.translate(None, _MARKS)
    digits, marks = len(data) - len(no_digits), len(no_digits) - len(words)
    return len(words) / BYTES_PER_TOKEN + digits / _DIGITS_PER_TOKEN + marks * _TOKENS_PER_MARK


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def pack(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    max_tokens: int,
    packing: Packing = Packing(),  # noqa: B008  # frozen
    recap: Recap = Recap(),  # noqa: B008  # frozen
) -> Packed:
    """The messages as they fit `max_tokens`, with the `recap` of earlier ones. Raises TooBig.

    As before (`packing`) when that fits. Else in this order: long results of old turns, the oldest turns as one
    recap, the card's excerpts, all results.
    """
    room = max_tokens - estimate_tokens([], tools)
    smallest: int | None = None
    transcript = Packed([dict(message) for message in messages], packing, recap)
    for tighter, enough in _ever_tighter(transcript, room):
        shown = _shown(tighter)
        size = estimate_tokens(shown)
        if size <= enough:
            return replace(tighter, messages=shown)
        smallest = size if smallest is None else min(size, smallest)
    raise TooBig((smallest or 0) + max_tokens - room)


def _ever_tighter(packed: Packed, room: int) -> Iterator[tuple[Packed, float]]:
    """The transcript packed ever tighter, not yet as it is shown, and the tokens with which each is good enough."""
    yield packed, room
    goal = room * _LOW_WATER
    turns = _turns(packed.messages)
    if turns:
        for limit in (1_500, 400):
            if packed.packing.old_chars is None or limit <= packed.packing.old_chars:
                packed = _tighter(packed, shortened=turns[-1], old_chars=limit)
                yield packed, goal
        packed = _condensed(packed, turns, room)
        yield packed, room
    for field, limits in (("card_chars", (2_000, 600, 200)), ("chars", (1_500, 400, 120))):
        for limit in limits:
            if getattr(packed.packing, field) is None or limit <= getattr(packed.packing, field):
                packed = _tighter(packed, **{field: limit})
                yield packed, room


def _tighter(packed: Packed, **changes: int) -> Packed:
    return replace(packed, packing=packed.packing.model_copy(update=changes))


def _condensed(packed: Packed, turns: Sequence[int], room: int) -> Packed:
    """As many of the oldest turns left to the recap as makes room for new ones; the last one stays."""
    chars = min(_RECAP_CHARS, max(200, int(room * _RECAP_SHARE)))
    first, messages, packing = turns[0], packed.messages, packed.packing
    sizes = [_message_tokens(_short(m, at, first, packing)) for at, m in enumerate(messages)]
    left = sum(sizes) + estimate_tokens(Recap().messages()) + chars * _TOKENS_PER_MARK
    cut = first
    for begin, end in itertools.pairwise(turns):
        left -= sum(sizes[begin:end])
        cut = end
        if left <= room * _LOW_WATER:
            break
    told = cut - first
    return Packed(
        [*messages[:first], *messages[cut:]],
        packing.model_copy(update={"shortened": max(first, packing.shortened - told)}),
        packed.recap.extended(messages[first:cut], chars),
        told,
    )


def _shown(packed: Packed) -> ChatMessages:
    """The transcript as its packing shows it, with the recap before its turns."""
    turns = _turns(packed.messages)
    first = turns[0] if turns else len(packed.messages)
    short = [_short(message, at, first, packed.packing) for at, message in enumerate(packed.messages)]
    return [*short[:first], *(packed.recap.messages() if packed.recap.total else ()), *short[first:]]


def _turns(messages: ChatMessages) -> list[int]:
    """Where each turn begins: at its assistant message."""
    return [at for at, message in enumerate(messages) if message["role"] == "assistant"]


def _short(message: dict[str, Any], at: int, first: int, packing: Packing) -> dict[str, Any]:
    """A message with its bulky texts clipped as the packing says for its place."""
    content = message.get("content")
    if not isinstance(content, str):
        return message
    if at < first:
        card = card_in(content) if packing.card_chars is not None and message["role"] == "user" else None
        limit = packing.card_chars
        return message if card is None or limit is None else message | {
            "content": with_card(content, shorten(card, limit))
        }  # fmt: skip
    limits = [packing.chars, packing.old_chars if at < packing.shortened else None]
    limit = min((limit for limit in limits if limit is not None), default=None)
    if limit is None or message["role"] != "tool" or len(content) <= limit:
        return message
    try:
        return message | {"content": _json(shorten(json.loads(content), limit))}
    except ValueError:
        return message | {"content": clip(content, limit)}
