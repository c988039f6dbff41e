"""Return on investment: how much a task's head start is worth when it becomes ready.

Every deliverable (an output that nobody consumes, or one the parent exports) carries value. Its density,
value × P(success) ÷ cost of everything still needed for it, flows back through the graph and is shared
equally among the producers it needs, so that it is conserved. The head start is a logarithm of the density
that reaches a task, in seconds, so that ageing (the time since a task became ready) is linear and needs no
rewriting of rows: rank = head start − time it became ready.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_EXACT_CLOSURES = 200_000
"""Closure costs are exact up to this many (deliverable, task) pairs, else bounded from above by a sum."""


@dataclass(frozen=True, slots=True)
class Node:
    """A task as the ranking sees it. `value` is what its own deliverables are worth; `cost` is seconds or
    dollars in one unit over the whole graph; `confidence` is the probability that it succeeds."""

    key: str
    needs: tuple[str, ...]
    value: float
    cost: float
    confidence: float
    seconds: float


def densities(order: Sequence[str], nodes: Mapping[str, Node]) -> dict[str, float]:
    """ROI density that reaches each task; the sum over tasks without needs equals the sum injected."""
    closure = _closures(order, nodes)
    flow = dict.fromkeys(order, 0.0)
    for key in reversed(order):
        node = nodes[key]
        if node.value > 0:
            flow[key] += node.value * node.confidence / max(closure[key], 1e-9)
        if node.needs:
            share = flow[key] / len(node.needs)
            for need in node.needs:
                flow[need] += share
    return flow


def _closures(order: Sequence[str], nodes: Mapping[str, Node]) -> dict[str, float]:
    """Cost of a task and of all it needs, transitively."""
    valued = sum(1 for key in order if nodes[key].value > 0)
    if valued * len(order) > _EXACT_CLOSURES:
        bound: dict[str, float] = {}
        for key in order:  # counts shared needs once per path: an upper bound, in linear time
            bound[key] = nodes[key].cost + min(1e12, sum(bound[need] for need in nodes[key].needs))
        return bound
    exact: dict[str, float] = {}
    for key in order:
        if nodes[key].value <= 0:
            continue
        seen = {key}
        stack = [key]
        while stack:
            for need in nodes[stack.pop()].needs:
                if need not in seen:
                    seen.add(need)
                    stack.append(need)
        exact[key] = sum(nodes[member].cost for member in seen)
    return exact


def critical_seconds(order: Sequence[str], nodes: Mapping[str, Node]) -> dict[str, float]:
    """Longest remaining path from each task to an end, in seconds, itself included."""
    rest = dict.fromkeys(order, 0.0)
    for key in reversed(order):
        rest[key] += nodes[key].seconds
        for need in nodes[key].needs:
            rest[need] = max(rest[need], rest[key])
    return rest


def head_starts(order: Sequence[str], nodes: Mapping[str, Node], *, cap_seconds: float) -> dict[str, float]:
    """Seconds of head start per task, in [0, cap]: strictly monotone in density, plus a critical path bonus
    of at most a tenth of the cap."""
    density = densities(order, nodes)
    path = critical_seconds(order, nodes)
    longest = max(path.values(), default=0.0) or 1.0
    span = 0.9 * cap_seconds
    starts = {}
    for key in order:
        # a logistic of the log: ranges over (0, 1), equal ratios of density are about equal seconds
        spread = 1.0 / (1.0 + math.exp(-0.5 * math.log(density[key] + 1e-12)))
        starts[key] = span * spread + 0.1 * cap_seconds * path[key] / longest
    return starts
