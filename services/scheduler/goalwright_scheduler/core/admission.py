"""Admission: which deliverables to do when not all can be paid for.

A deliverable costs what its closure costs, and closures share work: the set-union knapsack problem (Goldschmidt,
Nehme and Yu 1994), which is NP-hard. As there, and for its weighted kin budgeted coverage (Khuller, Moss and
Naor 1999), a greedy by value per marginal cost is good, and best when it is tried from every first choice; the
plain order by value ÷ closure cost is one more candidate, so the choice is never worse than that order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from goalwright_scheduler.core import roi
from goalwright_scheduler.core.roi import K, Node

_SEEDED_STEPS = 300_000
"""Every first choice is tried when that takes no more steps than about this; else the best ratio is first."""

_LARGE_STEPS = 300_000
"""In a graph whose closures are not listed: steps spent on deliverables that do not fit before the rest is parked."""


@dataclass(frozen=True, slots=True)
class Admission(Generic[K]):
    """Which tasks may run. `declined` maps each deliverable that is not admitted to what it would
    need: its marginal cost, and the largest reserve among its tasks."""

    tasks: frozenset[K]
    deliverables: tuple[K, ...]
    declined: dict[K, float]
    cost: float
    value: float


def choose(
    order: Sequence[K],
    nodes: Mapping[K, Node[K]],
    room: float,
    *,
    started: Collection[K] = (),
    reserve: Mapping[K, float] | None = None,
    exact_pairs: int = roi.EXACT_PAIRS,
) -> Admission[K]:
    """The deliverables to do with `room` to spend, in the unit of `Node.cost`.

    `order` is topological. `started` tasks are under way: they are paid for first, and in any case. `reserve`
    is what must be free beside a task's cost at the moment it goes (its hold is more than its estimate).
    Whatever has a value or is needed by nobody is a deliverable. What is admitted beside `started` costs no
    more than they leave, with the largest of its reserves.
    """
    needed = {need for key in order for need in nodes[key].needs}
    targets = [key for key in order if nodes[key].value > 0 or key not in needed]
    choice = _Choice(nodes, room - sum(nodes[key].cost for key in started), frozenset(started), reserve or {})
    closures = roi.closures(nodes, targets, exact_pairs)
    if closures is None or len(targets) ** 2 > 20 * exact_pairs:
        share = roi.returns(order, nodes, exact_pairs=0)
        return choice.large(sorted(targets, key=lambda key: share[key], reverse=True))
    choice.know(closures)
    best = choice.in_order()
    steps = sum(map(len, closures.values())) + len(targets) ** 2
    seeded = targets if steps * len(targets) <= _SEEDED_STEPS else []
    firsts: list[K | None] = [None, *seeded]
    for first in firsts:
        found = choice.greedy(first)
        if (found.value, -found.cost) > (best.value, -best.cost):
            best = found
    return best


@dataclass(slots=True)
class _Basket(Generic[K]):
    """What is chosen so far."""

    tasks: set[K]
    deliverables: list[K]
    cost: float = 0.0
    reserve: float = 0.0


class _Choice(Generic[K]):
    """The ways to choose among the deliverables of one graph."""

    def __init__(
        self, nodes: Mapping[K, Node[K]], room: float, started: frozenset[K], reserve: Mapping[K, float]
    ) -> None:
        self._nodes, self._room, self._started, self._reserve = nodes, room, started, reserve
        self._members: dict[K, list[K]] = {}
        self._worth: dict[K, float] = {}
        self._cost: dict[K, float] = {}
        self._reserves: dict[K, float] = {}
        self._users: dict[K, list[K]] = {}

    def know(self, closures: Mapping[K, list[K]]) -> None:
        """Prepare what `greedy` and `in_order` look up: the closure of every deliverable."""
        for key, whole in closures.items():
            members = [member for member in whole if member not in self._started]
            self._members[key] = members
            self._worth[key] = roi.worth(self._nodes, key, whole)
            self._cost[key] = sum(self._nodes[member].cost for member in members)
            self._reserves[key] = max((self._reserve.get(member, 0.0) for member in members), default=0.0)
            for member in members:
                self._users.setdefault(member, []).append(key)

    def greedy(self, first: K | None) -> Admission[K]:
        """The best value per marginal cost among what fits, again and again; `first` goes before all."""
        basket, marginal = self._empty(), dict(self._cost)
        while marginal:
            fits = [key for key in marginal if self._fits(basket, key, marginal[key])]
            if first is not None:
                fits, first = [key for key in fits if key == first], None
            if not fits:
                break
            self._take(basket, max(fits, key=lambda key: _ratio(self._worth[key], marginal[key])), marginal)
        return self._admission(basket, marginal)

    def in_order(self) -> Admission[K]:
        """By value ÷ cost of the whole closure, each that still fits."""
        basket, marginal = self._empty(), dict(self._cost)
        for key in sorted(marginal, key=lambda key: _ratio(self._worth[key], self._cost[key]), reverse=True):
            if self._fits(basket, key, marginal[key]):
                self._take(basket, key, marginal)
        return self._admission(basket, marginal)

    def large(self, targets: Sequence[K]) -> Admission[K]:
        """In the order given, each with its true marginal cost, while any fits; closures are not listed."""
        basket = self._empty()
        declined: dict[K, float] = {}
        vain = 0
        for key in targets:
            if vain >= _LARGE_STEPS:
                declined[key] = self._nodes[key].cost  # at least
                continue
            members = self._affordable(key, basket)
            self._members[key] = members
            self._reserves[key] = max((self._reserve.get(member, 0.0) for member in members), default=0.0)
            more = sum(self._nodes[member].cost for member in members)
            if self._fits(basket, key, more):
                self._worth[key] = roi.worth(self._nodes, key, members)
                self._take(basket, key, {key: more})
            else:
                vain += len(members)
                declined[key] = more
        return self._admission(basket, declined)

    def _empty(self) -> _Basket[K]:
        return _Basket(set(self._started), [])

    def _fits(self, basket: _Basket[K], key: K, more: float) -> bool:
        return not more or basket.cost + more + max(basket.reserve, self._reserves[key]) <= self._room

    def _take(self, basket: _Basket[K], key: K, marginal: dict[K, float]) -> None:
        """The tasks of a deliverable are paid for: others who need them no longer pay."""
        basket.cost += marginal.pop(key)
        basket.reserve = max(basket.reserve, self._reserves[key])
        basket.deliverables.append(key)
        for member in self._members[key]:
            if member not in basket.tasks:
                basket.tasks.add(member)
                for user in self._users.get(member, ()):
                    if user in marginal:
                        marginal[user] -= self._nodes[member].cost

    def _affordable(self, target: K, basket: _Basket[K]) -> list[K]:
        """What a target needs beside what is paid for; not looked for further once it is too dear."""
        if target in basket.tasks:
            return []
        members, seen = [target], {target}
        cost = self._nodes[target].cost
        for member in members:  # grows while it is read
            for need in self._nodes[member].needs:
                if need not in seen and need not in basket.tasks:
                    seen.add(need)
                    members.append(need)
                    cost += self._nodes[need].cost
            if basket.cost + cost > self._room:
                break
        return members

    def _admission(self, basket: _Basket[K], declined: dict[K, float]) -> Admission[K]:
        value = sum(self._worth[key] for key in basket.deliverables)
        declined = {key: more + self._reserves.get(key, 0.0) for key, more in declined.items()}
        return Admission(frozenset(basket.tasks), tuple(basket.deliverables), declined, basket.cost, value)


def _ratio(worth: float, cost: float) -> tuple[float, float]:
    """What sorts deliverables: free ones first, then value per cost, then value."""
    return (worth / cost if cost > 0 else float("inf"), worth)
