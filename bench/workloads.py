"""The workloads: seeded task graphs, real workflow graphs, and the goals that carry them.

A graph is a list of dependencies in topological order: `deps[i]` names only tasks below `i`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

LANE = "custom.bench"
CALL_SECONDS = 1.0
"""A model call of 10 s, scaled 1:10."""
IN_FLIGHT = 583
"""Calls under way at once: 3,500 calls of 10 s in a minute."""


@dataclass(frozen=True)
class Graph:
    """Tasks by number, what each needs, and how long it takes (0: it does nothing)."""

    deps: Sequence[Sequence[int]]
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.deps)


@dataclass(frozen=True)
class Workload:
    """What one run submits: one goal for each graph of `graphs()`, at most `open_goals` of them open at once.

    `in_flight` 0: no limit but the performers' own slots. `variants`: the performers that it is measured with;
    calls that take time need a slot each. `runs`: at most so many.
    """

    name: str
    title: str
    graphs: Callable[[], Iterator[Graph]]
    open_goals: int = 1
    in_flight: int = 0
    variants: tuple[str, ...] = ("single", "batch")
    runs: int = 100


def chain(n: int) -> Graph:
    """Each task needs the one before."""
    return Graph([[i - 1] if i else [] for i in range(n)])


def fan(n: int) -> Graph:
    """1 → n → 1."""
    return Graph([[], *([0] for _ in range(n)), list(range(1, n + 1))])


def layered(n: int, width: int, *, seed: int, seconds: float = 0.0, exact: bool = False) -> Graph:
    """Layers of about `width` tasks; each needs two others: one of the layer before, and one of the three
    layers before."""
    rng = random.Random(seed)
    deps: list[list[int]] = []
    layers: list[range] = []
    while len(deps) < n:
        size = width if exact else rng.randint(width * 4 // 5, width * 6 // 5)
        layer = range(len(deps), min(n, len(deps) + size))
        deps += [_two_needs(rng, layers) for _ in layer]
        layers.append(layer)
    return Graph(deps, seconds)


def _two_needs(rng: random.Random, layers: Sequence[range]) -> list[int]:
    if not layers:
        return []
    first = rng.choice(layers[-1])
    second = rng.choice(rng.choice(layers[-3:]))
    while second == first and len(layers[-1]) > 1:
        second = rng.choice(layers[-1])
    return sorted({first, second})


def flat(n: int, *, seconds: float) -> Graph:
    """No dependencies."""
    return Graph([[] for _ in range(n)], seconds)


def many(tasks: int, each: int = 10_000) -> Callable[[], Iterator[Graph]]:
    """`tasks` tasks as layered graphs of `each`."""
    return lambda: (layered(each, 100, seed=60 + i) for i in range(tasks // each))


def one(make: Callable[[], Graph]) -> Callable[[], Iterator[Graph]]:
    """A single graph."""
    return lambda: iter((make(),))


def _calls(
    name: str, title: str, make: Callable[[], Graph], in_flight: int = IN_FLIGHT, runs: int = 100
) -> Workload:
    return Workload(name, title, one(make), in_flight=in_flight, variants=("single",), runs=runs)


def _layers_of_calls(seconds: float) -> Graph:
    return layered(5_830, IN_FLIGHT, seed=5, seconds=seconds, exact=True)


def _goals(name: str, title: str, tasks: int, runs: int = 100) -> Workload:
    return Workload(name, title, many(tasks), open_goals=2, variants=("batch",), runs=runs)


WORKLOADS = {
    work.name: work
    for work in (
        Workload("W1", "chain of 1,000", one(lambda: chain(1_000))),
        Workload("W2", "1 → 10,000 → 1", one(lambda: fan(10_000))),
        Workload("W3", "layered graph of 10,000", one(lambda: layered(10_000, 100, seed=3))),
        _calls("W4", "5,830 calls, flat", lambda: flat(5_830, seconds=CALL_SECONDS)),
        _calls("W5", "5,830 calls in 10 layers", lambda: _layers_of_calls(CALL_SECONDS)),
        _calls("W4x10", "5,830 calls of 10 s, flat", lambda: flat(5_830, seconds=10 * CALL_SECONDS), runs=1),
        _calls("W5x10", "5,830 calls of 10 s in 10 layers", lambda: _layers_of_calls(10 * CALL_SECONDS), runs=1),
        _goals("W6a", "10,000 in one goal", 10_000),
        _goals("W6b", "100,000 in goals of 10,000", 100_000),
        _goals("W6c", "1,000,000 in goals of 10,000", 1_000_000, runs=1),
        _calls("K", "W3 with tasks of 10 ms", lambda: layered(10_000, 100, seed=3, seconds=0.01), in_flight=64),
    )
}  # fmt: skip


_ENOUGH_TASKS = 2_000
"""The kernel counts CPU time in hundredths of a second: a small graph is run so often that this suffices."""


def find(name: str) -> list[Workload]:
    """The workloads of a name, of a JSON file, or of every JSON file of a folder; raises `KeyError`."""
    if name in WORKLOADS:
        return [WORKLOADS[name]]
    path = Path(name)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise KeyError(f"no workload {name}: one of {', '.join(WORKLOADS)}, a JSON file, or a folder of them")
    return [_of_file(file) for file in files]


def _of_file(file: Path) -> Workload:
    graph = read_graph(json.loads(file.read_text()))
    times = max(1, _ENOUGH_TASKS // len(graph))
    title = f"{len(graph)} tasks" + (f", {times} times, one after another" if times > 1 else "")
    return Workload(
        file.stem,
        title,
        lambda: iter([graph] * times),
        variants=("single",) if graph.seconds else ("single", "batch"),
    )


def read_graph(data: Any) -> Graph:
    """`{"deps": [[…], …], "seconds": 0}`, or an instance of WfFormat (its tasks do nothing here)."""
    if "deps" in data:
        return Graph(data["deps"], float(data.get("seconds", 0)))
    tasks = data["workflow"]["specification"]["tasks"]
    parents = {task["id"]: task["parents"] for task in tasks}
    order = list(TopologicalSorter(parents).static_order())
    number = {task: i for i, task in enumerate(order)}
    return Graph([sorted(number[parent] for parent in parents[task]) for task in order])


def submission(graph: Graph, goal_id: str, text: str) -> bytes:
    """The goal, as a client submits it: task `t<i>` has the output `o<i>`, the text `<i>`."""
    extra = {"params": {"seconds": graph.seconds}} if graph.seconds else {}
    tasks = [
        {
            "key": f"t{i}",
            "lane": LANE,
            "inputs": [f"o{need}" for need in needs],
            "outputs": [{"name": f"o{i}"}],
            **extra,
        }
        for i, needs in enumerate(graph.deps)
    ]
    goal = {"id": goal_id, "text": text, "deadline_seconds": 86_400, "plan": {"tasks": tasks}}
    return json.dumps(goal, separators=(",", ":")).encode()
