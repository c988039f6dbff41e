"""A small service as `app.py` of every service builds one: the parts of `shared`, and a performer that writes
log lines. Started by tests as a process of its own: `python small_service.py`, settings by environment."""

from __future__ import annotations

import asyncio
import logging
import sys

import structlog
from goalwright_shared import lifecycle
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.broker import Connection, build_broker, process_name, queries
from goalwright_shared.health import Health
from goalwright_shared.lifecycle import Stopper
from goalwright_shared.messages import Done, Outcome, Work
from goalwright_shared.settings import ServiceSettings
from goalwright_shared.telemetry import configure_logging, remember_secrets
from goalwright_shared.worker import Attempt, Worker

log = structlog.get_logger("small_service")
SECRET = 'correct "horse" battery'


async def serve() -> int:
    """Run until a signal; the instruction of a task says what its performer does."""
    settings = ServiceSettings()
    configure_logging("small", level=settings.log_level, format=settings.log_format)
    remember_secrets([SECRET])
    stopper = Stopper()
    connection = Connection(build_broker("small", settings, stopper), settings)

    async def perform(work: Work, attempt: Attempt) -> Outcome:
        match work.spec.instruction:
            case "fatal":
                stopper.fatal("the performer cannot go on")
            case "hang":
                await asyncio.Event().wait()
            case "log":
                log.info("performing", password="x", error=ValueError(SECRET), note={SECRET: [SECRET]})
                logging.getLogger("a.library").warning("it says %s", SECRET)
            case "raise":
                raise ValueError(SECRET)
        return Done(goal_id=work.goal_id, task_id=work.task_id, epoch=work.epoch)

    async def ready() -> str | None:
        return None if connection.nats.is_connected else "NATS is not connected"

    worker = Worker(
        client=lambda: connection.nats,
        artifacts=ObjectArtifacts(lambda: connection.nats.jetstream(timeout=10)),
        query=queries(lambda: connection.nats),
        lanes=["exec"],
        slots=2,
        perform=perform,
        name=process_name(settings),
        drain_seconds=settings.drain_seconds,
    )
    health = Health("small", settings.health_host, settings.health_port, ready)
    return await lifecycle.run([connection, health, worker], stopper)


if __name__ == "__main__":
    sys.exit(asyncio.run(serve()))
