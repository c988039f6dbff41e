"""When to look at which task: sixteen bytes each, for every dispatch of the last lease is remembered here."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable


class DueTimes:
    """Times (seconds of a clock) and tasks, in a bucket per second. A task may be in it several times."""

    def __init__(self) -> None:
        self._buckets: dict[int, tuple[array[float], array[int]]] = {}
        self._seconds: list[int] = []  # heap: the keys of the buckets

    def __len__(self) -> int:
        return sum(len(times) for times, _ in self._buckets.values())

    def add(self, pairs: Iterable[tuple[float, int]]) -> None:
        """Look at these tasks then."""
        for at, task in pairs:
            second = int(at)
            bucket = self._buckets.get(second)
            if bucket is None:
                bucket = self._buckets[second] = (array("d"), array("q"))
                heapq.heappush(self._seconds, second)
            bucket[0].append(at)
            bucket[1].append(task)

    def take(self, now: float, most: int) -> list[int]:
        """At most so many tasks whose time has come, who is first due first."""
        found: list[int] = []
        while self._seconds and self._seconds[0] <= now and len(found) < most:
            second = heapq.heappop(self._seconds)
            pairs = sorted(zip(*self._buckets.pop(second), strict=True))
            due = [task for at, task in pairs if at <= now][: most - len(found)]
            found += due
            if len(due) < len(pairs):
                self.add(pairs[len(due) :])
                break
        return found
