"""What the drivers of rivals share: the graph, the body of a task, and the talk with the harness.

Runs in the rival's own environment: the standard library only.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SLOTS = 64
"""Tasks under way at once where the workload says nothing."""


@dataclass(frozen=True)
class Graph:
    """`deps[i]` are the tasks that task `i` needs, all below `i`; a task takes `seconds`."""

    deps: list[list[int]]
    seconds: float
    in_flight: int

    @property
    def slots(self) -> int:
        """Tasks under way at once."""
        return self.in_flight or SLOTS

    def children(self) -> list[list[int]]:
        """The tasks that need each task."""
        found: list[list[int]] = [[] for _ in self.deps]
        for i, needs in enumerate(self.deps):
            for need in needs:
                found[need].append(i)
        return found

    def last(self) -> list[int]:
        """The tasks that nobody needs."""
        return [i for i, children in enumerate(self.children()) if not children]


def load() -> Graph:
    """The graph that the harness named."""
    with open(os.environ["BENCH_GRAPH"]) as file:
        return Graph(**json.load(file))


_journal: int | None = None


def note(what: str, i: int) -> None:
    """`b` (began) or `e` (ended) into the journal that all processes share, if there is one."""
    global _journal
    if path := os.environ.get("BENCH_JOURNAL"):
        if _journal is None:
            _journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(_journal, f"{what} {i}\n".encode())


def check(i: int, needs: Sequence[int], values: Sequence[Any]) -> None:
    """A task returns its number: those it needs must have arrived."""
    if list(values) != list(needs):
        raise ValueError(f"task {i} needs {needs} and got {values}")


def perform(i: int, seconds: float, needs: Sequence[int], values: Sequence[Any]) -> int:
    """The body of a task, blocking."""
    note("b", i)
    check(i, needs, values)
    if seconds:
        time.sleep(seconds)
    note("e", i)
    return i


async def perform_async(i: int, seconds: float, needs: Sequence[int], values: Sequence[Any]) -> int:
    """The body of a task that waits for somebody else."""
    note("b", i)
    check(i, needs, values)
    if seconds:
        await asyncio.sleep(seconds)
    note("e", i)
    return i


def converse(run: Callable[[], None]) -> None:
    """Say `ready`; for each line that comes run the graph once and say `done`."""
    print("ready", flush=True)
    for _ in sys.stdin:
        run()
        print("done", flush=True)
