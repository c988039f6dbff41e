"""What a provider does besides thinking: it limits, delays, fails, and counts. No randomness."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from goalwright_rehearsal.settings import Fault, RehearsalSettings

_FAULTS: tuple[tuple[Fault, str], ...] = (
    ("hang", "hang_share"),
    ("500", "error_share"),
    ("quota", "quota_share"),
    ("drop", "drop_share"),
    ("refuse", "refuse_share"),
    ("cut", "cut_share"),
    ("ignore_schema", "ignore_schema_share"),
)


@dataclass
class Bucket:
    """A limit per minute that refills steadily; `holds` is what may be used at once."""

    limit: int
    level: float
    at: float
    holds: float

    def refill(self, now: float) -> None:
        """Bring the level up to `now`."""
        self.level = min(self.holds, self.level + (now - self.at) * self.limit / 60)
        self.at = now

    def wait_for(self, amount: float) -> float:
        """Seconds until `amount` is there (0: now); an amount above what it holds waits for a full bucket."""
        return max(0.0, (min(amount, self.holds) - self.level) * 60 / self.limit)


@dataclass
class Counts:
    """What the server has seen, for load tests."""

    requests: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    faults: dict[str, int] = field(default_factory=dict)


class Provider:
    """Limits, faults and counts of one server."""

    def __init__(self, settings: RehearsalSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self.counts = Counts()
        self._chats = 0
        now = clock()
        limits = {"requests": settings.requests_per_minute, "tokens": settings.tokens_per_minute}
        held = {
            kind: max(1.0, limit * settings.burst_seconds / 60) for kind, limit in limits.items() if limit
        }
        self._buckets = {kind: Bucket(limits[kind] or 0, full, now, full) for kind, full in held.items()}

    def admit(self, tokens: int) -> tuple[str, float] | None:
        """Take one request and its tokens from the limits, or say which limit refuses and for how long."""
        now = self._clock()
        wanted = {"requests": 1.0, "tokens": float(tokens)}
        for bucket in self._buckets.values():
            bucket.refill(now)
        waits = {kind: bucket.wait_for(wanted[kind]) for kind, bucket in self._buckets.items()}
        kind = max(waits, key=lambda name: waits[name], default="")
        if kind and waits[kind] > 0:
            self.counts.refused += 1
            return kind, waits[kind]
        for kind, bucket in self._buckets.items():
            bucket.level -= wanted[kind]
        return None

    def headers(self) -> dict[str, str]:
        """The x-ratelimit headers, as OpenAI sends them."""
        found = {}
        for kind, bucket in self._buckets.items():
            full = (bucket.holds - bucket.level) * 60 / bucket.limit
            found[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
            found[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(bucket.level)))
            found[f"x-ratelimit-reset-{kind}"] = f"{full:.3f}s"
        return found

    def fault(self, headers: Mapping[str, str]) -> str | None:
        """The fault of this chat answer: what the request asks for, else what is due by the shares."""
        self._chats += 1
        asked = headers.get("x-rehearsal-fault")
        found = asked or next((name for name, share in _FAULTS if self._due(share)), None)
        if found:
            self.counts.faults[found] = self.counts.faults.get(found, 0) + 1
        return found

    def _due(self, share: str) -> bool:
        """Whether the running count of a share steps up at this answer."""
        part = float(getattr(self._settings, share))
        return math.floor(self._chats * part + 1e-9) > math.floor((self._chats - 1) * part + 1e-9)

    def latency(self, headers: Mapping[str, str]) -> float:
        """How long this answer takes, in seconds."""
        try:
            return max(0.0, float(headers["x-rehearsal-latency-seconds"]))
        except (KeyError, ValueError):
            return self._settings.latency_seconds
