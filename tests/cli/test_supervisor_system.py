"""`goalwright up`, whole: a process per service, restarts, one system a home, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from goalwright_cli import processes, runfile
from goalwright_cli.children import SERVICES
from goalwright_cli.embedded import running_system
from goalwright_cli.settings import SystemSettings
from goalwright_shared import subjects
from nats.errors import Error as NatsError
from support.waiting import eventually

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("GOALWRIGHT_", "OPENAI_"))
}
SLOW = 60  # seconds a busy machine may take


class Up:
    """`goalwright up` in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.output = home.with_name("up.out")
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str) -> str:
        """Start it and return its Ready line."""
        with self.output.open("wb") as out:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "goalwright_cli.main", "--home", str(self.home), "up", *arguments,
                stdout=out, stderr=out, env=ENVIRONMENT,
            )  # fmt: skip
        return str(await eventually(self.ready_line, timeout_seconds=SLOW))

    def ready_line(self) -> str | None:
        """Its Ready line, once it is there."""
        assert self.process is not None
        said = self.output.read_text()
        assert self.process.returncode in (None, 0), said
        return next((line for line in said.splitlines() if line.startswith("Ready")), None)

    def run(self) -> runfile.Run:
        """What run.json says now."""
        run = runfile.read(self.home)
        assert run is not None
        return run

    def pids(self) -> set[int]:
        """Every process of the system."""
        run = self.run()
        return {*run.children.values(), *(pid for pids in run.services.values() for pid in pids)}

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its end."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), SLOW)


@pytest.fixture
async def up() -> AsyncIterator[Up]:
    """A fresh home; whatever runs in it is stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="goalwright-up-"))
    system = Up(folder / "home")
    try:
        yield system
    finally:
        if system.process is not None:
            await system.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def _answers(url: str) -> bool:
    """Whether a scheduler answers at that address."""
    try:
        client = await nats.connect(url, connect_timeout=1, allow_reconnect=False)
    except (NatsError, OSError):
        return False
    try:
        return "goals" in json.loads((await client.request(subjects.query("goals"), b"{}", timeout=2)).data)
    except (NatsError, TimeoutError):
        return False
    finally:
        await client.close()


async def test_up_keeps_a_system_running_until_a_signal(up: Up) -> None:
    """One Ready line; run.json names every process; what dies comes back; a signal leaves nothing."""
    ready = await up.start("--scale", "agent=2")
    assert "6 services" in ready
    assert "rehearsal" in ready
    run = up.run()
    assert set(json.loads((up.home / "run.json").read_text())) == {
        "nats_url", "postgres_dsn", "http_url", "services", "children"
    }  # fmt: skip
    assert {name: len(pids) for name, pids in run.services.items()} == dict.fromkeys(SERVICES, 1) | {
        "agent": 2
    }
    assert set(run.children) == {"nats-server", "postgres", "rehearsal"}
    assert all(processes.alive(pid) for pid in up.pids())
    assert await _answers(run.nats_url)

    again = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "goalwright_cli.main", "--home", str(up.home), "up",
        stdout=asyncio.subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    said, _ = await again.communicate()
    assert (again.returncode, b"already" in said) == (0, True)
    async with running_system(SystemSettings(home=up.home, nats_url=None)) as system:
        assert (system.nats_url, system.started) == (run.nats_url, False)

    for victim in (run.services["scheduler"][0], run.children["nats-server"], run.children["postgres"]):
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda victim=victim: victim not in up.pids(), timeout_seconds=SLOW)  # type: ignore[misc]
        await eventually(lambda: _answers(run.nats_url), timeout_seconds=SLOW)
    assert up.run().nats_url == run.nats_url, "the address stays"

    everything = up.pids()
    assert await up.stop() == 0
    assert not (up.home / "run.json").exists()
    await eventually(lambda: not [pid for pid in everything if processes.alive(pid)])


async def test_a_killed_supervisor_leaves_no_process_and_its_data(up: Up) -> None:
    """The next start goes on where it stopped, with the same passwords."""
    await up.start()
    run, everything = up.run(), up.pids()
    client = await nats.connect(run.nats_url)
    await client.jetstream().publish(
        subjects.GOALS_SUBMIT, b'{"id": "kept", "plan": {"tasks": []}, "text": "x"}'
    )
    await client.close()
    await up.stop(signal.SIGKILL)
    await eventually(lambda: not [pid for pid in everything if processes.alive(pid)], timeout_seconds=SLOW)
    assert (up.home / "run.json").exists()
    assert runfile.read(up.home) is None, "a file left behind does not count"

    async with running_system(SystemSettings(home=up.home, nats_url=None)) as system:
        assert system.started
        assert system.run is not None
        assert set(system.run.services) == set(SERVICES)
        assert system.nats_url.split("@")[0] == run.nats_url.split("@")[0]
        everything = up.pids()
    assert not [pid for pid in everything if processes.alive(pid)]


async def test_a_signal_during_the_start_ends_it(up: Up) -> None:
    """Nothing of a half-started system stays."""
    with up.output.open("wb") as out:
        up.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "goalwright_cli.main", "--home", str(up.home), "up",
            stdout=out, stderr=out, env=ENVIRONMENT,
        )  # fmt: skip
    await eventually(lambda: "nats-server started" in up.output.read_text(), timeout_seconds=SLOW)
    children = _children(up.process.pid)
    assert children
    assert await up.stop(signal.SIGINT) == 0
    assert not [pid for pid in children if processes.alive(pid)]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(word) for task in tasks.iterdir() for word in (task / "children").read_text().split()]
