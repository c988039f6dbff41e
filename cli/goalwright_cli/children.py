"""What the supervisor keeps besides the embedded servers: services, and the rehearsal model.

Each gets only the environment it needs: keys only the agent, the address of Postgres only the scheduler.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from goalwright_shared.errors import Unreachable

from goalwright_cli import processes
from goalwright_cli.settings import SystemSettings

if TYPE_CHECKING:
    from goalwright_agent.endpoints import ProviderEntry

PERFORMERS = ("planner", "agent", "executor", "reflector")
SERVICES = ("scheduler", *PERFORMERS)

_PATIENCE_SECONDS = 2.0
"""A service that answers, but is not ready for so long (no sandbox, say), does not hold up the others."""

_EVERYBODY = re.compile(
    r"^(PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|NO_COLOR|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|"
    r"VIRTUAL_ENV|XDG_\w+|PYTHON\w+|LD_LIBRARY_PATH|GOALWRIGHT_\w+)$"
)
_PRIVATE_NAME = r"GOALWRIGHT_\w*(API_?KEY|TOKEN(?!S)|SECRET|PASSWORD)\w*"
_SECRET = re.compile(rf"^(GOALWRIGHT_POSTGRES_DSN|{_PRIVATE_NAME})$")
_ALSO = {
    "agent": re.compile(rf"^(OPENAI_\w+|{_PRIVATE_NAME}|(?i:\w+_proxy))$"),
    "scheduler": re.compile(r"^GOALWRIGHT_POSTGRES_DSN$"),
    "executor": re.compile(r"^(DOCKER_\w+|KUBE\w+|UV_\w+|PIP_\w+|(?i:\w+_proxy))$"),  # it installs libraries
}


class Child(Protocol):
    """A process that the supervisor keeps."""

    @property
    def name(self) -> str:
        """What people call it."""

    process: subprocess.Popen[bytes] | None

    async def start(self) -> None:
        """Start (again)."""

    async def stop(self) -> None:
        """Stop; idempotent and finishes."""


class Service:
    """One process of a service. `start()` returns as soon as it runs; `ready()` waits on its /ready.

    At first it is only loaded (imports take a second): that goes on while what it needs is started.
    """

    def __init__(self, name: str, env: Mapping[str, str], settings: SystemSettings) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.log = settings.home / "logs" / f"{name}.log"
        self._env = dict(env)
        self._settings = settings
        self._port = 0
        self._hurry = False

    def load(self) -> None:
        """Start the process on a free health port; it waits for `go`."""
        self._port = processes.free_port()
        self.process = processes.spawn(
            [sys.executable, "-m", "goalwright_cli.main", "serve", self.name, "--when-told"],
            log=self.log,
            stdin=subprocess.PIPE,
            env=self._env | {"GOALWRIGHT_HEALTH_PORT": str(self._port)},
        )

    def go(self) -> None:
        """Let a loaded process run."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def start(self) -> None:
        """Start on a free health port."""
        self.load()
        self.go()

    async def ready(self) -> str | None:
        """Wait on /ready: None when it says so, else what it says is missing after some patience.

        Raises `Unreachable` when the process ends, or does not answer at all for `ready_seconds`.
        """
        began, answered, missing = time.monotonic(), 0.0, "it does not answer on /ready"
        while True:
            self._raise_if_dead()
            with contextlib.suppress(OSError, ValueError):
                answer = await _get_json(self._port, "/ready")
                if answer.get("ready"):
                    return None
                missing, answered = str(answer.get("missing")), answered or time.monotonic()
            now = time.monotonic()
            if answered and now - answered > _PATIENCE_SECONDS:
                return missing
            if now - began > self._settings.ready_seconds:
                raise Unreachable("not_ready", f"the {self.name}: {missing}", hint=f"see {self.log}")
            await asyncio.sleep(0.05)

    def _raise_if_dead(self) -> None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise Unreachable(
                "service_died",
                f"the {self.name} ended at its start with code {self.process.returncode}:\n"
                f"{processes.tail(self.log)}",
                hint=f"see {self.log}",
            )

    def hurry(self) -> None:
        """Do not wait for work in flight any longer."""
        self._hurry = True
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    async def stop(self) -> None:
        """Let work in flight end or be handed back, then end it."""
        if self.process is not None:
            grace = 0 if self._hurry else self._settings.drain_seconds + 5
            await processes.stop(self.process, grace_seconds=grace)


class Rehearsal:
    """The rehearsal model: a server without intelligence that stands in when no model is configured.

    `environment` makes the agent and its lanes use it.
    """

    name = "rehearsal"

    def __init__(self, home: Path) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._port = processes.free_port()
        self.environment = {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self._port}/v1",
            "OPENAI_API_KEY": "no-key-is-needed",
            "GOALWRIGHT_MODEL": self.name,
        }
        self._out, self._log = home / "logs" / "rehearsal.out", home / "logs" / "rehearsal.log"

    async def start(self) -> None:
        """Start; returns when it has printed its address. A restart keeps the address."""
        with self._out.open("wb") as out:
            self.process = processes.spawn(
                [sys.executable, "-m", "goalwright_rehearsal", "--port", str(self._port)],
                log=self._log,
                stdout=out.fileno(),
                env={name: value for name, value in os.environ.items() if _EVERYBODY.match(name)},
            )
        async with asyncio.timeout(20):
            while not self._out.read_text().endswith("\n"):
                if self.process.poll() is not None:
                    raise Unreachable(
                        "rehearsal_died",
                        f"the rehearsal model ended at its start:\n{processes.tail(self._log)}",
                        hint="set OPENAI_API_KEY to use a real model",
                    )
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Stop; idempotent."""
        if self.process is not None:
            await processes.stop(self.process, grace_seconds=3)


def model_is_given() -> bool:
    """Whether the environment or goalwright.toml names a model provider."""
    return bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL") or _providers())


def _providers() -> Mapping[str, ProviderEntry]:
    """The providers beside the default one. Raises ValidationError, which names the setting."""
    from goalwright_agent.settings import AgentSettings  # only where an agent is started

    return AgentSettings().providers


def environment_of(service: str, env: Mapping[str, str]) -> dict[str, str]:
    """The part of `env` that a service needs: keys only for the agent, Postgres only for the scheduler."""
    also = _ALSO.get(service)
    named = {one.api_key_env for one in _providers().values()}
    own = named if service == "agent" else frozenset()
    return {
        name: value
        for name, value in env.items()
        if name in own
        or (also and also.match(name))
        or (_EVERYBODY.match(name) and not _SECRET.match(name) and name not in named)
    }


async def _get_json(port: int, path: str) -> dict[str, object]:
    """One GET on loopback, whatever its status. Plain streams: an HTTP client takes longer to import."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(5):
            _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    answer = json.loads(body)
    return answer if isinstance(answer, dict) else {}
