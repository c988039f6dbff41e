"""Rate limits of a pool: GCRA (virtual scheduling, ITU-T I.371) for requests and for tokens at once.

Times are seconds of the database's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_TOLERANCE_SECONDS = 1.0
"""How far ahead of an even spacing calls may go: a second's worth at once."""


@dataclass(frozen=True, slots=True)
class PoolRate:
    """The limits of one pool and when the next request and token may go."""

    pool: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    next_request: float = 0.0
    next_tokens: float = 0.0
    blocked_until: float = 0.0
    blocked_reason: str | None = None


def free_at(rate: PoolRate) -> float:
    """When the pool may make its next call."""
    at = rate.blocked_until
    if rate.requests_per_minute:
        at = max(at, rate.next_request - _TOLERANCE_SECONDS)
    if rate.tokens_per_minute:
        at = max(at, rate.next_tokens - _TOLERANCE_SECONDS)
    return at


def spend(rate: PoolRate, now: float, tokens: int) -> PoolRate | None:
    """The pool after one call of `tokens` at `now`, or None when it may not go yet."""
    if free_at(rate) > now:
        return None
    request, token = rate.next_request, rate.next_tokens
    if rate.requests_per_minute:
        request = max(request, now) + 60.0 / rate.requests_per_minute
    if rate.tokens_per_minute:
        token = max(token, now) + 60.0 * tokens / rate.tokens_per_minute
    return replace(rate, next_request=request, next_tokens=token)


def throttled(rate: PoolRate, now: float, seconds: float) -> PoolRate:
    """The pool after its provider has refused a call: nothing goes for `seconds`."""
    return replace(rate, blocked_until=max(rate.blocked_until, now + seconds), blocked_reason=None)


def blocked(rate: PoolRate, now: float, seconds: float, reason: str) -> PoolRate:
    """The pool after a bad key or an exhausted quota: parked once, with the reason."""
    return replace(rate, blocked_until=now + seconds, blocked_reason=reason)
