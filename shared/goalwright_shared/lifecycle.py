"""One lifecycle for every part of every service, and one signal handler per process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)


class Part(Protocol):
    """Something that runs: `start()` returns when it is ready, `stop()` is idempotent and finishes."""

    async def start(self) -> None:
        """Become ready."""

    async def stop(self) -> None:
        """Finish or hand back what is in flight, then release everything."""


class Stopper:
    """Asks the process to end: by a signal, or by a part that cannot go on (`fatal`)."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self.reason: str | None = None
        self.failed = False

    def ask(self, reason: str, *, failed: bool = False) -> None:
        """End the process in an orderly way; the first reason counts."""
        if self.reason is None:
            self.reason, self.failed = reason, failed
        self._asked.set()

    def fatal(self, reason: str) -> None:
        """End the process with exit code 1: its supervisor starts a new one."""
        self.ask(reason, failed=True)

    async def wait(self) -> None:
        """Return when somebody has asked."""
        await self._asked.wait()


async def run(parts: Sequence[Part], stopper: Stopper) -> int:
    """Start `parts` in order, wait for SIGINT, SIGTERM or the stopper, stop them in reverse order.

    Returns the process's exit code. A part that fails to start stops those before it and raises; a signal
    during the start ends it. A part that fails to stop keeps no other from it; the code is 1 then.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopper.ask, signal.Signals(number).name)
    started: list[Part] = []
    starting = asyncio.create_task(_start(parts, started))
    asked = asyncio.create_task(stopper.wait())
    try:
        await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting  # raises what went wrong
            log.info("ready")
        await asked
        log.info("stopping", reason=stopper.reason)
    finally:
        asked.cancel()
        starting.cancel()
        await asyncio.gather(starting, asked, return_exceptions=True)
        for part in reversed(started):
            try:
                await part.stop()
            except Exception:
                log.exception("a part did not stop", part=type(part).__name__)
                stopper.failed = True
    return 1 if stopper.failed else 0


async def _start(parts: Sequence[Part], started: list[Part]) -> None:
    _announce(parts, all_started=False)
    for part in parts:
        await part.start()
        started.append(part)
    _announce(parts, all_started=True)


def _announce(parts: Sequence[Part], *, all_started: bool) -> None:
    """Tell the parts that answer for the others (`Health`) whether all have started."""
    for part in parts:
        if hasattr(part, "all_started"):
            part.all_started = all_started
