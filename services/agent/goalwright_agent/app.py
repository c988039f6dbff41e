"""Wiring of the agent."""

from __future__ import annotations

from collections.abc import Sequence

from goalwright_shared import lifecycle
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.broker import Connection, build_broker, process_name, queries
from goalwright_shared.health import Health
from goalwright_shared.lifecycle import Part, Stopper
from goalwright_shared.telemetry import configure_logging, remember_secrets
from goalwright_shared.worker import Worker

from goalwright_agent.dialects import Dialects
from goalwright_agent.handlers import Agent
from goalwright_agent.provider import Provider
from goalwright_agent.role_folder import RoleFolder
from goalwright_agent.roles import load_roles
from goalwright_agent.settings import AgentSettings, served_lanes


def build(settings: AgentSettings, stopper: Stopper) -> Sequence[Part]:
    """The parts, in the order they start. Raises Refused for a bad role file or an unknown role."""
    connection = Connection(build_broker("agent", settings, stopper), settings)
    provider = Provider(settings, Dialects(settings.home / "dialects.json"))
    agent = Agent(provider, load_roles(settings.roles, web=settings.web))

    async def ready() -> str | None:
        return None if connection.nats.is_connected else "NATS is not connected"

    worker = Worker(
        client=lambda: connection.nats,
        artifacts=ObjectArtifacts(lambda: connection.nats.jetstream(timeout=10)),
        query=queries(lambda: connection.nats),
        lanes=served_lanes(settings),
        slots=settings.agent_slots,
        perform=agent.perform,
        name=process_name(settings),
        drain_seconds=settings.drain_seconds,
    )
    parts: list[Part] = [
        connection,
        Health("agent", settings.health_host, settings.health_port, ready),
        provider,
        worker,
    ]
    if settings.roles is not None:
        everything = not settings.roles_served.strip()
        parts.append(RoleFolder(settings.roles, agent, worker, web=settings.web, all_lanes=everything))
    return parts


async def serve(settings: AgentSettings | None = None) -> int:
    """Run the agent until a signal; returns the exit code."""
    settings = settings or AgentSettings()
    configure_logging("agent", level=settings.log_level, format=settings.log_format)
    remember_secrets(endpoint.key for endpoint in settings.endpoints().values())
    stopper = Stopper()
    return await lifecycle.run(build(settings, stopper), stopper)
