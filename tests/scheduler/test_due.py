"""What is looked at when: against a plain list."""

from __future__ import annotations

from goalwright_scheduler.core.due import DueTimes
from hypothesis import given
from hypothesis import strategies as st

times = st.floats(0, 100, allow_nan=False)
pairs = st.tuples(times, st.integers(1, 50))


@given(st.lists(st.one_of(st.lists(pairs, max_size=20), st.tuples(times, st.integers(1, 9))), max_size=20))
def test_takes_what_is_due_in_order_and_keeps_the_rest(
    steps: list[list[tuple[float, int]] | tuple[float, int]],
) -> None:
    due, model = DueTimes(), []
    for step in steps:
        if isinstance(step, list):
            due.add(step)
            model += step
        else:
            now, most = step
            model.sort()
            expected = [pair for pair in model if pair[0] <= now][:most]
            assert due.take(now, most) == [task for _, task in expected]
            model = model[len(expected) :]
        assert len(due) == len(model)
