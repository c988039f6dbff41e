"""`goalwright check-model`: twelve goals of different kinds on the model that is configured, and how it did."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from goalwright_cli.command import Json, NatsUrl, command, print_json

if TYPE_CHECKING:
    from goalwright_shared.messages import Event

    from goalwright_cli.client import Client
    from goalwright_cli.model_report import Row

_GOALS = Path(__file__).parent / "model_goals.yaml"
_REHEARSAL = "rehearsal"


@command
async def check_model(
    only: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="of the twelve; default all")
    ] = None,
    budget: Annotated[float, typer.Option(help="USD for each goal")] = 0.25,
    timeout: Annotated[float, typer.Option(help="seconds for all of them")] = 1800,  # noqa: ASYNC109  # an option
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> int:
    """Try the model that is configured on twelve small goals: plans, repairs, acceptance, cost and time as a table.

    Uses the system that runs here, or starts one for itself. Exit code 1 when a goal was not reached.
    """
    from goalwright_shared.telemetry import configure_logging

    from goalwright_cli import embedded
    from goalwright_cli.client import connected
    from goalwright_cli.model_report import table
    from goalwright_cli.settings import SystemSettings

    cases = chosen(only or [])
    configure_logging("cli", level="error")
    settings = SystemSettings(nats_url=nats_url) if nats_url else SystemSettings()
    async with contextlib.AsyncExitStack() as stack:
        defaults = {"GOALWRIGHT_ASK_TIMEOUT_SECONDS": "0"}
        system = await stack.enter_async_context(
            embedded.running_system(settings, on_step=_say, defaults=defaults)
        )
        client = await stack.enter_async_context(connected(system.nats_url))
        models = await _models(client)
        _say(f"{len(cases)} goals on {', '.join(models)}, at most {budget:g} USD each")
        deadline = time.monotonic() + timeout
        rows = list(await asyncio.gather(*(_one(client, case, budget, deadline) for case in cases)))
    if as_json:
        print_json({"models": models, "goals": [asdict(row) for row in rows]})
    else:
        print(table(rows))
        if any(model.endswith(f"/{_REHEARSAL}") for model in models):
            print(
                "\nThis was the rehearsal model, which has no intelligence: it refuses what it has no script for."
            )
    return 0 if all(row.accepted and row.right is not False for row in rows) else 1


def chosen(names: Sequence[str]) -> list[dict[str, Any]]:
    """The goals of these names, or all. Raises `BadParameter`."""
    import yaml

    cases: list[dict[str, Any]] = yaml.safe_load(_GOALS.read_text(encoding="utf-8"))
    known = [case["name"] for case in cases]
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)}: none of {', '.join(known)}", param_hint="NAME")
    return [case for case in cases if not names or case["name"] in names]


async def _models(client: Client) -> list[str]:
    """The pools of the lanes that plans use."""
    rows = (await client.query("lanes")).get("lanes") or []
    return list(
        dict.fromkeys(row["pool"] for row in rows if row.get("pool") and row["name"] != "agent.embed")
    )


async def _one(client: Client, case: dict[str, Any], budget: float, deadline: float) -> Row:
    """Submit one goal, read its events to the end, and look for what is expected."""
    from goalwright_shared.messages import GoalSubmission, parse_lenient_value

    from goalwright_cli.model_report import measured

    body = case["goal"] | {"budget_usd": budget, "labels": {"check-model": case["name"]}}
    submission, _ = parse_lenient_value(GoalSubmission, body)
    answer = await client.submit(submission)
    goal = await client.goal(answer.goal_id)
    events = await _events(client, goal, deadline)
    row = measured(case["name"], events, refusal=bool(case.get("refusal")))
    if not row.seconds:
        await client.control("cancel", goal_id=answer.goal_id)
        return replace(row, why=row.why or "not ended in time")
    return replace(row, right=await _is_right(client, events[-1], case["expect"]))


async def _events(client: Client, goal: dict[str, Any], deadline: float) -> list[Event]:
    """A goal's events in order, until it ends or there is no more time."""
    from goalwright_cli.order import Inbox, receive

    inbox, found = Inbox(), []
    async with client.events(goal["goal_id"], goal["owner"]) as feed:
        while time.monotonic() < deadline:
            for event in await feed.take(1.0):
                inbox, due = receive(inbox, event)
                found += due
            if found and found[-1].kind == "goal.finished":
                break
    return found


async def _is_right(client: Client, finished: Event, expected: dict[str, str]) -> bool | None:
    """Whether every deliverable holds what is expected of it; None: nothing is."""
    from goalwright_cli.client import refs_of

    if not expected:
        return None
    refs = refs_of(finished.data.get("deliverables"))
    for name, pattern in expected.items():
        if name not in refs:
            return False
        text = (await client.artifacts.get_bytes(refs[name])).decode(errors="replace")
        if not re.search(pattern, text):
            return False
    return True


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
