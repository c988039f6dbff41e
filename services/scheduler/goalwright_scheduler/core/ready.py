"""The ready tasks the leader holds in memory: one heap per lane, a bounded cache of what Postgres knows.

Entries may be stale (a task cancelled, a goal paused): dispatch is guarded in SQL, so a stale entry costs a
lookup and nothing else.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

CACHE_PER_LANE = 10_000


@dataclass(frozen=True, slots=True)
class Ready:
    """One ready task. Higher `rank` goes first."""

    id: int
    goal: int
    lane: str
    rank: float


@dataclass(slots=True)
class _Heap:
    entries: list[tuple[float, int, Ready]] = field(default_factory=list)
    truncated: bool = False  # Postgres holds more than the cache


class ReadyTasks:
    """Heaps by lane. `truncated_lanes()` names those to refill from Postgres."""

    def __init__(self, cache_per_lane: int = CACHE_PER_LANE) -> None:
        self._cap = cache_per_lane
        self._heaps: dict[str, _Heap] = {}

    def push(self, tasks: Iterable[Ready]) -> None:
        """Add tasks; beyond twice the cache the worst are forgotten (and refilled later)."""
        for task in tasks:
            heap = self._heaps.setdefault(task.lane, _Heap())
            heapq.heappush(heap.entries, (-task.rank, task.id, task))
            if len(heap.entries) > 2 * self._cap:
                heap.entries = heapq.nsmallest(self._cap, heap.entries)  # a sorted list is a heap
                heap.truncated = True

    def mark_truncated(self, lane: str) -> None:
        """Postgres holds more tasks of this lane than were pushed."""
        self._heaps.setdefault(lane, _Heap()).truncated = True

    def refilling(self) -> list[str]:
        """Lanes that ran empty although Postgres holds more; each is named once per refill."""
        empty = [lane for lane, heap in self._heaps.items() if heap.truncated and not heap.entries]
        for lane in empty:
            self._heaps[lane].truncated = False
        return empty

    def waiting(self) -> dict[str, int]:
        """Entries by lane, lanes without any left out."""
        return {lane: len(heap.entries) for lane, heap in self._heaps.items() if heap.entries}

    def take(
        self, lanes: Iterable[str], free: Mapping[str, int], most: int, eligible: Callable[[int], bool]
    ) -> list[Ready]:
        """The best `most` tasks over `lanes` (one pool) that have free slots, strictly by rank.

        Tasks of goals that are not `eligible` are dropped: they are read again when their goal resumes.
        """
        left = {lane: free.get(lane, 0) for lane in lanes}
        taken: list[Ready] = []
        seen: set[int] = set()
        while len(taken) < most:
            best = min(
                (self._heaps[lane] for lane, slots in left.items() if slots > 0 and self._entries(lane)),
                key=lambda heap: heap.entries[0],
                default=None,
            )
            if best is None:
                break
            task = heapq.heappop(best.entries)[2]
            if task.id in seen or not eligible(task.goal):
                continue
            seen.add(task.id)
            left[task.lane] -= 1
            taken.append(task)
        return taken

    def _entries(self, lane: str) -> bool:
        heap = self._heaps.get(lane)
        return heap is not None and bool(heap.entries)
