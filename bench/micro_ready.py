"""CPU time of pushing and taking a ready task: one goal with 10,000, and 1,000 goals with 10 or 100 each.

`python -m bench.micro_ready`. The scheduler does both for every task, so a push and a take together must stay
within 5 microseconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from goalwright_scheduler.core.ready import Ready, ReadyTasks

_ROUNDS = 7


def tasks(goals: int, each: int) -> list[Ready]:
    """Ready tasks of several goals in random order of rank."""
    chance = random.Random(7)
    made = [
        Ready(goal * each + number, goal, "a", chance.random() * 600)
        for goal in range(goals)
        for number in range(each)
    ]
    chance.shuffle(made)
    return made


def whole(ready: list[Ready], at_once: int) -> None:
    """All pushed, then all taken."""
    heaps = ReadyTasks()
    heaps.push(ready)
    while heaps.take(["a"], {"a": at_once}, at_once, bool_of):
        pass


def steady(ready: list[Ready], at_once: int) -> None:
    """A tenth waits; as many arrive as are taken."""
    heaps = ReadyTasks()
    heaps.push(ready[: len(ready) // 10])
    for start in range(len(ready) // 10, len(ready), at_once):
        heaps.push(ready[start : start + at_once])
        heaps.take(["a"], {"a": at_once}, at_once, bool_of)


def bool_of(goal: int) -> bool:
    """Every goal may run."""
    return goal >= 0


def microseconds(run: Callable[[list[Ready], int], None], ready: list[Ready], at_once: int) -> float:
    """CPU microseconds a task, the best of some rounds."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        run(ready, at_once)
        best = min(best, time.process_time() - began)
    return best / len(ready) * 1e6


def main() -> None:
    """Print a table."""
    print(f"{'goals':>6} {'tasks':>7} {'at once':>8} {'whole µs':>9} {'steady µs':>10}")
    for goals, each in ((1, 10_000), (10, 1_000), (1_000, 10), (1_000, 100)):
        ready = tasks(goals, each)
        for at_once in (1, 64, 512):
            times = [microseconds(run, ready, at_once) for run in (whole, steady)]
            print(f"{goals:>6} {goals * each:>7} {at_once:>8} {times[0]:>9.2f} {times[1]:>10.2f}")


if __name__ == "__main__":
    main()
