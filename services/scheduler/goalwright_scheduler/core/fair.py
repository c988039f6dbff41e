"""Fair turns between goals: deficit round robin by weight, charged with what a task reserves.

Source: Shreedhar and Varghese, "Efficient Fair Queuing using Deficit Round Robin" (1995). Each visit grants a
goal a quantum in proportion to its weight; it is served while its deficit covers the next charge. The quantum
of the lightest goal is the largest charge seen, so every visit serves at least one task and a turn costs O(1).
"""

from __future__ import annotations

from collections import Counter, deque

_LEAST_WEIGHT = 1e-3


class Turns:
    """The goals that have something waiting in one pool, in the order of their turns; the first is served."""

    def __init__(self) -> None:
        self._ring: deque[int] = deque()
        self._deficits: dict[int, float] = {}
        self._weights: dict[int, float] = {}
        self._members: Counter[float] = Counter()  # how many goals have each weight
        self._least = 1.0
        self._largest = 1.0
        self._granted = False  # the first goal has its quantum for this visit

    def __len__(self) -> int:
        return len(self._ring)

    def join(self, goal: int, weight: float) -> None:
        """A goal has something waiting: its turn comes last."""
        if goal not in self._deficits:
            self._ring.append(goal)
            self._deficits[goal] = 0.0
            self._weigh(goal, weight)

    def reweigh(self, goal: int, weight: float) -> None:
        """The weight of a goal has changed."""
        if goal in self._deficits and self._weights[goal] != weight:
            self._unweigh(goal)
            self._weigh(goal, weight)

    def first(self) -> int:
        """The goal whose turn it is."""
        return self._ring[0]

    def leave(self) -> None:
        """The first goal has nothing left; what it did not use is gone."""
        goal = self._ring.popleft()
        del self._deficits[goal]
        self._unweigh(goal)
        self._granted = False

    def pass_on(self) -> None:
        """The turn goes to the next; what the first had left is kept, but never more than one quantum."""
        goal = self._ring[0]
        self._deficits[goal] = min(self._deficits[goal], self._quantum(goal))
        self._ring.rotate(-1)
        self._granted = False

    def charge(self, amount: float) -> bool:
        """Serve the first goal once for `amount`. False when its turn is over."""
        goal = self._ring[0]
        if amount > self._largest:
            self._largest = amount
        if not self._granted:
            self._deficits[goal] += self._quantum(goal)
            self._granted = True
        if amount > self._deficits[goal]:
            return False
        self._deficits[goal] -= amount
        return True

    def _quantum(self, goal: int) -> float:
        return self._largest * self._weights[goal] / self._least

    def _weigh(self, goal: int, weight: float) -> None:
        weight = max(weight, _LEAST_WEIGHT)
        self._weights[goal] = weight
        self._members[weight] += 1
        self._least = min(self._members)

    def _unweigh(self, goal: int) -> None:
        weight = self._weights.pop(goal)
        self._members[weight] -= 1
        if not self._members[weight]:
            del self._members[weight]
            self._least = min(self._members, default=1.0)
