"""Tiny programs in sandboxes, beside the bare interpreter: how many a second, and what a sandbox adds to each.

Every contestant does the same for each program: a new folder, the source in it, the program run to its end with
pipes, what it printed and left taken and compared, the folder removed. They take turns, round by round, so that what
else the machine does falls on all of them; ratios are taken within a round.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from goalwright_executor import libraries
from goalwright_executor.core import Limits
from goalwright_executor.libraries import base_python
from goalwright_executor.sandbox.bubblewrap import Bubblewrap
from goalwright_executor.sandbox.docker import Docker
from goalwright_executor.sandbox.port import Job, Sandbox
from goalwright_executor.settings import ExecutorSettings
from goalwright_shared.messages import ProgramSpec

from bench import results
from bench.peers import environments
from bench.peers.environments import Missing

FLOOR = "bare interpreter"
AT = (1, 2, 8, 32)
"""Programs at a time."""

_SOURCE = "print(6 * 7)\nopen('out/answer', 'w').write('42')\n"
_LIMITS = Limits(seconds=30, memory_bytes=256 << 20, processes=32, disk_bytes=16 << 20, output_bytes=1 << 20)
_RIVAL = "llm-sandbox"
_FEW = 40  # of what needs a container each
_RARE, _RARE_AT = 4, 2  # of what needs seconds each
_ANY = 1_000


class Wrong(Exception):
    """A program did not do what it should: the figures would say nothing."""


class Contestant(Protocol):
    """Runs tiny programs."""

    name: str
    programs: int
    most_at: int  # is measured up to so many at a time

    def one(self) -> None:
        """Run one program from its folder to its result, in the thread that calls; raises `Wrong`."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass
class Floor:
    """An interpreter with no sandbox around it."""

    programs: int
    name: str
    python: Path
    most_at: int = _ANY

    def one(self) -> None:
        """A folder, a process with pipes, an answer."""
        with tempfile.TemporaryDirectory(prefix="goalwright-bench-") as folder:
            home = Path(folder)
            (home / "out").mkdir()
            (home / "main.py").write_text(_SOURCE)
            done = subprocess.run(
                [str(self.python), "main.py"],
                cwd=home,
                env={"PATH": os.environ["PATH"]},
                start_new_session=True,  # as sandboxes do: a group of its own for the kernel's scheduler
                capture_output=True,
                check=False,
                timeout=60,
            )
            if done.stdout != b"42\n" or (home / "out" / "answer").read_bytes() != b"42":
                raise Wrong(f"{self.name}: {done}")

    def close(self) -> None:
        """Nothing."""


@contextlib.contextmanager
def _empty_environment() -> Iterator[Path]:
    """What a program finds in a sandbox: the interpreter, and nothing installed that would start with it."""
    with tempfile.TemporaryDirectory(prefix="goalwright-bench-") as folder:
        subprocess.run([str(base_python()), "-m", "venv", "--without-pip", folder], check=True)
        yield Path(folder, "bin", "python")


@dataclass
class Ours:
    """One adapter of the executor, as the executor uses it."""

    sandbox: Sandbox
    programs: int
    loop: asyncio.AbstractEventLoop
    most_at: int = _ANY

    def __post_init__(self) -> None:
        self.name = self.sandbox.name

    def one(self) -> None:
        """As `Floor`, through the port."""
        home = Path(tempfile.mkdtemp(prefix="goalwright-bench-"))
        try:
            (home / "job" / "in").mkdir(parents=True)
            home.joinpath("job").chmod(0o755)
            (home / "job" / "main.py").write_text(_SOURCE)
            job = Job(ProgramSpec(source=_SOURCE), home / "job", home / "outputs.tar")
            running = asyncio.run_coroutine_threadsafe(
                self.sandbox.run(job, _LIMITS, lambda _: None), self.loop
            )
            run = running.result(120)
            with tarfile.open(job.outputs) as archive:
                left = archive.extractfile("./answer")
                if run.stdout != b"42\n" or left is None or left.read() != b"42":
                    raise Wrong(f"{self.name}: {run}")
        finally:
            shutil.rmtree(home)

    def close(self) -> None:
        """End the adapter."""
        asyncio.run_coroutine_threadsafe(self.sandbox.close(), self.loop).result(60)


@dataclass
class Rival:
    """llm-sandbox in an environment of its own, with a container for each program; a process of drivers is told
    `run` line by line and answers each."""

    image: str
    programs: int = _RARE
    name: str = _RIVAL
    most_at: int = _RARE_AT
    _free: queue.SimpleQueue[subprocess.Popen[str]] = field(default_factory=queue.SimpleQueue)
    _all: list[subprocess.Popen[str]] = field(default_factory=list)

    def one(self) -> None:
        """One session: open, run, close."""
        try:
            driver = self._free.get_nowait()
        except queue.Empty:
            driver = self._started()
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write("run\n")
        driver.stdin.flush()
        said = driver.stdout.readline().strip()
        if said != "42":
            raise Wrong(f"{self.name}: {said!r}")
        self._free.put(driver)

    def _started(self) -> subprocess.Popen[str]:
        script = Path(__file__).parent / "peers" / "run_llm_sandbox.py"
        driver = subprocess.Popen(
            [environments.python(_RIVAL), script, self.image],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._all.append(driver)
        return driver

    def close(self) -> None:
        """End the drivers."""
        for driver in self._all:
            driver.terminate()
            driver.wait(30)


@dataclass
class Round:
    """What some programs of one contestant took."""

    each: list[float] = field(default_factory=list)  # ms
    seconds: float = 0

    def figures(self, floor: Mapping[str, float] | None) -> dict[str, float]:
        """The round in figures, beside those of the floor."""
        p50 = statistics.median(self.each)
        found = {
            "programs_per_second": len(self.each) / self.seconds,
            "p50_ms": p50,
            "p95_ms": statistics.quantiles(self.each, n=20)[-1],
        }
        floor = floor or found
        found["of_floor"] = found["programs_per_second"] / floor["programs_per_second"]
        return found | {"overhead_ms": p50 - floor["p50_ms"]}


def run_some(contestant: Contestant, threads: ThreadPoolExecutor, programs: int, into: Round) -> None:
    """Run so many programs on the threads."""

    def one(_: int) -> None:
        began = time.perf_counter()
        contestant.one()
        into.each.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    list(threads.map(one, range(programs)))
    into.seconds += time.perf_counter() - began


def play(contestants: Sequence[Contestant], at: int) -> dict[str, Round]:
    """One round: the contestants in turn, some programs each, until each has run all of its own."""
    some, found = max(25, 2 * at), {contestant.name: Round() for contestant in contestants}
    with ThreadPoolExecutor(at) as threads:
        for contestant in contestants:
            run_some(contestant, threads, at, Round())  # warm: threads, drivers, files in memory
        while waiting := [one for one in contestants if len(found[one.name].each) < one.programs]:
            for contestant in waiting:
                into = found[contestant.name]
                run_some(contestant, threads, min(some, contestant.programs - len(into.each)), into)
    return found


async def compare(programs: int, at: Sequence[int], rounds: int) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each contestant and number at a time, and why others are missing."""
    rows: dict[tuple[str, int], list[dict[str, float]]] = {}
    with _empty_environment() as python:
        contestants, missing = await _contestants(programs, max(at), python)
        try:
            await asyncio.to_thread(_rounds, contestants, at, rounds, rows)
        finally:
            for contestant in contestants:
                await asyncio.to_thread(contestant.close)
    return [
        {"sandbox": name, "at": number, "runs": runs, "median": {key: _median(runs, key) for key in runs[0]}}
        for (name, number), runs in rows.items()
    ], missing


def _rounds(
    contestants: Sequence[Contestant], at: Sequence[int], rounds: int,
    rows: dict[tuple[str, int], list[dict[str, float]]],
) -> None:  # fmt: skip
    for number in at:
        for _ in range(rounds):
            floor: dict[str, float] | None = None
            for name, round in play(_that_can(contestants, number), number).items():
                figures = round.figures(floor)
                floor = floor or figures
                rows.setdefault((name, number), []).append(figures)


def _that_can(contestants: Sequence[Contestant], at: int) -> list[Contestant]:
    return [contestant for contestant in contestants if at <= contestant.most_at]


def _median(runs: Sequence[Mapping[str, float]], key: str) -> float:
    return round(statistics.median(run[key] for run in runs), 3)


async def _contestants(programs: int, slots: int, python: Path) -> tuple[list[Contestant], list[str]]:
    loop, settings = asyncio.get_running_loop(), ExecutorSettings()
    image = settings.program_image
    found: list[Contestant] = [
        Floor(programs, FLOOR, python),
        Floor(programs, f"{FLOOR}, as it is installed here", base_python()),
    ]
    missing: list[str] = []
    bubblewrap = Bubblewrap(slots=slots, libraries=libraries.ensure(settings))
    docker = Docker(slots=slots, image=image, ready=settings.containers_ready(), limits=_LIMITS)
    for sandbox in (bubblewrap, docker):
        problem = await sandbox.check()
        if problem is None:
            few = programs if isinstance(sandbox, Bubblewrap) else min(programs, _FEW)
            found.append(Ours(sandbox, few, loop))
        else:
            missing.append(f"{sandbox.name}: {problem}")
    try:
        await asyncio.to_thread(environments.ensure, _RIVAL)
    except Missing as problem:
        missing.append(f"{_RIVAL}: {problem}")
    else:
        if any(contestant.name == Docker.name for contestant in found):
            rival = Rival(image)
            try:
                await asyncio.to_thread(rival.one)
            except Wrong as problem:  # its own environment, which not every image can make
                rival.close()
                missing.append(f"{problem}")
            else:
                found.append(rival)
        else:
            missing.append(f"{_RIVAL}: it needs a container engine")
    return found, missing


def table(rows: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> str:
    """Markdown: one line a contestant and number at a time, and who is missing."""
    head = (
        "| sandbox | at a time | programs/s | of the bare interpreter | p50 ms | p95 ms | overhead ms at p50 |\n"
        "|---|---:|---:|---:|---:|---:|---:|\n"
    )
    lines = [
        f"| {row['sandbox']} | {row['at']} | {m['programs_per_second']:.1f} | {100 * m['of_floor']:.0f} % | "
        f"{m['p50_ms']:.1f} | {m['p95_ms']:.1f} | {m['overhead_ms']:.1f} |\n"
        for row in rows
        for m in (row["median"],)
    ]
    return head + "".join(lines) + "".join(f"\nNot measured: {one}.\n" for one in missing)


def store(rows: Sequence[Mapping[str, Any]], missing: Sequence[str], about: Mapping[str, Any]) -> Path:
    """Write the JSON of this day and machine, and `sandboxes.md`."""
    file = results.path("sandboxes", about)
    file.write_text(json.dumps({**about, "missing": list(missing), "sandboxes": list(rows)}, indent=1) + "\n")
    page = "# Sandboxes\n\n" + results.said(about, file) + table(rows, missing)
    (results.FOLDER / "sandboxes.md").write_text(page)
    return file
