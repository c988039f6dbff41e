"""Return on investment: how much a task's head start is worth when it becomes ready.

A deliverable is worth value × P(success), and costs what is still to do for it: its closure. The worth flows
back through the graph to every task of the closure in proportion to what the task costs, so that it is
conserved; what reaches a task, divided by its cost, is its return: the sum over the deliverables it serves of
value × P(success) ÷ cost of the closure. Serving the highest ratio first is Smith's rule (1956), by which the
value-weighted mean completion time is least.

The head start is a logarithm of the return, in seconds, so that ageing (the time since a task became ready)
is linear and rewrites no row: rank = head start − time it became ready.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

EXACT_PAIRS = 200_000
"""Closures are exact up to this many (deliverable, task) pairs; beyond, shared work is split among its users."""

_TRIED = 5
"""Targets whose closures tell whether all of them will be too many."""

_BONUS = 0.1
"""The part of the head start that the critical path may decide."""

_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Node(Generic[K]):
    """An open task as the ranking sees it. `needs` are open tasks too; `value` is what its own deliverables
    are worth; `cost` has one unit over the whole graph; `confidence` is the probability that it succeeds."""

    key: K
    needs: tuple[K, ...]
    value: float
    cost: float
    confidence: float
    seconds: float


def closures(
    nodes: Mapping[K, Node[K]], targets: Iterable[K], most: int = EXACT_PAIRS
) -> dict[K, list[K]] | None:
    """Each target with all it needs, itself included; None when that is more than `most` pairs (of many targets,
    some tell)."""
    found: dict[K, list[K]] = {}
    wanted = list(targets)
    if len(wanted) > 4 * _TRIED and len(wanted) * len(nodes) > most:
        tried = [len(closure(nodes, target)) for target in wanted[:: len(wanted) // _TRIED]]
        if sum(tried) / len(tried) * len(wanted) > 2 * most:
            return None
    pairs = 0
    for target in wanted:
        members = closure(nodes, target)
        pairs += len(members)
        if pairs > most:
            return None
        found[target] = members
    return found


def closure(nodes: Mapping[K, Node[K]], target: K, but: Iterable[K] = ()) -> list[K]:
    """A task and all it needs, transitively, without what is in `but` and what only that needs."""
    seen = {*but, target}
    members = [target]
    for member in members:  # grows while it is read
        for need in nodes[member].needs:
            if need not in seen:
                seen.add(need)
                members.append(need)
    return members


def returns(
    order: Sequence[K], nodes: Mapping[K, Node[K]], *, exact_pairs: int = EXACT_PAIRS
) -> dict[K, float]:
    """The return of each task. Σ return × cost = Σ value × P(success): value is conserved."""
    valued = [key for key in order if nodes[key].value > 0]
    exact = closures(nodes, valued, exact_pairs)
    if exact is None:
        return _split_returns(order, nodes)
    found = dict.fromkeys(order, 0.0)
    for key, members in exact.items():
        density = worth(nodes, key, members) / _cost(nodes, members)
        for member in members:
            found[member] += density
    return found


def worth(nodes: Mapping[K, Node[K]], key: K, members: Iterable[K]) -> float:
    """Value of a deliverable × the probability that all it still needs succeeds."""
    return nodes[key].value * math.prod(nodes[member].confidence for member in members)


def _cost(nodes: Mapping[K, Node[K]], members: Iterable[K]) -> float:
    return max(_LEAST, sum(nodes[member].cost for member in members))


def _split_returns(order: Sequence[K], nodes: Mapping[K, Node[K]]) -> dict[K, float]:
    """The same in linear time, with the cost of shared work split among those who need it: exact where all
    users of a task serve one deliverable, else a lower bound of the closure. Value is conserved here too."""
    users = dict.fromkeys(order, 0)
    for key in order:
        for need in nodes[key].needs:
            users[need] += 1
    costs: dict[K, float] = {}
    doubts: dict[K, float] = {}  # −log P(success)
    for key in order:
        node = nodes[key]
        costs[key] = max(_LEAST, node.cost) + sum(costs[need] / users[need] for need in node.needs)
        doubts[key] = -math.log(max(_LEAST, node.confidence)) + sum(
            doubts[need] / users[need] for need in node.needs
        )
    found = dict.fromkeys(order, 0.0)
    for key in reversed(order):
        node = nodes[key]
        if node.value > 0:
            found[key] += node.value * math.exp(-doubts[key]) / costs[key]
        for need in node.needs:
            found[need] += found[key] / users[need]
    return found


def critical_seconds(order: Sequence[K], nodes: Mapping[K, Node[K]]) -> dict[K, float]:
    """Longest remaining path from each task to an end, in seconds, itself included."""
    rest = dict.fromkeys(order, 0.0)
    for key in reversed(order):
        rest[key] += nodes[key].seconds
        for need in nodes[key].needs:
            rest[need] = max(rest[need], rest[key])
    return rest


def head_starts(order: Sequence[K], nodes: Mapping[K, Node[K]], *, cap_seconds: float) -> dict[K, float]:
    """Seconds of head start per task, in [0, cap]: strictly monotone in the return, plus a bonus for the
    critical path. Returns are compared with what the whole graph brings, so units do not matter."""
    found = returns(order, nodes)
    path = critical_seconds(order, nodes)
    longest = max(path.values(), default=0.0) or 1.0
    total = _cost(nodes, order)
    typical = sum(found[key] * nodes[key].cost for key in order) / total or 1.0
    return {
        key: cap_seconds * ((1 - _BONUS) * spread(found[key] / typical) + _BONUS * path[key] / longest)
        for key in order
    }


def spread(ratio: float) -> float:
    """A ratio in [0, ∞) as a place in [0, 1): strictly monotone, about linear in the logarithm around 1.

    The square makes a doubling there worth three tenths of the span; with a flatter curve, age decides more
    than return does (`bench/results/rank-*.md` compares)."""
    return ratio * ratio / (1.0 + ratio * ratio)
