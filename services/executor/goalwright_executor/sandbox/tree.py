"""What a tree of processes uses, read from /proc: the eyes of the watchdog."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Sums over a tree: CPU seconds (of reaped children too), resident bytes, and its processes."""

    cpu_seconds: float
    resident_bytes: int
    pids: tuple[int, ...]


@dataclass(frozen=True)
class First:
    """The first process of a process namespace: when it is gone, so are all the others."""

    pid: int
    pidfd: int


def is_visible() -> bool:
    """Whether the kernel lists child processes; without, nothing here sees a tree."""
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").exists()


def usage(root: int) -> Usage:
    """What `root` and all its descendants use now. Pages shared after a fork are counted once per process:
    an upper bound, see `proportional_bytes`."""
    cpu, resident, pids, queue = 0, 0, [], [root]
    while queue:
        pid = queue.pop()
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
            cpu += sum(map(int, fields[11:15]))
            resident += int(fields[21]) * _PAGE
            pids.append(pid)
            queue += children(pid)
    return Usage(cpu / _TICKS, resident, tuple(pids))


def children(pid: int) -> list[int]:
    """Direct children of every thread of `pid`; raises OSError when it is gone."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def proportional_bytes(pids: tuple[int, ...]) -> int:
    """Resident bytes with every shared page counted once (slow: asked only when `usage` is over a limit)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(rb"^Pss:\s+(\d+) kB", _read(f"/proc/{pid}/smaps_rollup"), re.M)
            total += int(found[1]) * 1024 if found else 0
    return total


def _read(path: str) -> bytes:
    """A whole file of /proc; without pathlib, whose paths cost more than the kernel's answer."""
    with open(path, "rb", buffering=0) as file:
        return file.read()
