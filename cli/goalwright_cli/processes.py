"""Child processes that never outlive their parent, even when it is killed with SIGKILL.

On Linux the kernel sends a child `death_signal` when the thread that started it ends (PR_SET_PDEATHSIG), so
start children from the main thread. Elsewhere only an orderly stop ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own (a Ctrl-C in the terminal reaches only us).

    Output is appended to `log` (stdout too, unless `stdout=subprocess.PIPE`). `user` drops root's rights.
    """
    target = log.open("ab") if log else None
    try:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=stdin if stdin is not None else subprocess.DEVNULL,
            stdout=stdout if stdout is not None else (target or subprocess.DEVNULL),
            stderr=target or subprocess.DEVNULL,
            env=dict(env) if env is not None else None,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            start_new_session=True,
            preexec_fn=_die_with_parent(death_signal),
        )
    finally:
        if target:
            target.close()


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Runs in the child after its user was changed (which would clear the setting) and before exec."""
    if _libc is None:
        return None
    libc, parent, value = _libc, os.getpid(), int(number)

    def set_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, value, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and here
            os._exit(1)

    return set_death_signal


async def stop(
    process: subprocess.Popen[bytes], *, number: signal.Signals = signal.SIGTERM, grace_seconds: float = 10
) -> bool:
    """Signal, wait, kill; idempotent. True when the process ended by itself within the grace time.

    What it leaves behind in its session is killed too.
    """
    in_time = True
    if process.poll() is None:
        process.send_signal(number)
        in_time = await ended(process, grace_seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return in_time


async def ended(process: subprocess.Popen[bytes], timeout_seconds: float) -> bool:
    """Wait for the end of a process; False when it takes longer than `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while process.poll() is None:
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.05)
    return True


def alive(pid: int) -> bool:
    """Whether a process with this id runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] != "Z"


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
        return port


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
