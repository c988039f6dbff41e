"""Properties of the scheduler's pure decisions about money, rates and retries."""

from __future__ import annotations

from goalwright_scheduler.core import money, rate, retry
from goalwright_shared.messages import Lane, Usage
from hypothesis import given
from hypothesis import strategies as st

LANE = Lane(
    name="agent.x", pool="k/m", max_input_tokens=1000, max_output_tokens=500,
    input_usd_per_mtok=2.5, output_usd_per_mtok=10.0,
)  # fmt: skip


@given(st.integers(0, 3000), st.integers(0, 2000), st.booleans())
def test_settlement_never_charges_more_than_the_hold(tokens_in: int, tokens_out: int, answered: bool) -> None:
    held = money.hold(LANE)
    usage = Usage(model="m", tokens_in=tokens_in, tokens_out=tokens_out)
    bill = money.settle(held, LANE, usage, answered=answered)
    assert bill.charged <= held
    assert bill.charged + bill.overrun == money.cost(LANE, usage)


@given(st.integers(0, 1000), st.integers(0, 500))
def test_call_within_its_caps_never_overruns(tokens_in: int, tokens_out: int) -> None:
    usage = Usage(model="m", tokens_in=tokens_in, tokens_out=tokens_out)
    assert money.settle(money.hold(LANE), LANE, usage, answered=True).overrun == 0


def test_call_of_unknown_fate_is_charged_whole_and_one_that_never_went_is_free() -> None:
    assert money.settle(100, LANE, None, answered=False, code="timeout") == money.Bill(100, 0)
    assert money.settle(100, LANE, None, answered=True) == money.Bill(100, 0)
    assert money.settle(100, LANE, None, answered=False, code="too_big") == money.Bill(0, 0)


@given(st.integers(1, 6000), st.lists(st.floats(0, 0.2), min_size=1, max_size=300))
def test_rate_is_never_exceeded_over_any_window(per_minute: int, gaps: list[float]) -> None:
    pool = rate.PoolRate("p", requests_per_minute=per_minute)
    now, went = 1000.0, []
    for gap in gaps:
        now += gap
        after = rate.spend(pool, now, 10)
        if after is not None:
            pool = after
            went.append(now)
    for first, start in enumerate(went):
        for last in range(first, len(went)):
            window = went[last] - start
            # a burst of one second's worth, then evenly spaced
            assert last - first + 1 <= per_minute / 60 * (window + 1) + 2


def test_blocked_pool_goes_again_when_its_time_is_over() -> None:
    pool = rate.blocked(rate.PoolRate("p"), 100.0, 30.0, "bad key")
    assert rate.spend(pool, 129.0, 1) is None
    assert rate.spend(pool, 130.0, 1) is not None


@given(st.integers(1, 10**9), st.integers(1, 100), st.integers(1, 50))
def test_retry_waits_grow_to_a_minute_and_are_the_same_at_every_replay(
    task: int, epoch: int, failures: int
) -> None:
    wait = retry.delay_seconds(task, epoch, failures)
    assert 0.25 <= wait <= 60.0
    assert wait == retry.delay_seconds(task, epoch, failures)
