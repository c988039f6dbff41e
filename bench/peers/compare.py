"""Side by side: the same graphs on every engine in one session, and what a kill -9 of everything leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goalwright_shared.errors import GoalwrightError
from nats.errors import Error as NatsError

from bench import results
from bench.meter import Meter
from bench.peers import environments
from bench.peers.rivals import ENGINES, Engine, Failed, Rival, kill
from bench.validate import Wrong
from bench.workloads import WORKLOADS, Workload

_RUN_SECONDS = 600.0
"""A run that takes longer is given up."""
_STALL_SECONDS = 60.0
"""After a kill and a restart: an engine that does nothing for so long has stalled."""
_ERRORS = (Failed, Wrong, GoalwrightError, NatsError, TimeoutError, AssertionError, OSError, ValueError)
"""What an engine that does not start, ends, or answers nonsense raises: its row says so, others go on."""


def build(name: str) -> Engine:
    """An engine, its environment installed; raises `Missing`."""
    install(name)
    made = ENGINES[name]
    return made(name) if issubclass(made, Rival) else made()


def install(name: str) -> None:
    """The environment of an engine; raises `Missing`."""
    if issubclass(ENGINES[name], Rival):
        environments.ensure(name)


async def measure(name: str, workload: Workload, runs: int) -> dict[str, Any]:
    """Medians of some runs of one engine, or why there are none."""
    engine = build(name)
    found: list[dict[str, float]] = []
    try:
        await engine.start(workload)
        for _ in range(runs):
            async with Meter({"all": engine.roots()}) as reading, asyncio.timeout(_RUN_SECONDS):
                await engine.run()
            tasks = len(next(workload.graphs()))
            found.append(
                {
                    "seconds": reading.seconds,
                    "tasks_per_second": tasks / reading.seconds,
                    "cpu_seconds_per_1000": reading.cpu_seconds["all"] / tasks * 1000,
                    "peak_mib": reading.peak_total_mib,
                }
            )
    except _ERRORS as error:
        return {"engine": name, "workload": workload.name, "failed": f"{type(error).__name__}: {error}"[:300]}
    finally:
        await engine.stop()
    median = {fact: round(statistics.median(run[fact] for run in found), 3) for fact in found[0]}
    return {"engine": name, "workload": workload.name, "runs": found, **median}


async def kill_midway(name: str) -> dict[str, Any]:
    """Kill -9 of every process half way, start again, wait for the end: what was lost, what ran again."""
    workload, engine = WORKLOADS["K"], build(name)
    tasks = len(next(workload.graphs()))
    with tempfile.TemporaryDirectory(prefix="bench-journal-") as folder:
        journal = Journal(Path(folder) / "journal")
        try:
            await engine.start(workload, journal.path)
            async with asyncio.timeout(_RUN_SECONDS), _running(engine) as running:
                while not running.done() and len(journal.read()["e"]) < tasks // 2:
                    await asyncio.wait({running}, timeout=0.05)
                kill(engine.roots())
            ended_before = set(journal.read()["e"])
            await engine.restart()
            began_again = time.monotonic()
            async with _running(engine) as running:
                finished = await _ends(running, journal)
        except _ERRORS as error:
            return {"engine": name, "failed": f"{type(error).__name__}: {error}"[:300]}
        finally:
            await engine.stop()
        after = journal.read()
    return {
        "engine": name,
        "finished": finished,
        "ended_before": len(ended_before),
        "ran_again": sum(after["b"][i] > 1 for i in ended_before),
        "lost": sum(i not in after["e"] for i in range(tasks)),
        "seconds_to_the_end": round(time.monotonic() - began_again, 1),
    }


@contextlib.asynccontextmanager
async def _running(engine: Engine) -> AsyncIterator[asyncio.Task[None]]:
    """The engine's run as a task that ends with the block."""
    running = asyncio.create_task(engine.run())
    try:
        yield running
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, *_ERRORS):
            await running


async def _ends(running: asyncio.Task[None], journal: Journal) -> bool:
    """True when the run ends, False when nothing more is noted for long."""
    size, changed = journal.size(), time.monotonic()
    while time.monotonic() - changed < _STALL_SECONDS:
        await asyncio.wait({running}, timeout=0.05)
        if running.done():
            await running
            return True
        if journal.size() != size:
            size, changed = journal.size(), time.monotonic()
    return False


@dataclass(frozen=True)
class Journal:
    """Where tasks note that they begin (`b <task>`) and end (`e <task>`)."""

    path: Path

    def size(self) -> int:
        """Bytes; it grows with each note."""
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self) -> dict[str, Counter[int]]:
        """How often each task began and ended; a last line that a kill cut short does not count."""
        found: dict[str, Counter[int]] = {"b": Counter(), "e": Counter()}
        for line in self.path.read_text().splitlines(keepends=True) if self.path.exists() else ():
            if line.endswith("\n"):
                what, _, number = line.partition(" ")
                found[what][int(number)] += 1
        return found


async def compare(
    names: Sequence[str], workloads: Sequence[Workload], runs: int, *, kills: bool
) -> dict[str, Any]:
    """Everything, an engine after the other on each workload, printed as it comes."""
    usable, missing = [], {}
    for name in names:
        try:
            install(name)
            usable.append(name)
        except environments.Missing as error:
            missing[name] = str(error)
            print(f"{name} cannot be installed here: {error}", flush=True)
    rows = []
    for workload in workloads:
        for name in usable:
            rows.append(await measure(name, workload, runs))
            print(json.dumps({key: value for key, value in rows[-1].items() if key != "runs"}), flush=True)
    killed = []
    for name in usable if kills else []:
        killed.append(await kill_midway(name))
        print(json.dumps(killed[-1]), flush=True)
    return {"rows": rows, "killed": killed, "missing": missing}


def tables(found: Mapping[str, Any]) -> str:
    """Markdown: a table for each workload, and one for the kills."""
    said = []
    for workload in dict.fromkeys(row["workload"] for row in found["rows"]):
        said.append(
            f"### {workload}: {WORKLOADS[workload].title}\n" if workload in WORKLOADS else f"### {workload}\n"
        )
        said.append(
            "| engine | tasks/s | seconds | CPU s per 1,000 tasks | peak MiB |\n|---|---:|---:|---:|---:|"
        )
        said += [_line(row) for row in found["rows"] if row["workload"] == workload]
        said.append("")
    if found["killed"]:
        said.append("### Everything killed with -9 half way through K, and started again\n")
        said.append(
            "| engine | finished | ended before | of these ran again | never ran to the end | seconds |"
        )
        said.append("|---|---|---:|---:|---:|---:|")
        said += [_kill_line(row) for row in found["killed"]]
    said += [f"\n{name} could not be installed: {why}" for name, why in found["missing"].items()]
    return "\n".join(said) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return f"| {row['engine']} | failed: {row['failed'].splitlines()[0]} | | | |"
    return (
        f"| {row['engine']} | {row['tasks_per_second']:,.0f} | {row['seconds']:.2f} "
        f"| {row['cpu_seconds_per_1000']:.3f} | {row['peak_mib']:.0f} |"
    )


def _kill_line(row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return f"| {row['engine']} | failed: {row['failed'].splitlines()[0]} | | | | |"
    end = "yes" if row["finished"] else "no"
    return (
        f"| {row['engine']} | {end} | {row['ended_before']:,} | {row['ran_again']:,} | {row['lost']:,} "
        f"| {row['seconds_to_the_end']} |"
    )


def store(found: Mapping[str, Any], about: Mapping[str, Any]) -> Path:
    """Write `bench/results/<day>-<machine>-peers.json` and `peers.md`."""
    path = results.path("peers", about)
    path.write_text(json.dumps({**about, **found}, indent=1) + "\n")
    (results.FOLDER / "peers.md").write_text("# Side by side\n\n" + results.said(about, path) + tables(found))
    return path
