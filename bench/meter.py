"""CPU seconds and peak memory of processes by role, children (living and reaped) included."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_SAMPLE_SECONDS = 0.5


@dataclass
class Reading:
    """What a metered span of time took."""

    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    """The sum of the largest resident sizes of a role's processes; shared pages count in each."""
    peak_total_mib: float = 0.0
    """The largest sum of proportional sizes (PSS: shared pages count once) over all processes, sampled."""


class Meter:
    """`async with Meter({"postgres": [pid], …}) as reading:`; the reading is complete afterwards."""

    def __init__(self, roles: Mapping[str, Sequence[int]]) -> None:
        self._roles = roles
        self.reading = Reading()
        self._began = 0.0
        self._before: dict[str, float] = {}
        self._sampler: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reading:
        for pids in self._roles.values():
            for process in _trees(pids):
                _reset_peak(process.pid)
        self._sampler = asyncio.create_task(self._sample())
        self._before = {role: cpu_seconds(pids) for role, pids in self._roles.items()}
        self._began = time.perf_counter()
        return self.reading

    async def __aexit__(self, *_: object) -> None:
        reading = self.reading
        reading.seconds = time.perf_counter() - self._began
        assert self._sampler is not None
        self._sampler.cancel()
        for role, pids in self._roles.items():
            reading.cpu_seconds[role] = cpu_seconds(pids) - self._before[role]
            reading.peak_mib[role] = sum(_peak_mib(process.pid) for process in _trees(pids))
        reading.peak_total_mib = max(reading.peak_total_mib, self._total())

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            total = await asyncio.to_thread(self._total)
            self.reading.peak_total_mib = max(self.reading.peak_total_mib, total)

    def _total(self) -> float:
        return sum(pss_mib(pids) for pids in self._roles.values())


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time of processes and all their descendants, those that ended and were reaped included."""
    total = 0.0
    for process in _trees(pids):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
            if process.pid != os.getpid():
                total += times.children_user + times.children_system
    return total


def pss_mib(pids: Sequence[int]) -> float:
    """Memory of processes and their descendants now; shared pages count once."""
    total = 0.0
    for process in _trees(pids):
        with contextlib.suppress(psutil.Error, OSError):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) / 1024
    return total


def _trees(pids: Sequence[int]) -> list[psutil.Process]:
    """The processes and their descendants; our own process stands for itself alone."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            found.append(root)
            if pid != os.getpid():
                found += root.children(recursive=True)
    return found


def _reset_peak(pid: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak_mib(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0
