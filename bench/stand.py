"""The stand: what a measurement needs and nothing else, every part a process of its own.

Postgres (durable, asserted), nats-server, streams and tables as `goalwright up` makes them, one scheduler as
`goalwright serve scheduler` runs it, one custom lane, and performers.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import asyncpg
from goalwright_cli import processes, topology
from goalwright_cli.children import Service, environment_of
from goalwright_cli.client import Client, connected
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_cli.embedded_postgres import EmbeddedPostgres
from goalwright_cli.lane import build_lane
from goalwright_cli.settings import SystemSettings
from goalwright_shared.errors import Unreachable

from bench import performer
from bench.workloads import LANE

DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_READY_SECONDS = 60.0
Calls = dict[str, list[tuple[int, int, int, int]]]
"""By goal: (task number, epoch, began, ended) of every call, in nanoseconds of the monotonic clock."""


class PerformerProcess:
    """One process of performers."""

    def __init__(self, number: int, home: Path) -> None:
        self.log = home / "logs" / f"performer-{number}.log"
        self._report = home / f"performer-{number}.json"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, url: str, variant: str, slots: int, journal: Path | None = None) -> None:
        """Start; returns when it is about to pull."""
        command = [
            sys.executable, performer.__file__, "--variant", variant, "--lane", LANE, "--slots", str(slots),
        ]  # fmt: skip
        self.process = processes.spawn(
            command, log=self.log, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"BENCH_NATS_URL": url} | ({"BENCH_JOURNAL": str(journal)} if journal else {}),
        )  # fmt: skip
        await self._line()  # ready

    async def calls(self) -> Calls:
        """The calls since the last time; raises `Unreachable` when the process has failed."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self._report}\n".encode())
        self.process.stdin.flush()
        await self._line()  # written
        found = json.loads(self._report.read_bytes())
        return {
            goal_id: list(zip(*(flat[i::4] for i in range(4)), strict=True))
            for goal_id, flat in found.items()
        }

    async def _line(self) -> bytes:
        assert self.process is not None
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        if not line:
            raise Unreachable("performer_failed", f"a performer ended:\n{processes.tail(self.log)}")
        return line

    async def stop(self) -> None:
        """Stop; idempotent."""
        if self.process is not None:
            await processes.stop(self.process, grace_seconds=3)
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()


class Stand:
    """`async with Stand(…) as stand:`; everything is stopped and its folder removed afterwards."""

    def __init__(
        self,
        *,
        variant: str,
        performers: int = 1,
        slots: int = 64,
        look_ahead: int = 64,
        lease_seconds: float = 60,
        journal: Path | None = None,
        postgres_options: Sequence[str] = (),
        home: Path | None = None,
    ) -> None:
        """`slots` is for each performer process; `home` is where the folder is made (a disk, not memory). With
        `journal`, performers note there when each call begins and ends."""
        self.variant, self.slots, self.look_ahead = variant, slots, look_ahead
        self._lease_seconds, self._journal = lease_seconds, journal
        self.home = Path(tempfile.mkdtemp(prefix="goalwright-bench-", dir=home))
        self.postgres = EmbeddedPostgres(self.home, options=tuple(postgres_options))
        self.nats = EmbeddedNats(self.home)
        self.performers = [PerformerProcess(i, self.home) for i in range(performers)]
        settings = SystemSettings(home=self.home, drain_seconds=2)
        environment = dict(os.environ) | {
            "GOALWRIGHT_HOME": str(self.home),
            "GOALWRIGHT_NATS_URL": self.nats.service_url,
            "GOALWRIGHT_POSTGRES_DSN": self.postgres.dsn(),
            "GOALWRIGHT_LOG_LEVEL": "warning",
        }
        self.scheduler = Service("scheduler", environment_of("scheduler", environment), settings)

    async def __aenter__(self) -> Stand:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for log in (self.scheduler.log, *(each.log for each in self.performers)):
                print(f"--- {log.name} ends with:\n{processes.tail(log)}", file=sys.stderr)
        await self.stop()

    async def start(self) -> None:
        """Start everything, in the folder as it is: also after a kill."""
        (self.home / "logs").mkdir(exist_ok=True)
        self.scheduler.load()
        await asyncio.gather(self.postgres.start(), self.nats.start())
        await self._assert_durable()
        await topology.prepare(self.nats.service_url, self.postgres.dsn())
        self.scheduler.go()
        await self.scheduler.ready()
        async with connected(self.nats.client_url) as client:
            await self._add_lane(client)
        await asyncio.gather(
            *(
                each.start(self.nats.client_url, self.variant, self.slots, self._journal)
                for each in self.performers
            )
        )

    async def _assert_durable(self) -> None:
        db = await asyncpg.connect(self.postgres.dsn())
        try:
            for setting in DURABLE:
                value = await db.fetchval(f"SHOW {setting}")
                assert value == "on", f"Postgres has {setting} {value}"
        finally:
            await db.close()

    async def _add_lane(self, client: Client) -> None:
        """What `goalwright lane add` does, tried until a scheduler leads."""
        lane = build_lane(
            LANE,
            description="the bench",
            look_ahead=self.look_ahead,
            lease_seconds=self._lease_seconds,
            may_expand=False,
        )
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                await client.control("lane", lane=lane.model_dump(mode="json"))
                return
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    def roles(self) -> dict[str, list[int]]:
        """Process ids by role; `client` is this process, which submits and waits."""
        started = {
            "scheduler": [self.scheduler.process],
            "postgres": [self.postgres.process],
            "nats": [self.nats.process],
            "performers": [each.process for each in self.performers],
        }
        pids = {role: [process.pid for process in group if process] for role, group in started.items()}
        return pids | {"client": [os.getpid()]}

    async def calls(self) -> Calls:
        """All calls that the performers have made since the last time."""
        merged: Calls = {}
        for found in await asyncio.gather(*(each.calls() for each in self.performers)):
            for goal_id, calls in found.items():
                merged.setdefault(goal_id, []).extend(calls)
        return merged

    async def stop(self) -> None:
        """Stop everything in reverse order and remove the folder; idempotent."""
        await asyncio.gather(*(each.stop() for each in self.performers))
        await self.scheduler.stop()
        await self.nats.stop()
        await self.postgres.stop()
        shutil.rmtree(self.home, ignore_errors=True)
