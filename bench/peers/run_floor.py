"""The floor: one process, one asyncio loop, the standard library's TopologicalSorter; nothing is kept."""

from __future__ import annotations

import asyncio
from graphlib import TopologicalSorter

from bench.peers import driver


async def run(graph: driver.Graph) -> None:
    """The graph once."""
    sorter = TopologicalSorter(dict(enumerate(graph.deps)))
    sorter.prepare()
    ended: asyncio.Queue[int] = asyncio.Queue()
    slots = asyncio.Semaphore(graph.in_flight or len(graph.deps))
    values: dict[int, int] = {}

    async def one(i: int) -> None:
        needs = graph.deps[i]
        async with slots:
            values[i] = await driver.perform_async(i, graph.seconds, needs, [values[need] for need in needs])
        ended.put_nowait(i)

    async with asyncio.TaskGroup() as tasks:
        while sorter.is_active():
            for i in sorter.get_ready():
                tasks.create_task(one(i))
            sorter.done(await ended.get())


if __name__ == "__main__":
    given = driver.load()
    driver.converse(lambda: asyncio.run(run(given)))
