"""One run of a workload on a stand: submit, wait for `goal.finished`, check everything, say what it took."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from goalwright_cli.client import Client, connected
from goalwright_shared import subjects
from goalwright_shared.messages import BODY_BYTES, ArtifactType, BodyRef
from nats.aio.msg import Msg

from bench.meter import Meter, Reading
from bench.stand import Calls, Stand
from bench.validate import Wrong, check_calls, check_events
from bench.workloads import Graph, Workload, chain, submission

_SILENCE_SECONDS = 120.0
"""A goal that is open and none that ends for so long: the run has failed."""


@dataclass(frozen=True)
class Run:
    """The figures of one run. CPU in microseconds a task, by role; memory in MiB."""

    workload: str
    tasks: int
    seconds: float
    tasks_per_second: float
    hop_ms: float | None
    """Median time from the beginning of a task of a chain to the beginning of the next."""
    ideal_percent: float | None
    """Of calls × latency ÷ calls in flight."""
    calling_percent: float | None
    """The same, of the time from the beginning of the first call to the end of the last."""
    start_seconds: float
    """From the submission to the beginning of the first task."""
    finish_seconds: float
    """From the end of the last task to `goal.finished`."""
    cpu_us: dict[str, float]
    cpu_us_total: float
    peak_mib: dict[str, float]
    peak_total_mib: float
    events: int

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class Finishes:
    """Hears `goal.finished` of the goals of this bench, live."""

    def __init__(self) -> None:
        self._ended: dict[str, asyncio.Future[None]] = {}

    async def listen(self, client: Client) -> None:
        """Subscribe; returns when the server knows."""
        await client.nats.subscribe(subjects.event("*", "*", "goal.finished"), cb=self._hear)
        await client.nats.flush()

    def of(self, goal_id: str) -> asyncio.Future[None]:
        """Done when the goal is."""
        return self._ended.setdefault(goal_id, asyncio.get_running_loop().create_future())

    async def _hear(self, message: Msg) -> None:
        ended = self.of(message.subject.split(".")[2])
        if not ended.done():
            ended.set_result(None)


async def measure(stand: Stand, workload: Workload) -> Run:
    """One run; raises `Wrong` when anything was lost, repeated or disordered."""
    goals = _write_goals(stand.home / "goals", workload)
    async with connected(stand.nats.client_url) as client:
        finishes = Finishes()
        await finishes.listen(client)
        async with Meter(stand.roles()) as reading:
            await _perform(client, finishes, goals, workload.open_goals)
        calls = await stand.calls()
        events = await _check(client, dict(zip(goals, workload.graphs(), strict=True)), calls)
    return _run(workload, reading, calls, events)


def _write_goals(folder: Path, workload: Workload) -> dict[str, Path]:
    """Every goal in a file of its own, so that making them is no part of the run and they are not in memory."""
    folder.mkdir(exist_ok=True)
    goals = {}
    for graph in workload.graphs():
        goal_id = f"bench-{uuid.uuid4().hex[:16]}"
        goals[goal_id] = folder / f"{goal_id}.json"
        goals[goal_id].write_bytes(submission(graph, goal_id, workload.title))
    return goals


async def warm_up(stand: Stand) -> None:
    """A small goal, so that imports, connections and statements are paid for before the clock starts."""
    await measure(stand, Workload("warm-up", "warm-up", lambda: iter((chain(50),))))


async def _perform(client: Client, finishes: Finishes, goals: Mapping[str, Path], open_goals: int) -> None:
    """Submit the goals in order, at most so many open at once, and wait for the last."""
    free = asyncio.Semaphore(open_goals)
    waiting: list[asyncio.Future[None]] = []
    for goal_id, path in goals.items():
        body = await asyncio.to_thread(path.read_bytes)
        async with asyncio.timeout(_SILENCE_SECONDS):
            await free.acquire()
        await submit(client, body)
        ended = finishes.of(goal_id)
        ended.add_done_callback(lambda _: free.release())
        waiting.append(ended)
    async with asyncio.timeout(_SILENCE_SECONDS * open_goals):
        await asyncio.gather(*waiting)


async def submit(client: Client, body: bytes) -> None:
    """What `Client.submit` does, of a goal that is JSON already; raises `Wrong` when it is refused."""
    if len(body) > BODY_BYTES:
        ref = await client.artifacts.put_bytes("goal", ArtifactType.JSON, body)
        body = BodyRef(body_ref=ref).to_json()
    answer = json.loads((await client.nats.request(subjects.request(), body, timeout=60)).data)
    if "goal_id" not in answer:
        raise Wrong(f"the goal was not accepted: {answer}")


async def _check(client: Client, goals: dict[str, Graph], calls: Calls) -> int:
    """Everything that can be seen from outside; returns the number of events."""
    if stray := set(calls) - set(goals):
        raise Wrong(f"calls of goals that are not ours: {sorted(stray)[:3]}")
    count = 0
    for goal_id, graph in goals.items():
        try:
            check_calls(graph, calls.get(goal_id, []))
            count += check_events(graph, await _events(client, goal_id))
        except Wrong as error:
            raise Wrong(f"goal {goal_id}: {error}") from error
    return count


async def _events(client: Client, goal_id: str) -> list[dict[str, Any]]:
    """The stored events of a goal up to `goal.finished`."""
    payloads: list[bytes] = []
    finished = asyncio.Event()

    async def take(message: Msg) -> None:
        payloads.append(message.data)
        if message.subject.endswith(".goal.finished"):
            finished.set()

    feed = await client.js.subscribe(subjects.events_of(goal_id), cb=take, ordered_consumer=True)
    try:
        async with asyncio.timeout(_SILENCE_SECONDS):
            await finished.wait()
    finally:
        await feed.unsubscribe()
    return [json.loads(payload) for payload in payloads]


def _run(workload: Workload, reading: Reading, calls: Calls, events: int) -> Run:
    tasks = sum(map(len, calls.values()))
    cpu_us = {role: seconds / tasks * 1e6 for role, seconds in reading.cpu_seconds.items()}
    first = next(workload.graphs())
    is_chain = len(first) == tasks > 1 and all(
        list(needs) == [i - 1] for i, needs in enumerate(first.deps) if i
    )
    ideal = tasks * first.seconds / workload.in_flight if workload.in_flight else None
    began = min(call[2] for each in calls.values() for call in each)
    ended = max(call[3] for each in calls.values() for call in each)
    return Run(
        workload=workload.name,
        tasks=tasks,
        seconds=reading.seconds,
        tasks_per_second=tasks / reading.seconds,
        hop_ms=_hop_ms(next(iter(calls.values()))) if is_chain else None,
        ideal_percent=None if ideal is None else 100 * ideal / reading.seconds,
        calling_percent=None if ideal is None else 100 * ideal / (ended - began) * 1e9,
        start_seconds=(began - reading.began) / 1e9,
        finish_seconds=(reading.ended - ended) / 1e9,
        cpu_us=cpu_us,
        cpu_us_total=sum(cpu_us.values()),
        peak_mib=reading.peak_mib,
        peak_total_mib=reading.peak_total_mib,
        events=events,
    )


def _hop_ms(calls: Sequence[tuple[int, int, int, int]]) -> float:
    began = [call[2] for call in sorted(calls)]
    return statistics.median((later - earlier) / 1e6 for earlier, later in itertools.pairwise(began))
