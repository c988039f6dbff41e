"""Restate: its server, one Python service process, one workflow that runs the graph, one durable step a task.

The workflow keeps at most 100 steps under way where the workload sets no limit: the SDK's wait on many costs
more the more they are. `run_restate.py serve` is the service; without an argument, the client.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections import deque

import httpx
import restate
import uvloop
from hypercorn.asyncio import serve as listen
from hypercorn.config import Config

from bench.peers import driver

WINDOW = 100
NAME = "graph"


def service(graph: driver.Graph) -> object:
    """The service with its one workflow."""
    workflow = restate.Workflow(NAME)
    children, window = graph.children(), graph.in_flight or WINDOW

    @workflow.main()
    async def run(ctx: restate.WorkflowContext) -> int:
        unmet = [len(needs) for needs in graph.deps]
        ready = deque(i for i, needs in enumerate(graph.deps) if not needs)
        values: dict[int, int] = {}
        under_way: dict[restate.RestateDurableFuture[int], int] = {}
        while ready or under_way:
            while ready and len(under_way) < window:
                i = ready.popleft()
                needs = graph.deps[i]
                step = ctx.run_typed(
                    "task", driver.perform_async, restate.RunOptions(),
                    i=i, seconds=graph.seconds, needs=needs, values=[values[need] for need in needs],
                )  # fmt: skip
                under_way[step] = i
            done, _ = await restate.wait_completed(*under_way)
            for step in done:
                i = under_way.pop(step)
                values[i] = i  # known; `await step`, which reads it back, would halve the rate
                for child in children[i]:
                    unmet[child] -= 1
                    if not unmet[child]:
                        ready.append(child)
        return len(values)

    return restate.app([workflow])


def serve(graph: driver.Graph) -> None:
    """The service process, until it is killed."""
    config = Config()
    config.bind = [os.environ["BENCH_SERVICE"]]
    config.loglevel = "ERROR"
    config.h2_max_concurrent_streams = config.keep_alive_max_requests = 2**31 - 1
    config.keep_alive_timeout = 2**31 - 1
    uvloop.run(listen(service(graph), config))


def main(graph: driver.Graph) -> None:
    """Register the service, then run the workflow as often as told; after a kill, wait for the one that runs."""
    ingress, admin = os.environ["BENCH_INGRESS"], os.environ["BENCH_ADMIN"]
    resume, journal = "BENCH_RESUME" in os.environ, "BENCH_JOURNAL" in os.environ
    with httpx.Client(timeout=900, trust_env=False) as http:
        if not resume:
            answer = http.post(
                f"{admin}/deployments", json={"uri": f"http://{os.environ['BENCH_SERVICE']}", "force": True}
            )
            answer.raise_for_status()

        def run() -> None:
            key = "killed" if journal else uuid.uuid4().hex
            if resume:
                answer = http.get(f"{ingress}/restate/workflow/{NAME}/{key}/attach")
            else:
                answer = http.post(f"{ingress}/{NAME}/{key}/run")
            answer.raise_for_status()
            if answer.json() != len(graph.deps):
                raise ValueError(f"the workflow answered {answer.text[:200]}")

        driver.converse(run)


if __name__ == "__main__":
    given = driver.load()
    serve(given) if sys.argv[1:] == ["serve"] else main(given)
