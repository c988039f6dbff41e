"""Control groups of memory, one per slot and used again: the kernel's own count of what a program holds.

The watchdog sees what processes have mapped; buffers of sockets, unmapped shared pages and the kernel's own
records of files it does not see. Where we may make control groups (version 1 or 2), these are bounded too.

To move a process into a group takes the kernel about ten milliseconds. In version 1 a thread can be in a group that its
process is not in, and what it starts is born there: each thread of ours that starts programs moves once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_LEAVE_SECONDS = 1.0
_JOIN = 'echo 0 >"$1" || exit 1; shift; exec "$@"'


@dataclass(frozen=True)
class Group:
    """One control group that nobody else uses."""

    folder: Path
    limit_file: str  # memory.max, or of version 1
    events_file: str
    holds_threads: bool  # version 1

    def enter(self) -> None:
        """Move the thread that calls into it, where a thread can be."""
        if self.holds_threads:
            (self.folder / "tasks").write_text(str(threading.get_native_id()))

    def bound(self, size: int) -> None:
        """Set the most bytes it may hold."""
        (self.folder / self.limit_file).write_text(str(size))
        with contextlib.suppress(OSError):  # without swap there is no such file, or nothing to say
            (self.folder / "memory.swap.max").write_text("0")

    def kills(self) -> int:
        """How many processes the kernel has killed in it for want of memory, ever."""
        found = re.search(r"^oom_kill (\d+)$", (self.folder / self.events_file).read_text(), re.M)
        return int(found[1]) if found else 0

    def joining(self, command: Sequence[str]) -> list[str]:
        """`command`, in this group from its first instruction on, started by a thread that has entered it."""
        if self.holds_threads:
            return list(command)
        return ["/bin/sh", "-c", _JOIN, "sh", str(self.folder / "cgroup.procs"), *command]


class Groups:
    """The groups of one executor. `open()` makes them, or leaves none where we may not."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._all: list[Group] = []
        self._free: queue.SimpleQueue[Group] = queue.SimpleQueue()
        self._of_thread = threading.local()

    def open(self) -> bool:
        """Whether there are groups; removes those that crashed executors left. Idempotent."""
        if self._all:
            return True
        found = _parent()
        if found is None:
            return False
        parent, files = found
        _sweep(parent)
        try:
            for slot in range(self._slots):
                group = Group(parent / f"goalwright-{os.getpid()}-{id(self)}-{slot}", *files)
                group.folder.mkdir()
                self._all.append(group)
                group.bound(1 << 30)
                group.kills()
        except OSError:  # read-only, not delegated, or without the controller
            self.close()
            return False
        for group in self._all:
            self._free.put(group)
        return True

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[Group | None]:
        """The group of the thread that calls, which holds `size` bytes at most for the time of one program; None where
        there are no groups. At most `slots` threads may ever ask."""
        if not self._all:
            yield None
            return
        group: Group | None = getattr(self._of_thread, "group", None)
        if group is None:
            group = self._free.get_nowait()
            group.enter()
            self._of_thread.group = group
        group.bound(size)
        yield group

    def close(self) -> None:
        """Remove them, when their threads have ended."""
        for group in self._all:
            _remove(group.folder)
        self._all, self._free, self._of_thread = [], queue.SimpleQueue(), threading.local()


def _remove(folder: Path) -> None:
    over = time.monotonic() + _LEAVE_SECONDS
    while True:
        try:
            folder.rmdir()
        except OSError:  # a thread that has been joined leaves its group a moment later
            if time.monotonic() > over:
                return
            time.sleep(0.01)
        else:
            return


def _parent() -> tuple[Path, tuple[str, str, bool]] | None:
    """The group we are in ourselves, with the names of its files and whether it is of version 1; None where the kernel
    shows none."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    if "memory" in paths:
        parent = _MOUNT / "memory" / paths["memory"].lstrip("/")
        return parent, ("memory.limit_in_bytes", "memory.oom_control", True)
    own = _MOUNT / paths.get("", "/").lstrip("/")
    with contextlib.suppress(OSError):  # refused while processes are in it, and where it is not delegated
        (own / "cgroup.subtree_control").write_text("+memory")
    return own, ("memory.max", "memory.events", False)


def _sweep(parent: Path) -> None:
    for left in parent.glob("goalwright-*-*-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                left.rmdir()
