"""Watches one sandboxed process to its end: drains its pipes, enforces the limits, kills the whole tree."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import BinaryIO

from goalwright_executor import core
from goalwright_executor.core import Limit, Limits
from goalwright_executor.sandbox import tree
from goalwright_executor.sandbox.inside import REPORT_SLACK_BYTES
from goalwright_executor.sandbox.port import Cancelled, OnOutput

_FIRST_LOOK, _SLOWEST_LOOK = 0.005, 0.025
_CHUNK = 1 << 16
_GONE_MILLISECONDS = 5_000
_FOLDERS = ("job", "tmp")  # what a program may write to


@dataclass
class Watch:
    """Eyes and hands on one process tree. Use from one thread; `cancel` may come from another.

    The launcher must take its whole tree with it when it dies (bwrap --die-with-parent does).
    """

    process: subprocess.Popen[bytes]
    report: BinaryIO  # where to write what comes through the report pipe
    report_pipe: int
    first: tree.First | None  # inside, and the last to die; None when it was never there or is gone already
    limits: Limits
    on_output: OnOutput
    limit: Limit | None = None
    cpu_seconds: float = 0
    peak_memory_bytes: int = 0
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    _stdout: int = -1
    _reported: int = 0
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Kill the tree soon; `run` then raises `Cancelled`."""
        self._cancelled.set()
        self._kill()

    def run(self) -> int:
        """The launcher's exit code (negative: a signal), when nothing of the tree is left."""
        started = time.monotonic()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._stdout = self.process.stdout.fileno()
        pipes = (self._stdout, self.process.stderr.fileno(), self.report_pipe)
        ended = os.pidfd_open(self.process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for fd in (*pipes, ended):
                    os.set_blocking(fd, False)
                    selector.register(fd, selectors.EVENT_READ)
                self._until_it_ends(selector, ended, started)
            code = self.process.wait()
            self._await_the_last()
            for fd in pipes:
                while self._drain(fd):
                    pass
        finally:
            os.close(ended)
            self._kill()
            self.process.wait()
        if self._cancelled.is_set():
            raise Cancelled
        return code

    def _until_it_ends(self, selector: selectors.BaseSelector, ended: int, started: float) -> None:
        pause, look_at = _FIRST_LOOK, started + _FIRST_LOOK
        while True:
            for key, _ in selector.select(max(0.0, look_at - time.monotonic())):
                if key.fd == ended:
                    return
                if not self._drain(key.fd):
                    selector.unregister(key.fd)
            now = time.monotonic()
            if now >= look_at:
                self._look(now - started)
                pause = min(pause * 2, _SLOWEST_LOOK)
                look_at = now + pause

    def _drain(self, fd: int) -> bool:
        """Take what is ready; False when there is nothing more."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return self.process.poll() is None
        except OSError:
            return False
        if fd == self.report_pipe:
            self._reported += len(data)
            if self._reported > self.limits.disk_bytes + REPORT_SLACK_BYTES:
                self._end(Limit.DISK)
            else:
                self.report.write(data)
        elif data:
            self._printed(self.stdout if fd == self._stdout else self.stderr, data)
        return bool(data)

    def _printed(self, kept: bytearray, data: bytes) -> None:
        room = self.limits.output_bytes - len(kept)
        kept += data[: max(0, room)]
        if self.limit is None:
            self.on_output(data[: max(0, room)])
        if len(data) > room:
            self._end(Limit.OUTPUT)

    def _look(self, elapsed: float) -> None:
        used = tree.usage(self.process.pid)
        resident = used.resident_bytes
        if resident > self.limits.memory_bytes:
            resident = min(resident, tree.proportional_bytes(used.pids))
        self.cpu_seconds = max(self.cpu_seconds, used.cpu_seconds)
        self.peak_memory_bytes = max(self.peak_memory_bytes, resident)
        if resident > self.limits.memory_bytes:
            self._end(Limit.OUT_OF_MEMORY)
        elif self._files() > core.MAX_FILES:
            self._end(Limit.DISK)
        elif elapsed > self.limits.seconds or used.cpu_seconds > self.limits.seconds + 1:
            self._end(Limit.TIMEOUT)

    def _files(self) -> int:
        """Files and folders in the fuller one of its two tmpfs: bubblewrap cannot limit their number."""
        if self.first is None:
            return 0
        most, root = 0, f"/proc/{self.first.pid}/root"
        for folder in _FOLDERS:
            with contextlib.suppress(OSError):  # not mounted yet, or gone
                if os.stat(f"{root}/").st_dev == os.stat("/").st_dev:
                    continue  # still in the machine's own folders
                found = os.statvfs(f"{root}/{folder}")
                most = max(most, found.f_files - found.f_ffree)
        return most

    def _await_the_last(self) -> None:
        """The kernel has killed all others before the first process inside is gone."""
        if self.first is not None:
            waiting = select.poll()
            waiting.register(self.first.pidfd, select.POLLIN)
            waiting.poll(_GONE_MILLISECONDS)

    def _end(self, limit: Limit) -> None:
        self.limit = self.limit or limit
        self._kill()

    def _kill(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
