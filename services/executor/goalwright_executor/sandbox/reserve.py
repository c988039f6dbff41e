"""Containers that were started before anybody asked, each for one program.

A thread keeps so many waiting, and replaces what has ended or has waited long; nothing is ever handed out twice.
Programs that find none start their own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Protocol

import structlog

from goalwright_executor.sandbox.engine import Bounds, Container
from goalwright_executor.sandbox.port import SandboxLost

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 5.0
MAX_WAIT_SECONDS = 600.0
"""A container that waited so long is replaced: its label says when a crashed executor's may be removed, and
cannot be changed later."""


class Maker(Protocol):
    """What makes containers."""

    def start(self, bounds: Bounds, seconds: float) -> Container:
        """A new one, waiting. Raises `SandboxLost`."""

    def is_waiting(self, container: Container) -> bool:
        """True when a program may go into it."""

    def remove(self, container: Container) -> None:
        """End it; nothing of it is left."""

    def sweep(self) -> None:
        """Remove what nobody will. Raises `SandboxLost`."""


class Reserve:
    """Up to `size` containers of the same bounds, for programs of at most `seconds`. Safe in threads."""

    def __init__(self, maker: Maker, size: int, bounds: Bounds, seconds: float) -> None:
        self._maker, self._size, self._bounds, self._seconds = maker, size, bounds, seconds
        self._waiting: deque[Container] = deque()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._keep, name="container-reserve", daemon=True)

    def start(self) -> None:
        """Begin to fill it; returns at once."""
        self._thread.start()

    def take(self, bounds: Bounds, seconds: float) -> Container | None:
        """A container for a program of these bounds, now the caller's to remove; None: make one yourself."""
        if bounds != self._bounds or seconds > self._seconds:
            return None
        while container := self._next():
            self._wake.set()
            if self._maker.is_waiting(container):
                return container
            self._drop(container)
        return None

    def waiting(self) -> list[str]:
        """The ids of those that wait."""
        with self._lock:
            return [container.id for container in self._waiting]

    def close(self) -> None:
        """Remove those that wait; idempotent."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        while container := self._next():
            self._maker.remove(container)

    def _next(self) -> Container | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _keep(self) -> None:
        is_lost = False
        while not self._closing:
            try:
                self._mend()
                self._maker.sweep()
                is_lost = False
            except SandboxLost as lost:
                if not is_lost:  # once, not every few seconds
                    log.warning("no container waits for a program; each starts its own", error=lost.message)
                is_lost = True
            self._wake.wait(_RETRY_SECONDS if is_lost else _LOOK_SECONDS)
            self._wake.clear()

    def _mend(self) -> None:
        """Take out what no program may get any more, then fill up."""
        for _ in range(len(self.waiting())):
            container = self._next()
            if container is None:
                break
            is_old = time.monotonic() - container.started > MAX_WAIT_SECONDS
            if is_old or not container.is_silent():
                self._drop(container)
            else:
                self._put(container)
        while len(self.waiting()) < self._size and not self._closing:
            self._put(self._maker.start(self._bounds, MAX_WAIT_SECONDS + self._seconds))

    def _put(self, container: Container) -> None:
        with self._lock:
            self._waiting.append(container)

    def _drop(self, container: Container) -> None:
        log.info("a waiting container is replaced", container=container.id)
        self._maker.remove(container)
