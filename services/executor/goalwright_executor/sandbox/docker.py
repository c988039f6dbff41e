"""Programs in fresh containers of a Docker engine: one per program, hardened, removed afterwards.

Everything goes through one attached connection, so that no folder is shared with the engine's machine: the
program's folder comes in as a tar on stdin; what it prints goes out on stdout and stderr; behind it, after a
random marker, follows the report (see `inside`). The container keeps no log, joins no network, and ends by
itself when nobody is attached to it any more, at the latest soon after its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import structlog

from goalwright_executor import core
from goalwright_executor.core import Limit, Limits, Run
from goalwright_executor.sandbox import inside, seccomp
from goalwright_executor.sandbox.attached import Attached
from goalwright_executor.sandbox.port import Cancelled, Job, OnOutput, SandboxLost, cancelled
from goalwright_executor.sandbox.probe import probe

log = structlog.get_logger(__name__)

_OWNER, _DEADLINE = "goalwright.program.of", "goalwright.program.deadline"  # labels
_USER = "61000"
_OWN_PROCESSES = 5  # docker's init, the shell, who waits for us to go, timeout, the program's launcher
_GRACE_SECONDS = 15
_SWEEP_SECONDS = 60
_SHM_BYTES = 16 << 20

_UNPACK = """
tar -x -f - -C /job && cd /job && mkdir out || exit 125
marker=$(cat .marker) && rm .marker
stdin=/dev/null
if [ -f .stdin ]; then mv .stdin /tmp/.stdin && stdin=/tmp/.stdin; fi
exec 3<&0
( read -r _; kill -9 -1 ) <&3 3<&- &  # nobody is attached any more: nobody wants the program
exec 0>&1 3<&-
set -- unlimited "$stdin" "$@"
"""


class Docker:
    """The `Sandbox` of deployments in containers, and of machines where namespaces are closed to us."""

    name = "docker"
    lacks: tuple[str, ...] = ()

    def __init__(self, *, slots: int, image: str) -> None:
        self._image, self._image_id = image, ""
        self._threads = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="container")
        self.instance = secrets.token_hex(8)  # several executors may share an engine
        self._client: Any = None
        self._swept = 0.0

    async def check(self) -> str | None:
        """None when a probe ran isolated in the image."""
        problem = await asyncio.to_thread(self._connect)
        if problem is not None:
            return problem
        found = await probe(self)
        return None if found is None else f"image {self._image}: {found}"

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
        """Wait for the threads, close the connection."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._client is not None:
            self._client.close()

    def _connect(self) -> str | None:
        import docker
        from docker.errors import DockerException, ImageNotFound
        from docker.utils import kwargs_from_env

        try:
            self._client = docker.APIClient(**kwargs_from_env(), timeout=60)
            self._client.ping()
            self._image_id = self._client.inspect_image(self._image)["Id"]
        except ImageNotFound:
            return (
                f"the engine has no image {self._image}: build it with `docker build -t {self._image} "
                "-f deploy/programs.Dockerfile .`, or name another one in GOALWRIGHT_PROGRAM_IMAGE"
            )
        except (DockerException, OSError) as error:
            return f"no Docker engine answers ({error}): start one, or set DOCKER_HOST"
        return None

    def _run(
        self, job: Job, limits: Limits, on_output: OnOutput, running: queue.SimpleQueue[Attached]
    ) -> Run:
        from docker.errors import DockerException

        self._sweep()
        container = ""
        try:
            container = self._create(job, limits)
            return self._attend(container, job, limits, on_output, running)
        except (DockerException, OSError) as error:
            raise SandboxLost(f"the Docker engine failed: {error}") from error
        finally:
            if container:
                self._remove(container)

    def _attend(
        self,
        container: str,
        job: Job,
        limits: Limits,
        on_output: OnOutput,
        running: queue.SimpleQueue[Attached],
    ) -> Run:
        marker = f"\x1e{secrets.token_hex(16)}\x1f".encode()  # no end of it is its beginning
        report = job.outputs.with_suffix(".report")
        with contextlib.closing(self._attach(container)) as stream, report.open("wb") as file:
            attached = Attached(stream, marker, file, limits, on_output, kill=lambda: self._kill(container))
            running.put(attached)
            self._client.start(container)
            started = time.monotonic()
            attached.send(lambda pipe: _pack(job, marker, pipe))
            attached.run()
            wall = time.monotonic() - started
        state = self._client.inspect_container(container)["State"]
        found = inside.keep_outputs(report, job.outputs)
        report.unlink()
        if attached.is_cancelled:
            raise Cancelled
        return _told(state, attached, found, wall)

    def _attach(self, container: str) -> Any:
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        stream = self._client.attach_socket(container, params=params)
        return getattr(stream, "_sock", stream)

    def _create(self, job: Job, limits: Limits) -> str:
        given = sum(path.stat().st_size for path in job.folder.rglob("*") if path.is_file()) + (1 << 20)
        memory = limits.memory_bytes + given  # the inputs lie in memory too
        owner = f"uid={_USER},gid={_USER},mode=0700"
        seconds = f"{limits.seconds + _GRACE_SECONDS:.0f}"
        host = self._client.create_host_config(
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges", f"seccomp={seccomp.profile()}"],
            pids_limit=limits.processes + _OWN_PROCESSES,
            mem_limit=memory,
            memswap_limit=memory,
            nano_cpus=1_000_000_000,
            shm_size=_SHM_BYTES,
            init=True,
            log_config={"Type": "none", "Config": {}},
            tmpfs={
                "/job": f"size={limits.disk_bytes + given},nr_inodes={core.MAX_FILES},exec,{owner}",
                "/tmp": f"size={limits.disk_bytes},nr_inodes={core.MAX_FILES},exec,{owner}",  # noqa: S108  # the container's own
            },
            ulimits=[{"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "nofile", "Soft": 1024, "Hard": 1024}],
        )
        created: dict[str, str] = self._client.create_container(
            self._image_id,
            entrypoint=["/bin/sh", "-c", _UNPACK + inside.SHELL, "sh"],
            command=["timeout", "-s", "KILL", seconds, *core.command(job.program, "python3")],
            user=f"{_USER}:{_USER}",
            hostname="sandbox",
            working_dir="/",
            environment=inside.ENVIRONMENT,
            stdin_open=True,
            labels={
                _OWNER: self.instance,
                _DEADLINE: str(int(time.time() + limits.seconds + 4 * _GRACE_SECONDS)),
            },
            host_config=host,
        )
        return created["Id"]

    def _kill(self, container: str) -> None:
        """From a thread of its own: the engine only answers while somebody drains the connection."""
        from docker.errors import APIError

        with contextlib.suppress(APIError, OSError):  # it has just ended
            self._client.kill(container)

    def _remove(self, container: str) -> None:
        from docker.errors import DockerException

        try:
            self._client.remove_container(container, force=True, v=True)
        except (DockerException, OSError) as error:
            log.warning("container not removed, the next sweep will", container=container, error=str(error))

    def _sweep(self) -> None:
        """Remove the containers of executors that crashed: those past their deadline."""
        now = time.time()
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        for found in self._client.containers(all=True, filters={"label": _DEADLINE}):
            if float(found["Labels"].get(_DEADLINE, 0)) < now:
                log.info("swept what a crashed executor left", container=found["Id"])
                self._remove(found["Id"])


def _pack(job: Job, marker: bytes, pipe: IO[bytes]) -> None:
    """The program's folder as a tar, readable and not writable."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o555 if member.isdir() else 0o444
        return member

    (job.folder / "marker").write_bytes(marker)
    with tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path, name in _packed(job):
            archive.add(path, name, filter=plain)


def _packed(job: Job) -> Iterator[tuple[Path, str]]:
    yield job.folder / "marker", ".marker"
    yield job.folder / core.file_name(job.program), core.file_name(job.program)
    yield job.folder / "in", "in"
    if job.program.stdin is not None:
        yield job.folder / "stdin", ".stdin"


def _told(state: dict[str, Any], attached: Attached, found: inside.Report | None, wall: float) -> Run:
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
