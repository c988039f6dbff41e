"""A whole system for the tests of the examples, started and stopped as a person would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

READY_SECONDS = 90.0


@dataclass(frozen=True)
class RunningSystem:
    """`goalwright up` in a home of its own."""

    home: Path
    nats_url: str

    def goalwright(self, *arguments: str) -> str:
        """A command against this system; its output."""
        command = [sys.executable, "-m", "goalwright_cli.main", "--home", str(self.home), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def running_system() -> Iterator[RunningSystem]:
    """Up and ready; drained and stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="goalwright-house-") as folder:
        home, log = Path(folder) / "home", Path(folder) / "up.log"
        keyless = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "goalwright_cli.main", "--home", str(home), "up"],
                stdout=out, stderr=out, env=keyless, cwd=folder,
            )  # fmt: skip
        try:
            yield RunningSystem(home, _url(process, home, log))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _url(process: subprocess.Popen[bytes], home: Path, log: Path) -> str:
    """The client's address out of run.json, as soon as the system has written it."""
    deadline = time.monotonic() + READY_SECONDS
    while not (home / "run.json").exists():
        assert process.poll() is None, f"the system did not start:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"the system is not ready:\n{log.read_text()}"
        time.sleep(0.1)
    return str(json.loads((home / "run.json").read_text())["nats_url"])
