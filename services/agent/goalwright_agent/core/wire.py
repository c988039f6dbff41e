"""Facts in a provider's answer: its body, its bill, its headers. Tolerant: what is not there is None."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from goalwright_shared.messages import RateSeen, Usage

from goalwright_agent.core.answers import storable

DEFAULT_RETRY_SECONDS = 5.0
"""When a provider does not say how long it is busy."""

_MOST_TOKENS = 1_000_000_000
"""More than any call uses."""

_LONGER_THAN_A_MINUTE = 300.0
"""Seconds; times in headers are rounded, so that a minute may look like two."""

_IN_WORDS = re.compile(
    r"(?:try|retry) (?:again )?(?:in|after) ((?:\d{1,9}(?:\.\d+)? ?(?:ms|[smhd])[a-z]* ?)+)", re.I
)


def json_object(answer: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(answer.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return storable(body) if isinstance(body, dict) else None


def first_choice(choices: Any) -> dict[str, Any]:
    found = choices[0] if isinstance(choices, list) and choices else {}
    return found if isinstance(found, dict) else {}


def text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def text_of(content: Any) -> str:
    """The text of a message; some servers answer with a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def usage_of(body: Mapping[str, Any], model: str, seconds: float) -> Usage | None:
    """What the provider says was used; None when it does not say (estimates are never sent), or what cannot be.

    Thinking is billed as output. Most count it in `completion_tokens`; of those that do not, the total tells."""
    usage = body.get("usage")
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        return None
    tokens_in = _number_of(usage, "prompt_tokens")
    if (
        max(tokens_in, _number_of(usage, "completion_tokens"), _number_of(usage, "total_tokens"))
        > _MOST_TOKENS
    ):
        return None
    return Usage(
        model=model,
        tokens_in=tokens_in,
        tokens_cached=min(_number_of(usage.get("prompt_tokens_details"), "cached_tokens"), tokens_in),
        tokens_out=max(_number_of(usage, "completion_tokens"), _number_of(usage, "total_tokens") - tokens_in),
        seconds=round(seconds, 3),
    )


def _number_of(counts: Any, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else 0
    return max(0, value) if isinstance(value, int) else 0


def in_order(items: Any) -> list[list[float]]:
    """The vectors of an embeddings answer in the order of their texts; those that are none are left out."""
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    if all(isinstance(item.get("index"), int) for item in found):
        found.sort(key=lambda item: int(item["index"]))
    return [item["embedding"] for item in found if isinstance(item.get("embedding"), list)]


def rate_of(headers: Mapping[str, str]) -> RateSeen | None:
    """The limits a minute of this key and model, where the provider tells them."""
    requests, tokens = (_per_minute(headers, what) for what in ("requests", "tokens"))
    if requests is None and tokens is None:
        return None
    return RateSeen(requests_per_minute=requests, tokens_per_minute=tokens)


def _per_minute(headers: Mapping[str, str], what: str) -> int | None:
    """A limit, unless it is seen to be one of a longer time: some state those of a day under the same header.

    What is used up comes back steadily, so the time until all is back tells the time the limit is for."""
    limit = _count(headers.get(f"x-ratelimit-limit-{what}"))
    left = _count(headers.get(f"x-ratelimit-remaining-{what}"))
    back = _span(headers.get(f"x-ratelimit-reset-{what}"))
    if limit is not None and left is not None and back is not None and left < limit:
        window = back * limit / (limit - left)
        if window > _LONGER_THAN_A_MINUTE:
            return None
    return limit


def _count(value: str | None) -> int | None:
    return int(value) if value and value.isascii() and value.isdigit() and len(value) < 16 else None


def retry_after(headers: Mapping[str, str], now: datetime, said: str = "") -> float | None:
    """Seconds until the provider wants to be asked again, by its headers or by its words; None: it says nothing."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if (seconds := _number(value)) is not None:
        return seconds
    if value:
        try:
            return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
        except (ValueError, TypeError):
            pass
    if (told := wait_in_words(said)) is not None:
        return told
    resets = [_span(headers.get(f"x-ratelimit-reset-{what}")) for what in ("requests", "tokens")]
    return max((seconds for seconds in resets if seconds is not None), default=None)


def wait_in_words(said: str) -> float | None:
    """The seconds in `try again in 1m2.5s` or `retry in 20 seconds`."""
    match = _IN_WORDS.search(said)
    return _span(match[1].replace(" ", "")) if match else None


def _number(value: str | None) -> float | None:
    return float(value) if value and re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()) else None


def _span(value: str | None) -> float | None:
    """Seconds of a span like `6m0s`, `1.5s`, `20ms` or `2d3h`."""
    parts = re.findall(r"(\d{1,9}(?:\.\d+)?)(ms|s|m|h|d)", value or "")
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
    return sum(float(number) * units[unit] for number, unit in parts) if parts else None


def arguments_of(call: Mapping[str, Any]) -> str:
    """The arguments of a tool call as text, as the server wrote them."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return arguments if isinstance(arguments, str) else json.dumps(arguments)
