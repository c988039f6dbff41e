"""Before a program runs: its folder with the source, its inputs as in/<name>, and what it reads on stdin."""

from __future__ import annotations

import asyncio
from pathlib import Path

from goalwright_shared.artifacts import Artifacts
from goalwright_shared.messages import ArtifactRef, ArtifactType, ProgramSpec, Work

from goalwright_executor import collect, core
from goalwright_executor.core import Fault
from goalwright_executor.inputs import Inputs
from goalwright_executor.sandbox.port import Job

FOLDERS = (ArtifactType.FOLDER, ArtifactType.DATASET)
"""Types that travel as a tar and are a folder for the program."""

_INPUT_BYTES = 8 << 30


async def lay_out(work: Work, artifacts: Artifacts, inputs: Inputs, home: Path) -> Job:
    """The program's folder below `home`, inputs fetched in parallel. Raises `Fault`, `GoalwrightError`."""
    program = work.spec.program
    if program is None:
        raise Fault.of("bad_task", "a task on lane exec needs a program")
    problem = core.argument_problem(program)
    if problem is not None:
        raise Fault.of("bad_task", problem)
    folder = home / "job"
    (folder / "in").mkdir(parents=True)
    await asyncio.gather(
        _write_source(program, work, artifacts, inputs, folder),
        *(_fetch(name, ref, artifacts, inputs, folder / "in" / name) for name, ref in work.inputs.items()),
    )
    await asyncio.to_thread(open_to_read, folder)
    return Job(program=program, folder=folder, outputs=home / "outputs.tar")


async def _write_source(
    program: ProgramSpec, work: Work, artifacts: Artifacts, inputs: Inputs, folder: Path
) -> None:
    if program.artifact is not None and program.artifact not in work.inputs:
        raise Fault.of("bad_task", f"the program is artifact {program.artifact}, which is no input")
    if program.artifact is not None:
        await inputs.place(work.inputs[program.artifact], artifacts, folder / core.file_name(program))
    else:
        (folder / core.file_name(program)).write_bytes(_utf8(program.source or ""))
    if program.stdin is not None:
        (folder / "stdin").write_bytes(_utf8(program.stdin))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


async def _fetch(name: str, ref: ArtifactRef, artifacts: Artifacts, inputs: Inputs, target: Path) -> None:
    if ref.type not in FOLDERS:
        await inputs.place(ref, artifacts, target)
        return
    packed = target.parent.parent.parent / f"{name}.tar"  # beside the program's folder
    await inputs.place(ref, artifacts, packed)
    try:
        await asyncio.to_thread(collect.unpack, packed, target, max_bytes=_INPUT_BYTES)
    except collect.Refused as refused:
        raise Fault.of("bad_input", f"input {name}: {refused}") from refused
    packed.unlink()


def open_to_read(folder: Path) -> None:
    """Readable by the program's user, writable by nobody (and mounted read-only besides)."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o444)
