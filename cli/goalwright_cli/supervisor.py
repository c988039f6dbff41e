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
from typing import BinaryIO, Protocol, TextIO

from goalwright_shared import subjects
from goalwright_shared.errors import GoalwrightError, Unreachable
from nats.aio.client import Client
from nats.errors import Error as NatsError

from goalwright_cli import processes, runfile
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_cli.embedded_postgres import EmbeddedPostgres
from goalwright_cli.settings import SystemSettings

PERFORMERS = ("planner", "agent", "executor", "reflector")
SERVICES = ("scheduler", *PERFORMERS)

Step = Callable[[str], None]
"""Told what happens, a line at a time, for people."""

_FIRST_BACKOFF_SECONDS = 0.25
_LAST_BACKOFF_SECONDS = 30.0
_SAID = "up.out"
"""What a supervisor that was started for one command says."""
_PATIENCE_SECONDS = 2.0
"""A service that answers, but is not ready for so long (no sandbox, say), does not hold up the others."""
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


class System:
    """Everything that one `goalwright up` runs. `start()` returns when all is ready; `stop()` is idempotent.

    `scale` says how many processes a service has (default one each).
    """

    def __init__(self, settings: SystemSettings, *, scale: Mapping[str, int], step: Step) -> None:
        self._settings = settings.model_copy(update={"home": settings.home.absolute()})
        self._scale = scale
        self._step = step
        home = self._settings.home
        self._postgres = None if settings.postgres_dsn else EmbeddedPostgres(home)
        self._nats = None if settings.nats_url else EmbeddedNats(home, port=settings.nats_port)
        self._rehearsal = None if model_is_given() else Rehearsal(home)
        self._env = self._environment()
        self._services = [
            Service(name, environment_of(name, self._env), self._settings)
            for name in SERVICES
            for _ in range(scale.get(name, 1))
        ]
        self._keepers: list[asyncio.Task[None]] = []
        self._ready = False

    def _environment(self) -> dict[str, str]:
        """What the parts are told: addresses are known before anything listens there."""
        nats_url = self._nats.service_url if self._nats else str(self._settings.nats_url)
        dsn = self._postgres.dsn() if self._postgres else str(self._settings.postgres_dsn)
        addresses = {
            "GOALWRIGHT_HOME": str(self._settings.home),
            "GOALWRIGHT_NATS_URL": nats_url,
            "GOALWRIGHT_POSTGRES_DSN": dsn,
        }
        return dict(os.environ) | addresses | (self._rehearsal.environment if self._rehearsal else {})

    @property
    def _stages(self) -> list[list[Child]]:
        """In the order of their start: what others need, the scheduler, the performers."""
        outside: list[Child] = [child for child in (self._postgres, self._nats, self._rehearsal) if child]
        scheduler: list[Child] = [service for service in self._services if service.name == "scheduler"]
        performers: list[Child] = [service for service in self._services if service.name != "scheduler"]
        return [outside, scheduler, performers]

    async def start(self) -> None:
        """Start everything; what has started is stopped by `stop()` also after an error."""
        (self._settings.home / "logs").mkdir(parents=True, exist_ok=True)
        for service in self._services:
            service.load()
        await asyncio.gather(*(self._start_outside(child) for child in self._stages[0]))
        for child in self._stages[0]:
            self._keep(child)
        await self._prepare()
        await self._start_services()
        self._ready = True
        self._record()

    async def _start_outside(self, child: Child) -> None:
        from goalwright_cli import topology

        began = time.monotonic()
        if child is self._nats:  # its rights name the built-in lanes, of which users may have added roles
            with _environment(self._env):
                lanes = topology.collect_lanes()
            self._nats.lanes = [lane.name for lane in lanes]
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
        for service in self._services:
            service.go()
        missing = await asyncio.gather(*(service.ready() for service in self._services))
        await self._await_leader()
        for service, what in zip(self._services, missing, strict=True):
            self._keep(service)
            if what:  # its lanes wait; everything else can go on
                self._step(f"the {service.name} runs but is not ready: {what} (see {service.log})")
        self._step(f"{len(self._services)} services ready ({time.monotonic() - began:.1f} s)")

    async def _await_leader(self) -> None:
        """Return when goals can be submitted: a scheduler listens only once it leads."""
        from goalwright_cli.topology import connection

        try:
            async with (
                asyncio.timeout(self._settings.ready_seconds),
                connection(self.run().nats_url) as client,
            ):
                while True:
                    if await _is_heard(client, subjects.request()):
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise Unreachable(
                "no_leader",
                "no scheduler leads",
                hint=f"see {self._settings.home / 'logs' / 'scheduler.log'}",
            ) from error

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
            nats_url=self._nats.client_url if self._nats else self._env["GOALWRIGHT_NATS_URL"],
            postgres_dsn=self._env["GOALWRIGHT_POSTGRES_DSN"],
            services=services,
            children=children,
        )

    def hurry(self) -> None:
        """A second signal: stop waiting for work in flight."""
        for service in self._services:
            service.hurry()

    async def stop(self) -> None:
        """Drain and stop everything, last stage first; idempotent."""
        self._ready = False
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        runfile.remove(self._settings.home)
        for stage in reversed(self._stages):
            await asyncio.gather(*(child.stop() for child in stage))


def model_is_given() -> bool:
    """Whether the environment names a model provider."""
    return bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))


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


async def _is_heard(client: Client, subject: str) -> bool:
    """Whether anybody answers there; an empty payload is refused without a trace."""
    try:
        await client.request(subject, b"", timeout=2)
    except (NatsError, TimeoutError):
        return False
    return True


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
    claim = await _claim(settings)
    if claim is None:
        step(f"Ready: a system runs in {settings.home} already")
        return 0
    with claim:
        return await _supervise(settings, scale, step)


async def _claim(settings: SystemSettings) -> BinaryIO | None:
    """The home's lock; None when a system runs there. Waits for one that is just starting or stopping."""
    deadline = time.monotonic() + settings.ready_seconds
    while time.monotonic() < deadline:
        if claim := runfile.claim(settings.home):
            return claim
        if runfile.read(settings.home):
            return None
        await asyncio.sleep(0.1)
    raise Unreachable(
        "starting_elsewhere",
        f"another supervisor holds {settings.home} and does not become ready",
        hint=f"see {settings.home / 'logs'}, or use another --home",
    )


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
    said = settings.home / _SAID
    with said.open("wb") as out:
        process = processes.spawn(
            [sys.executable, "-m", "goalwright_cli.main", "--home", settings.home.absolute(), "up"],
            stdout=out.fileno(), env=os.environ, log=said, death_signal=signal.SIGTERM,
        )  # fmt: skip
    try:
        with said.open() as lines:
            run = await _until_ready(settings.home, process, lines, on_step)
        yield run
    finally:
        await processes.stop(process, grace_seconds=settings.drain_seconds + 30)


async def _until_ready(
    home: Path, process: subprocess.Popen[bytes], said: TextIO, on_step: Step
) -> runfile.Run:
    """The system of `home` once it is ready; raises `Unreachable` when its supervisor ends before."""
    while True:
        ended = process.poll() is not None
        run = runfile.read(home)  # after the look at the process: it may end because another system is ready
        for line in said:
            on_step(line.rstrip())
        if run is not None:
            return run
        if ended:
            raise Unreachable(
                "system_did_not_start",
                f"the system did not start:\n{processes.tail(home / _SAID)}",
                hint="goalwright doctor",
            )
        await asyncio.sleep(0.05)
