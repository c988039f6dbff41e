"""Sandboxes to hold to the same behaviour: every adapter that can run here."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from goalwright_executor import core
from goalwright_executor.core import Limits, Run
from goalwright_executor.sandbox.bubblewrap import Bubblewrap
from goalwright_executor.sandbox.docker import Docker
from goalwright_executor.sandbox.port import Job, Sandbox
from goalwright_shared.messages import ProgramSpec

LIMITS = Limits(seconds=20, memory_bytes=256 << 20, processes=24, disk_bytes=16 << 20, output_bytes=1 << 20)


@dataclass
class Bench:
    """Runs programs in one sandbox and keeps what it heard."""

    sandbox: Sandbox
    home: Path
    heard: list[bytes] = field(default_factory=list)
    _jobs: int = 0

    def job(self, program: ProgramSpec, inputs: dict[str, bytes] | None = None) -> Job:
        """A laid-out folder, as the executor makes it."""
        self._jobs += 1
        home = self.home / str(self._jobs)
        folder = home / "job"
        (folder / "in").mkdir(parents=True)
        (folder / core.file_name(program)).write_text(program.source or "")
        for name, data in (inputs or {}).items():
            (folder / "in" / name).write_bytes(data)
        if program.stdin is not None:
            (folder / "stdin").write_text(program.stdin)
        return Job(program=program, folder=folder, outputs=home / "outputs.tar")

    async def run(
        self,
        source: str,
        *,
        language: str = "python",
        args: list[str] | None = None,
        stdin: str | None = None,
        inputs: dict[str, bytes] | None = None,
        limits: Limits = LIMITS,
    ) -> tuple[Run, Job]:
        """Run `source`."""
        spec = {"language": language, "source": source, "args": args or [], "stdin": stdin}
        job = self.job(ProgramSpec.model_validate(spec), inputs)
        return await self.sandbox.run(job, limits, self.heard.append), job


def left(job: Job) -> dict[str, bytes | None]:
    """What a program left in out/: content of regular files, None for everything else."""
    found: dict[str, bytes | None] = {}
    with tarfile.open(job.outputs) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            found[member.name.removeprefix("./")] = file.read() if file else None
    return {name: data for name, data in found.items() if name not in ("", ".")}


def programs_image() -> str | None:
    """The image of the docker adapter: GOALWRIGHT_PROGRAM_IMAGE, or one built from deploy/."""
    named = os.environ.get("GOALWRIGHT_PROGRAM_IMAGE")
    if named:
        return named
    command = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "goalwright-programs"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return found[0] if found else None


def make(name: str) -> Sandbox:
    """An adapter by name; skips, saying why, where it cannot even be tried."""
    if name == "bubblewrap":
        return Bubblewrap(slots=4)
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers here")
    image = programs_image()
    if image is None:
        pytest.skip("the image goalwright-programs is not built (deploy/programs.Dockerfile)")
    return Docker(slots=4, image=image, ready=2, limits=LIMITS)


@pytest.fixture(scope="session", params=["bubblewrap", "docker"])
def adapter(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Each adapter, checked once. Where bubblewrap may not make namespaces its tests are skipped, saying why;
    an engine that answers and has the image must work."""
    sandbox = make(request.param)
    problem = asyncio.run(sandbox.check())
    if problem is not None and not isinstance(sandbox, Docker):
        asyncio.run(sandbox.close())
        pytest.skip(f"bubblewrap does not isolate here: {problem}")
    assert problem is None
    yield sandbox
    asyncio.run(sandbox.close())


@pytest.fixture
def bench(adapter: Sandbox, folder: Path) -> Bench:
    """One adapter with a private folder."""
    return Bench(adapter, folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder; not pytest's, whose parents a program's user could enter."""
    with tempfile.TemporaryDirectory(prefix="goalwright-test-") as path:
        yield Path(path)
