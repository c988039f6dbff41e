"""What the executor needs to know, and the lane it performs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from goalwright_shared.messages import Lane
from goalwright_shared.settings import ServiceSettings
from pydantic import Field

from goalwright_executor.core import Limits

LANE = "exec"


class ExecutorSettings(ServiceSettings):
    """Settings of the executor (`GOALWRIGHT_…`)."""

    sandbox: Literal["auto", "bubblewrap", "docker"] = Field(
        default="auto", description="auto takes the first that isolates here: bubblewrap, docker"
    )
    executor_slots: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, le=256, description="programs at a time"
    )
    executor_cache_mb: int = Field(
        default=2048, ge=0, description="inputs kept on this machine for later programs, in all; 0 keeps none"
    )
    program_seconds: float = Field(
        default=60, gt=0, le=3600, description="wall clock of a program whose task names no timeout"
    )
    program_memory_mb: int = Field(default=512, ge=16, description="memory of all its processes")
    program_processes: int = Field(default=64, ge=1, description="processes and threads at a time")
    program_disk_mb: int = Field(default=256, ge=1, description="each of its two writable folders")
    program_output_mb: int = Field(default=8, ge=1, description="printed on stdout and on stderr, each")
    program_libraries: Path | None = Field(
        default=None, description="a prepared library folder; default one beside Python's packages"
    )
    program_requirements: Path | None = Field(
        default=None, description="requirements file of libraries added to the built-in ones"
    )
    program_image: str = Field(
        default="goalwright-programs:latest",
        description="docker: the image programs run in (python3, sh, tar, timeout and the libraries)",
    )

    def limits(self, timeout_seconds: float | None, left_seconds: float | None = None) -> Limits:
        """What a program may use; never longer than its goal has left."""
        seconds = min(timeout_seconds or self.program_seconds, 3600.0)
        if left_seconds is not None:
            seconds = max(1.0, min(seconds, left_seconds))
        return Limits(
            seconds=seconds,
            memory_bytes=self.program_memory_mb << 20,
            processes=self.program_processes,
            disk_bytes=self.program_disk_mb << 20,
            output_bytes=self.program_output_mb << 20,
        )


def lanes(settings: ExecutorSettings) -> list[Lane]:
    """The lane rows this service performs."""
    return [
        Lane(
            name=LANE,
            description=(
                "Runs a given program (python or shell) in a sandbox without network: it reads its inputs as "
                "in/<name>, writes its outputs as out/<name>, and must exit 0. Python has numpy, pandas "
                "(with Parquet) and matplotlib."
            ),
            lease_seconds=30,
            may=["done", "failed", "throttled"],
            libraries=["numpy", "pandas", "matplotlib", "fastparquet"],
        )
    ]
