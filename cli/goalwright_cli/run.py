"""`goalwright run`: one command from a goal to its deliverables in a folder."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from goalwright_cli.command import Json, NatsUrl, command
from goalwright_cli.submit import (
    Approve,
    Budget,
    Deadline,
    Example,
    Files,
    GoalKey,
    GoalText,
    build,
    read_goal,
)
from goalwright_cli.watch import NoWait, Out, Timeout, conclude

OUT = Path("goalwright-out")
"""Where each goal gets a folder unless --out names one."""


@command
async def run(
    goal: GoalText = None,
    file: Files = None,
    out: Out = None,
    budget: Budget = None,
    deadline: Deadline = None,
    example: Example = False,
    approve: Approve = False,
    key: GoalKey = None,
    timeout: Timeout = None,  # noqa: ASYNC109  # an option of the command line, not of this coroutine
    no_wait: NoWait = False,
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> int:
    """Submit a goal, watch it, and leave its deliverables in a folder (the last line is its path).

    Uses the system that runs here, or starts one for itself. Without GOAL it is the example goal, on its own
    data or on your --file. Ctrl-C detaches.
    """
    from goalwright_shared.telemetry import configure_logging

    from goalwright_cli import embedded
    from goalwright_cli.client import connected
    from goalwright_cli.follow import Patience, follow
    from goalwright_cli.screen import open_screen
    from goalwright_cli.settings import SystemSettings

    body, paths = read_goal(goal, file or [], example=example)
    configure_logging("cli", level="error")
    settings = SystemSettings(nats_url=nats_url) if nats_url else SystemSettings()
    async with contextlib.AsyncExitStack() as stack:
        system = await stack.enter_async_context(
            embedded.running_system(settings, on_step=_say, defaults=_defaults())
        )
        client = await stack.enter_async_context(connected(system.nats_url))
        submission = await build(
            client, body, paths, budget=budget, deadline=deadline, approve=approve, key=key
        )
        answer = await client.submit(submission)
        for warning in answer.warnings:
            _say(f"warning: {warning}")
        screen = open_screen(stdout=not as_json)
        found = await client.goal(answer.goal_id)
        ending = await follow(client, found, screen, Patience(timeout, not no_wait))
        folder = out or OUT / answer.goal_id
        await conclude(client, ending, screen, folder=folder, as_json=as_json, own=system.started)
    return ending.code


def _defaults() -> dict[str, str]:
    """Where nobody can be asked, a system of our own ends at the budget with what it has."""
    return {} if sys.stdin.isatty() else {"GOALWRIGHT_ASK_TIMEOUT_SECONDS": "0"}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
