"""dask.distributed: a local cluster of two processes; the whole graph in one submission, values by reference.

No-ops: a thread a process. Calls: coroutines on the workers' loops, a slot each. The dashboard, spilling and
memory limits are off.
"""

from __future__ import annotations

import uuid
from typing import Any

import dask
from distributed import Client, LocalCluster

from bench.peers import driver

QUIET = {
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.admin.tick.limit": "1h",
    "logging.distributed": "error",
}


def task(i: int, seconds: float, needs: list[int], values: list[Any]) -> int:
    """One task."""
    return driver.perform(i, seconds, needs, values)


async def call(i: int, seconds: float, needs: list[int], values: list[Any]) -> int:
    """One task that waits."""
    return await driver.perform_async(i, seconds, needs, values)


def main() -> None:
    """The cluster, then the graph as often as told."""
    graph = driver.load()
    body = call if graph.seconds else task
    threads = -(-graph.slots // 2) if graph.seconds else 1
    with (
        dask.config.set(QUIET),
        LocalCluster(
            n_workers=2, threads_per_worker=threads, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(abs, range(100)))

        def run() -> None:
            name = uuid.uuid4().hex
            key = [f"{name}-{i}" for i in range(len(graph.deps))]
            tasks = {
                key[i]: (body, i, graph.seconds, needs, [key[need] for need in needs])
                for i, needs in enumerate(graph.deps)
            }
            client.get(tasks, [key[i] for i in graph.last()])

        driver.converse(run)


if __name__ == "__main__":
    main()
