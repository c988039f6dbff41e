"""Graphs to order: random ones, and real workflow traces in WfCommons' WfFormat."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from goalwright_scheduler.core.roi import Node
from goalwright_shared.graph import ancestors, topological_order

DELIVERABLES = 12
_NOISE = 0.5
"""Sigma of the logarithm of actual ÷ estimate."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A graph of tasks with estimates (`nodes`, in seconds, which are also what they cost) and the truth."""

    name: str
    order: Sequence[str]
    nodes: dict[str, Node[str]]
    actual: dict[str, float]

    @property
    def cost(self) -> float:
        """What everything costs in truth."""
        return sum(self.actual.values())


def random_graph(seed: int, tasks: int = 150) -> Problem:
    """What is left of a plan when its compiler has pruned it: the last twelve tasks are deliverables of
    log-normal value, every other task serves one or two of those up to forty places behind it."""
    chance = random.Random(seed)
    needs: dict[str, tuple[str, ...]] = {f"t{number}": () for number in range(tasks)}
    for number in range(tasks - DELIVERABLES):
        behind = range(number + 1, min(tasks, number + 41))
        for user in chance.sample(behind, chance.choice((1, 1, 2))):
            needs[f"t{user}"] += (f"t{number}",)
    values = {f"t{number}": chance.lognormvariate(0, 1) for number in range(tasks - DELIVERABLES, tasks)}
    seconds = {key: chance.lognormvariate(2.3, 1) for key in needs}
    return _problem(f"random-{seed}", needs, seconds, values, chance)


def recorded_graph(path: Path, seed: int) -> Problem:
    """A recorded workflow: its edges and run times. Up to twelve deliverables of log-normal value: its last
    tasks, and where those are fewer also random others (a client wants the intermediate tables, too)."""
    chance = random.Random(f"{path.name}{seed}")
    workflow = json.loads(path.read_text(encoding="utf-8"))["workflow"]
    tasks = workflow["specification"]["tasks"]
    needs = {task["id"]: tuple(task["parents"]) for task in tasks}
    ran = {task["id"]: max(0.1, float(task["runtimeInSeconds"])) for task in workflow["execution"]["tasks"]}
    last = [task["id"] for task in tasks if not task["children"]]
    others = [task["id"] for task in tasks if task["children"]]
    chosen = chance.sample(last, min(len(last), DELIVERABLES))
    chosen += chance.sample(others, min(len(others), DELIVERABLES - len(chosen)))
    values = {key: chance.lognormvariate(0, 1) for key in chosen}
    return _problem(path.name.split("-")[0], needs, ran, values, chance)


def _problem(
    name: str,
    needs: dict[str, tuple[str, ...]],
    seconds: dict[str, float],
    values: dict[str, float],
    chance: random.Random,
) -> Problem:
    kept = ancestors(needs, values) | set(values)
    order = [key for key in topological_order(needs) if key in kept]
    nodes = {}
    for key in order:
        estimate = seconds[key] * chance.lognormvariate(0, _NOISE)
        nodes[key] = Node(key, needs[key], values.get(key, 0.0), estimate, 1.0, estimate)
    return Problem(name, order, nodes, {key: seconds[key] for key in order})
