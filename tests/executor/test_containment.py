"""The hostile programs of `hostile/`, each in every sandbox, judged as the executor judges a task.

A program says on top what it attacks and which verdict it must get: `# expect: ok | exit 7 | timeout`, where
`not ok` is any failure; `# seconds:` is its time, `# needs: groups`
says that only control groups stop it and `# outputs: name:type` what its task declares. It prints
ESCAPED when it got somewhere. Afterwards nothing of it is left, and the next program works.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from goalwright_executor import core
from goalwright_executor.core import Fault, Run
from goalwright_executor.outputs import check, collect_outputs
from goalwright_executor.sandbox.bubblewrap import NO_GROUPS
from goalwright_executor.sandbox.docker import Docker
from goalwright_executor.sandbox.port import Job
from goalwright_shared.messages import OutputSpec, TaskSpec

from executor.conftest import LIMITS, Bench
from executor.leftovers import cgroups, containers, mounts, traces

pytestmark = [pytest.mark.containment, pytest.mark.timeout(180)]

FOLDER = Path(__file__).parent / "hostile"
PROGRAMS = sorted(path.name for path in FOLDER.iterdir())
MARK = f"hostile-{uuid.uuid4().hex}"


@dataclass(frozen=True)
class Hostile:
    """One program and what its first lines say."""

    source: str
    language: str
    expected: tuple[str, ...]
    seconds: float
    outputs: tuple[OutputSpec, ...]
    needs_groups: bool

    @classmethod
    def read(cls, name: str) -> Hostile:
        """The program of this name; a head that cannot be read is an error."""
        path = FOLDER / name
        source = path.read_text()
        said = dict(re.findall(r"^# (attack|expect|seconds|outputs|needs): (.+)$", source, re.M))
        assert said["attack"]
        declared = [word.split(":") for word in said.get("outputs", "").split()]
        return cls(
            source=source,
            language="python" if path.suffix == ".py" else "shell",
            expected=tuple(word.strip() for word in said["expect"].split("|")),
            seconds=float(said.get("seconds", 20)),
            outputs=tuple(OutputSpec.model_validate({"name": n, "type": t}) for n, t in declared),
            needs_groups=said.get("needs") == "groups",
        )


def verdict(hostile: Hostile, run: Run, job: Job, limits: core.Limits) -> str:
    """What the executor makes of a run, in the words of the programs' first lines."""
    error = core.failure(run, limits)
    if error is not None and error.code == "program_failed":
        number = core.signal_of(run)
        return f"signal {number}" if number else f"exit {run.exit_code}"
    if error is not None:
        return error.code
    task = TaskSpec(key="hostile", lane="exec", outputs=list(hostile.outputs))
    try:
        results = check(task, collect_outputs(task.outputs, job, limits, run))
    except Fault as fault:
        return fault.error.code
    return "ok" if all(result.passed for result in results) else "check_failed"


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """The port of a server on this machine, and one in the abstract name space under our mark."""
    with (
        socket.create_server(("0.0.0.0", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(f"\0{MARK}")
        local.listen()
        yield tcp.getsockname()[1]


def files() -> set[str]:
    """Names of files in the places of this machine that everybody may write to."""
    places = (tempfile.gettempdir(), "/var/tmp", "/dev/shm", "/dev/mqueue", "/")
    return {
        f"{place}/{name}"
        for place in places
        if os.path.isdir(place)
        for name in os.listdir(place)
        if name in ("goalwright-was-here", "goalwright-escape", "escape", "x")
    }


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_hostile_program_gets_its_verdict_and_leaves_nothing(
    name: str, bench: Bench, listener: int
) -> None:
    hostile = Hostile.read(name)
    if hostile.needs_groups and NO_GROUPS in bench.sandbox.lacks:
        pytest.skip(f"the sandbox says that it lacks this: {NO_GROUPS}")
    limits = replace(LIMITS, seconds=hostile.seconds)
    before = mounts(), files(), cgroups()
    run, job = await bench.run(
        hostile.source, language=hostile.language, args=[MARK, str(listener)], limits=limits
    )
    said = f"{run.exit_code} {run.limit} {run.stdout[-500:]!r} {run.stderr[-500:]!r}"
    assert traces(MARK) == []
    assert (mounts(), files(), cgroups()) == before
    if isinstance(bench.sandbox, Docker):
        assert containers(bench.sandbox) == []
    assert b"ESCAPED" not in run.stdout, said
    found = verdict(hostile, run, job, limits)
    assert found in hostile.expected or ("not ok" in hostile.expected and found != "ok"), f"{found}: {said}"
    next_run, _ = await bench.run("print(6 * 7)")
    assert (next_run.exit_code, next_run.stdout) == (0, b"42\n"), next_run.stderr


def test_there_is_a_hostile_program_of_every_kind() -> None:
    kinds = {name.partition("_")[0] for name in PROGRAMS}
    assert len(PROGRAMS) >= 40
    assert kinds >= {
        *("process", "thread", "memory", "disk", "inode", "output", "link", "device", "tar", "zip"),
        *("network", "signal", "daemon", "privilege", "ptrace", "proc", "json", "name", "clock", "entropy"),
    }
