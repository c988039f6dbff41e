"""What a program may have left on the machine: processes, mounts, containers, control groups."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from goalwright_executor.sandbox.docker import Docker


def traces(mark: str) -> list[str]:
    """Processes that carry `mark` in their arguments, whoever's child they are."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in line:
            found.append(f"{folder.name}: {line[:200]!r}")
    return found


def mounts() -> set[str]:
    """Mount points that a sandbox may have made here."""
    points = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return {point for point in points if "goalwright" in point or "/job" in point}


def containers(sandbox: Docker) -> list[str]:
    """Containers of this adapter in which a program runs or ran: all but those that wait for one."""
    command = ["docker", "ps", "-aq", "--no-trunc", "--filter"]
    label = f"label=goalwright.program.of={sandbox.engine.instance}"
    over = time.monotonic() + 5  # one that is being made waits a moment later
    while True:
        found = subprocess.run([*command, label], capture_output=True, text=True, check=True).stdout.split()
        used = sorted(set(found) - set(sandbox.reserve.waiting()))
        if not used or time.monotonic() > over:
            return used
        time.sleep(0.02)


def cgroups() -> set[str]:
    """Control groups of ours."""
    return {str(path) for path in Path("/sys/fs/cgroup").glob("**/goalwright*")}
