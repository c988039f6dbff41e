"""Wiring of the scheduler: the only place that builds its adapters."""

from __future__ import annotations

import asyncpg
import structlog
from goalwright_shared import lifecycle, subjects
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.broker import Connection, build_broker, process_name
from goalwright_shared.health import Health
from goalwright_shared.lifecycle import Part, Stopper
from goalwright_shared.telemetry import configure_logging, remember_secrets
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from goalwright_scheduler.database import Database
from goalwright_scheduler.front import Front
from goalwright_scheduler.handlers import Presences, request_subscribers
from goalwright_scheduler.queries import Queries
from goalwright_scheduler.reading import Reading
from goalwright_scheduler.reign import Leadership
from goalwright_scheduler.settings import SchedulerSettings
from goalwright_scheduler.why import Crew

log = structlog.get_logger(__name__)


class Handlers:
    """A part: the broker's subscribers of requests, running after the connection is up."""

    def __init__(self, connection: Connection) -> None:
        self._broker = connection.broker

    async def start(self) -> None:
        """Start every subscriber that was built."""
        await self._broker.start()

    async def stop(self) -> None:
        """The connection stops them with itself."""


def build(settings: SchedulerSettings, stopper: Stopper) -> list[Part]:
    """The parts of a scheduler, in the order they start."""
    broker = build_broker("scheduler", settings, stopper)
    connection = Connection(broker, settings)
    database = Database(settings.postgres_dsn, settings.leader_lease_seconds)
    artifacts = ObjectArtifacts(lambda: connection.nats.jetstream(timeout=30))
    leadership = Leadership(
        connect=database.connect,
        broker=broker,
        client=lambda: connection.nats,
        artifacts=artifacts,
        settings=settings,
        holder=process_name(settings),
    )

    async def crew_of(lane: str) -> Crew | None:
        try:
            info = await connection.nats.jetstream(timeout=2).consumer_info(
                subjects.WORK, subjects.work_durable(lane)
            )
        except (NatsError, JetStreamError, TimeoutError):
            return None
        return Crew(info.num_waiting or 0, (info.num_ack_pending or 0) + (info.num_pending or 0))

    reading = Reading(
        broker,
        lambda: connection.nats,
        database,
        lambda: Queries(database.pool, leadership.memory, crew_of),
        artifacts,
        settings.leader_lease_seconds,
    )

    async def ready() -> str | None:
        if not connection.nats.is_connected:
            return "NATS is not connected"
        try:
            await database.pool.fetchval("SELECT 1")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return f"Postgres does not answer: {error}"
        return None

    front = Front(lambda: connection.nats, lambda: leadership.desk, artifacts)
    request_subscribers(broker, front)
    presences = Presences(lambda: connection.nats, leadership.memory, lambda: leadership.desk)

    health = Health("scheduler", settings.health_host, settings.health_port, ready)
    return [connection, database, health, Handlers(connection), reading, presences, front, leadership]


async def serve(settings: SchedulerSettings | None = None) -> int:
    """Run the scheduler until a signal. Returns the exit code."""
    settings = settings or SchedulerSettings()
    configure_logging("scheduler", level=settings.log_level, format=settings.log_format)
    remember_secrets([settings.postgres_dsn, settings.nats_url])
    stopper = Stopper()
    return await lifecycle.run(build(settings, stopper), stopper)
