"""What the loop takes in: what has arrived, parsed, with whoever waits for its commit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from goalwright_shared.messages import Alive, GoalAnswer
from nats.aio.msg import Msg

from goalwright_scheduler.core.submission import Parsed
from goalwright_scheduler.outcomes import Arrived


@dataclass(slots=True)
class Outcomes:
    """Outcomes of one message."""

    arrived: list[Arrived]
    message: Msg


@dataclass(slots=True)
class Submission:
    """A parsed goal; `reply` is for requests, `message` for plain publishes."""

    owner: str
    parsed: Parsed
    sizes: dict[str, int]
    message_id: str | None = None
    message: Msg | None = None
    reply: asyncio.Future[GoalAnswer] | None = None


@dataclass(slots=True)
class Control:
    """A control request."""

    verb: str
    owner: str
    body: dict[str, Any]
    reply: asyncio.Future[dict[str, Any]]


@dataclass(slots=True)
class Presence:
    """An `alive` message."""

    lane: str
    alive: Alive


Item = Outcomes | Submission | Control | Presence
