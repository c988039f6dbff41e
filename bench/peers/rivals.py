"""Engines behind one face: start, run a graph, kill -9, start again on what is left, stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
from goalwright_cli import processes
from goalwright_cli.client import connected

from bench.peers import environments
from bench.runs import Finishes, submit, warm_up
from bench.stand import Stand
from bench.workloads import Workload, submission

_HERE = Path(__file__).parent
_START_SECONDS = 90.0
_GOAL = "bench-peers"
_SLOTS = 64


class Failed(Exception):
    """An engine ended or did not start; the message shows the end of its log."""


class Engine(Protocol):
    """One engine with one workload. With `journal`, tasks note there when they begin and end."""

    name: str

    async def start(self, workload: Workload, journal: Path | None = None) -> None:
        """Servers, workers and driver, warm."""

    async def run(self) -> None:
        """The graph, from its submission to its end; after `restart`, what is left of it."""

    def roots(self) -> list[int]:
        """Processes that, with their descendants, are the engine."""

    async def restart(self) -> None:
        """After a kill: everything again, on what has been kept on disk."""

    async def stop(self) -> None:
        """Stop everything; idempotent."""


@dataclass(frozen=True)
class Server:
    """A process that a rival needs beside its driver; it is up when the port answers."""

    command: Sequence[str | Path]
    port: int


class Rival:
    """An engine in an environment of its own, driven by `run_<name>.py`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._home = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
        self._log = self._home / "log"
        self._environment: dict[str, str] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        self._driver: subprocess.Popen[bytes] | None = None

    async def start(self, workload: Workload, journal: Path | None = None) -> None:
        """The servers, then the driver until it says that it is ready."""
        graph = next(workload.graphs())
        described = self._home / "graph.json"
        facts = {
            "deps": [list(needs) for needs in graph.deps], "seconds": graph.seconds, "in_flight": workload.in_flight,
        }  # fmt: skip
        described.write_text(json.dumps(facts))
        self._environment = (
            dict(os.environ)
            | {
                "BENCH_GRAPH": str(described),
                "BENCH_HOME": str(self._home),
                "PYTHONPATH": str(_HERE.parents[1]),
            }
            | ({"BENCH_JOURNAL": str(journal)} if journal else {})
            | self._addresses()
        )
        await self._start_all()

    async def restart(self) -> None:
        """All again, told to resume."""
        self._environment["BENCH_RESUME"] = "1"
        await self._start_all()

    async def _start_all(self) -> None:
        self._started.clear()
        for server in self._servers():
            process = processes.spawn(server.command, log=self._log, env=self._environment)
            self._started.append(process)
            await self._listening(process, server.port)
        self._driver = processes.spawn(
            [environments.python(self.name), _HERE / f"run_{self.name}.py"], log=self._log, env=self._environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._started.append(self._driver)
        async with asyncio.timeout(_START_SECONDS):
            await self._said(b"ready")

    async def run(self) -> None:
        """Tell the driver, wait until it is done."""
        assert self._driver is not None
        assert self._driver.stdin is not None
        self._driver.stdin.write(b"go\n")
        self._driver.stdin.flush()
        await self._said(b"done")

    async def _said(self, word: bytes) -> None:
        assert self._driver is not None
        assert self._driver.stdout is not None
        while line := await asyncio.to_thread(self._driver.stdout.readline):
            if line.strip() == word:
                return
        raise Failed(f"{self.name} ended:\n{processes.tail(self._log)}")

    async def _listening(self, process: subprocess.Popen[bytes], port: int) -> None:
        async with asyncio.timeout(_START_SECONDS):
            while True:
                if process.poll() is not None:
                    raise Failed(f"a server of {self.name} ended:\n{processes.tail(self._log)}")
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.1)

    def _addresses(self) -> dict[str, str]:
        return {}

    def _servers(self) -> Sequence[Server]:
        return ()

    def roots(self) -> list[int]:
        """The servers and the driver."""
        return [process.pid for process in self._started]

    async def stop(self) -> None:
        """Kill all that is left, remove the folder."""
        kill(self.roots())
        for process in self._started:
            await processes.stop(process, grace_seconds=0)
        shutil.rmtree(self._home, ignore_errors=True)


class Restate(Rival):
    """A server, a service process, a driver."""

    def _addresses(self) -> dict[str, str]:
        self._ports = [processes.free_port() for _ in range(4)]
        ingress, admin, node, service = (f"127.0.0.1:{port}" for port in self._ports)
        return {
            "BENCH_INGRESS": f"http://{ingress}", "BENCH_ADMIN": f"http://{admin}", "BENCH_SERVICE": service,
            "RESTATE_INGRESS__BIND_ADDRESS": ingress, "RESTATE_ADMIN__BIND_ADDRESS": admin,
            "RESTATE_BIND_ADDRESS": node, "RESTATE_BASE_DIR": str(self._home / "restate"),
            "RESTATE_LOG_FILTER": "warn", "RESTATE_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1",
        }  # fmt: skip

    def _servers(self) -> Sequence[Server]:
        found = sorted(
            (environments.folder(self.name) / "node_modules").glob("@restatedev/*/bin/restate-server")
        )
        if not found:
            raise Failed("the npm package brought no restate-server for this machine")
        ingress, _, _, service = self._ports
        script = _HERE / "run_restate.py"
        return (
            Server([found[0], "--node-name", "bench"], ingress),
            Server([environments.python(self.name), script, "serve"], service),
        )


class Goalwright:
    """Ours: the stand of `python -m bench run`."""

    name = "goalwright"

    def __init__(self, variant: str = "batch") -> None:
        self._variant = variant
        self._stand: Stand | None = None
        self._body = b""
        self._goals = 0

    async def start(self, workload: Workload, journal: Path | None = None) -> None:
        """The stand. A killed performer's lease is five seconds, as short as its tasks."""
        self._graph = next(workload.graphs())
        slots = workload.in_flight or _SLOTS
        waits = self._graph.seconds > 0
        self._stand = Stand(
            variant="single" if waits else self._variant, slots=slots, look_ahead=0 if waits else _SLOTS,
            journal=journal, lease_seconds=5 if journal else 60,
        )  # fmt: skip
        await self._stand.start()
        if journal is None:
            await warm_up(self._stand)

    async def run(self) -> None:
        """Submit, wait for `goal.finished`; the same goal again after a kill is answered with the one there is."""
        assert self._stand is not None
        async with connected(self._stand.nats.client_url) as client:
            finishes = Finishes()
            await finishes.listen(client)
            goal_id = f"{_GOAL}-{self._goals}"
            await submit(client, submission(self._graph, goal_id, "side by side"))
            while not finishes.of(goal_id).done():  # it may have ended before we listened
                await asyncio.wait({finishes.of(goal_id)}, timeout=2)
                if (await client.query("goal", goal_id=goal_id)).get("status") in (
                    "done",
                    "failed",
                    "partial",
                ):
                    break
        self._goals += 1

    def roots(self) -> list[int]:
        """Every process of the stand, and this one, which is the client."""
        return [pid for pids in self._stand.roles().values() for pid in pids] if self._stand else []

    async def restart(self) -> None:
        """All parts again, in the same folder."""
        assert self._stand is not None
        await self._stand.start()

    async def stop(self) -> None:
        """The stand's end."""
        if self._stand is not None:
            await self._stand.stop()


ENGINES: Mapping[str, type[Rival] | type[Goalwright]] = {
    "goalwright": Goalwright, "floor": Rival, "dask": Rival, "ray": Rival, "restate": Restate,
}  # fmt: skip


def kill(roots: Sequence[int]) -> None:
    """SIGKILL to processes and all their descendants at once (not to this one)."""
    found = []
    for pid in roots:
        with contextlib.suppress(psutil.Error):
            if pid != os.getpid():
                root = psutil.Process(pid)
                found += [root, *root.children(recursive=True)]
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(found, timeout=10)
