"""What the reflector knows about a goal (`Audit`) and says about it (`Signal`): frozen and bounded values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar

Severity = Literal["info", "warning", "critical"]
Action = Literal["none", "note", "retry", "replan", "pause", "stop_loop"]
"""What the scheduler does on a signal: nothing, pin a note, retry with another prompt or model, open a
replan, pause and ask, or end the goal as `stopped_loop`."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Rules:
    """The thresholds of all checks; times in seconds, shares from 0 to 1."""

    max_period: int = 8
    repeats: int = 3
    stale_window: int = 12
    stale_limit: int = 10
    ping_pong: int = 6
    same_failures: int = 3
    near_duplicates: int = 3
    near_duplicate_similarity: float = 0.9
    useless_cost_share: float = 0.2
    budget_risk_share: float = 0.5
    deadline_risk_share: float = 0.25
    stall_seconds: float = 300.0
    max_replans: int = 3
    review_every_completions: int = 3
    review_every_budget_share: float = 0.25
    review_every_seconds: float = 300.0
    max_reviews: int = 3
    review_seconds: float = 600.0
    progress_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, before the ladder has decided what to do about it."""

    signal: str
    subject: str
    evidence: tuple[str, ...]
    message: str
    severity: Severity = "warning"
    task_id: str | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A finding with its rung of the ladder, as `control.signal` carries it."""

    goal_id: str
    owner: str
    signal: str
    evidence: tuple[str, ...]
    severity: Severity
    action: Action
    message: str
    task_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def signal_id(self) -> str:
        """The hash of its evidence: the same finding counts once, whoever raises it and however often."""
        return signal_id(self.goal_id, self.signal, self.evidence)

    def body(self) -> dict[str, Any]:
        """The request of `control.signal`."""
        return {
            "goal_id": self.goal_id,
            "signal_id": self.signal_id,
            "signal": self.signal,
            "severity": self.severity,
            "evidence": list(self.evidence),
            "action": self.action,
            "message": self.message,
            "task_id": self.task_id,
            "data": dict(self.data),
        }


def signal_id(goal_id: str, signal: str, evidence: tuple[str, ...]) -> str:
    """128 bits of SHA-256 over goal, signal and its evidence, order ignored."""
    text = json.dumps([goal_id, signal, sorted(evidence)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was planned. `parents` are the tasks whose plans these are; `titles` and `lanes` (by key) and
    `open` (not done yet) are empty for large plans; `useless` are those that reach no deliverable."""

    source: str
    total: int
    parents: frozenset[str]
    titles: Mapping[str, str] = field(default_factory=dict)
    lanes: Mapping[str, str] = field(default_factory=dict)
    open: frozenset[str] = frozenset()
    useless: frozenset[str] = frozenset()

    def has(self, key: str, parent: str | None) -> bool:
        """Whether the plan lists this task, rather than a performer having added it."""
        if parent is not None and parent not in self.parents:
            return False
        return not self.titles or key in self.titles


@dataclass(frozen=True, slots=True)
class Reviews:
    """The reviews of a goal so far, and where it stood at the last one."""

    seen: frozenset[str] = frozenset()
    asked: int = 0
    open_since: datetime | None = None
    at: datetime | None = None
    completions: int = 0
    spent_usd: float = 0.0
    a_task_died: bool = False

    @property
    def count(self) -> int:
        """How many were opened: asked for by this process, or seen in the events."""
        return max(self.asked, len(self.seen))


Token = tuple[str, str]
"""(what a turn was told and what it did then, event_id)."""


@dataclass(frozen=True, slots=True)
class Audit:
    """All that is kept about one goal. Every collection in it is bounded (see `core.audit`)."""

    goal_id: str
    owner: str
    seq: int = 0
    last_event_id: str = ""
    state: Literal["open", "paused", "finished"] = "open"
    started_at: datetime | None = None
    heard_at: datetime | None = None
    deadline: datetime | None = None
    budget_usd: float = 0.0
    spent_usd: float = 0.0
    useless_usd: float = 0.0
    plan: Plan | None = None
    done: int = 0
    ended: int = 0
    completions: int = 0
    waiting: frozenset[str] = frozenset()
    threads: Mapping[str, tuple[Token, ...]] = field(default_factory=dict)
    failures: Mapping[str, tuple[tuple[int, str, str], ...]] = field(default_factory=dict)
    actions: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, frozenset[str]] = field(default_factory=dict)
    seen: Mapping[str, None] = field(default_factory=dict)
    freshness: tuple[tuple[bool, str], ...] = ()
    turns: tuple[tuple[str, str, str], ...] = ()
    answers: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    shapes: tuple[str, ...] = ()
    rungs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    said: Mapping[str, None] = field(default_factory=dict)
    replans: int = 0
    reviews: Reviews = Reviews()
    off_topic: tuple[str, ...] = ()
    off_topic_now: str | None = None
    reported_at: datetime | None = None

    @property
    def left(self) -> int:
        """Planned tasks that have not ended."""
        return max(0, self.plan.total - self.done - self.ended) if self.plan else 0


def remember(known: Mapping[K, V], key: K, value: V, limit: int) -> Mapping[K, V]:
    """A copy of `known` with `key` as its newest entry; the oldest go when there are more than `limit`."""
    copy = dict(known)
    copy.pop(key, None)
    copy[key] = value
    while len(copy) > limit:
        del copy[next(iter(copy))]
    return copy


def forget(known: Mapping[K, V], key: K) -> Mapping[K, V]:
    """`known` without `key`."""
    if key not in known:
        return known
    return {k: v for k, v in known.items() if k != key}
