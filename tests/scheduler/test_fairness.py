"""Ready tasks: strict rank inside a goal, fair turns between goals by weight and reserved cost, a bounded cache."""

from __future__ import annotations

from collections import Counter

from goalwright_scheduler.core.ready import Ready, ReadyTasks
from hypothesis import given
from hypothesis import strategies as st

ready_tasks = st.lists(
    st.builds(
        Ready,
        id=st.integers(1, 10**6),
        goal=st.integers(1, 3),
        lane=st.sampled_from(["a", "b"]),
        rank=st.floats(-1e6, 1e6),
        cost=st.sampled_from([0, 0, 40, 700]),
    ),
    unique_by=lambda task: task.id,
    max_size=60,
)


def everybody(_: int) -> bool:
    return True


@given(ready_tasks, st.integers(0, 10), st.integers(0, 10), st.integers(0, 20))
def test_no_candidate_of_a_goal_left_behind_ranks_higher(
    tasks: list[Ready], free_a: int, free_b: int, most: int
) -> None:
    heaps = ReadyTasks()
    heaps.push(tasks)
    taken = heaps.take(["a", "b"], {"a": free_a, "b": free_b}, most, lambda goal: goal != 3)
    assert len(taken) <= most
    assert len({task.id for task in taken}) == len(taken)
    may = [task for task in tasks if task.goal != 3]
    for lane, slots in (("a", free_a), ("b", free_b)):
        mine = [task for task in taken if task.lane == lane]
        waiting = [task for task in may if task.lane == lane]
        assert len(mine) <= slots
        if len(taken) < most:
            assert len(mine) == min(slots, len(waiting)), "a free slot was left empty"
    for goal in (1, 2):
        for lane in ("a", "b"):
            here = [task for task in may if (task.goal, task.lane) == (goal, lane)]
            went = [task.rank for task in here if task in taken]
            left = [task.rank for task in here if task not in taken]
            if went and left:
                assert min(went) >= max(left)


@given(ready_tasks)
def test_inside_a_goal_rank_is_strict_over_all_lanes_of_a_pool(tasks: list[Ready]) -> None:
    heaps = ReadyTasks()
    heaps.push(task._replace(goal=1) for task in tasks)
    taken = heaps.take(["a", "b"], {"a": 100, "b": 100}, 100, everybody)
    assert [task.rank for task in taken] == sorted((task.rank for task in tasks), reverse=True)


@given(
    st.dictionaries(st.integers(1, 6), st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2),
    st.sampled_from([1, 7, 50]),
    st.booleans(),
)
def test_weights_are_respected_within_one_quantum(
    weights: dict[int, float], at_once: int, paid: bool
) -> None:
    """While all goals wait, what each got for its weight differs by no more than two quanta at any time."""
    heaps = ReadyTasks()
    number = 0
    for goal, weight in weights.items():
        heaps.set_weight(goal, weight)
        tasks = []
        for _ in range(400):
            number += 1
            cost = 10 * (1 + number * 7 % 9) if paid else 0
            tasks.append(Ready(number, goal, "a", float(number % 37), cost))
        heaps.push(tasks)
    got: Counter[int] = Counter()
    left = Counter(dict.fromkeys(weights, 400))
    largest, least = (90 if paid else 1), min(weights.values())
    while all(left.values()):
        for task in heaps.take(["a"], {"a": at_once}, at_once, everybody):
            got[task.goal] += task.cost or 1
            left[task.goal] -= 1
            if all(left.values()):
                shares = [got[goal] / weight for goal, weight in weights.items()]
                assert max(shares) - min(shares) <= 2 * largest / least + 1e-6


def test_small_goal_is_served_at_once_beside_a_huge_one() -> None:
    heaps = ReadyTasks()
    heaps.push(Ready(n, 1, "a", 1e6 + n) for n in range(10_000))
    heaps.take(["a"], {"a": 100}, 100, everybody)
    heaps.push([Ready(99_999, 2, "a", -1e6)])
    taken = heaps.take(["a"], {"a": 4}, 4, everybody)
    assert [task.goal for task in taken].count(2) == 1


def test_goal_of_cheap_calls_gets_as_much_money_as_one_of_dear_calls() -> None:
    heaps = ReadyTasks()
    heaps.push(Ready(n, 1, "a", 0.0, 100) for n in range(100))
    heaps.push(Ready(1000 + n, 2, "a", 0.0, 10) for n in range(1000))
    taken = heaps.take(["a"], {"a": 220}, 220, everybody)
    spent = Counter[int]()
    for task in taken:
        spent[task.goal] += task.cost
    assert spent[1] == spent[2] == 2000


@given(st.integers(2, 40), st.integers(1, 5))
def test_nobody_starves_however_many_newcomers_arrive(goals: int, each: int) -> None:
    """Every turn new tasks of better rank arrive for every goal: each goal is served every turn."""
    heaps = ReadyTasks()
    number = 0
    for turn in range(10):
        new = []
        for goal in range(goals):
            for _ in range(each):
                number += 1
                new.append(Ready(number, goal, "a", goal * 1000.0 + turn))
        heaps.push(new)
        taken = heaps.take(["a"], {"a": goals}, goals, everybody)
        assert {task.goal for task in taken} == set(range(goals))


def test_old_task_is_reached_before_newcomers_of_a_better_rank_when_its_age_outweighs_it() -> None:
    """Rank = head start − ready time: after the cap of the head start, any task outranks all newcomers."""
    heaps = ReadyTasks()
    cap = 600.0
    heaps.push([Ready(0, 1, "a", 0.0 - 0.0)])
    for now in range(1, 10_000):
        heaps.push([Ready(now, 1, "a", cap - now)])
        if heaps.take(["a"], {"a": 1}, 1, everybody)[0].id == 0:
            assert now <= cap + 1
            return
    raise AssertionError("the old task starved")


def test_goal_with_nothing_for_the_free_lanes_lets_others_go() -> None:
    heaps = ReadyTasks()
    heaps.push([Ready(1, 1, "a", 9.0), Ready(2, 2, "b", 1.0)])
    assert [task.id for task in heaps.take(["a", "b"], {"a": 0, "b": 1}, 5, everybody)] == [2]
    assert [task.id for task in heaps.take(["a", "b"], {"a": 1, "b": 1}, 5, everybody)] == [1]


def test_task_pushed_again_is_taken_once_and_by_its_newest_rank() -> None:
    heaps = ReadyTasks()
    heaps.push([Ready(1, 1, "a", 1.0), Ready(2, 1, "a", 2.0)])
    heaps.push([Ready(1, 1, "a", 1.0), Ready(1, 1, "a", 3.0)])
    assert heaps.waiting() == {"a": 2}
    assert [task.id for task in heaps.take(["a"], {"a": 9}, 9, everybody)] == [1, 2]
    assert heaps.waiting() == {}


def test_task_that_moved_to_another_lane_is_taken_there() -> None:
    heaps = ReadyTasks()
    heaps.push([Ready(1, 1, "a", 1.0)])
    heaps.push([Ready(1, 1, "b", 1.0)])
    assert heaps.waiting() == {"b": 1}
    assert heaps.take(["a"], {"a": 1}, 1, everybody) == []
    assert [task.lane for task in heaps.take(["b"], {"b": 1}, 1, everybody)] == ["b"]


@given(ready_tasks)
def test_waiting_counts_what_can_be_taken(tasks: list[Ready]) -> None:
    heaps = ReadyTasks()
    heaps.push(tasks)
    heaps.take(["a", "b"], {"a": 3, "b": 3}, 5, lambda goal: goal != 2)
    expected = heaps.waiting()
    taken = heaps.take(["a", "b"], {"a": 100, "b": 100}, 1000, everybody)
    assert expected == dict(Counter(task.lane for task in taken))


@given(ready_tasks)
def test_cache_keeps_the_best_of_each_goal_and_says_that_there_are_more(tasks: list[Ready]) -> None:
    heaps = ReadyTasks(cache_per_lane=6)
    heaps.push(tasks)
    mine = [task for task in tasks if task.lane == "a"]
    taken = heaps.take(["a"], {"a": 1000}, 1000, everybody)
    for goal in {task.goal for task in mine}:
        best = sorted((t.rank for t in mine if t.goal == goal), reverse=True)
        assert [t.rank for t in taken if t.goal == goal][:2] == best[:2]
    assert len(taken) <= 13
    assert ("a" in heaps.refilling()) == (len(taken) < len(mine))
    assert heaps.refilling() == []


def test_small_goal_is_not_forgotten_for_the_sake_of_a_huge_one() -> None:
    heaps = ReadyTasks(cache_per_lane=100)
    heaps.push([Ready(n, 2, "a", -1e9) for n in range(10)])
    heaps.push(Ready(1000 + n, 1, "a", float(n)) for n in range(5000))
    taken = heaps.take(["a"], {"a": 20}, 20, everybody)
    assert [task.goal for task in taken].count(2) == 10


def test_lane_that_postgres_holds_more_of_is_refilled_when_it_is_empty() -> None:
    heaps = ReadyTasks()
    heaps.push([Ready(1, 1, "a", 1.0)])
    heaps.mark_truncated("a")
    assert heaps.refilling() == []
    heaps.take(["a"], {"a": 1}, 1, everybody)
    assert heaps.refilling() == ["a"]
    assert heaps.refilling() == []


def test_lane_is_refilled_when_one_goal_that_has_more_ran_empty_although_others_wait() -> None:
    heaps = ReadyTasks()
    heaps.push([Ready(1, 1, "a", 1.0), *(Ready(10 + n, 2, "a", 1.0) for n in range(9))])
    heaps.mark_truncated("a", 1)
    heaps.mark_truncated("a")
    heaps.take(["a"], {"a": 4}, 4, everybody)
    assert heaps.waiting() == {"a": 6}
    assert heaps.refilling() == ["a"]
    assert heaps.refilling() == []


def test_dispatches_are_charged_with_what_their_lane_reserves() -> None:
    heaps = ReadyTasks()
    heaps.set_cost("dear", 100)
    heaps.set_cost("cheap", 10)
    heaps.push(Ready(n, 1, "dear", 0.0) for n in range(50))
    heaps.push(Ready(100 + n, 2, "cheap", 0.0) for n in range(200))
    taken = heaps.take(["dear", "cheap"], {"dear": 99, "cheap": 99}, 55, everybody)
    assert Counter(task.goal for task in taken) == {1: 5, 2: 50}


def test_entries_of_a_paused_goal_are_dropped_and_may_be_pushed_again() -> None:
    heaps = ReadyTasks()
    tasks = [Ready(1, 1, "a", 1.0), Ready(2, 2, "a", 2.0)]
    heaps.push(tasks)
    assert [t.id for t in heaps.take(["a"], {"a": 2}, 2, lambda goal: goal != 1)] == [2]
    assert heaps.waiting() == {}
    heaps.push(tasks[:1])
    assert [t.id for t in heaps.take(["a"], {"a": 2}, 2, everybody)] == [1]
