"""Programs in containers of a Docker engine: one per program, hardened, removed afterwards.

Everything goes through one attached connection, so that no folder is shared with the engine's machine: the
program's folder comes in as a tar on stdin; what it prints goes out on stdout and stderr; behind it, after a
random marker, follows the report (see `inside`). The container keeps no log, joins no network, and ends by
itself when nobody is attached to it any more, at the latest soon after its time. Some are started beforehand
(see `reserve`): that takes ten times as long as the rest of a start.
"""

from __future__ import annotations

import asyncio
import io
import queue
import secrets
import shlex
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import structlog

from goalwright_executor import core
from goalwright_executor.core import Limit, Limits, Run
from goalwright_executor.sandbox import inside
from goalwright_executor.sandbox.attached import Attached
from goalwright_executor.sandbox.engine import GRACE_SECONDS, Bounds, Container, Engine
from goalwright_executor.sandbox.port import Cancelled, Job, OnOutput, SandboxLost, cancelled
from goalwright_executor.sandbox.probe import probe
from goalwright_executor.sandbox.reserve import Reserve

log = structlog.get_logger(__name__)

_ROOM_BYTES = 8 << 20
"""For a program's own files; where they take more, its container has more, and is none of the reserve."""


class Docker:
    """The `Sandbox` of deployments in containers, and of machines where namespaces are closed to us."""

    name = "docker"
    lacks: tuple[str, ...] = ()

    def __init__(
        self, *, slots: int, image: str, ready: int, limits: Limits, libraries: Sequence[str] = ()
    ) -> None:
        """`ready` containers wait for programs of at most `limits`; of `libraries`, those that the image does not
        have are lacking."""
        self._libraries = libraries
        self.engine = Engine(image, slots)
        self.reserve = Reserve(self.engine, ready, _bounds(limits, 0), limits.seconds)
        self._threads = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="container")

    async def check(self) -> str | None:
        """None when a probe ran isolated in the image; from then on containers wait for programs."""
        problem, self.lacks = await asyncio.to_thread(self.engine.connect)
        if problem is not None:
            return problem
        problem, absent = await probe(self, self._libraries)
        if problem is not None:
            return f"image {self.engine.image}: {problem}"
        self.lacks += tuple(f"the library {name}" for name in absent)
        log.info("sandbox works", sandbox=self.name, image=self.engine.image_id, lacks=self.lacks)
        self.reserve.start()
        return None

    async def run(self, job: Job, limits: Limits, on_output: OnOutput) -> Run:
        """Run one program in a container of its own; see the port."""
        running: queue.SimpleQueue[Attached] = queue.SimpleQueue()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, self._run, job, limits, on_output, running)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await cancelled(future, running)
            raise

    async def close(self) -> None:
        """Wait for the threads, remove the containers that wait, close the connection."""
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self.reserve.close)
        await asyncio.to_thread(self.engine.close)

    def _run(
        self, job: Job, limits: Limits, on_output: OnOutput, running: queue.SimpleQueue[Attached]
    ) -> Run:
        bounds = _bounds(limits, _size(job))
        self.engine.sweep()
        container = self.reserve.take(bounds, limits.seconds) or self.engine.start(bounds, limits.seconds)
        try:
            return self._attend(container, job, limits, on_output, running)
        except OSError as error:
            raise SandboxLost(f"the connection to the container failed: {error}") from error
        finally:
            self.engine.remove(container)

    def _attend(
        self,
        container: Container,
        job: Job,
        limits: Limits,
        on_output: OnOutput,
        running: queue.SimpleQueue[Attached],
    ) -> Run:
        marker = f"\x1e{secrets.token_hex(16)}\x1f".encode()  # no end of it is its beginning
        report, started = job.outputs.with_suffix(".report"), time.monotonic()
        with report.open("wb") as file:
            attached = Attached(
                container.stream, marker, file, limits, on_output, kill=lambda: self.engine.kill(container)
            )
            running.put(attached)
            attached.send(lambda pipe: _pack(job, _start(job, limits, marker), pipe))
            attached.run()
        wall = time.monotonic() - started
        state = self.engine.state(container)
        found = inside.keep_outputs(report, job.outputs)
        report.unlink()
        if attached.is_cancelled:
            raise Cancelled
        return replace(_told(state, attached, found, wall), lacks=self.lacks)


def _bounds(limits: Limits, size: int) -> Bounds:
    """Those of a container for a program whose files take `size` bytes."""
    room = max(_ROOM_BYTES, size + (1 << 20))
    return Bounds(limits.memory_bytes, limits.processes, limits.disk_bytes, room)


def _size(job: Job) -> int:
    return sum(path.stat().st_size for path in job.folder.rglob("*") if path.is_file())


def _start(job: Job, limits: Limits, marker: bytes) -> bytes:
    """What the shell in the container is told before it starts the program, as lines of shell."""
    seconds = f"{limits.seconds + GRACE_SECONDS:.0f}"
    words = ("timeout", "-s", "KILL", seconds, *core.command(job.program, "python3"))
    return f"stdin=/dev/null\nmarker='{marker.decode()}'\nset -- {shlex.join(words)}\n".encode()


def _pack(job: Job, start: bytes, pipe: IO[bytes]) -> None:
    """The program's folder as a tar, readable and not writable."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o555 if member.isdir() else 0o444
        return member

    with tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo(".start")
        member.size = len(start)
        archive.addfile(plain(member), io.BytesIO(start))
        for path, name in _packed(job):
            archive.add(path, name, filter=plain)


def _packed(job: Job) -> Iterator[tuple[Path, str]]:
    yield job.folder / core.file_name(job.program), core.file_name(job.program)
    yield job.folder / "in", "in"
    if job.program.stdin is not None:
        yield job.folder / "stdin", ".stdin"


def _told(state: Mapping[str, Any], attached: Attached, found: inside.Report | None, wall: float) -> Run:
    """The run as the engine, the stream and the report tell it; raises `SandboxLost` if none ever ran."""
    limit, code = attached.limit, found.exit_code if found else int(state["ExitCode"])
    if (
        limit is None and state["OOMKilled"]
    ):  # also when the kernel killed but a child, and the program went on
        limit = Limit.OUT_OF_MEMORY
    if found is None and limit is None and code != 137:
        said = attached.stderr[-500:].decode(errors="replace").strip()
        raise SandboxLost(f"the container ended with {code} before the program did: {said or state['Error']}")
    return Run(
        sandbox=Docker.name,
        exit_code=None if limit else code,
        limit=limit,
        wall_seconds=wall,
        cpu_seconds=found.cpu_seconds if found else 0.0,
        peak_memory_bytes=found.peak_memory_bytes if found else 0,
        stdout=bytes(attached.stdout),
        stderr=bytes(attached.stderr),
    )
