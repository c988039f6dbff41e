"""CPU seconds and peak memory of processes by role, children (living and reaped) included."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_SAMPLE_SECONDS = 1.0


@dataclass
class Reading:
    """What a metered span of time took."""

    began: int = 0
    ended: int = 0
    """Nanoseconds of the machine's monotonic clock."""
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    """The sum of the largest resident sizes of a role's processes; shared pages count in each."""
    peak_total_mib: float = 0.0
    """The largest sum of proportional sizes (PSS: shared pages count once) over all processes, sampled."""

    @property
    def seconds(self) -> float:
        """From beginning to end."""
        return (self.ended - self.began) / 1e9


class Meter:
    """`async with Meter({"postgres": [pid], …}) as reading:`; the reading is complete afterwards.

    A role is its processes and all their descendants, but our own process stands for itself alone, less what
    the measuring takes.
    """

    def __init__(self, roles: Mapping[str, Sequence[int]]) -> None:
        self._roles = roles
        self.reading = Reading()
        self._before: dict[str, float] = {}
        self._own_seconds = 0.0
        self._sampler: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reading:
        for pids in self._trees().values():
            for pid in pids:
                _reset_peak(pid)
        self._sampler = asyncio.create_task(self._sample())
        self._before = self._cpu_seconds()
        self.reading.began = time.monotonic_ns()
        return self.reading

    async def __aexit__(self, *_: object) -> None:
        reading = self.reading
        reading.ended = time.monotonic_ns()
        after = self._cpu_seconds()
        assert self._sampler is not None
        self._sampler.cancel()
        for role, pids in self._trees().items():
            reading.cpu_seconds[role] = after[role] - self._before[role]
            if os.getpid() in pids:
                reading.cpu_seconds[role] = max(0.0, reading.cpu_seconds[role] - self._own_seconds)
            reading.peak_mib[role] = sum(_peak_mib(pid) for pid in pids)
        self._note_total()

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            await asyncio.to_thread(self._note_total)

    def _note_total(self) -> None:
        began = time.thread_time()
        total = sum(_pss_mib(pid) for pids in self._trees().values() for pid in pids)
        self.reading.peak_total_mib = max(self.reading.peak_total_mib, total)
        self._own_seconds += time.thread_time() - began

    def _cpu_seconds(self) -> dict[str, float]:
        return {role: sum(map(_cpu_seconds, pids)) for role, pids in self._trees().items()}

    def _trees(self) -> dict[str, list[int]]:
        """Every process of each role now."""
        children: defaultdict[int, list[int]] = defaultdict(list)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                children[process.ppid()].append(process.pid)
        children[os.getpid()].clear()
        found = {}
        for role, roots in self._roles.items():
            pids = list(roots)
            for pid in pids:  # grows while it is walked
                pids += children[pid]
            found[role] = pids
        return found


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that ended and were reaped (of our own: without them)."""
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        reaped = 0.0 if pid == os.getpid() else times.children_user + times.children_system
        return float(times.user + times.system + reaped)
    return 0.0


def _pss_mib(pid: int) -> float:
    """Memory of a process now; pages that several share count for a part in each."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") / 1024


def _reset_peak(pid: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak_mib(pid: int) -> float:
    return _kib(Path(f"/proc/{pid}/status"), "VmHWM:") / 1024


def _kib(path: Path, name: str) -> int:
    """A line `<name> <number> kB`; 0 when the process has gone."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
