"""`goalwright db`: the database's schema and its retention."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Annotated

import typer

from goalwright_cli import runfile
from goalwright_cli.settings import SystemSettings
from goalwright_cli.topology import connection, database

app = typer.Typer(no_args_is_help=True, help="Migrate, prune or look at the database.")

Json = Annotated[bool, typer.Option("--json", help="machine-readable")]


@app.command()
def migrate() -> None:
    """Bring the schema to the newest version. Idempotent."""
    from goalwright_scheduler import migrations

    print(f"schema is at {asyncio.run(migrations.migrate(database(SystemSettings())))}")


@app.command()
def status(as_json: Json = False) -> None:
    """Say which version the schema has; exit code 1 when it is not the newest."""
    from goalwright_scheduler import migrations

    have, newest = asyncio.run(migrations.status(database(SystemSettings())))
    if as_json:
        print(json.dumps({"version": have, "newest": newest}))
    elif have == newest:
        print(f"schema is at {have}, the newest")
    else:
        print(f"schema is at {have or 'nothing'}, the newest is {newest}. Fix: goalwright db migrate")
    if have != newest:
        raise typer.Exit(1)


@app.command()
def prune(
    older_than_days: Annotated[float, typer.Option(min=0, help="goals that ended longer ago go")] = 30,
) -> None:
    """Delete goals that ended long ago, with their tasks and ledgers, and the artifacts that nobody names any more."""
    settings = SystemSettings()
    goals, objects = asyncio.run(
        _prune(database(settings), runfile.operator_url(settings.home, settings.nats_url), older_than_days)
    )
    print(f"{goals} goals and {objects} objects deleted")


async def _prune(dsn: str, nats_url: str, older_than_days: float) -> tuple[int, int]:
    from goalwright_scheduler import migrations
    from goalwright_shared.artifacts import FORGOTTEN_AFTER, ObjectArtifacts

    async with connection(nats_url) as client:  # before anything is deleted
        goals = await migrations.prune(dsn, older_than_days=older_than_days)
        named = await migrations.named_objects(dsn)
        age = max(timedelta(days=older_than_days), FORGOTTEN_AFTER)
        return goals, await ObjectArtifacts(client.jetstream(timeout=10)).forget(named, older_than=age)
