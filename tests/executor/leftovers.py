"""What a program may have left on the machine: processes, mounts, containers, control groups."""

from __future__ import annotations

import subprocess
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
    """Containers in which a program of this adapter runs or ran."""
    command = ["docker", "ps", "-aq", "--filter", f"label=goalwright.program.of={sandbox.instance}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def cgroups() -> set[str]:
    """Control groups of ours."""
    return {str(path) for path in Path("/sys/fs/cgroup").glob("**/goalwright*")}
