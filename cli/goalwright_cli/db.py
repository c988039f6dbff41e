"""`goalwright db`: the database's schema and its retention."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from goalwright_cli.settings import SystemSettings
from goalwright_cli.topology import database

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
    """Delete goals that ended long ago, with their tasks and ledgers."""
    from goalwright_scheduler import migrations

    count = asyncio.run(migrations.prune(database(SystemSettings()), older_than_days=older_than_days))
    print(f"{count} goals deleted")
