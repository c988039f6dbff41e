"""`goalwright submit`, and how words and files on the command line become a goal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from goalwright_cli.command import Json, NatsUrl, command, print_json, session

if TYPE_CHECKING:
    from goalwright_shared.messages import GoalSubmission

    from goalwright_cli.client import Client

GoalText = Annotated[
    str | None, typer.Argument(metavar="GOAL", help="what should be achieved; - reads it from stdin")
]
Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--file", exists=True, dir_okay=False, readable=True, help="a file the goal needs; may be repeated"
    ),
]
Budget = Annotated[float | None, typer.Option("--budget", min=0, help="most it may cost, in USD")]
Deadline = Annotated[float | None, typer.Option("--deadline", min=0.001, help="most it may take, in seconds")]
Example = Annotated[bool, typer.Option("--example", help="the example goal with its data")]
Approve = Annotated[bool, typer.Option("--approve", help="ask before the plan is carried out")]
GoalKey = Annotated[
    str | None, typer.Option("--id", help="name of the goal; the same name twice is one goal")
]

_PROFILE = (
    "Profile the attached table and write an illustrated report: types, missing values, distributions, "
    "correlations, outliers and patterns in time, with a cleaned table and a summary in JSON."
)


def read_goal(goal: str | None, files: list[Path], *, example: bool) -> tuple[dict[str, Any], list[Path]]:
    """The submission's words and deliverables, and the files to upload.

    Without words it is the example goal: on its own data, or on the files that were given.
    """
    if goal is not None and example:
        raise typer.BadParameter("give a GOAL or --example, not both")
    if goal is not None:
        text = (sys.stdin.read() if goal == "-" else goal).strip()
        if not text:
            raise typer.BadParameter("the goal is empty; say what should be achieved", param_hint="GOAL")
        return {"text": text}, files
    folder = Path(__file__).resolve().parents[2] / "examples" / "goals" / "profile"
    if not folder.is_dir():
        raise typer.BadParameter("say what should be achieved (the example is not installed here)")
    body: dict[str, Any] = json.loads((folder / "goal.json").read_text())
    if files:
        return body | {"text": _PROFILE}, files
    return body, sorted(folder.glob("*.csv"))


async def build(
    client: Client,
    body: dict[str, Any],
    paths: list[Path],
    *,
    budget: float | None,
    deadline: float | None,
    approve: bool,
    key: str | None = None,
) -> GoalSubmission:
    """The submission `body` with its files uploaded as inputs. Raises `Refused` and `Unreachable`."""
    from goalwright_shared.errors import Refused
    from goalwright_shared.messages import BadMessage, GoalSubmission, parse_lenient_value

    from goalwright_cli.files import upload

    inputs = await upload(client.artifacts, paths)
    given = {"id": key, "budget_usd": budget, "deadline_seconds": deadline, "approve_plan": approve or None}
    body = body | {"inputs": [item.model_dump(mode="json", exclude_none=True) for item in inputs]}
    body |= {name: value for name, value in given.items() if value is not None}
    try:
        return parse_lenient_value(GoalSubmission, body)[0]
    except BadMessage as error:
        raise Refused(error.code, error.message, field=error.field) from error


@command
async def submit(
    goal: GoalText = None,
    file: Files = None,
    budget: Budget = None,
    deadline: Deadline = None,
    example: Example = False,
    approve: Approve = False,
    key: GoalKey = None,
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> None:
    """Submit a goal and return at once; prints its id.

    Without GOAL it is the example goal, on its own data or on your --file.
    """
    body, paths = read_goal(goal, file or [], example=example)
    async with session(nats_url) as client:
        submission = await build(
            client, body, paths, budget=budget, deadline=deadline, approve=approve, key=key
        )
        answer = await client.submit(submission)
    if as_json:
        print_json(answer.model_dump())
        return
    print(answer.goal_id)
    for warning in answer.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"follow it with: goalwright watch {answer.goal_id}", file=sys.stderr)
