"""Wiring of the scheduler: the only place that builds its adapters."""

from __future__ import annotations

import asyncio

import asyncpg
import structlog
from goalwright_shared import lifecycle, subjects
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.broker import Connection, build_broker, process_name
from goalwright_shared.errors import Unreachable
from goalwright_shared.health import Health
from goalwright_shared.lifecycle import Part, Stopper
from goalwright_shared.telemetry import configure_logging, redact, remember_secrets
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from goalwright_scheduler import migrations
from goalwright_scheduler.front import Front
from goalwright_scheduler.handlers import Presences, query_subscribers, request_subscribers
from goalwright_scheduler.queries import Queries
from goalwright_scheduler.reign import Leadership
from goalwright_scheduler.settings import SchedulerSettings
from goalwright_scheduler.sql import WRITER
from goalwright_scheduler.why import Crew

_CLOSE_SECONDS = 3.0

log = structlog.get_logger(__name__)


class Database:
    """A part: the pool that queries read from; checks that the schema is the one this release knows."""

    def __init__(self, dsn: str, lease_seconds: float) -> None:
        self._dsn = dsn
        lease = f"{lease_seconds * 1000:.0f}ms"
        self._writer = {**WRITER, "idle_in_transaction_session_timeout": lease, "tcp_user_timeout": lease}
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def pool(self) -> asyncpg.Pool[asyncpg.Record]:
        """The pool; only between start and stop."""
        assert self._pool is not None
        return self._pool

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection of its own, for the writer. One that falls silent in a transaction holds the leader's
        row: Postgres ends it after a lease, so that a standby can take over."""
        return await asyncpg.connect(self._dsn, timeout=5, command_timeout=60, server_settings=self._writer)

    async def start(self) -> None:
        """Connect; raises `Unreachable`."""
        try:
            self._pool = await asyncpg.create_pool(
                self._dsn, min_size=1, max_size=4, timeout=5, command_timeout=30
            )
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            raise Unreachable(
                "postgres_unreachable", f"Postgres does not answer at {redact(self._dsn)}: {error}",
                hint="start one with `goalwright up`, or set GOALWRIGHT_POSTGRES_DSN",
            ) from error  # fmt: skip
        have, newest = await migrations.status(self._dsn)
        if have != newest:
            raise Unreachable(
                "schema_differs", f"the schema is at revision {have}, this release needs {newest}",
                hint="goalwright db migrate",
            )  # fmt: skip

    async def stop(self) -> None:
        """Close the pool."""
        if self._pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._pool.close()
            except TimeoutError:  # a query of somebody who left
                self._pool.terminate()
            self._pool = None


class Handlers:
    """A part: the broker's query subscribers, running after the connection is up."""

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

    query_subscribers(broker, lambda: Queries(database.pool, leadership.memory, crew_of), artifacts)

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
    return [connection, database, health, Handlers(connection), presences, front, leadership]


async def serve(settings: SchedulerSettings | None = None) -> int:
    """Run the scheduler until a signal. Returns the exit code."""
    settings = settings or SchedulerSettings()
    configure_logging("scheduler", level=settings.log_level, format=settings.log_format)
    remember_secrets([settings.postgres_dsn, settings.nats_url])
    stopper = Stopper()
    return await lifecycle.run(build(settings, stopper), stopper)
