"""Proves that a sandbox isolates before anything untrusted runs in it: one program that tries to get out."""

from __future__ import annotations

import json
import socket
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from goalwright_shared.messages import ProgramSpec

from goalwright_executor.core import Limits
from goalwright_executor.sandbox.port import Job, Sandbox, SandboxLost

_LIMITS = Limits(seconds=20, memory_bytes=256 << 20, processes=16, disk_bytes=1 << 20, output_bytes=1 << 16)

_SOURCE = """
import importlib.util, json, os, socket, sys
reached = []
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2)
    reached.append("the network")
except OSError:
    pass
for path in json.loads(sys.argv[2]):
    try:
        open(path, "rb").read(1)
        reached.append(path)
    except OSError:
        pass
for path in ("main.py", "in/given"):
    try:
        open(path, "ab")
        reached.append("write access to " + path)
    except OSError:
        pass
absent = [name for name in sys.argv[3:] if importlib.util.find_spec(name) is None]
json.dump({"reached": reached, "uid": os.getuid(), "absent": absent}, open("out/found", "w"))
"""


class Probed(NamedTuple):
    """What went wrong (None: the probe ran and reached nothing outside), and libraries it did not find."""

    problem: str | None
    absent: tuple[str, ...] = ()


async def probe(sandbox: Sandbox, libraries: Sequence[str] = ()) -> Probed:
    """Whether programs are isolated, and find these `libraries`."""
    with (
        tempfile.TemporaryDirectory(prefix="goalwright-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        home = Path(folder)
        secret = home / "secret"
        secret.write_text("x")
        (home / "job" / "in").mkdir(parents=True)
        (home / "job" / "in" / "given").write_text("x")
        (home / "job" / "main.py").write_text(_SOURCE)
        arguments = [str(listener.getsockname()[1]), json.dumps([str(secret)]), *libraries]
        program = ProgramSpec(source=_SOURCE, args=arguments)
        job = Job(program=program, folder=home / "job", outputs=home / "outputs.tar")
        try:
            run = await sandbox.run(job, _LIMITS, lambda _: None)
        except SandboxLost as lost:
            return Probed(lost.message)
        if run.exit_code != 0:
            said = run.stderr[-300:].decode(errors="replace").strip()
            return Probed(f"the probe did not run (exit code {run.exit_code}, limit {run.limit}): {said}")
        return _judged(job.outputs)


def _judged(outputs: Path) -> Probed:
    with tarfile.open(outputs) as archive:
        file = archive.extractfile("./found")
        found = json.load(file) if file else {"reached": ["nothing told"]}
    if found["reached"]:
        return Probed(f"it does not isolate: a program reached {', '.join(found['reached'])}")
    return Probed("programs run as root" if found["uid"] == 0 else None, tuple(found["absent"]))
