"""Wiring of the reflector."""

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

from goalwright_reflector.auditor import Auditor
from goalwright_reflector.control import controls
from goalwright_reflector.feed import EventFeed
from goalwright_reflector.handlers import build_perform
from goalwright_reflector.settings import LANE, ReflectorSettings, rules


def build(settings: ReflectorSettings, stopper: Stopper) -> Sequence[Part]:
    """The parts, in the order they start."""
    connection = Connection(build_broker("reflector", settings, stopper), settings)
    say, clock = controls(lambda: connection.nats), SystemClock()
    artifacts = ObjectArtifacts(lambda: connection.nats.jetstream(timeout=10))
    feed = EventFeed(lambda: connection.nats, artifacts)

    async def ready() -> str | None:
        return None if connection.nats.is_connected else "NATS is not connected"

    return [
        connection,
        Health("reflector", settings.health_host, settings.health_port, ready),
        feed,
        Auditor(
            feed=feed,
            say=say,
            rules=rules(settings),
            clock=clock,
            stopper=stopper,
            max_goals=settings.reflector_goals,
        ),
        Worker(
            client=lambda: connection.nats,
            artifacts=artifacts,
            query=queries(lambda: connection.nats),
            lanes=[LANE],
            slots=settings.reflector_slots,
            perform=build_perform(say, clock),
            name=process_name(settings),
            drain_seconds=settings.drain_seconds,
        ),
    ]


async def serve(settings: ReflectorSettings | None = None) -> int:
    """Run the reflector until a signal; returns the exit code."""
    settings = settings or ReflectorSettings()
    configure_logging("reflector", level=settings.log_level, format=settings.log_format)
    stopper = Stopper()
    return await lifecycle.run(build(settings, stopper), stopper)
