"""The clocks of a provider's pool in the reference model (`support.model`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from goalwright_shared.messages import PoolLimit, RateSeen

AT_ONCE_SECONDS = 1.0
"""How far before its clock a call may go."""

PROBE_SECONDS = 30.0


@dataclass
class Clock:
    """One limit by GCRA: `next` is when all that went out is worked off at an even pace."""

    limit: int | None  # a minute, as it was set
    told: int | None = None  # as the provider's headers say
    next: float = 0.0

    def seconds(self, amount: int) -> float:
        """How long so much takes; nothing, where there is no limit."""
        lowest = min(filter(None, (self.limit, self.told)), default=None)
        return 60 * amount / lowest if lowest else 0.0

    def spend(self, now: float, amount: int) -> None:
        """So much goes out now."""
        if self.seconds(amount):
            self.next = max(self.next, now) + self.seconds(amount)


@dataclass
class Pool:
    """A pool with both its limits. `probes`: its key was refused, and one call tries it after a while."""

    requests: Clock
    tokens: Clock
    blocked_until: float = 0.0
    probes: bool = False
    calls: list[tuple[float, int]] = field(default_factory=list)  # when, and how many tokens net

    @classmethod
    def of(cls, limit: PoolLimit) -> Pool:
        """As its limits are set."""
        return cls(Clock(limit.requests_per_minute), Clock(limit.tokens_per_minute))

    def free_at(self) -> float:
        """When the next call may go."""
        return max(self.blocked_until, max(self.requests.next, self.tokens.next) - AT_ONCE_SECONDS)

    def called(self, now: float, tokens: int) -> None:
        """A call went out, which may use so many tokens."""
        self.requests.spend(now, 1)
        self.tokens.spend(now, tokens)
        self.calls.append((now, tokens))
        if self.probes:
            self.blocked_until = now + PROBE_SECONDS

    def told(self, seen: RateSeen | None) -> None:
        """Limits in the headers of an answer."""
        if seen is not None:
            self.requests.told = seen.requests_per_minute or self.requests.told
            self.tokens.told = seen.tokens_per_minute or self.tokens.told

    def answered(self, now: float, unused: int) -> None:
        """A call has worked: the key does too, and tokens that were not sent are given back."""
        self.tokens.next -= self.tokens.seconds(unused)
        self.calls.append((now, -unused))
        if self.probes:
            self.blocked_until, self.probes = 0.0, False

    def refused(self, until: float, *, for_its_key: bool) -> None:
        """Nothing goes until then."""
        self.blocked_until = until if for_its_key else max(self.blocked_until, until)
        self.probes = for_its_key

    def mended(self, now: float) -> None:
        """Somebody says that the key works again."""
        if self.probes and self.blocked_until > now:
            self.blocked_until, self.probes = 0.0, False

    def too_many(self, now: float) -> str | None:
        """What went out beyond a limit in some span of time that ends with the call that just went; None is right. A
        second's worth may go at once, and one call more."""
        for at, (begin, _) in enumerate(self.calls):
            span = now - begin + AT_ONCE_SECONDS + 1e-3
            earlier = self.calls[at:-1]
            requests, tokens = sum(used > 0 for _, used in earlier), sum(used for _, used in earlier)
            for what, used, limit in (
                ("requests", requests, self.requests.limit),
                ("tokens", tokens, self.tokens.limit),
            ):
                if limit is not None and used > span * limit / 60:
                    return f"{used} {what} in {span} s"
        return None
