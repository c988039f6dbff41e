"""One call to a model: what is asked, and every way it can end, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from goalwright_shared.messages import RateSeen, Usage

from goalwright_agent.core.dialect import Dialect, Schema

BLOCKED = "pool_blocked: "
"""Prefix of the reason of a throttle that no waiting mends: the scheduler parks the pool."""

_BLOCKED_RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class Request:
    """One call. `tools` are the task's own; `schema` asks for one structured answer."""

    key_name: str  # the provider, as pools name it
    model: str
    messages: Sequence[Mapping[str, Any]]
    max_output_tokens: int
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Schema | None = None
    reasoning_effort: str | None = None
    timeout_seconds: float | None = None  # of the task; the settings' limit counts too
    dialect: Dialect = field(default_factory=Dialect)


@dataclass(frozen=True)
class Reply:
    """What the model said, and what it used."""

    content: str
    tool_calls: tuple[dict[str, Any], ...]
    refusal: str | None
    finish_reason: str | None
    usage: Usage | None
    request_id: str | None
    rate: RateSeen | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Limited:
    """Not now. `blocked`: no waiting helps (bad key, no quota)."""

    retry_after_seconds: float
    reason: str
    blocked: bool = False
    rate: RateSeen | None = None


@dataclass(frozen=True)
class Adapted:
    """The server does not understand this form of request; `dialect` is the one to try next."""

    dialect: Dialect
    said: str = ""  # by the server


@dataclass(frozen=True)
class Broken:
    """The call failed. `unbilled`: the provider cannot have charged for it."""

    code: str
    message: str
    retryable: bool
    too_big: bool = False
    unbilled: bool = False


Result = Reply | Limited | Adapted | Broken


@dataclass(frozen=True)
class Vectors:
    """Embeddings, in the order of the texts."""

    vectors: list[list[float]]
    usage: Usage | None
    request_id: str | None
    rate: RateSeen | None


def blocked(why: str) -> Limited:
    """No call on this pool will work until somebody mends what `why` says."""
    return Limited(_BLOCKED_RETRY_SECONDS, f"{BLOCKED}{why}", blocked=True)
