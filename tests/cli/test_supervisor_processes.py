"""Children never outlive us, and each gets only the environment it needs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from goalwright_cli import processes, runfile
from goalwright_cli.children import environment_of, model_is_given
from support.waiting import eventually

SPAWN = """
import signal, sys, time
from goalwright_cli import processes
child = processes.spawn([sys.executable, "-c", "import time; time.sleep(60)"], death_signal=signal.SIGKILL)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_child_dies_with_its_parent(number: signal.Signals) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", SPAWN, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    assert processes.alive(child)
    parent.send_signal(number)
    await parent.wait()
    await eventually(lambda: not processes.alive(child))


async def test_stop_kills_what_ignores_the_signal(tmp_path: Path) -> None:
    stubborn = "import signal as s, time; s.signal(15, s.SIG_IGN); print('on', flush=True); time.sleep(60)"
    process = processes.spawn([sys.executable, "-c", stubborn], log=tmp_path / "log")
    await eventually(lambda: "on" in processes.tail(tmp_path / "log"))
    assert not await processes.stop(process, grace_seconds=0.1)
    assert process.returncode == -signal.SIGKILL
    assert await processes.stop(process), "stopping twice is harmless"


async def test_stop_takes_along_what_the_process_started(tmp_path: Path) -> None:
    source = (
        "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.stdin.read()"
    )
    process = processes.spawn([sys.executable, "-c", source], log=tmp_path / "log", stdin=subprocess.PIPE)
    grandchild = int(await eventually(lambda: processes.tail(tmp_path / "log")))
    await processes.stop(process)
    await eventually(lambda: not processes.alive(grandchild))


EVERYTHING = {
    "PATH": "/bin",
    "HOME": "/root",
    "AWS_SECRET_ACCESS_KEY": "x",
    "OPENAI_API_KEY": "sk-x",
    "OPENAI_BASE_URL": "http://localhost/v1",
    "GOALWRIGHT_POSTGRES_DSN": "postgresql://x",
    "GOALWRIGHT_NATS_URL": "nats://x",
    "GOALWRIGHT_TOKENS_PER_MINUTE": "1",
    "GOALWRIGHT_ASK_MAX_INPUT_TOKENS": "1",
    "GOALWRIGHT_OTHER_API_KEY": "x",
    "HTTPS_PROXY": "http://proxy",
    "DOCKER_HOST": "unix:///x",
}
COMMON = {
    "PATH",
    "HOME",
    "GOALWRIGHT_NATS_URL",
    "GOALWRIGHT_TOKENS_PER_MINUTE",
    "GOALWRIGHT_ASK_MAX_INPUT_TOKENS",
}


@pytest.mark.parametrize(
    ("service", "more"),
    [
        ("planner", set()),
        ("reflector", set()),
        ("scheduler", {"GOALWRIGHT_POSTGRES_DSN"}),
        ("executor", {"DOCKER_HOST", "HTTPS_PROXY"}),
        ("agent", {"OPENAI_API_KEY", "OPENAI_BASE_URL", "GOALWRIGHT_OTHER_API_KEY", "HTTPS_PROXY"}),
    ],
)
def test_a_service_sees_only_its_own_secrets(service: str, more: set[str]) -> None:
    assert set(environment_of(service, EVERYTHING)) == COMMON | more


def test_keys_of_further_providers_reach_the_agent_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "GOALWRIGHT_PROVIDERS", '{"groq": {"api_key_env": "GROQ_KEY"}, "b": {"api_key_env": "GOALWRIGHT_B"}}'
    )
    given = {"PATH": "/bin", "GROQ_KEY": "gsk-1", "GOALWRIGHT_B": "b-1", "OTHER_KEY": "x"}
    assert set(environment_of("agent", given)) == {"PATH", "GROQ_KEY", "GOALWRIGHT_B"}
    for service in ("planner", "executor", "scheduler", "reflector"):
        assert set(environment_of(service, given)) == {"PATH"}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert model_is_given()
    monkeypatch.delenv("GOALWRIGHT_PROVIDERS")
    assert not model_is_given()


def test_a_run_file_counts_only_while_its_supervisor_lives(tmp_path: Path) -> None:
    run = runfile.Run(
        nats_url="nats://x", services={"agent": [os.getpid()]}, children={"postgres": os.getpid()}
    )
    claim = runfile.claim(tmp_path)
    assert claim is not None
    with claim:
        runfile.write(tmp_path, run)
        assert runfile.read(tmp_path) == run
        assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
        assert runfile.claim(tmp_path) is None, "one supervisor a home"
    assert runfile.read(tmp_path) is None, "its supervisor is gone, whatever the file says"


def test_clients_get_the_address_they_were_given_first(tmp_path: Path) -> None:
    assert runfile.client_url(tmp_path, "nats://given") == "nats://given"
