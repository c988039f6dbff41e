"""Calls of ten seconds, hundreds and thousands at once: how much of a provider's limit agents use, and what a call
costs them.

The product as it runs: scheduler, Postgres, NATS and four agents as processes, and the rehearsal server as the
provider, with that limit and next to no burst. What it counts is what counts here: it refuses what comes too early.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
from goalwright_cli import processes
from goalwright_cli.children import Service, environment_of
from goalwright_cli.client import Client, connected
from goalwright_cli.settings import SystemSettings

from bench import results
from bench.meter import Meter
from bench.runs import submit
from bench.stand import Stand

AGENTS = 4
IN_FLIGHT = (583, 2_000)
_LATENCY_SECONDS = 10.0
_BURST_SECONDS = 2.0
"""What the imitated provider lets through at once: the second of the scheduler's tolerance, and one for the way."""
_SPARE_SLOTS = 1.15
"""Slots for each call that is under way at the limit: those that are between two calls need theirs too."""
_GOAL_TASKS = 1_000
_PROMPT = "Say in one word whether number {number} is even. " + "Mind what was said before. " * 40
_SAMPLE_SECONDS = 0.5
_SILENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Load:
    """So many calls of ten seconds at once, for `seconds` after the ramp."""

    in_flight: int
    seconds: float = 60.0

    @property
    def per_minute(self) -> int:
        """The provider's limit: what so many calls at once make in a minute."""
        return round(self.in_flight * 60 / _LATENCY_SECONDS)

    @property
    def tasks(self) -> int:
        """Enough for the ramp, the measured time, and some that are left over at its end."""
        return round(self.per_minute / 60 * (self.seconds + 2 * _LATENCY_SECONDS))


@dataclass(frozen=True)
class Found:
    """What a load took. CPU seconds are of 1,000 answered calls; memory is what a call in flight adds to an agent."""

    in_flight: int
    limit_per_minute: int
    seconds: float
    calls: int
    used_percent: float
    refused: int
    refused_percent: float
    most_in_flight: int
    cpu_seconds: dict[str, float]
    cpu_seconds_ours: float
    kib_per_call: float
    agents_idle_mib: float
    agents_peak_mib: float

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class Provider:
    """The rehearsal server as a process, with a limit and a latency."""

    def __init__(self, load: Load) -> None:
        self._flags = {
            "latency-seconds": _LATENCY_SECONDS,
            "requests-per-minute": load.per_minute,
            "burst-seconds": _BURST_SECONDS,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Start; returns when it has said where it listens."""
        flags = [word for name, value in self._flags.items() for word in (f"--{name}", str(value))]
        self.process = subprocess.Popen(  # noqa: ASYNC220  # the pipe is read in a thread
            [sys.executable, "-m", "goalwright_rehearsal", "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it is stopped in the middle of calls, and says so at length
        )
        assert self.process.stdout is not None
        self.url = json.loads(await asyncio.to_thread(self.process.stdout.readline))["url"]
        self._http = aiohttp.ClientSession()

    async def counts(self) -> dict[str, int]:
        """What it has seen so far."""
        assert self._http is not None
        async with self._http.get(self.url.removesuffix("/v1") + "/rehearsal/counts") as answer:
            found: dict[str, int] = await answer.json()
            return found

    async def stop(self) -> None:
        """Stop; idempotent."""
        if self._http is not None:
            await self._http.close()
        if self.process is not None:
            await processes.stop(self.process, grace_seconds=3)
            if self.process.stdout is not None:
                self.process.stdout.close()


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Variables for everything that this process starts and applies."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.asynccontextmanager
async def running(load: Load) -> AsyncIterator[tuple[Stand, Provider, list[Service]]]:
    """The stand with agents instead of performers, and the provider they call."""
    provider = Provider(load)
    await provider.start()
    agents: list[Service] = []
    slots = -(-round(load.in_flight * _SPARE_SLOTS) // AGENTS)
    try:
        with environment(
            OPENAI_BASE_URL=provider.url, OPENAI_API_KEY="bench", GOALWRIGHT_MODEL="rehearsal",
            GOALWRIGHT_REQUESTS_PER_MINUTE=str(load.per_minute), GOALWRIGHT_ROLES_SERVED="ask",
            GOALWRIGHT_AGENT_SLOTS=str(slots), GOALWRIGHT_CONNECTIONS=str(slots), GOALWRIGHT_LOG_LEVEL="warning",
        ):  # fmt: skip
            async with Stand(variant="single", performers=0) as stand:
                variables = dict(os.environ) | {
                    "GOALWRIGHT_HOME": str(stand.home), "GOALWRIGHT_NATS_URL": stand.nats.service_url,
                }  # fmt: skip
                settings = SystemSettings(home=stand.home, drain_seconds=2)
                for number in range(AGENTS):
                    agent = Service("agent", environment_of("agent", variables), settings)
                    agent.log = stand.home / "logs" / f"agent-{number}.log"
                    agents.append(agent)
                    await agent.start()
                await asyncio.gather(*(agent.ready() for agent in agents))
                yield stand, provider, agents
                for agent in agents:
                    agent.hurry()
                await asyncio.gather(*(agent.stop() for agent in agents))
    finally:
        for agent in agents:
            agent.hurry()
        await provider.stop()


async def measure(load: Load) -> Found:
    """One run: submit, wait until the calls in flight are what the limit allows, and measure from there."""
    async with running(load) as (stand, provider, agents), connected(stand.nats.client_url) as client:
        roles = stand.roles() | {"agents": [agent.process.pid for agent in agents if agent.process]}
        del roles["performers"], roles["client"]
        async with Meter(roles) as idle:
            await asyncio.sleep(_SAMPLE_SECONDS)
        await _submit_all(client, load)
        await _until(provider, lambda counts: counts["in_flight"] >= 0.97 * load.in_flight)
        first = await provider.counts()
        async with Meter(roles) as reading:
            await asyncio.sleep(load.seconds)
            last = await provider.counts()
        made = {name: last[name] - first[name] for name in ("requests", "refused", "answered")}
        if last["failed"] or last["requests"] >= load.tasks:
            raise RuntimeError(
                f"{last['failed']} calls failed, {last['requests']} of {load.tasks} tasks were begun"
            )
    let_through = made["requests"] - made["refused"]
    cpu = {role: round(1_000 * used / made["answered"], 2) for role, used in reading.cpu_seconds.items()}
    grown = max(0.0, reading.peak_mib["agents"] - idle.peak_mib["agents"])
    return Found(
        in_flight=load.in_flight,
        limit_per_minute=load.per_minute,
        seconds=round(reading.seconds, 2),
        calls=let_through,
        used_percent=round(100 * let_through / (load.per_minute / 60 * reading.seconds), 2),
        refused=made["refused"],
        refused_percent=round(100 * made["refused"] / made["requests"], 3),
        most_in_flight=last["most_in_flight"],
        cpu_seconds=cpu,
        cpu_seconds_ours=round(cpu["agents"] + cpu["scheduler"], 2),
        kib_per_call=round(1024 * grown / load.in_flight, 1),
        agents_idle_mib=round(idle.peak_mib["agents"], 1),
        agents_peak_mib=round(reading.peak_mib["agents"], 1),
    )


async def _submit_all(client: Client, load: Load) -> None:
    for begin in range(0, load.tasks, _GOAL_TASKS):
        numbers = range(begin, min(begin + _GOAL_TASKS, load.tasks))
        goal = {
            "id": f"bench-{uuid.uuid4().hex[:16]}",
            "text": "calls",
            "plan": {"tasks": list(map(_task, numbers))},
        }
        await submit(client, json.dumps(goal).encode())


def _task(number: int) -> dict[str, Any]:
    prompt = {
        "messages": [{"role": "user", "content": _PROMPT.format(number=number)}],
        "max_output_tokens": 200,
    }
    return {"key": f"c{number}", "lane": "agent.ask", "outputs": [{"name": f"a{number}"}], "prompt": prompt}


async def _until(provider: Provider, reached: Any) -> None:
    """Wait on the provider's counts; raises TimeoutError when nothing more happens."""
    async with asyncio.timeout(_SILENCE_SECONDS):
        while not reached(await provider.counts()):  # noqa: ASYNC110  # it is in another process
            await asyncio.sleep(_SAMPLE_SECONDS)


def table(rows: Sequence[Found]) -> str:
    """Markdown: one line a load."""
    head = ["in flight", "limit a minute", "calls measured", "% of the limit", "% refused", "CPU s per 1,000: agents",
            "scheduler", "both", "Postgres", "NATS", "KiB a call in an agent"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    for row in rows:
        cpu = row.cpu_seconds
        cells = [f"{row.in_flight:,}", f"{row.limit_per_minute:,}", f"{row.calls:,}", f"{row.used_percent:.1f}",
                 f"{row.refused_percent:.3f}", f"{cpu['agents']:.2f}", f"{cpu['scheduler']:.2f}",
                 f"{row.cpu_seconds_ours:.2f}", f"{cpu['postgres']:.2f}", f"{cpu['nats']:.2f}",
                 f"{row.kib_per_call:.0f}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def store(rows: Sequence[Found], about: dict[str, Any]) -> str:
    """Write the JSON of this day and machine, and `calls.md`."""
    file = results.path("calls", about)
    file.write_text(json.dumps({**about, "loads": [row.facts() for row in rows]}, indent=1) + "\n")
    page = results.FOLDER / "calls.md"
    page.write_text("# Calls under way\n\n" + results.said(about, file) + table(rows))
    return str(file)
