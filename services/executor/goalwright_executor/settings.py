"""What the executor needs to know, and the lane it performs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from goalwright_shared.messages import Lane
from goalwright_shared.settings import ServiceSettings
from pydantic import Field, model_validator

from goalwright_executor.core import Limits
from goalwright_executor.web.rules import Rules, networks

LANE = "exec"
WEB_LANE = "tool.web"

PROGRAM_LIBRARIES = ("numpy", "pandas", "matplotlib", "fastparquet")
"""What programs are promised to find (`libraries.txt`)."""

_CONTAINERS_READY = 4


class ExecutorSettings(ServiceSettings):
    """Settings of the executor (`GOALWRIGHT_…`)."""

    sandbox: Literal["auto", "bubblewrap", "docker"] = Field(
        default="auto", description="auto takes what lacks least of those that isolate here"
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
    program_containers_ready: int | None = Field(
        default=None, ge=0, le=256,
        description="docker: containers started before a program asks; default one per slot, at most 4",
    )  # fmt: skip

    web_hosts: str = Field(
        default="", description="hosts that agents may fetch pages from, comma separated: example.org, "
        "*.example.org, or * for every public one; empty: none, and there is no lane tool.web"
    )  # fmt: skip
    web_networks: str = Field(
        default="", description="networks that are not public and may be fetched from all the same, as CIDR"
    )
    web_ports: str = Field(default="", description="ports beside 80 for http and 443 for https")
    web_seconds: float = Field(default=20, gt=0, le=300, description="a page may take, redirects included")
    web_max_bytes: int = Field(default=2 << 20, ge=1, le=64 << 20, description="of one page")
    web_redirects: int = Field(default=5, ge=0, le=20, description="followed for one page, each checked")
    web_slots: int = Field(default=4, ge=1, le=64, description="pages fetched at a time by one executor")

    @model_validator(mode="after")
    def _web_can_be_read(self) -> Self:
        self.web_rules()
        return self

    def web_rules(self) -> Rules:
        """What may be fetched. Raises ValueError."""
        return Rules(
            hosts=_list(self.web_hosts),
            networks=networks(self.web_networks),
            ports=frozenset(int(port) for port in _list(self.web_ports)),
            seconds=self.web_seconds,
            max_bytes=self.web_max_bytes,
            redirects=self.web_redirects,
        )

    def containers_ready(self) -> int:
        """How many containers wait for a program."""
        if self.program_containers_ready is None:
            return min(_CONTAINERS_READY, self.executor_slots)
        return self.program_containers_ready

    def limits(self, timeout_seconds: float | None = None, left_seconds: float | None = None) -> Limits:
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


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def lanes(settings: ExecutorSettings) -> list[Lane]:
    """The lane rows this service performs."""
    web = [_web_lane(settings)] if settings.web_hosts.strip() else []
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
            libraries=list(PROGRAM_LIBRARIES),
        ),
        *web,
    ]


def _web_lane(settings: ExecutorSettings) -> Lane:
    return Lane(
        name=WEB_LANE,
        description=f"Fetches a page of the web as text; allowed hosts: {settings.web_hosts}.",
        lease_seconds=30,
        may=["done", "failed", "throttled"],
        plannable=True,
    )
