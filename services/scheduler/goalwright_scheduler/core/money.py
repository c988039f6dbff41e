"""Money in integer micro-dollars: holds before a call, settlement after it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from goalwright_shared.messages import Effort, Lane, Usage

MICRO = 1_000_000


def micro(usd: float) -> int:
    """Dollars of a message as micro-dollars."""
    return round(usd * MICRO)


def usd(amount: int) -> float:
    """Micro-dollars as the dollars of a message."""
    return amount / MICRO


def hold(lane: Lane, output_cap: int | None = None) -> int:
    """What one call on this lane may cost at most: both caps at the lane's prices, rounded up; `output_cap` is
    the task's own."""
    return _price(
        lane, lane.max_input_tokens, min(output_cap or lane.max_output_tokens, lane.max_output_tokens)
    )


ASK = "agent.ask"
"""The lane whose tasks bring their own prompt, perhaps with an output cap of its own."""

WRITER = "agent.writer"
"""The lane that sums up what a goal has when its budget is used up."""


def fence(budget: int, lanes: Mapping[str, Lane]) -> int:
    """What is kept of a budget so that the goal can end with a summary: a tenth, if that pays for a writer."""
    tenth, writer = budget // 10, lanes.get(WRITER)
    return tenth if writer is not None and 0 < hold(writer) <= tenth else 0


def cost(lane: Lane, usage: Usage) -> int:
    """What a call did cost."""
    return _price(lane, usage.tokens_in, usage.tokens_out)


def estimate(lane: Lane, effort: Effort) -> int:
    """What a task would cost by its own estimate."""
    return _price(lane, effort.tokens_in, effort.tokens_out)


def _price(lane: Lane, tokens_in: int, tokens_out: int) -> int:
    # dollars per million tokens are micro-dollars per token
    return math.ceil(tokens_in * lane.input_usd_per_mtok + tokens_out * lane.output_usd_per_mtok)


@dataclass(frozen=True, slots=True)
class Bill:
    """A settled hold: `charged` is within it, `overrun` is what was billed above it."""

    charged: int
    overrun: int


UNKNOWN_IS_CHARGED = frozenset({"timeout", "expired", "redelivered"})
"""Failure classes whose call may have been billed although no usage came back."""


def settle(held: int, lane: Lane, usage: Usage | None, *, answered: bool, code: str | None = None) -> Bill:
    """The bill of one dispatch. Without usage, an answer or a call of unknown fate costs the whole hold, and
    a failure before the call costs nothing."""
    if usage is None:
        whole = answered or code in UNKNOWN_IS_CHARGED
        return Bill(held if whole else 0, 0)
    actual = cost(lane, usage)
    return Bill(min(actual, held), max(0, actual - held))
