"""A small service in a process of its own, and what it logs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_shared import subjects, topology
from goalwright_shared.messages import TaskSpec, Work
from nats.aio.client import Client
from support.system import connect

_PROGRAM = Path(__file__).parent / "small_service.py"
_SECONDS = 30.0


class SmallService:
    """The running process; `lines` are its log lines, each of which must be JSON."""

    def __init__(self, process: asyncio.subprocess.Process, client: Client) -> None:
        self._process, self.client = process, client
        self.lines: list[dict[str, Any]] = []
        self.text = ""

    async def said(self, event: str) -> dict[str, Any]:
        """The next log line with that event."""
        assert self._process.stderr is not None
        async with asyncio.timeout(_SECONDS):
            while line := (await self._process.stderr.readline()).decode():
                self._keep(line)
                if self.lines[-1]["event"] == event:
                    return self.lines[-1]
        raise AssertionError(f"{event!r} did not come; it said:\n{self.text}")

    def _keep(self, line: str) -> None:
        self.text += line
        self.lines.append(json.loads(line))

    async def hand_out(self, instruction: str) -> None:
        """One task for it."""
        spec = TaskSpec(key="t", lane="exec", instruction=instruction)
        work = Work(goal_id="g-1", task_id="7", epoch=3, lane="exec", spec=spec)
        await self.client.jetstream().publish(subjects.work("exec"), work.to_json())

    def signal(self, number: int = signal.SIGTERM) -> None:
        """What a supervisor sends."""
        self._process.send_signal(number)

    async def end(self) -> int:
        """Its exit code, once it has ended by itself; the rest of its log is read."""
        assert self._process.stderr is not None
        async with asyncio.timeout(_SECONDS):
            for line in (await self._process.stderr.read()).decode().splitlines(keepends=True):
                self._keep(line)
            return await self._process.wait()

    async def kill(self) -> None:
        """End it in any case."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def small_service(nats_server: EmbeddedNats) -> AsyncIterator[SmallService]:
    """The service, started but perhaps not yet ready."""
    client = await connect(nats_server.service_url)
    await topology.apply(client.jetstream(), ["exec"])
    process = await asyncio.create_subprocess_exec(
        sys.executable, _PROGRAM,
        env={**os.environ, "GOALWRIGHT_NATS_URL": nats_server.service_url, "GOALWRIGHT_DRAIN_SECONDS": "0.5"},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    service = SmallService(process, client)
    try:
        yield service
    finally:
        await service.kill()
        await client.close()
