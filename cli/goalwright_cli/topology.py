"""`goalwright topology`, and what the supervisor prepares before any service starts: the composition of all
services' lanes with the streams, the consumers and the lane table."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import nats
import typer
from goalwright_shared import subjects
from goalwright_shared import topology as shape
from goalwright_shared.errors import Unreachable
from goalwright_shared.messages import Lane, PoolLimit
from goalwright_shared.settings import ServiceSettings
from goalwright_shared.telemetry import redact
from nats.aio.client import Client
from nats.errors import Error as NatsError

from goalwright_cli import runfile
from goalwright_cli.settings import SystemSettings

app = typer.Typer(no_args_is_help=True, help="Apply, show or verify streams and consumers.")

_LANE_OWNERS = ("planner", "scheduler", "agent", "executor", "reflector")

Json = Annotated[bool, typer.Option("--json", help="machine-readable")]


def service_settings(service: str) -> ServiceSettings:
    """A service's settings, as it would read them here."""
    module = importlib.import_module(f"goalwright_{service}.settings")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, ServiceSettings)
        and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} has {len(found)} settings classes"
    return found[0]()


def collect_lanes() -> list[Lane]:
    """The lane rows of all services, from their settings and role files."""
    lanes: list[Lane] = []
    for service in _LANE_OWNERS:
        module = importlib.import_module(f"goalwright_{service}.settings")
        lanes += module.lanes(service_settings(service))
    return lanes


def performed(lanes: list[Lane]) -> list[str]:
    """The names of the lanes that somebody pulls from: a person does not."""
    return [lane.name for lane in lanes if lane.performer != "human"]


def collect_pools() -> list[PoolLimit]:
    """The provider's limits of the pools that the agent's lanes use."""
    from goalwright_agent import settings

    return settings.pools(settings.AgentSettings())


async def prepare(nats_url: str, postgres_dsn: str) -> list[str]:
    """Migrate, then apply: all that services expect to find. Idempotent; returns what changed."""
    from goalwright_scheduler import migrations

    await migrations.migrate(postgres_dsn)
    return await apply_all(nats_url, postgres_dsn)


async def apply_all(nats_url: str, postgres_dsn: str) -> list[str]:
    """Fill the lane table, create or update streams, bucket and consumers; returns what changed.

    The consumers of lanes that users added are made too: they are rows of the same table.
    """
    from goalwright_scheduler.lanes import load_custom_lanes, store_lanes

    lanes = collect_lanes()
    changed = await store_lanes(postgres_dsn, lanes, collect_pools())
    async with connection(nats_url) as client:
        js = client.jetstream()
        changed += await shape.apply(js, performed(lanes))
        for lane in await load_custom_lanes(postgres_dsn):  # their performers need not extend the delivery
            consumer = shape.lane_consumer(lane.name, ack_wait=lane.lease_seconds + 30)
            if await shape.apply_consumer(js, subjects.WORK, consumer):
                changed.append(f"consumer {consumer.durable_name} applied")
    return changed


@contextlib.asynccontextmanager
async def connection(url: str) -> AsyncIterator[Client]:
    """A connection for one command; raises `Unreachable` with the fix."""
    try:
        client = await nats.connect(
            url, name="goalwright-operator", connect_timeout=3, allow_reconnect=False,
            max_reconnect_attempts=1, error_cb=_quiet,
        )  # fmt: skip
    except (NatsError, OSError, TimeoutError) as error:
        raise Unreachable(
            "nats_unreachable",
            f"no NATS server answers at {redact(url)} ({str(error) or 'timed out'})",
            hint="start one with `goalwright up`, or set GOALWRIGHT_NATS_URL",
        ) from error
    try:
        yield client
    finally:
        await client.close()


async def _quiet(_: Exception) -> None:
    """nats-py prints errors of the background otherwise; the call itself raises."""


def database(settings: SystemSettings) -> str:
    """The address of Postgres: given, or that of the system that runs here."""
    run = runfile.read(settings.home)
    dsn = settings.postgres_dsn or (run.postgres_dsn if run else None)
    if not dsn:
        raise Unreachable(
            "postgres_unreachable",
            f"no system runs in {settings.home}, and no database is given",
            hint="start one with `goalwright up`, or set GOALWRIGHT_POSTGRES_DSN",
        )
    return dsn


@app.command()
def apply(as_json: Json = False) -> None:
    """Create or update streams, consumers and the lane table. Idempotent."""
    settings = SystemSettings()
    url = runfile.operator_url(settings.home, settings.nats_url)
    changed = asyncio.run(apply_all(url, database(settings)))
    if as_json:
        print(json.dumps({"changed": changed}))
    else:
        print("\n".join(changed) or "nothing to change")


@app.command()
def show(as_json: Json = False) -> None:
    """List streams and consumers with what waits in them."""
    settings = SystemSettings()
    rows = asyncio.run(_rows(runfile.operator_url(settings.home, settings.nats_url)))
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['stream']:<12} {row['messages']:>8} messages  {row['bytes']:>12} bytes  {row['storage']}"
        )
        for consumer in row["consumers"]:
            print(
                f"  {consumer['name']:<24} {consumer['pending']:>8} pending  "
                f"{consumer['unacked']:>6} unacked  {consumer['waiting']:>6} waiting pulls"
            )


async def _rows(url: str) -> list[dict[str, Any]]:
    async with connection(url) as client:
        js = client.jetstream()
        return [
            {
                "stream": stream.config.name,
                "subjects": stream.config.subjects,
                "storage": stream.config.storage,
                "messages": stream.state.messages,
                "bytes": stream.state.bytes,
                "consumers": [
                    {
                        "name": consumer.name,
                        "filter": consumer.config.filter_subject,
                        "pending": consumer.num_pending,
                        "unacked": consumer.num_ack_pending,
                        "waiting": consumer.num_waiting,
                    }
                    for consumer in await js.consumers_info(str(stream.config.name))
                ],
            }
            for stream in await js.streams_info()
        ]


@app.command()
def verify(as_json: Json = False) -> None:
    """Say what is missing or differs; exit code 1 when something does."""
    settings = SystemSettings()
    found = asyncio.run(_differences(runfile.operator_url(settings.home, settings.nats_url)))
    if as_json:
        print(json.dumps({"differences": found}))
    else:
        print("\n".join(found) or "streams and consumers are as they should be")
    if found:
        raise typer.Exit(1)


async def _differences(url: str) -> list[str]:
    async with connection(url) as client:
        return await shape.differences(client.jetstream(), performed(collect_lanes()))
