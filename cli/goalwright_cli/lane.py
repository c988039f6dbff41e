"""`goalwright lane`: lanes for performers that users write, in any language."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from typing import Annotated, Any

import typer
from goalwright_shared import subjects
from goalwright_shared.messages import BadMessage, Lane, parse_strict

from goalwright_cli import runfile
from goalwright_cli.client import connected
from goalwright_cli.settings import SystemSettings

app = typer.Typer(no_args_is_help=True, help="Add and list lanes.")

Json = Annotated[bool, typer.Option("--json", help="machine-readable")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="custom.<name>", show_default=False)],
    description: Annotated[str, typer.Option(help="what planners are told about it")] = "",
    pool: Annotated[
        str | None, typer.Option(help="KEY/MODEL: its performers call a model; needs the token caps")
    ] = None,
    max_input_tokens: Annotated[int, typer.Option(min=0, help="most a call reads")] = 0,
    max_output_tokens: Annotated[int, typer.Option(min=0, help="most a call writes")] = 0,
    lease_seconds: Annotated[
        float, typer.Option(min=1, help="a task not answered by then is tried again")
    ] = 60,
    look_ahead: Annotated[int, typer.Option(min=0, help="tasks handed out beyond the waiting pulls")] = 0,
    may_expand: Annotated[
        bool, typer.Option("--may-expand", help="its tasks may expand into others")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add (or change) a lane. It is live when the command returns."""
    lane = build_lane(
        name, description=description, pool=pool, max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens, lease_seconds=lease_seconds, look_ahead=look_ahead,
        may_expand=may_expand,
    )  # fmt: skip
    answer = asyncio.run(_control(lane))
    facts = {
        "lane": lane.name,
        "stream": subjects.WORK,
        "subject": subjects.work(lane.name),
        "durable": subjects.work_durable(lane.name),
        "outcomes": subjects.outcomes(lane.name),
    }
    if as_json:
        print(json.dumps(answer | facts))
        return
    print(f"lane {facts['lane']} is live")
    print(f"  take work from    consumer {facts['durable']} of stream {facts['stream']} ({facts['subject']})")
    print(f"  publish outcomes  on {facts['outcomes']}, then ack")


def build_lane(name: str, *, may_expand: bool, **facts: Any) -> Lane:
    """The row; raises a usage error that names what is wrong."""
    if not name.startswith("custom.") or name == "custom.":
        raise typer.BadParameter(f"{name!r} does not start with custom.", param_hint="NAME")
    if facts.get("pool") and not (facts["max_input_tokens"] and facts["max_output_tokens"]):
        raise typer.BadParameter(
            "a lane with a pool needs --max-input-tokens and --max-output-tokens: they are what is reserved "
            "before each call",
            param_hint="--pool",
        )
    row = {
        "name": name,
        "performer": "custom",
        "plannable": True,
        "may": ["done", *(["expand"] if may_expand else []), "failed", "throttled"],
        "child_lanes": ["*"] if may_expand else [],
        **facts,
    }
    try:
        return parse_strict(Lane, json.dumps(row))
    except BadMessage as error:
        raise typer.BadParameter(error.message, param_hint=error.field or "NAME") from error


async def _control(lane: Lane) -> dict[str, Any]:
    settings = SystemSettings()
    async with connected(runfile.client_url(settings.home, settings.nats_url)) as system:
        return await system.control("lane", lane=lane.model_dump(mode="json"))


@app.command()
def ls(as_json: Json = False) -> None:
    """List all lanes, with who performs and what they may do."""
    rows = asyncio.run(_lanes())
    if as_json:
        print(json.dumps({"lanes": rows}))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for row in rows:
        may = "expands" if "expand" in row["may"] else "-"
        pool = row["pool"] or "-"
        line = f"{row['name']:<20} {row['performer']:<8} {may:<8} {pool:<24} {row['description']}"
        print(line[:width])


async def _lanes() -> list[dict[str, Any]]:
    settings = SystemSettings()
    async with connected(runfile.client_url(settings.home, settings.nats_url)) as system:
        rows: list[dict[str, Any]] = (await system.query("lanes"))["lanes"]
        return rows
