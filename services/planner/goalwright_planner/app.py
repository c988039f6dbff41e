"""Wiring of the planner."""

from __future__ import annotations

from collections.abc import Sequence

from goalwright_shared import lifecycle
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.broker import Connection, build_broker, process_name, queries
from goalwright_shared.health import Health
from goalwright_shared.lifecycle import Part, Stopper
from goalwright_shared.telemetry import configure_logging
from goalwright_shared.worker import Worker

from goalwright_planner import texts
from goalwright_planner.core.compiler import PLAN_LANE
from goalwright_planner.handlers import Planner
from goalwright_planner.settings import PlannerSettings


def build(settings: PlannerSettings, stopper: Stopper) -> Sequence[Part]:
    """The parts, in the order they start."""
    connection = Connection(build_broker("planner", settings, stopper), settings)

    async def ready() -> str | None:
        return None if connection.nats.is_connected else "NATS is not connected"

    return [
        connection,
        Health("planner", settings.health_host, settings.health_port, ready),
        Worker(
            client=lambda: connection.nats,
            artifacts=ObjectArtifacts(lambda: connection.nats.jetstream(timeout=10)),
            query=queries(lambda: connection.nats),
            lanes=[PLAN_LANE],
            slots=settings.planner_slots,
            perform=Planner(settings, texts.load()).perform,
            name=process_name(settings),
            drain_seconds=settings.drain_seconds,
        ),
    ]


async def serve(settings: PlannerSettings | None = None) -> int:
    """Run the planner until a signal; returns the exit code."""
    settings = settings or PlannerSettings()
    configure_logging("planner", level=settings.log_level, format=settings.log_format)
    stopper = Stopper()
    return await lifecycle.run(build(settings, stopper), stopper)
