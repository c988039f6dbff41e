"""The port of sandboxes. Every adapter shows the same behaviour, held by one conformance suite."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import ProgramSpec

from goalwright_executor.core import Limits, Run

OnOutput = Callable[[bytes], None]
"""Hears what the program prints, as it prints; called from any thread."""


class SandboxLost(GoalwrightError):
    """The sandbox, not the program, failed: worth another try."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__("sandbox_lost", message, hint=hint)


class Cancelled(Exception):
    """Nobody wants the program any more; nothing of it is left."""


@dataclass(frozen=True)
class Job:
    """A program ready to run.

    `folder` (readable by all, inside a folder that only we can enter) holds the source file, `in/` and
    perhaps `stdin`. The sandbox writes what the program left in out/ to the tar `outputs`, when it exits 0.
    """

    program: ProgramSpec
    folder: Path
    outputs: Path


class Sandbox(Protocol):
    """Runs a program that sees its own folder and its libraries and nothing else: no network, no secrets,
    limits enforced from outside, and nothing left of it afterwards."""

    name: str
    lacks: tuple[str, ...]
    """What it does not bound, isolate or bring here, though others of its kind do; for people. Known after `check`."""

    async def check(self) -> str | None:
        """None when programs can be isolated here; else what is missing and the exact fix, for people."""

    async def run(self, job: Job, limits: Limits, on_output: OnOutput) -> Run:
        """Run one program to its end. Cancelling kills it. Raises `SandboxLost`."""

    async def close(self) -> None:
        """Release what the adapter holds."""


class Cancellable(Protocol):
    """A program that a thread attends to."""

    def cancel(self) -> None:
        """Kill it soon; from any thread."""


async def cancelled(future: asyncio.Future[Run], running: queue.SimpleQueue[Any]) -> None:
    """Kill the program that `future` runs and return when nothing of it is left. `running` holds it (a
    `Cancellable`) once it has begun."""
    while not future.done():
        with contextlib.suppress(queue.Empty):
            running.get_nowait().cancel()
        with contextlib.suppress(asyncio.CancelledError):  # who cancels twice waits as well
            await asyncio.wait({future}, timeout=0.05)
    future.exception()  # looked at: `Cancelled`, or it was faster than us
