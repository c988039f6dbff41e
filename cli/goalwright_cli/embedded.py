"""A system for one command: the one that runs already, or one of our own, stopped afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from goalwright_shared.errors import Unreachable

from goalwright_cli import processes, runfile
from goalwright_cli.settings import SystemSettings

Step = Callable[[str], None]
"""Told what happens, a line at a time, for people."""

_SAID = "up.out"
"""What a supervisor that was started for one command says."""


@dataclass(frozen=True)
class RunningSystem:
    """A system to talk to: the address of its NATS, and whether it was started for us."""

    nats_url: str
    started: bool = False
    run: runfile.Run | None = None


@contextlib.asynccontextmanager
async def running_system(
    settings: SystemSettings | None = None,
    *,
    on_step: Step | None = None,
    defaults: Mapping[str, str] | None = None,
) -> AsyncIterator[RunningSystem]:
    """Use the system at GOALWRIGHT_NATS_URL or the one that runs in the home; else start one for ourselves,
    as a process of its own, and stop it afterwards. `defaults` are environment variables for one of our own."""
    settings = settings or SystemSettings()
    if settings.nats_url:
        yield RunningSystem(settings.nats_url)
        return
    if run := runfile.read(settings.home):
        yield RunningSystem(run.nats_url, run=run)
        return
    environment = {**(defaults or {}), **os.environ}
    async with _own_system(settings, on_step or (lambda _: None), environment) as run:
        yield RunningSystem(run.nats_url, started=True, run=run)


@contextlib.asynccontextmanager
async def _own_system(
    settings: SystemSettings, on_step: Step, environment: Mapping[str, str]
) -> AsyncIterator[runfile.Run]:
    settings.home.mkdir(parents=True, exist_ok=True)
    said = settings.home / _SAID
    with said.open("wb") as out:
        process = processes.spawn(
            [sys.executable, "-m", "goalwright_cli.main", "--home", settings.home.absolute(), "up"],
            stdout=out.fileno(), env=environment, log=said, death_signal=signal.SIGTERM,
        )  # fmt: skip
    try:
        with said.open() as lines:
            run = await _until_ready(settings.home, process, lines, on_step)
        yield run
    finally:
        await processes.stop(process, grace_seconds=settings.drain_seconds + 30)


async def _until_ready(
    home: Path, process: subprocess.Popen[bytes], said: TextIO, on_step: Step
) -> runfile.Run:
    """The system of `home` once it is ready; raises `Unreachable` when its supervisor ends before."""
    while True:
        ended = process.poll() is not None
        run = runfile.read(home)  # after the look at the process: it may end because another system is ready
        for line in said:
            on_step(line.rstrip())
        if run is not None:
            return run
        if ended:
            raise Unreachable(
                "system_did_not_start",
                f"the system did not start:\n{processes.tail(home / _SAID)}",
                hint="goalwright doctor",
            )
        await asyncio.sleep(0.05)
