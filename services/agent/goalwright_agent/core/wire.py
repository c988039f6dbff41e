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


def json_object(text: str) -> dict[str, Any] | None:
    try:
        body = json.loads(text)
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
    """What the provider says was used; None when it does not say (estimates are never sent)."""
    usage = body.get("usage")
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(
        model=model,
        tokens_in=max(0, usage["prompt_tokens"]),
        tokens_cached=max(0, cached) if isinstance(cached, int) else 0,
        tokens_out=max(0, usage["completion_tokens"])
        if isinstance(usage.get("completion_tokens"), int)
        else 0,
        seconds=round(seconds, 3),
    )


def rate_of(headers: Mapping[str, str]) -> RateSeen | None:
    """The limits of this key and model, where the provider tells them."""
    requests = _count(headers.get("x-ratelimit-limit-requests"))
    tokens = _count(headers.get("x-ratelimit-limit-tokens"))
    if requests is None and tokens is None:
        return None
    return RateSeen(requests_per_minute=requests, tokens_per_minute=tokens)


def _count(value: str | None) -> int | None:
    return int(value) if value and value.isascii() and value.isdigit() and len(value) < 16 else None


def retry_after(headers: Mapping[str, str], now: datetime) -> float:
    """Seconds until the provider wants to be asked again."""
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
    resets = [_span(headers.get(f"x-ratelimit-reset-{what}")) for what in ("requests", "tokens")]
    known = [seconds for seconds in resets if seconds is not None]
    return max(known) if known else DEFAULT_RETRY_SECONDS


def _number(value: str | None) -> float | None:
    return float(value) if value and re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip()) else None


def _span(value: str | None) -> float | None:
    """Seconds of a span like `6m0s`, `1.5s` or `20ms`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value or "")
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in parts) if parts else None
