"""Properties of the scheduler's pure decisions."""

from __future__ import annotations

import math

from goalwright_scheduler.core import money, rate, retry, roi
from goalwright_scheduler.core.ready import Ready, ReadyTasks
from goalwright_shared.messages import Lane, Usage
from hypothesis import given
from hypothesis import strategies as st

LANE = Lane(
    name="agent.x", pool="k/m", max_input_tokens=1000, max_output_tokens=500,
    input_usd_per_mtok=2.5, output_usd_per_mtok=10.0,
)  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[str], dict[str, roi.Node]]:
    """A random acyclic graph in topological order."""
    count = draw(st.integers(1, 25))
    keys = [f"t{n}" for n in range(count)]
    consumed: set[str] = set()
    nodes: dict[str, roi.Node] = {}
    for index, key in enumerate(keys):
        needs = tuple(draw(st.sets(st.sampled_from(keys[:index]), max_size=4))) if index else ()
        consumed.update(needs)
        nodes[key] = roi.Node(
            key, needs, 0.0, draw(st.floats(0.1, 100)), draw(st.floats(0.1, 1)), draw(st.floats(0.1, 50))
        )
    for key in keys:
        if key not in consumed:
            node = nodes[key]
            nodes[key] = roi.Node(
                key, node.needs, draw(st.floats(0.1, 100)), node.cost, node.confidence, node.seconds
            )
    return keys, nodes


@given(graphs())
def test_value_is_conserved_as_it_flows_back(graph: tuple[list[str], dict[str, roi.Node]]) -> None:
    order, nodes = graph
    flow = roi.densities(order, nodes)
    closure = roi._closures(order, nodes)
    injected = sum(n.value * n.confidence / closure[k] for k, n in nodes.items() if n.value > 0)
    arrived = sum(flow[key] for key in order if not nodes[key].needs)
    assert math.isclose(arrived, injected, rel_tol=1e-9)


@given(graphs())
def test_head_starts_stay_within_the_cap_and_follow_density(
    graph: tuple[list[str], dict[str, roi.Node]],
) -> None:
    order, nodes = graph
    starts = roi.head_starts(order, nodes, cap_seconds=600)
    assert all(0 <= start <= 600 + 1e-6 for start in starts.values())


@given(graphs())
def test_critical_path_is_no_shorter_than_any_of_its_parts(
    graph: tuple[list[str], dict[str, roi.Node]],
) -> None:
    order, nodes = graph
    path = roi.critical_seconds(order, nodes)
    for key, node in nodes.items():
        assert path[key] >= node.seconds - 1e-9
        for need in node.needs:
            assert path[need] >= nodes[need].seconds + path[key] - 1e-6


def test_a_deliverable_of_more_value_goes_first() -> None:
    nodes = {
        "cheap": roi.Node("cheap", (), 1.0, 1.0, 1.0, 1.0),
        "dear": roi.Node("dear", (), 10.0, 1.0, 1.0, 1.0),
    }
    starts = roi.head_starts(["cheap", "dear"], nodes, cap_seconds=600)
    assert starts["dear"] > starts["cheap"]


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


ready_tasks = st.lists(
    st.builds(
        Ready,
        id=st.integers(1, 10**6),
        goal=st.integers(1, 3),
        lane=st.sampled_from(["a", "b"]),
        rank=st.floats(-1e6, 1e6),
    ),
    unique_by=lambda task: task.id,
    max_size=60,
)


@given(ready_tasks, st.integers(0, 10), st.integers(0, 10), st.integers(0, 20))
def test_no_candidate_left_behind_ranks_higher(
    tasks: list[Ready], free_a: int, free_b: int, most: int
) -> None:
    heaps = ReadyTasks()
    heaps.push(tasks)
    taken = heaps.take(["a", "b"], {"a": free_a, "b": free_b}, most, lambda goal: goal != 3)
    assert len(taken) <= most
    for lane, slots in (("a", free_a), ("b", free_b)):
        mine = [task for task in taken if task.lane == lane]
        assert len(mine) <= slots
        left = [t for t in tasks if t.lane == lane and t.goal != 3 and t not in taken]
        if mine and left and len(mine) < slots and len(taken) < most:
            raise AssertionError("a free slot was left empty")
        if mine and left:
            assert min(t.rank for t in mine) >= max(t.rank for t in left)


@given(ready_tasks)
def test_cache_keeps_the_best_and_says_that_there_are_more(tasks: list[Ready]) -> None:
    heaps = ReadyTasks(cache_per_lane=5)
    heaps.push(tasks)
    mine = [task for task in tasks if task.lane == "a"]
    taken = heaps.take(["a"], {"a": 1000}, 1000, lambda _: True)
    assert [t.rank for t in taken[:5]] == sorted((t.rank for t in mine), reverse=True)[:5]
    assert ("a" in heaps.refilling()) == (len(taken) < len(mine))
