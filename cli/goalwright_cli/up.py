"""`goalwright up`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

import typer
from goalwright_shared.telemetry import configure_logging

from goalwright_cli import children, supervisor
from goalwright_cli.settings import SystemSettings


def up(
    scale: Annotated[
        list[str] | None,
        typer.Option(help="processes of a service, e.g. --scale agent=2; may be repeated"),
    ] = None,
) -> None:
    """Start the whole system here and keep it running until Ctrl-C.

    Starts an embedded Postgres and NATS (unless GOALWRIGHT_POSTGRES_DSN and GOALWRIGHT_NATS_URL are set),
    the rehearsal model (unless OPENAI_API_KEY or OPENAI_BASE_URL is set) and every service as a process of
    its own.
    """
    configure_logging("supervisor", level="error")
    wanted = dict(_scale(part) for part in scale or [])
    code = asyncio.run(supervisor.supervise(SystemSettings(), scale=wanted, step=_say))
    raise typer.Exit(code)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads our output any more: keep running
        print(line, flush=True)


def _scale(part: str) -> tuple[str, int]:
    name, _, count = part.partition("=")
    if name not in children.SERVICES or not count.isdecimal() or not 0 <= int(count) <= 64:
        raise typer.BadParameter(
            f"{part!r} is not <service>=<count>; services are {', '.join(children.SERVICES)}",
            param_hint="--scale",
        )
    return name, int(count)
