"""`goalwright serve`: one service, as every deployment runs it."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Annotated

import typer
import uvloop

from goalwright_cli.children import SERVICES


def serve(
    service: Annotated[str, typer.Argument(help=", ".join(SERVICES), show_default=False)],
    roles: Annotated[
        str | None, typer.Option(help="agent: only these roles, comma-separated (GOALWRIGHT_ROLES_SERVED)")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="tasks at a time (GOALWRIGHT_<SERVICE>_SLOTS)")
    ] = None,
    when_told: Annotated[
        bool, typer.Option("--when-told", hidden=True, help="load, then wait for the end of stdin")
    ] = False,
) -> None:
    """Run one service until SIGINT or SIGTERM; it reads GOALWRIGHT_* from the environment."""
    if service not in SERVICES:
        raise typer.BadParameter(f"{service!r} is none of {', '.join(SERVICES)}", param_hint="SERVICE")
    if roles is not None and service != "agent":
        raise typer.BadParameter(f"the {service} has no roles; only the agent has", param_hint="--roles")
    if roles is not None:
        os.environ["GOALWRIGHT_ROLES_SERVED"] = roles
    if slots is not None:
        os.environ[f"GOALWRIGHT_{service.upper()}_SLOTS"] = str(slots)
    app = importlib.import_module(f"goalwright_{service}.app")
    if when_told:
        sys.stdin.read()
    _spare_collector()
    raise typer.Exit(uvloop.run(app.serve()))


def _spare_collector() -> None:
    """Plans, prompts and messages are hundreds of thousands of objects without cycles: at its defaults the collector
    looks at all of them time and again, which was half of the time that parsing a plan took."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
