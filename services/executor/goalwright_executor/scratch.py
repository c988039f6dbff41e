"""The executor's own disk: one private folder per program, gone afterwards, also after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import structlog

from goalwright_executor.sandbox import orphans

log = structlog.get_logger(__name__)

_PREFIX = "goalwright-executor-"
_LOCK = "lock"


class Scratch:
    """A part: a private folder under `base`, held by a lock while this process lives. `start()` removes those
    of executors that are no more."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._root: Path | None = None
        self._lock: IO[bytes] | None = None

    async def start(self) -> None:
        """Make the folder; sweep what crashed executors left."""
        await asyncio.to_thread(self._base.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(self._sweep)
        self._root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._base))
        self._lock = (self._root / _LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    async def stop(self) -> None:
        """Remove it."""
        root, self._root = self._root, None
        if root is not None:
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextlib.asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """A new folder that only we can enter, for one program."""
        assert self._root is not None, "used before start()"
        folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            yield folder
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))

    def _sweep(self) -> None:
        for left in self._base.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):  # held by a living executor, or somebody else's
                if left.stat().st_uid == os.geteuid() and _is_abandoned(left / _LOCK):
                    ended = orphans.end(left)
                    shutil.rmtree(left, ignore_errors=True)
                    log.info("swept what a crashed executor left", folder=str(left), sandboxes=ended)


def _is_abandoned(lock: Path) -> bool:
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises BlockingIOError while its owner lives
        return True
