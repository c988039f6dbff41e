"""The verbs of pools: what a provider's answers teach about its limits, and a pool that is left alone or let go."""

from __future__ import annotations

from goalwright_shared.errors import Refused
from goalwright_shared.messages import Lane, Outcome, Throttled

from goalwright_scheduler.change import Change
from goalwright_scheduler.core import rate


def heard(change: Change, lane: Lane | None, outcome: Outcome) -> None:
    """A performer has answered: the limits in its headers count from now on, tokens that were set aside and not
    sent are given back, and an answer that is no refusal lets a pool go that was being probed."""
    if lane is None or lane.pool is None:
        return
    before = pool = change.rate_of(lane.pool)
    if outcome.rate is not None:
        pool = rate.learned(pool, outcome.rate.requests_per_minute, outcome.rate.tokens_per_minute)
    if outcome.usage is not None and not isinstance(outcome, Throttled):
        pool = rate.given_back(pool, lane.max_input_tokens - outcome.usage.tokens_in)
        pool = rate.let_go(pool)
    if pool != before:
        change.new_rates[lane.pool] = pool


async def let_go(change: Change, name: str) -> bool:
    """Whoever mended a key says so: the pool goes on at once. False when it was not parked. Raises `Refused`."""
    if name not in {lane.pool for lane in change.lanes.values() if lane.pool}:
        raise Refused(
            "not_found", f"there is no pool {name}", field="pool", hint="`goalwright lane ls` names them"
        )
    pool = change.rate_of(name)
    if pool.blocked_until <= change.now.timestamp():
        return False
    change.new_rates[name] = rate.let_go(pool)
    return True
