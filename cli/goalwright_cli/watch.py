"""`goalwright watch`, and the ending that it shares with `run`: results into a folder, last words."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from goalwright_cli import exits
from goalwright_cli.command import Goal, Json, NatsUrl, command, print_json, session

if TYPE_CHECKING:
    from rich.text import Text

    from goalwright_cli.client import Client
    from goalwright_cli.files import Delivered
    from goalwright_cli.follow import Ending
    from goalwright_cli.render import Bill
    from goalwright_cli.screen import Screen
    from goalwright_cli.view import GoalView

Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0, help="stop watching after so many seconds")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="do not wait for a person: end with code 5 or 6")]
Out = Annotated[Path | None, typer.Option("--out", file_okay=False, help="folder for the deliverables")]


@command
async def watch(
    goal: Goal,
    out: Out = None,
    timeout: Timeout = None,  # noqa: ASYNC109  # an option of the command line, not of this coroutine
    no_wait: NoWait = False,
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> int:
    """Follow a goal from its first event to its end; ends with the goal's exit code.

    Ctrl-C detaches: the goal goes on. With --out its deliverables are left in a folder.
    """
    from goalwright_cli.follow import Patience, follow
    from goalwright_cli.screen import open_screen

    async with session(nats_url) as client:
        found = await client.goal(goal)
        screen = open_screen(stdout=not as_json)
        ending = await follow(client, found, screen, Patience(timeout, not no_wait))
        await conclude(client, ending, screen, folder=out, as_json=as_json)
    return ending.code


async def conclude(
    client: Client, ending: Ending, screen: Screen, *, folder: Path | None, as_json: bool, own: bool = False
) -> None:
    """After following: fetch what was delivered into `folder` (None: leave it) and say how it ended.

    `own`: the system was started by this command and stops with it. The folder's path is the last line.
    """
    from goalwright_cli import files, follow, render

    view = ending.view
    if not view.finished and not as_json:
        screen.say(_unfinished(ending, own=own))
        return
    bill = await follow.bill_of(client, view.goal_id)
    if not view.deliverables:
        folder = None
    delivered = await files.download(client.artifacts, view.deliverables, folder) if folder else []
    if as_json:
        print_json(_document(ending, bill, delivered, folder))
        return
    shown = delivered or [files.unfetched(name, ref) for name, ref in view.deliverables.items()]
    screen.say(render.closing(view, bill, shown, _hints(view, fetched=bool(folder), own=own), screen.width))
    if folder:
        print(folder.resolve(), flush=True)


def _hints(view: GoalView, *, fetched: bool, own: bool) -> list[str]:
    """The next command to try; a system that stops with `run` is started for good first."""
    me, goal_id = _me(), view.goal_id
    if own:
        run, up = ("goalwright run", "goalwright up") if me == "goalwright" else ("make run", "make up")
        mine = f'{run} --file your.csv "…"' if me == "goalwright" else f'{run} GOAL="…" FILE=your.csv'
        return [mine, f"{up} (keeps a system running; then, elsewhere: {me} graph {goal_id})"]
    dead = [task.task_id for task in view.tasks.values() if task.state == "dead"]
    if not view.deliverables:
        return [f"{me} task {goal_id} {dead[0]}" if dead else f"{me} graph {goal_id}"]
    fetch = [] if fetched else [f"{me} artifacts {goal_id} --out DIR"]
    return [*fetch, f"{me} graph {goal_id}", f'{me} feedback {goal_id} "…"']


def _me() -> str:
    """This command as the person types it: under `make` it is not on their path."""
    return ".venv/bin/goalwright" if "MAKELEVEL" in os.environ else "goalwright"


def _unfinished(ending: Ending, *, own: bool) -> list[Text]:
    """Why following ended before the goal did, and the command to come back."""
    from rich.text import Text

    me, goal_id = _me(), ending.view.goal_id
    what = {
        exits.DETACHED: "Detached.",
        exits.TIMED_OUT: "The time is up; the goal is still at work.",
        exits.WAITING: f"The goal waits for a person: see `{me} inbox`.",
        exits.BUDGET: f"The budget is used up: `{me} budget {goal_id} +1` adds a dollar.",
    }
    goes_on = "The goal goes on. "
    if own:
        goes_on = (
            "The system that this command started stops now. Its data stays, and the goal goes on at the next\n"
            f"  {me} up\n"
        )
    return [Text(), Text(f"{what.get(ending.code, '')} {goes_on}Re-attach with\n  {me} watch {goal_id}")]


def _document(ending: Ending, bill: Bill, delivered: list[Delivered], folder: Path | None) -> dict[str, Any]:
    view = ending.view
    return {
        "goal_id": view.goal_id,
        "status": view.status,
        "reason": view.reason,
        "exit_code": ending.code,
        "folder": str(folder.resolve()) if folder else None,
        "deliverables": {name: ref.model_dump(mode="json") for name, ref in view.deliverables.items()},
        "files": [{"name": d.name, "path": str(d.path), "size": d.size, "files": d.files} for d in delivered],
        "missing": list(view.missing),
        "cost": asdict(bill),
        "rehearsal": bill.rehearsed,
        "repairs": list(view.repairs),
        "replans": [asdict(replan) for replan in view.replans],
    }
