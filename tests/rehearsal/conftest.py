"""The real server as a process, the programs' real libraries, and the stage that a goal is played on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from goalwright_executor import libraries
from goalwright_executor.settings import ExecutorSettings
from goalwright_rehearsal import answers, wire
from openai import OpenAI

from rehearsal.playing import Ask, Programs, Stage

Serve = Callable[..., str]


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Starts a server with these flags and returns its URL; all are stopped at the end."""
    started = []

    def start(*flags: str) -> str:
        command = [sys.executable, "-m", "goalwright_rehearsal", "--port", "0", *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        url: str = json.loads(process.stdout.readline())["url"]
        return url

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(10)


@pytest.fixture(scope="session")
def url(serve: Serve) -> str:
    """A server without limits, latency or faults."""
    return serve("--latency-seconds", "0")


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[OpenAI]:
    """The OpenAI SDK on that server."""
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Programs under the libraries they have in the sandbox."""
    place = libraries.ensure(ExecutorSettings())
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(place / "packages"),
        "MPLCONFIGDIR": str(place / "matplotlib"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    running = Programs(libraries.base_python(), environment, tmp_path_factory.mktemp("programs"))
    yield running
    running.stop()


def over_http(client: OpenAI) -> Ask:
    """Asks the server through the OpenAI SDK."""

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        message = client.chat.completions.create(model="rehearsal", **request).choices[0].message
        found: dict[str, Any] = message.model_dump(exclude_none=True)
        return {"content": None} | found

    return ask


def in_process(request: dict[str, Any]) -> dict[str, Any]:
    """Asks without HTTP, for many goals in a short time."""
    answer = wire.completion(request, answers.answer(request), None)
    message: dict[str, Any] = answer["choices"][0]["message"]
    return message


@pytest.fixture
def direct(programs: Programs) -> Stage:
    """A goal without HTTP between the system and the model."""
    return Stage(in_process, programs)


@pytest.fixture(scope="session")
def example() -> Path:
    """The data of the example goal."""
    return Path(__file__).parents[2] / "examples/goals/profile/clock_changes.csv"
