"""The mathematics of the loop detectors."""

from __future__ import annotations

from goalwright_reflector.core.patterns import alternates, similarity, smallest_period, stale
from hypothesis import given
from hypothesis import strategies as st

TOKENS = st.integers(0, 5)
CYCLES = st.lists(TOKENS, min_size=1, max_size=8)


@given(st.lists(TOKENS, max_size=30), CYCLES)
def test_every_periodic_stream_is_found_within_three_repetitions(before: list[int], cycle: list[int]) -> None:
    period = smallest_period(before + cycle * 3, 8, 3)
    assert period is not None
    assert period <= len(cycle)


@given(st.lists(TOKENS, max_size=30), CYCLES)
def test_what_is_found_really_repeats_and_no_shorter_period_does(before: list[int], cycle: list[int]) -> None:
    stream = before + cycle * 3
    period = smallest_period(stream, 8, 3)
    assert period is not None
    tail = stream[-3 * period :]
    assert tail == tail[:period] * 3
    assert all(stream[-3 * p :] != stream[-3 * p :][:p] * 3 for p in range(1, period))


@given(st.lists(TOKENS, max_size=40), st.integers(0, 2))
def test_a_stream_that_brings_something_new_is_no_loop(stream: list[int], behind: int) -> None:
    novelty = -1  # occurs once, among the last three
    at = len(stream) - behind
    assert smallest_period([*stream[:at], novelty, *stream[at:]], 8, 3) is None


@given(st.lists(TOKENS, max_size=60, unique=True))
def test_distinct_steps_are_never_a_loop(stream: list[int]) -> None:
    assert smallest_period(stream, 8, 3) is None


def test_two_repetitions_are_not_enough() -> None:
    assert smallest_period([1, 2, 3] * 2, 8, 3) is None


def test_a_period_above_eight_is_not_looked_for() -> None:
    assert smallest_period(list(range(9)) * 3, 8, 3) is None


def test_two_names_in_turn_alternate_and_three_do_not() -> None:
    assert alternates(["x", "a", "b", "a", "b"], 4)
    assert not alternates(["a", "b", "c", "b"], 4)
    assert not alternates(["a", "a", "a", "a"], 4)
    assert not alternates(["a", "b"], 4)


@given(st.lists(st.booleans(), max_size=30))
def test_stale_counts_the_last_window_only(fresh: list[bool]) -> None:
    old = fresh[-12:].count(False)
    assert stale(fresh, 12, 10) == (len(fresh) >= 12 and old >= 10)


@given(st.text(max_size=40), st.text(max_size=40))
def test_similarity_is_symmetric_and_bounded(a: str, b: str) -> None:
    assert similarity(a, b) == similarity(b, a)
    assert 0.0 <= similarity(a, b) <= 1.0


def test_a_reworded_answer_is_similar_and_another_one_is_not() -> None:
    text = "The table has 5,021 rows and fourteen columns, of which three have gaps."
    assert similarity(text, text.upper().replace(" ", "  ")) == 1.0
    assert similarity(text, text.replace("gaps.", "gaps!")) > 0.9
    assert (
        similarity(text, "Outliers of latitude lie beyond 72 degrees; longitude explains the offset.") < 0.3
    )
