"""Commands that change the course of a goal. Each is one request on `control.<verb>`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from goalwright_cli.command import Goal, Json, NatsUrl, TaskName, command, print_json, session

Reason = Annotated[str | None, typer.Option("--reason", "-m", help="why, for whoever reads the goal later")]


class Period(StrEnum):
    """What an owner's limit is for."""

    TOTAL = "total"
    DAY = "day"


async def _steer(
    nats_url: str | None, verb: str, goal: str, done: str, as_json: bool, task: str | None = None, **body: Any
) -> None:
    """One control request about a goal, and about one of its tasks when `task` names it."""
    async with session(nats_url) as client:
        goal_id = (await client.goal(goal))["goal_id"]
        if task is not None:
            body["task_id"] = await client.task_id(goal_id, task)
        answer = await client.control(verb, goal_id=goal_id, **body)
    if as_json:
        print_json(answer)
    else:
        print(done.format(goal_id) if answer.get("changed", True) else f"goal {goal_id}: nothing to change")


@command
async def pause(goal: Goal, reason: Reason = None, as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """Pause a goal: what runs is finished, nothing new is started."""
    await _steer(nats_url, "pause", goal, "goal {} is paused", as_json, reason=reason)


@command
async def resume(goal: Goal, reason: Reason = None, as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """Let a paused goal go on."""
    await _steer(nats_url, "resume", goal, "goal {} goes on", as_json, reason=reason)


@command
async def cancel(goal: Goal, reason: Reason = None, as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """End a goal now; what it delivered so far stays."""
    await _steer(nats_url, "cancel", goal, "goal {} is cancelled", as_json, reason=reason)


@command
async def retry(goal: Goal, task: TaskName, as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """Try a dead task again, with what was skipped because of it."""
    await _steer(nats_url, "retry", goal, f"goal {{}}: {task} is tried again", as_json, task=task)


@command
async def skip(goal: Goal, task: TaskName, as_json: Json = False, nats_url: NatsUrl = None) -> None:
    """Skip a task, and with it what needs its results."""
    await _steer(nats_url, "skip", goal, f"goal {{}}: {task} is skipped", as_json, task=task)


@command
async def replan(
    goal: Goal,
    reason: Annotated[str, typer.Argument(help="what is wrong with the plan")],
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> None:
    """Ask for a change of the plan, with a reason."""
    await _steer(nats_url, "replan", goal, "goal {} gets another plan", as_json, reason=reason)


@command
async def answer(
    goal: Goal,
    task: TaskName,
    text: Annotated[str, typer.Argument(help="the answer, or one of the options")],
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> None:
    """Answer a question (`goalwright inbox` lists them)."""
    await _steer(nats_url, "answer", goal, "goal {} has its answer", as_json, task=task, answer=text)


@command
async def feedback(
    goal: Goal,
    text: Annotated[str, typer.Argument(help="what was good, wrong or missing")] = "",
    rating: Annotated[float | None, typer.Option("--rating", min=0, max=1, help="from 0 to 1")] = None,
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> None:
    """Rate, accept or correct a goal's result."""
    if not text and rating is None:
        raise typer.BadParameter("give a TEXT, a --rating, or both")
    await _steer(nats_url, "feedback", goal, "goal {}: thank you", as_json, text=text or None, rating=rating)


@command
async def budget(
    goal: Goal,
    usd: Annotated[str, typer.Argument(metavar="USD", help="the new budget, or +USD to add")],
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> None:
    """Change a goal's budget; a goal that is paused for money goes on."""
    from goalwright_cli.follow import new_budget

    async with session(nats_url) as client:
        found = await client.goal(goal)
        try:
            amount = new_budget(usd, float(found.get("budget_usd") or 0))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="USD") from None
        answer = await client.control("budget", goal_id=found["goal_id"], budget_usd=amount)
    if as_json:
        print_json(answer)
    else:
        print(f"goal {found['goal_id']} may cost {amount:g} USD")


@command
async def allow(
    owner: Annotated[str, typer.Argument(help="whose goals it is for (`public`: those that name no owner)")],
    usd: Annotated[str, typer.Argument(metavar="USD", help="the most they may cost, or `none`")],
    per: Annotated[Period, typer.Option("--per", help="a day begins at midnight UTC")] = Period.TOTAL,
    as_json: Json = False,
    nats_url: NatsUrl = None,
) -> None:
    """Limit what an owner may spend over all goals; goals that are paused for money go on."""
    try:
        amount = None if usd == "none" else float(usd.removeprefix("$"))
    except ValueError:
        raise typer.BadParameter(f"{usd!r} is no amount; say 20, or none", param_hint="USD") from None
    async with session(nats_url) as client:
        answer = await client.allow(owner, amount, per.value)
    if as_json:
        print_json(answer)
    elif amount is None:
        print(f"owner {owner} has no limit")
    else:
        limit = "a day" if per is Period.DAY else "in total"
        used = answer["spent_usd"] + answer["held_usd"]
        print(f"owner {owner} may spend {amount:g} USD {limit}; {used:g} USD of it are spent or held")
