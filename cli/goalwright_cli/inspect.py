"""Commands that read: goals, their tasks, artifacts and questions. Each is one or two queries."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from goalwright_cli.command import Goal, Json, NatsUrl, TaskName, command, print_json, session

if TYPE_CHECKING:
    from goalwright_shared.messages import ArtifactRef
    from rich.text import Text

    from goalwright_cli.client import Client


class Format(StrEnum):
    """Forms of a graph."""

    TREE = "tree"
    MERMAID = "mermaid"
    JSON = "json"


def _show(lines: list[Text]) -> None:
    """Lines on stdout: cut nowhere, coloured only on a terminal."""
    from goalwright_cli.screen import console_for

    console = console_for(sys.stdout)
    for line in lines:
        console.print(line, soft_wrap=True)


@command
async def list_goals(as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """List goals, the latest first."""
    from goalwright_cli import report

    async with session(nats_url) as client:
        answer = await client.query("goals")
    if as_json:
        print_json(answer)
        return
    _show(report.goals(answer["goals"]))


@command
async def status(goal: Goal, as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """Show where a goal stands and what it cost."""
    from goalwright_cli import report
    from goalwright_cli.follow import bill_of

    async with session(nats_url) as client:
        found = await client.goal(goal)
        bill = None if as_json else await bill_of(client, found["goal_id"])
    if as_json or bill is None:
        print_json(found)
        return
    _show(report.goal(found, bill))


@command
async def graph(
    goal: Goal,
    format: Annotated[Format, typer.Option("--format", help="form of the graph")] = Format.TREE,
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> None:
    """Show a goal's tasks as a tree, as mermaid or as JSON."""
    from goalwright_cli import report

    async with session(nats_url) as client:
        found = await client.goal(goal)
        answer = await client.graph(found["goal_id"])
    if as_json or format is Format.JSON:
        print_json(answer)
    elif format is Format.MERMAID:
        print(report.mermaid(answer["tasks"]))
    else:
        _show(report.graph(found, answer))


@command
async def why(goal: Goal, task: TaskName, as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """Say what a task is waiting for."""
    async with session(nats_url) as client:
        goal_id = (await client.goal(goal))["goal_id"]
        answer = await client.query("why", goal_id=goal_id, task_id=await client.task_id(goal_id, task))
    if as_json:
        print_json(answer)
        return
    reason = str(answer.get("reason") or "").replace("_", " ")
    told = [answer["state"]] if reason == "ended" else [answer["state"], reason, answer.get("detail")]
    print(": ".join(str(part) for part in told if part))


@command
async def task(goal: Goal, task: TaskName, as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """Show a task: its attempts with prompt, reply, tokens, cost, programs and errors."""
    from goalwright_cli import report

    async with session(nats_url) as client:
        goal_id = (await client.goal(goal))["goal_id"]
        task_id = await client.task_id(goal_id, task)
        answer = await client.query("task", goal_id=goal_id, task_id=task_id)
        if not as_json:
            ledger = await client.query("ledger", goal_id=goal_id)
            calls = await _calls(client, answer.get("attempts") or [])
    if as_json:
        print_json(answer)
        return
    entries = [entry for entry in ledger.get("entries") or [] if entry.get("task_id") == task_id]
    _show(report.task(answer, entries, calls))


async def _calls(client: Client, attempts: list[dict[str, Any]]) -> dict[int, dict[str, str]]:
    """Prompt and reply of each attempt that made a call, by epoch."""
    from goalwright_shared.errors import GoalwrightError

    from goalwright_cli.client import refs_of

    found: dict[int, dict[str, str]] = {}
    for attempt in attempts:
        call = attempt.get("call") or {}
        for name, ref in refs_of({part: call.get(part) for part in ("prompt", "reply")}).items():
            try:
                text = (await client.artifacts.get_bytes(ref)).decode(errors="replace")
            except GoalwrightError as error:
                text = f"({error})"
            found.setdefault(int(attempt["epoch"]), {})[name] = text
    return found


@command
async def logs(
    goal: Goal,
    task: Annotated[str | None, typer.Argument(metavar="TASK", help="a task's id or key")] = None,
    nats_url: NatsUrl = None,
) -> None:
    """Follow the live output of a goal or a task until the goal ends.

    For one task, what its programs printed before comes first.
    """
    import asyncio

    from goalwright_cli import report
    from goalwright_cli.view import ENDED

    async with session(nats_url) as client:
        found = await client.goal(goal)
        goal_id = found["goal_id"]
        task_id = await client.task_id(goal_id, task) if task else None
        if task_id:
            answer = await client.query("task", goal_id=goal_id, task_id=task_id)
            _show(report.printed(answer.get("attempts") or []))
        if found["status"] in ENDED:
            print("the goal has ended; nothing more will come", file=sys.stderr)
            return
        printing = asyncio.create_task(_print_logs(client, found, task_id))
        try:
            await _until_finished(client, found)
        finally:
            printing.cancel()


async def _print_logs(client: Client, goal: dict[str, Any], task_id: str | None) -> None:
    from goalwright_cli.words import clean

    keys: dict[str, str] = {}
    async for sender, text in client.logs(goal["goal_id"], goal["owner"], task_id or "*"):
        if sender not in keys:
            tasks = (await client.graph(goal["goal_id"]))["tasks"]
            keys |= {row["task_id"]: row["key"] for row in tasks}
        for line in text.splitlines():
            print(f"{keys.get(sender, sender)}  {clean(line)}", flush=True)


async def _until_finished(client: Client, goal: dict[str, Any]) -> None:
    async with client.events(goal["goal_id"], goal["owner"]) as feed:
        while not any(event.kind == "goal.finished" for event in await feed.take(1.0)):
            continue


class Verb(StrEnum):
    """What can be done with artifacts beyond listing them."""

    SQL = "sql"


@command
async def artifacts(
    goal: Goal,
    verb: Annotated[
        Verb | None, typer.Argument(metavar="[sql STATEMENT]", help="query tables, data sets and databases")
    ] = None,
    statement: Annotated[str | None, typer.Argument(hidden=True)] = None,
    out: Annotated[Path | None, typer.Option("--out", file_okay=False, help="fetch into this folder")] = None,
    everything: Annotated[bool, typer.Option("--all", help="inputs and results of tasks too")] = False,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print the rows of a query as CSV")] = False,
    nats_url: NatsUrl = None,
) -> None:
    """List what a goal delivered, or fetch it into a folder; --all: every artifact of the goal.

    `artifacts GOAL sql "select …"` queries all its tables (CSV, Parquet), data sets and databases by name.
    """
    from goalwright_cli import report
    from goalwright_cli.client import refs_of
    from goalwright_cli.files import download

    if (verb is None) != (statement is None) or (as_csv and verb is None) or (verb and out):
        raise typer.BadParameter("a query is: goalwright artifacts GOAL sql 'select …' [--json | --csv]")
    async with session(nats_url) as client:
        found = await client.goal(goal)
        answer = await client.query("artifacts", goal_id=found["goal_id"])
        delivered = refs_of(found.get("deliverables"))
        rows = report.artifact_rows(answer["artifacts"], delivered, everything=everything)
        if statement is not None:
            rows = report.artifact_rows(answer["artifacts"], delivered, everything=False)
            rows += report.artifact_rows(answer["artifacts"], delivered, everything=True)
            await _query(client, report.file_names(rows), statement, as_json=as_json, as_csv=as_csv)
            return
        fetched = await download(client.artifacts, report.file_names(rows), out) if out else []
    if as_json:
        print_json(answer if everything else {"artifacts": [row.raw for row in rows]})
        return
    _show(report.artifacts(rows))
    if out and fetched:
        print(out.resolve())


async def _query(
    client: Client, refs: dict[str, ArtifactRef], statement: str, *, as_json: bool, as_csv: bool
) -> None:
    from goalwright_cli import report, sql

    def show(answer: sql.Answer) -> None:
        if as_json:
            sql.print_json(answer)
        elif as_csv:
            sql.print_csv(answer)
        else:
            _show(report.rows(answer.columns, *sql.shown(answer)))

    await sql.query(client.artifacts, refs, statement, show)


@command
async def inbox(as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """List the questions that wait for a person."""
    from goalwright_cli import report

    async with session(nats_url) as client:
        answer = await client.query("inbox")
    if as_json:
        print_json(answer)
        return
    _show(report.questions(answer["questions"]))
