"""Schedulers, performers and agents as processes of their own without two seconds of imports each: one process has
imported everything (the agent once one is asked for) and forks on demand. `python -m support.forked` is that process.

It reads lines of JSON from stdin: `{"role", "environment"}` is answered with the new process's id, `{"reap"}`
(an id) with its exit code once it has ended.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn

from goalwright_cli import processes

_PR_SET_PDEATHSIG = 1
_ROLES = {
    "scheduler": ("support.crashing", "serve"),
    "performer": ("support.performer", "serve"),
    "agent": ("goalwright_agent.app", "serve"),
}


class Process:
    """A forked process; to its starter what `asyncio.subprocess.Process` is."""

    def __init__(self, role: str, pid: int) -> None:
        self.role, self.pid = role, pid
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        """Nothing to a process that has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Its exit code; negative when a signal ended it."""
        while self.returncode is None and processes.alive(self.pid):  # noqa: ASYNC110 - it is not our child
            await asyncio.sleep(0.01)
        if self.returncode is None:
            self.returncode = int(_ask(reap=self.pid))
        return self.returncode


def start(role: str, environment: Mapping[str, str]) -> Process:
    """A new process that serves `role` with `environment` beside our own."""
    return Process(role, _ask(role=role, environment={**os.environ, **environment}))


_one_at_a_time = threading.Lock()


def _ask(**question: Any) -> int:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with _one_at_a_time:
        server.stdin.write(json.dumps(question).encode() + b"\n")
        server.stdin.flush()
        return int(server.stdout.readline())


@functools.cache
def _server() -> subprocess.Popen[bytes]:
    """The one that forks; it ends with us."""
    here = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", "support.forked"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])},
        start_new_session=True,
        preexec_fn=processes._die_with_parent(signal.SIGKILL),
    )


def _become(serve: Callable[[], Coroutine[Any, Any, int]], environment: Mapping[str, str]) -> NoReturn:
    """In the child: an ordinary process of that service, which dies with the one that forked it."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.environ.clear()
        os.environ.update(environment)
        code = asyncio.run(serve())
    finally:
        os._exit(code)


def _serve_of(role: str) -> Callable[[], Coroutine[Any, Any, int]]:
    module, name = _ROLES[role]
    serve: Callable[[], Coroutine[Any, Any, int]] = getattr(importlib.import_module(module), name)
    return serve


def _main() -> None:
    for role in ("scheduler", "performer"):
        _serve_of(role)
    for line in sys.stdin:
        question = json.loads(line)
        if "reap" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["reap"], 0)[1])
        else:
            serve = _serve_of(question["role"])
            if (answer := os.fork()) == 0:
                _become(serve, question["environment"])
        os.write(1, f"{answer}\n".encode())


if __name__ == "__main__":
    _main()
