"""The ready tasks the leader holds in memory: heaps per pool, goal and lane; a bounded cache of Postgres.

Inside a goal the rank is strict over all lanes of a pool; between goals turns are fair (`fair.py`). Entries
may be stale (a task cancelled, a goal paused): dispatch is guarded in SQL, so a stale one costs a lookup.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from goalwright_scheduler.core.fair import Turns

CACHE_PER_LANE = 10_000


class Ready(NamedTuple):
    """One ready task. Higher `rank` goes first; `cost` is what its dispatch reserves in micro-dollars, where that
    is not its lane's."""

    id: int
    goal: int
    lane: str
    rank: float
    cost: int = 0
    screened: bool = False  # looked at before it is dispatched (`twins`)


_Heap: TypeAlias = list[tuple[float, int, Ready]]


class _Pool:
    """Lanes that share a rate: per goal a heap per lane, and whose turn it is."""

    def __init__(self) -> None:
        self.goals: dict[int, dict[str, _Heap]] = {}
        self.turns = Turns()


class ReadyTasks:
    """What `take` chooses from. Pools are known by the lanes that `take` is asked for."""

    def __init__(self, cache_per_lane: int = CACHE_PER_LANE) -> None:
        self._cap = cache_per_lane
        self._pools: dict[str, _Pool] = {}  # by lane
        self._joined: set[tuple[str, ...]] = set()
        self._current: dict[int, Ready] = {}  # the entry that counts, by task
        self._counts: dict[str, int] = {}  # live entries by lane
        self._weights: dict[int, float] = {}
        self._costs: dict[str, int] = {}
        self._cut: set[tuple[str, int]] = set()  # Postgres holds more of this goal on this lane
        self._truncated: set[str] = set()  # Postgres holds more of this lane
        self._wanting: set[str] = set()  # lanes to refill

    def push(self, tasks: Iterable[Ready]) -> None:
        """Add tasks, or give known ones another rank or lane. Beyond twice the cache, the worst of the goals
        that have most are forgotten (and refilled later)."""
        current, counts, pools = self._current, self._counts, self._pools
        for task in tasks:
            lane = task.lane
            known = current.get(task.id)
            if known is not None:
                if known == task:
                    continue
                counts[known.lane] -= 1
            current[task.id] = task
            pool = pools.get(lane)
            if pool is None:
                pool = pools[lane] = _Pool()
            self._add(pool, task)
            count = counts[lane] = counts.get(lane, 0) + 1
            if count > 2 * self._cap:
                self._trim(lane)

    def set_weight(self, goal: int, weight: float) -> None:
        """A goal's share of every pool, against 1 for others."""
        if weight == 1.0:
            self._weights.pop(goal, None)
        else:
            self._weights[goal] = weight
        for pool in self._pools.values():
            pool.turns.reweigh(goal, weight)

    def set_cost(self, lane: str, cost: int) -> None:
        """What a dispatch on this lane reserves; 0 on free lanes, where each counts 1."""
        self._costs[lane] = cost

    def mark_truncated(self, lane: str, goal: int | None = None) -> None:
        """Postgres holds more tasks of this lane (of this goal on it) than were pushed."""
        if goal is None:
            self._truncated.add(lane)
        else:
            self._cut.add((lane, goal))

    def refilling(self) -> list[str]:
        """Lanes that ran empty, or on which a goal did, although Postgres holds more; each is named once."""
        empty = {lane for lane in self._truncated if not self._counts.get(lane)}
        self._truncated -= empty
        wanting = sorted(self._wanting | empty)
        self._wanting.clear()
        return wanting

    def waiting(self) -> dict[str, int]:
        """Entries by lane, lanes without any left out."""
        return {lane: count for lane, count in self._counts.items() if count}

    def take(
        self, lanes: Iterable[str], free: Mapping[str, int], most: int, eligible: Callable[[int], bool]
    ) -> list[Ready]:
        """The next `most` tasks over `lanes` (one pool) that have free slots: goals in fair turns, inside a
        goal strictly by rank.

        Tasks of goals that are not `eligible` are dropped: they are read again when their goal resumes.
        """
        wanted = tuple(lanes)
        left = {lane: free[lane] for lane in wanted if free.get(lane, 0) > 0}
        if not left:
            return []
        pool = self._pool(wanted)
        turns = pool.turns
        taken: list[Ready] = []
        passed = 0  # goals in a row that had nothing for the free slots
        while left and len(taken) < most and passed < len(turns):
            goal = turns.first()
            heaps = pool.goals[goal]
            heap = self._best(heaps, left)
            if heap is None:
                if any(heaps.values()):
                    turns.pass_on()
                    passed += 1
                else:
                    self._empty(pool, goal)
                continue
            if not eligible(goal):
                self._drop(pool, goal)
                continue
            top = heap[0][2]
            if not turns.charge(top.cost or self._costs.get(top.lane) or 1):
                turns.pass_on()
                continue
            passed = 0
            task = heapq.heappop(heap)[2]
            del self._current[task.id]
            self._counts[task.lane] -= 1
            left[task.lane] -= 1
            if not left[task.lane]:
                del left[task.lane]
            taken.append(task)
        return taken

    def _best(self, heaps: Mapping[str, _Heap], left: Mapping[str, int]) -> _Heap | None:
        """The heap whose top goes next, among lanes with free slots; entries that no longer count are gone."""
        best = None
        for lane, heap in heaps.items():
            if lane in left:
                while heap and self._current.get(heap[0][1]) is not heap[0][2]:
                    heapq.heappop(heap)
                if heap and (best is None or heap[0] < best[0]):
                    best = heap
        return best

    def _empty(self, pool: _Pool, goal: int) -> None:
        """The first goal in turn has nothing left here."""
        for lane in pool.goals.pop(goal):
            if (lane, goal) in self._cut:
                self._cut.discard((lane, goal))
                self._wanting.add(lane)
        pool.turns.leave()

    def _drop(self, pool: _Pool, goal: int) -> None:
        """Forget the first goal in turn with all its entries."""
        for lane, heap in pool.goals.pop(goal).items():
            self._cut.discard((lane, goal))
            self._forget(heap)
        pool.turns.leave()

    def _forget(self, entries: Iterable[tuple[float, int, Ready]]) -> None:
        for _, number, task in entries:
            if self._current.get(number) is task:
                del self._current[number]
                self._counts[task.lane] -= 1

    def _trim(self, lane: str) -> None:
        """Keep the best of each goal on this lane, an equal share of the cache each."""
        goals = {goal: heaps[lane] for goal, heaps in self._pools[lane].goals.items() if heaps.get(lane)}
        share = max(1, self._cap // len(goals))
        for goal, heap in goals.items():
            heap.sort()  # a sorted list is a heap
            if len(heap) > share:
                self._forget(heap[share:])
                del heap[share:]
                self._cut.add((lane, goal))

    def _pool(self, lanes: Sequence[str]) -> _Pool:
        """The pool of these lanes; lanes that were not known to share one are joined."""
        key = tuple(lanes)
        if key not in self._joined:
            joined = _Pool()
            for old in {id(p): p for p in (self._pools.get(lane) for lane in key) if p}.values():
                for heaps in old.goals.values():
                    for heap in heaps.values():
                        for _, number, task in heap:
                            if self._current.get(number) is task:
                                self._add(joined, task)
            for lane in key:
                self._pools[lane] = joined
            self._joined.add(key)
        return self._pools[key[0]]

    def _add(self, pool: _Pool, task: Ready) -> None:
        heaps = pool.goals.get(task.goal)
        if heaps is None:
            heaps = pool.goals[task.goal] = {}
            pool.turns.join(task.goal, self._weights.get(task.goal, 1.0))
        heap = heaps.get(task.lane)
        if heap is None:
            heap = heaps[task.lane] = []
        heapq.heappush(heap, (-task.rank, task.id, task))
