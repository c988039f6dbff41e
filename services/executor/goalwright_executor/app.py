"""Wiring of the executor."""

from __future__ import annotations

from collections.abc import Sequence

from goalwright_shared import lifecycle
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.broker import Connection, build_broker, process_name, queries
from goalwright_shared.clock import SystemClock
from goalwright_shared.health import Health
from goalwright_shared.lifecycle import Part, Stopper
from goalwright_shared.telemetry import configure_logging
from goalwright_shared.worker import Worker

from goalwright_executor.handlers import Executor
from goalwright_executor.inputs import Inputs
from goalwright_executor.libraries import Libraries
from goalwright_executor.sandbox.bubblewrap import Bubblewrap
from goalwright_executor.sandbox.choose import Choice
from goalwright_executor.sandbox.docker import Docker
from goalwright_executor.sandbox.port import Sandbox
from goalwright_executor.scratch import Scratch
from goalwright_executor.settings import LANE, PROGRAM_LIBRARIES, WEB_LANE, ExecutorSettings
from goalwright_executor.web.fetch import Fetcher
from goalwright_executor.web.performer import Web


def sandboxes(settings: ExecutorSettings, libraries: Libraries) -> list[Sandbox]:
    """The sandboxes to try; of those that lack equally much, the first is taken (docs/decisions/0020). Libraries of
    one's own are not in an image, so with them only bubblewrap is tried unless Docker is asked for."""
    found: list[Sandbox] = []
    if settings.sandbox == "docker" or (settings.sandbox == "auto" and not settings.program_requirements):
        found.append(
            Docker(
                slots=settings.executor_slots,
                image=settings.program_image,
                ready=settings.containers_ready(),
                limits=settings.limits(),
                libraries=PROGRAM_LIBRARIES,
            )
        )
    if settings.sandbox in ("auto", "bubblewrap"):
        found.append(Bubblewrap(slots=settings.executor_slots, libraries=libraries.folder))
    return found


def programs_run_in(choice: Choice) -> dict[str, object]:
    """What the status of this service says of its sandbox; `image` is the id of the image, by which it is used."""
    sandbox = choice.sandbox
    if sandbox is None:
        return {"sandbox": None}
    image = {"image": sandbox.engine.image_id} if isinstance(sandbox, Docker) else {}
    return {"sandbox": sandbox.name, "lacks": sandbox.lacks, **image}


def build(settings: ExecutorSettings, stopper: Stopper) -> Sequence[Part]:
    """The parts, in the order they start. Raises `LibrariesFailed`: no such requirements file."""
    connection = Connection(build_broker("executor", settings, stopper), settings)
    disk, libraries = settings.home.absolute() / "executor", Libraries(settings)
    scratch, inputs = Scratch(disk), Inputs(disk / "inputs", settings.executor_cache_mb << 20)
    choice = Choice(sandboxes(settings, libraries))

    async def ready() -> str | None:
        return choice.problem if connection.nats.is_connected else "NATS is not connected"

    worker = Worker(
        client=lambda: connection.nats,
        artifacts=ObjectArtifacts(lambda: connection.nats.jetstream(timeout=10)),
        query=queries(lambda: connection.nats),
        lanes=[LANE],
        slots=settings.executor_slots,
        perform=Executor(settings, scratch, inputs, SystemClock(), choice).perform,
        name=process_name(settings),
        drain_seconds=settings.drain_seconds,
    )
    health = Health(
        "executor", settings.health_host, settings.health_port, ready, lambda: programs_run_in(choice)
    )
    parts: list[Part] = [connection, health, scratch, inputs, choice, worker]
    if settings.sandbox != "docker":  # its image brings the libraries
        parts.insert(3, libraries)
    if settings.web_hosts.strip():
        parts.append(
            Worker(
                client=lambda: connection.nats,
                artifacts=ObjectArtifacts(lambda: connection.nats.jetstream(timeout=10)),
                query=queries(lambda: connection.nats),
                lanes=[WEB_LANE],
                slots=settings.web_slots,
                perform=Web(Fetcher(settings.web_rules())).perform,
                name=process_name(settings),
                drain_seconds=settings.drain_seconds,
            )
        )
    return parts


async def serve(settings: ExecutorSettings | None = None) -> int:
    """Run the executor until a signal; returns the exit code."""
    settings = settings or ExecutorSettings()
    configure_logging("executor", level=settings.log_level, format=settings.log_format)
    stopper = Stopper()
    return await lifecycle.run(build(settings, stopper), stopper)
