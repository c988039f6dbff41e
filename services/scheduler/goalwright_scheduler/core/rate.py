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
    """The limits of one pool, as they were set and as the provider's headers have told them, and when the next request
    and token may go."""

    pool: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    told_requests: int | None = None
    told_tokens: int | None = None
    next_request: float = 0.0
    next_tokens: float = 0.0
    blocked_until: float = 0.0
    blocked_reason: str | None = None

    @property
    def requests(self) -> int | None:
        """A minute: the lower of what was set and what was told."""
        return _lower(self.requests_per_minute, self.told_requests)

    @property
    def tokens(self) -> int | None:
        """A minute: the lower of what was set and what was told."""
        return _lower(self.tokens_per_minute, self.told_tokens)


def free_at(rate: PoolRate) -> float:
    """When the pool may make its next call."""
    paced = max(rate.next_request, rate.next_tokens) - _TOLERANCE_SECONDS
    return max(rate.blocked_until, paced)


def spend(rate: PoolRate, now: float, tokens: int) -> PoolRate | None:
    """The pool after one call of `tokens` at `now`, or None when it may not go yet."""
    if free_at(rate) > now:
        return None
    request, token, blocked = rate.next_request, rate.next_tokens, rate.blocked_until
    if rate.requests:
        request = max(request, now) + 60.0 / rate.requests
    if rate.tokens:
        token = max(token, now) + 60.0 * tokens / rate.tokens
    if rate.blocked_reason is not None:
        blocked = now + _PROBE_SECONDS
    return replace(rate, next_request=request, next_tokens=token, blocked_until=blocked)


def limited(rate: PoolRate, now: float, requests: int | None, tokens: int | None) -> PoolRate:
    """The pool with other limits a minute set for it. What has gone is counted by the new ones: who raises a limit need
    not wait out the old one."""
    if (requests, tokens) == (rate.requests_per_minute, rate.tokens_per_minute):
        return rate
    new = replace(rate, requests_per_minute=requests, tokens_per_minute=tokens)
    return replace(
        new,
        next_request=_rescaled(rate.next_request, now, rate.requests, new.requests),
        next_tokens=_rescaled(rate.next_tokens, now, rate.tokens, new.tokens),
    )


def _rescaled(next_at: float, now: float, old: int | None, new: int | None) -> float:
    if next_at <= now or not old:
        return next_at
    return now + (next_at - now) * old / new if new else now


def learned(rate: PoolRate, requests: int | None, tokens: int | None) -> PoolRate:
    """The pool after a provider has told its limits, or one of them."""
    return replace(rate, told_requests=requests or rate.told_requests, told_tokens=tokens or rate.told_tokens)


def _lower(own: int | None, told: int | None) -> int | None:
    return min(own, told) if own and told else own or told


def given_back(rate: PoolRate, tokens: int) -> PoolRate:
    """The pool after a call that sent `tokens` fewer than were set aside for it."""
    if not rate.tokens or tokens <= 0:
        return rate
    return replace(rate, next_tokens=rate.next_tokens - 60.0 * tokens / rate.tokens)


def throttled(rate: PoolRate, now: float, seconds: float) -> PoolRate:
    """The pool after its provider has refused a call: nothing goes for `seconds`."""
    return replace(rate, blocked_until=max(rate.blocked_until, now + seconds), blocked_reason=None)


def blocked(rate: PoolRate, now: float, seconds: float, reason: str) -> PoolRate:
    """The pool after a bad key or an exhausted quota: left alone, with the reason, and then probed by one call."""
    return replace(rate, blocked_until=now + seconds, blocked_reason=reason)


def let_go(rate: PoolRate) -> PoolRate:
    """The pool after its key has worked, or somebody says that it will."""
    return replace(rate, blocked_until=0.0, blocked_reason=None) if rate.blocked_reason is not None else rate
