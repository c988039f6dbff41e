"""Ray on this machine: two CPUs, no dashboard; dependencies are object references.

No-ops are remote functions. Calls run on two asynchronous actors that share the slots, out of order.
"""

from __future__ import annotations

import os
from typing import Any

import ray

from bench.peers import driver


@ray.remote(num_cpus=1)
def task(i: int, needs: list[int], *values: Any) -> int:
    """One task."""
    return driver.perform(i, 0, needs, values)


@ray.remote(num_cpus=1)
class Caller:
    """Makes calls."""

    async def call(self, i: int, seconds: float, needs: list[int], *values: Any) -> int:
        """One call."""
        return await driver.perform_async(i, seconds, needs, values)


def main() -> None:
    """The cluster, then the graph as often as told."""
    graph = driver.load()
    passed = {name: os.environ[name] for name in ("BENCH_JOURNAL", "PYTHONPATH") if name in os.environ}
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=300 << 20, logging_level="error",
        log_to_driver=False, _temp_dir=os.environ["BENCH_HOME"] + "/ray", runtime_env={"env_vars": passed},
    )  # fmt: skip
    ray.get([task.remote(i, []) for i in range(200)]) if not graph.seconds else None
    callers = [
        Caller.options(max_concurrency=slots, allow_out_of_order_execution=True).remote()
        for slots in (-(-graph.slots // 2), graph.slots // 2)
        if graph.seconds
    ]

    def run() -> None:
        refs: list[Any] = []
        for i, needs in enumerate(graph.deps):
            values = [refs[need] for need in needs]
            if callers:
                refs.append(callers[i % 2].call.remote(i, graph.seconds, needs, *values))
            else:
                refs.append(task.remote(i, needs, *values))
        ray.get([refs[i] for i in graph.last()])

    ray.get([caller.__ray_ready__.remote() for caller in callers])
    driver.converse(run)


if __name__ == "__main__":
    main()
