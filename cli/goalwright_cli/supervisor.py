"""The supervisor behind `goalwright up`: every part of the system as a process of its own, in stages.

Stages start in order and stop in reverse: first what others need (Postgres, NATS, the rehearsal model), then
the scheduler, then the performers. A process that dies is started again with backoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from goalwright_shared import subjects
from goalwright_shared.errors import GoalwrightError, Unreachable
from nats.aio.client import Client
from nats.errors import Error as NatsError

from goalwright_cli import processes, runfile
from goalwright_cli.children import SERVICES, Child, Rehearsal, Service, environment_of, model_is_given
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_cli.embedded_postgres import EmbeddedPostgres
from goalwright_cli.settings import SystemSettings

Step = Callable[[str], None]
"""Told what happens, a line at a time, for people."""

_FIRST_BACKOFF_SECONDS = 0.25
_LAST_BACKOFF_SECONDS = 30.0
_STEADY_SECONDS = 30.0
"""A process that lived this long starts again with the first backoff."""


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
