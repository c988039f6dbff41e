"""Rank: value is conserved as it flows back, closures count shared work once, head starts follow returns."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from goalwright_scheduler.core import calibration, roi
from goalwright_scheduler.core.calibration import Calibration, Ratio
from hypothesis import given
from hypothesis import strategies as st

from bench.simulator.graphs import random_graph
from bench.simulator.world import POLICIES, World

Graph = tuple[list[str], dict[str, roi.Node[str]]]


@st.composite
def graphs(draw: st.DrawFn, most: int = 25) -> Graph:
    """A random acyclic graph in topological order; what nobody needs has a value, and some others have."""
    count = draw(st.integers(1, most))
    keys = [f"t{n}" for n in range(count)]
    needs = {
        key: tuple(draw(st.sets(st.sampled_from(keys[:index]), max_size=4))) if index else ()
        for index, key in enumerate(keys)
    }
    needed = {need for wanted in needs.values() for need in wanted}
    nodes = {}
    for key in keys:
        valued = key not in needed or draw(st.integers(0, 4)) == 0
        nodes[key] = roi.Node(
            key,
            needs[key],
            draw(st.floats(0.1, 100)) if valued else 0.0,
            draw(st.floats(0.1, 100)),
            draw(st.floats(0.1, 1)),
            draw(st.floats(0.1, 50)),
        )
    return keys, nodes


@pytest.fixture(params=[roi.EXACT_PAIRS, 0], ids=["listed", "split"])
def pairs(request: pytest.FixtureRequest) -> int:
    """Closures listed one by one, and the linear way for large graphs."""
    return int(request.param)


def tree(seed: int, count: int = 30) -> Graph:
    """A graph in which every task serves exactly one other."""
    chance = random.Random(seed)
    keys = [f"t{n}" for n in range(count)]
    needs: dict[str, tuple[str, ...]] = dict.fromkeys(keys, ())
    for index, key in enumerate(keys[:-1]):
        needs[keys[chance.randrange(index + 1, count)]] += (key,)
    last = keys[-1]
    nodes = {
        key: roi.Node(key, needs[key], 5.0 if key == last else 0.0, chance.random() + 0.1, 0.9, 1.0)
        for key in keys
    }
    return keys, nodes


@given(graphs())
def test_value_is_conserved_as_it_flows_back(graph: Graph) -> None:
    order, nodes = graph
    injected = sum(
        roi.worth(nodes, key, roi.closure(nodes, key)) for key, node in nodes.items() if node.value > 0
    )
    found = roi.returns(order, nodes)
    arrived = sum(found[key] * nodes[key].cost for key in order)
    assert math.isclose(arrived, injected, rel_tol=1e-9)


@given(graphs())
def test_value_is_conserved_when_shared_work_is_split(graph: Graph) -> None:
    order, nodes = graph
    sure = {
        key: roi.Node(key, node.needs, node.value, node.cost, 1.0, node.seconds)
        for key, node in nodes.items()
    }
    found = roi.returns(order, sure, exact_pairs=0)
    arrived = sum(found[key] * sure[key].cost for key in order)
    assert math.isclose(arrived, sum(node.value for node in sure.values()), rel_tol=1e-9)


@given(st.integers(0, 10_000))
def test_both_ways_agree_where_every_task_serves_one_other(seed: int) -> None:
    order, nodes = tree(seed)
    listed, split = roi.returns(order, nodes), roi.returns(order, nodes, exact_pairs=0)
    assert all(math.isclose(listed[key], split[key], rel_tol=1e-9) for key in order)


def test_closure_counts_shared_work_once(pairs: int) -> None:
    nodes = {
        "shared": roi.Node("shared", (), 0.0, 6.0, 1.0, 1.0),
        "left": roi.Node("left", ("shared",), 0.0, 1.0, 1.0, 1.0),
        "right": roi.Node("right", ("shared",), 0.0, 1.0, 1.0, 1.0),
        "top": roi.Node("top", ("left", "right"), 20.0, 2.0, 1.0, 1.0),
    }
    found = roi.returns(list(nodes), nodes, exact_pairs=pairs)
    assert found == dict.fromkeys(nodes, 2.0)  # 20 for 6 + 1 + 1 + 2


def test_task_that_serves_two_deliverables_has_the_return_of_both() -> None:
    nodes = {
        "shared": roi.Node("shared", (), 0.0, 1.0, 1.0, 1.0),
        "a": roi.Node("a", ("shared",), 4.0, 1.0, 1.0, 1.0),
        "b": roi.Node("b", ("shared",), 6.0, 1.0, 1.0, 1.0),
    }
    assert roi.returns(list(nodes), nodes) == {"shared": 5.0, "a": 2.0, "b": 3.0}


def test_doubtful_work_is_worth_less() -> None:
    nodes = {
        "sure": roi.Node("sure", (), 1.0, 1.0, 1.0, 1.0),
        "doubtful": roi.Node("doubtful", (), 1.0, 1.0, 0.5, 1.0),
    }
    starts = roi.head_starts(list(nodes), nodes, cap_seconds=600)
    assert starts["sure"] > starts["doubtful"]


@given(st.lists(st.floats(1e-4, 1e4), min_size=2, max_size=30, unique=True))
def test_head_start_is_strictly_monotone_in_the_return(values: list[float]) -> None:
    nodes = {f"t{n}": roi.Node(f"t{n}", (), value, 1.0, 1.0, 1.0) for n, value in enumerate(sorted(values))}
    order = list(nodes)
    found, starts = (
        roi.returns(order, nodes),
        roi.head_starts(order, nodes, cap_seconds=600),
    )
    for less, more in itertools.pairwise(order):
        assert starts[less] <= starts[more]
        if found[more] > found[less] * (1 + 1e-9):
            assert starts[less] < starts[more]


@given(graphs(), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_head_starts_stay_within_the_cap_and_do_not_depend_on_units(
    graph: Graph, money: float, worth: float
) -> None:
    order, nodes = graph
    starts = roi.head_starts(order, nodes, cap_seconds=600)
    assert all(0 <= start <= 600 + 1e-6 for start in starts.values())
    other = {
        key: roi.Node(key, n.needs, n.value * worth, n.cost * money, n.confidence, n.seconds)
        for key, n in nodes.items()
    }
    again = roi.head_starts(order, other, cap_seconds=600)
    assert all(math.isclose(starts[key], again[key], rel_tol=1e-6, abs_tol=1e-6) for key in order)


@given(graphs())
def test_critical_path_is_no_shorter_than_any_of_its_parts(graph: Graph) -> None:
    order, nodes = graph
    path = roi.critical_seconds(order, nodes)
    for key, node in nodes.items():
        assert path[key] >= node.seconds - 1e-9
        for need in node.needs:
            assert path[need] >= nodes[need].seconds + path[key] - 1e-6


def test_longer_path_decides_between_equal_returns() -> None:
    nodes = {
        "end": roi.Node("end", ("long", "short"), 1.0, 1.0, 1.0, 1.0),
        "long": roi.Node("long", (), 0.0, 1.0, 1.0, 60.0),
        "short": roi.Node("short", (), 0.0, 1.0, 1.0, 2.0),
    }
    starts = roi.head_starts(["long", "short", "end"], nodes, cap_seconds=600)
    assert starts["long"] > starts["short"]


def test_ratio_of_a_lane_starts_at_the_estimate_and_comes_to_what_was_seen() -> None:
    ratio = Ratio()
    assert ratio.factor() == 1.0
    seen = []
    for _ in range(200):
        ratio += Ratio(1.0, 10.0, 30.0)
        seen.append(ratio.factor())
    assert seen == sorted(seen)
    assert seen[0] == pytest.approx((5 + 3) / 6)
    assert seen[-1] == pytest.approx(3.0, rel=0.05)


@given(st.lists(st.tuples(st.floats(0.01, 1e6), st.floats(0, 1e9)), max_size=50))
def test_no_streak_of_odd_tasks_moves_an_estimate_beyond_the_bounds(tasks: list[tuple[float, float]]) -> None:
    lane = Calibration()
    for estimated, actual in tasks:
        lane += calibration.observed(
            estimated_cost=estimated, actual_cost=actual, estimated_seconds=0, actual_seconds=actual
        )
    assert 1 / 8 <= lane.cost.factor() <= 8
    assert lane.seconds.factor() == 1.0  # nothing was estimated


def test_old_tasks_fade_when_a_lane_has_changed() -> None:
    ratio = Ratio()
    for actual in [1.0] * 2000 + [4.0] * 600:
        ratio += Ratio(1.0, 1.0, actual)
    assert ratio.factor() > 3.5


def test_return_order_delivers_value_sooner_than_first_come_first_served() -> None:
    """The simulator of `bench/` as a regression test: the shipped ranks, 4 workers, 10 random graphs."""
    fifo, ordered = (p for p in POLICIES if p.name in ("FIFO", "ROI order"))
    problems = [random_graph(seed) for seed in range(10)]
    ratios = [
        World(problem, ordered, 4).run().completion / World(problem, fifo, 4).run().completion
        for problem in problems
    ]
    assert sorted(ratios)[5] < 0.85
