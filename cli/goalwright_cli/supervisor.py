"""The supervisor behind `goalwright up`: every part of the system as a process of its own, in stages.

Stages start in order and stop in reverse: first what others need (Postgres, NATS, the rehearsal model), then
the scheduler, then the performers. A process that dies is started again with backoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from goalwright_shared.errors import GoalwrightError, Unreachable

from goalwright_cli import processes, runfile
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_cli.embedded_postgres import EmbeddedPostgres
from goalwright_cli.settings import SystemSettings

log = structlog.get_logger(__name__)

PERFORMERS = ("planner", "agent", "executor", "reflector")
SERVICES = ("scheduler", *PERFORMERS)

Step = Callable[[str], None]
"""Told what happens, a line at a time, for people."""

_FIRST_BACKOFF_SECONDS = 0.25
_LAST_BACKOFF_SECONDS = 30.0
_STEADY_SECONDS = 30.0
"""A process that lived this long starts again with the first backoff."""

_EVERYBODY = re.compile(
    r"^(PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|NO_COLOR|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|"
    r"VIRTUAL_ENV|XDG_\w+|PYTHON\w+|LD_LIBRARY_PATH|GOALWRIGHT_\w+)$"
)
_PRIVATE_NAME = r"GOALWRIGHT_\w*(API_?KEY|TOKEN(?!S)|SECRET|PASSWORD)\w*"
_SECRET = re.compile(rf"^(GOALWRIGHT_POSTGRES_DSN|{_PRIVATE_NAME})$")
_ALSO = {
    "agent": re.compile(rf"^(OPENAI_\w+|{_PRIVATE_NAME}|(?i:\w+_proxy))$"),
    "scheduler": re.compile(r"^GOALWRIGHT_POSTGRES_DSN$"),
    "executor": re.compile(r"^(DOCKER_\w+|KUBE\w+)$"),
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
    """One process of a service. `start()` returns as soon as it runs; `ready()` waits on its /ready."""

    def __init__(self, name: str, env: Mapping[str, str], settings: SystemSettings) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.log = settings.home / "logs" / f"{name}.log"
        self._env = dict(env)
        self._settings = settings
        self._port = 0
        self._hurry = False

    async def start(self) -> None:
        """Start on a free health port."""
        self._port = processes.free_port()
        self.process = processes.spawn(
            [sys.executable, "-m", "goalwright_cli.main", "serve", self.name],
            log=self.log,
            env=self._env | {"GOALWRIGHT_HEALTH_PORT": str(self._port)},
        )

    async def ready(self) -> None:
        """Return when /ready says so; raises `Unreachable` when the process ends or takes too long."""
        deadline = time.monotonic() + self._settings.ready_seconds
        missing = "it does not answer on /ready"
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise Unreachable(
                    "service_died",
                    f"the {self.name} ended at its start with code {self.process.returncode}:\n"
                    f"{processes.tail(self.log)}",
                    hint=f"see {self.log}",
                )
            with contextlib.suppress(OSError, ValueError):
                answer = await _get_json(self._port, "/ready")
                if answer.get("ready"):
                    return
                missing = str(answer.get("missing"))
            await asyncio.sleep(0.05)
        raise Unreachable("not_ready", f"the {self.name} is not ready: {missing}", hint=f"see {self.log}")

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
    """The rehearsal model: a server without intelligence that stands in when no model is configured."""

    name = "rehearsal"

    def __init__(self, home: Path) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self._port = processes.free_port()
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
            while not (line := self._out.read_text()).endswith("\n"):
                if self.process.poll() is not None:
                    raise Unreachable(
                        "rehearsal_died",
                        f"the rehearsal model ended at its start:\n{processes.tail(self._log)}",
                        hint="set OPENAI_API_KEY to use a real model",
                    )
                await asyncio.sleep(0.02)
        self.url = str(json.loads(line.splitlines()[0])["url"])

    async def stop(self) -> None:
        """Stop; idempotent."""
        if self.process is not None:
            await processes.stop(self.process, grace_seconds=3)


class System:
    """Everything that one `goalwright up` runs. `start()` returns when all is ready; `stop()` is idempotent.

    `scale` says how many processes a service has (default one each).
    """

    def __init__(self, settings: SystemSettings, *, scale: Mapping[str, int], step: Step) -> None:
        self._settings = settings.model_copy(update={"home": settings.home.absolute()})
        self._scale = scale
        self._step = step
        self._stages: list[list[Child]] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._ready = False
        self._env: dict[str, str] = {}
        self._client_url = ""

    async def start(self) -> None:
        """Start everything, in stages; what has started is stopped by `stop()` also after an error."""
        (self._settings.home / "logs").mkdir(parents=True, exist_ok=True)
        await self._start_outside()
        await self._prepare()
        await self._start_services()
        self._ready = True
        self._record()

    async def _start_outside(self) -> None:
        """Postgres, NATS and the rehearsal model, as far as none is given."""
        from goalwright_cli import topology

        home = self._settings.home
        lanes = await asyncio.to_thread(topology.collect_lanes)
        nats = None if self._settings.nats_url else EmbeddedNats(
            home, port=self._settings.nats_port, lanes=[lane.name for lane in lanes]
        )  # fmt: skip
        postgres = None if self._settings.postgres_dsn else EmbeddedPostgres(home)
        rehearsal = None if model_is_given() else Rehearsal(home)
        stage: list[Child] = [child for child in (postgres, nats, rehearsal) if child]
        self._stages.append(stage)
        await asyncio.gather(*(self._timed(child) for child in stage))
        for child in stage:
            self._keep(child)
        service_url = nats.service_url if nats else str(self._settings.nats_url)
        self._client_url = nats.client_url if nats else service_url
        self._env = dict(os.environ) | {
            "GOALWRIGHT_HOME": str(home),
            "GOALWRIGHT_NATS_URL": service_url,
            "GOALWRIGHT_POSTGRES_DSN": postgres.dsn() if postgres else str(self._settings.postgres_dsn),
        }
        if rehearsal:
            self._env |= rehearsal_environment(rehearsal.url)

    async def _timed(self, child: Child) -> None:
        began = time.monotonic()
        await child.start()
        self._step(f"{child.name} started ({time.monotonic() - began:.1f} s)")

    async def _prepare(self) -> None:
        """Migrations, streams, consumers, lanes."""
        from goalwright_cli import topology

        began = time.monotonic()
        with _environment(self._env):
            await topology.prepare(self._env["GOALWRIGHT_NATS_URL"], self._env["GOALWRIGHT_POSTGRES_DSN"])
        self._step(f"database and streams are as they should be ({time.monotonic() - began:.1f} s)")

    async def _start_services(self) -> None:
        began = time.monotonic()
        stages = [[self._service(name) for _ in range(self._scale.get(name, 1))] for name in SERVICES]
        scheduler, performers = stages[0], [service for stage in stages[1:] for service in stage]
        for stage in (scheduler, performers):
            self._stages.append(list(stage))
            for service in stage:
                await service.start()
        await asyncio.gather(*(service.ready() for service in (*scheduler, *performers)))
        for service in (*scheduler, *performers):
            self._keep(service)
        self._step(f"{len(scheduler) + len(performers)} services ready ({time.monotonic() - began:.1f} s)")

    def _service(self, name: str) -> Service:
        return Service(name, environment_of(name, self._env), self._settings)

    def _keep(self, child: Child) -> None:
        self._keepers.append(asyncio.create_task(self._restart_for_ever(child), name=f"keep {child.name}"))

    async def _restart_for_ever(self, child: Child) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            began = time.monotonic()
            assert child.process is not None
            while not await processes.ended(child.process, 3600):
                pass
            backoff = _FIRST_BACKOFF_SECONDS if time.monotonic() - began > _STEADY_SECONDS else backoff * 2
            code = child.process.returncode
            self._step(f"{child.name} ended with code {code}; starting it again")
            await asyncio.sleep(min(backoff, _LAST_BACKOFF_SECONDS))
            try:
                await child.start()
            except (GoalwrightError, TimeoutError, OSError) as error:
                self._step(f"{child.name} did not start: {error}")
            self._record()

    def _record(self) -> None:
        """Write run.json, once everything has been ready."""
        if self._ready:
            runfile.write(self._settings.home, self.run())

    def run(self) -> runfile.Run:
        """What runs now."""
        services: dict[str, list[int]] = {}
        children: dict[str, int] = {}
        for child in (child for stage in self._stages for child in stage):
            if child.process is None:
                continue
            if isinstance(child, Service):
                services.setdefault(child.name, []).append(child.process.pid)
            else:
                children[child.name] = child.process.pid
        return runfile.Run(
            nats_url=self._client_url,
            postgres_dsn=self._env.get("GOALWRIGHT_POSTGRES_DSN"),
            services=services,
            children=children,
        )

    def hurry(self) -> None:
        """A second signal: stop waiting for work in flight."""
        for child in (child for stage in self._stages for child in stage):
            if isinstance(child, Service):
                child.hurry()

    async def stop(self) -> None:
        """Drain and stop everything, last stage first; idempotent."""
        self._ready = False
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        runfile.remove(self._settings.home)
        while self._stages:
            await asyncio.gather(*(child.stop() for child in self._stages[-1]))
            self._stages.pop()


def model_is_given() -> bool:
    """Whether the environment names a model provider."""
    return bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))


def rehearsal_environment(url: str) -> dict[str, str]:
    """What makes the agent and the lanes use the rehearsal model."""
    return {
        "OPENAI_BASE_URL": f"{url.rstrip('/')}/v1",
        "OPENAI_API_KEY": "rehearsal",
        "GOALWRIGHT_MODEL": "rehearsal",
    }


def environment_of(service: str, env: Mapping[str, str]) -> dict[str, str]:
    """The part of `env` that a service needs: keys only for the agent, Postgres only for the scheduler."""
    also = _ALSO.get(service)
    return {
        name: value
        for name, value in env.items()
        if (also and also.match(name)) or (_EVERYBODY.match(name) and not _SECRET.match(name))
    }


@contextlib.contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    """Settings that are read inside see `env`."""
    before = dict(os.environ)
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


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


# --- for `goalwright up` and `goalwright run` ---------------------------------------------------------------


async def supervise(settings: SystemSettings, *, scale: Mapping[str, int], step: Step) -> int:
    """Run a system in `settings.home` until a signal; the exit code. Says so when one runs there already."""
    with _claim(settings.home) as claim:
        if not await claim.wait(settings.ready_seconds):
            step(f"Ready: a system runs in {settings.home} already")
            return 0
        return await _supervise(settings, scale, step)


async def _supervise(settings: SystemSettings, scale: Mapping[str, int], step: Step) -> int:
    began, asked = time.monotonic(), asyncio.Event()
    system = System(settings, scale=scale, step=step)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if asked.is_set():
            system.hurry()
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    runfile.remove(settings.home)  # of a supervisor that was killed
    starting = asyncio.create_task(system.start())
    asking = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({starting, asking}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            run = system.run()
            step(_ready_line(run, settings, time.monotonic() - began))
            await asking
        step("Stopping: work in flight is finished or handed back (again to hurry)")
    finally:
        starting.cancel()
        asking.cancel()
        await asyncio.gather(starting, asking, return_exceptions=True)
        await system.stop()
    step("Stopped")
    return 0


def _ready_line(run: runfile.Run, settings: SystemSettings, seconds: float) -> str:
    from goalwright_shared.telemetry import redact

    count = sum(len(pids) for pids in run.services.values())
    model = "rehearsal model (no intelligence)" if "rehearsal" in run.children else "your model"
    return (
        f"Ready in {seconds:.1f} s: {count} services on {redact(run.nats_url)}, {model}, "
        f"state in {settings.home}"
    )


class _Claim:
    """The home's lock, tried until we have it or the system of its holder is ready."""

    def __init__(self, home: Path, stack: contextlib.ExitStack) -> None:
        self._home, self._stack = home, stack

    async def wait(self, timeout_seconds: float) -> bool:
        """True when we may start a system; False when one runs. Raises `Unreachable` after the time."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if self._stack.enter_context(runfile.lock(self._home)):
                return True
            if runfile.read(self._home):
                return False
            await asyncio.sleep(0.1)
        raise Unreachable(
            "starting_elsewhere",
            f"another supervisor holds {self._home} and does not become ready",
            hint=f"see {self._home / 'logs'}, or use another --home",
        )


@contextlib.contextmanager
def _claim(home: Path) -> Iterator[_Claim]:
    with contextlib.ExitStack() as stack:
        yield _Claim(home, stack)


@dataclass(frozen=True)
class RunningSystem:
    """A system to talk to: the address of its NATS, and whether it was started for us."""

    nats_url: str
    started: bool = False
    run: runfile.Run | None = None


@contextlib.asynccontextmanager
async def running_system(
    settings: SystemSettings | None = None, *, on_step: Step | None = None
) -> AsyncIterator[RunningSystem]:
    """Use the system at GOALWRIGHT_NATS_URL or the one that runs in the home; else start one for ourselves,
    as a process of its own, and stop it afterwards."""
    settings = settings or SystemSettings()
    if settings.nats_url:
        yield RunningSystem(settings.nats_url)
        return
    if run := runfile.read(settings.home):
        yield RunningSystem(run.nats_url, run=run)
        return
    async with _own_system(settings, on_step or (lambda _: None)) as run:
        yield RunningSystem(run.nats_url, started=True, run=run)


@contextlib.asynccontextmanager
async def _own_system(settings: SystemSettings, on_step: Step) -> AsyncIterator[runfile.Run]:
    settings.home.mkdir(parents=True, exist_ok=True)
    said = settings.home / "up.out"
    with said.open("wb") as out:
        process = processes.spawn(
            [sys.executable, "-m", "goalwright_cli.main", "--home", settings.home.absolute(), "up"],
            stdout=out.fileno(), env=os.environ, log=said, death_signal=signal.SIGTERM,
        )  # fmt: skip
    try:
        with said.open() as lines:
            while not (run := runfile.read(settings.home)):
                for line in lines:
                    on_step(line.rstrip("\n"))
                if process.poll() not in (None, 0):
                    raise Unreachable(
                        "system_did_not_start",
                        f"the system did not start:\n{processes.tail(said)}",
                        hint="goalwright doctor",
                    )
                await asyncio.sleep(0.05)
        yield run
    finally:
        await processes.stop(process, grace_seconds=settings.drain_seconds + 30)
