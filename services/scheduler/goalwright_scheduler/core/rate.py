"""Rate limits of a pool: GCRA (virtual scheduling, ITU-T I.371) for requests and for tokens at once.

Times are seconds of the database's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

_TOLERANCE_SECONDS = 1.0
"""How far ahead of an even spacing calls may go: a second's worth at once."""

_PROBE_SECONDS = 30.0
"""A pool whose key was refused is tried with one call; the next may go when nothing was heard of it for so long."""


@dataclass(frozen=True, slots=True)
class PoolRate:
    """The limits of one pool and when the next request and token may go.

    `own` are the limits that were set (requests, tokens), once a provider's headers have told others.
    """

    pool: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    next_request: float = 0.0
    next_tokens: float = 0.0
    blocked_until: float = 0.0
    blocked_reason: str | None = None
    own: tuple[int | None, int | None] | None = None


def free_at(rate: PoolRate) -> float:
    """When the pool may make its next call."""
    paced = max(rate.next_request, rate.next_tokens) - _TOLERANCE_SECONDS
    return max(rate.blocked_until, paced)


def spend(rate: PoolRate, now: float, tokens: int) -> PoolRate | None:
    """The pool after one call of `tokens` at `now`, or None when it may not go yet."""
    if free_at(rate) > now:
        return None
    request, token, blocked = rate.next_request, rate.next_tokens, rate.blocked_until
    if rate.requests_per_minute:
        request = max(request, now) + 60.0 / rate.requests_per_minute
    if rate.tokens_per_minute:
        token = max(token, now) + 60.0 * tokens / rate.tokens_per_minute
    if rate.blocked_reason is not None:
        blocked = now + _PROBE_SECONDS
    return replace(rate, next_request=request, next_tokens=token, blocked_until=blocked)


def learned(rate: PoolRate, requests: int | None, tokens: int | None) -> PoolRate:
    """The pool after a provider has told its limits: the lower of what was set and what was told counts."""
    own = rate.own or (rate.requests_per_minute, rate.tokens_per_minute)
    return replace(
        rate,
        own=own,
        requests_per_minute=_lower(own[0], requests or rate.requests_per_minute),
        tokens_per_minute=_lower(own[1], tokens or rate.tokens_per_minute),
    )


def _lower(own: int | None, told: int | None) -> int | None:
    return min(own, told) if own and told else own or told


def given_back(rate: PoolRate, tokens: int) -> PoolRate:
    """The pool after a call that sent `tokens` fewer than were set aside for it."""
    if not rate.tokens_per_minute or tokens <= 0:
        return rate
    return replace(rate, next_tokens=rate.next_tokens - 60.0 * tokens / rate.tokens_per_minute)


def throttled(rate: PoolRate, now: float, seconds: float) -> PoolRate:
    """The pool after its provider has refused a call: nothing goes for `seconds`."""
    return replace(rate, blocked_until=max(rate.blocked_until, now + seconds), blocked_reason=None)


def blocked(rate: PoolRate, now: float, seconds: float, reason: str) -> PoolRate:
    """The pool after a bad key or an exhausted quota: left alone, with the reason, and then probed by one call."""
    return replace(rate, blocked_until=now + seconds, blocked_reason=reason)


def let_go(rate: PoolRate) -> PoolRate:
    """The pool after its key has worked, or somebody says that it will."""
    return replace(rate, blocked_until=0.0, blocked_reason=None) if rate.blocked_reason is not None else rate
