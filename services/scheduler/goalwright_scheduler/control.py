"""Control verbs: what people, clients and the reflector ask of a running goal. Each answers or refuses."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from goalwright_shared import subjects
from goalwright_shared.errors import Refused
from goalwright_shared.messages import (
    INLINE_BYTES,
    Lane,
    TaskError,
    TaskSpec,
    parse_lenient_value,
)
from pydantic import ValidationError

from goalwright_scheduler import accounts, expansion, goals, outcomes, pools, replans, retries, tasks
from goalwright_scheduler.change import Change, TaskRow
from goalwright_scheduler.core import money
from goalwright_scheduler.core.states import FINAL, GOAL_FINAL, GoalStatus, State

Answer = dict[str, Any]
Verb = Callable[[Change, str, dict[str, Any]], Awaitable[Answer]]


async def apply(change: Change, verb: str, owner: str, body: dict[str, Any]) -> Answer:
    """Do what was asked. Raises `Refused` before anything is written."""
    return await VERBS[verb](change, owner, body)


def _text(body: dict[str, Any], field: str, *, required: bool = True) -> str:
    value = body.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value.strip()):
        raise Refused("bad_field", f"{field} must be a text", field=field)
    return value


def _number(body: dict[str, Any], field: str, *, required: bool = True) -> float | None:
    value = body.get(field)
    if value is None and not required:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise Refused("bad_field", f"{field} must be a number from 0", field=field)
    return float(value)


async def _goal(change: Change, owner: str, body: dict[str, Any], *, running: bool = True) -> Any:
    row = await goals.find(change, owner, _text(body, "goal_id"))
    if running and row["status"] in GOAL_FINAL:
        raise Refused("goal_ended", f"goal {row['goal_id']} has ended: {row['status']}")
    return row


async def _task(change: Change, goal: Any, body: dict[str, Any]) -> TaskRow:
    """The task that `task_id` names, by id or by key (the newest of that key)."""
    wanted = _text(body, "task_id")
    found = await change.db.fetchval(
        """SELECT t.id FROM task t JOIN task_spec s ON s.id = t.id
           WHERE t.goal = $1 AND (t.id::text = $2 OR s.key = $2)
           ORDER BY (t.id::text = $2) DESC, t.id DESC LIMIT 1""",
        goal["num"], wanted,
    )  # fmt: skip
    if found is None:
        raise Refused("not_found", f"goal {goal['goal_id']} has no task {wanted}", field="task_id")
    return (await change.load([found]))[found]


async def _pause(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    goal = await _goal(change, owner, body)
    paused = await goals.pause(change, goal["num"], "user")
    return {"ok": True, "status": "paused", "changed": paused}


async def _resume(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    """A goal, or (by the operator) a pool whose key was mended."""
    if body.get("pool") is not None:
        _operator(owner, "pool")
        return {"ok": True, "changed": await pools.let_go(change, _text(body, "pool"))}
    goal = await _goal(change, owner, body)
    return {"ok": True, "changed": await goals.resume(change, goal["num"])}


async def _cancel(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    goal = await _goal(change, owner, body, running=False)
    reason = _text(body, "reason", required=False) or "cancelled by request"
    changed = await goals.finish(change, goal["num"], GoalStatus.CANCELLED, reason)
    return {"ok": True, "changed": changed, "status": "cancelled" if changed else goal["status"]}


async def _budget(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    """A goal's budget, or (by the operator) an owner's over all goals; null lifts the latter."""
    if body.get("owner") is not None:
        _operator(owner, "owner")
        return await _owners_budget(change, body)
    goal = await _goal(change, owner, body)
    wanted = money.micro(_number(body, "budget_usd") or 0)
    floor = goal["spent"] + goal["held"]
    if wanted < floor:
        raise Refused(
            "below_spent", f"{money.usd(floor):.6f} USD are spent or held already", field="budget_usd"
        )
    fenced = 0 if goal["closing"] is not None else money.fence(wanted, change.lanes)
    await change.db.execute(
        "UPDATE goal SET budget = $2, fenced = $3 WHERE num = $1", goal["num"], wanted, fenced
    )
    change.reload.add(goal["num"])
    change.admit.add(goal["num"])
    if goal["status"] == GoalStatus.PAUSED and goal["reason"] == "budget":
        await goals.resume(change, goal["num"])
    return {"ok": True, "budget_usd": money.usd(wanted)}


async def _owners_budget(change: Change, body: dict[str, Any]) -> Answer:
    owner, per = _text(body, "owner"), body.get("per", "total")
    if per not in ("day", "total"):
        raise Refused("bad_field", "per is day or total", field="per")
    wanted = _number(body, "budget_usd", required=body.get("budget_usd", "") is not None)
    resumed = await accounts.allow(change, owner, None if wanted is None else money.micro(wanted), per)
    return {"ok": True, "resumed": resumed, **await accounts.told(change, owner)}


def _operator(owner: str, field: str) -> None:
    if owner != subjects.DEFAULT_OWNER:
        raise Refused("not_allowed", f"owner {owner} may not set {field}: only the operator may", field=field)


async def _feedback(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    goal = await _goal(change, owner, body, running=False)
    rating = _number(body, "rating", required=False)
    text = _text(body, "text", required=False)
    if rating is None and not text:
        raise Refused("empty_feedback", "feedback needs a text or a rating", field="text")
    new = await change.db.fetchval(
        """INSERT INTO feedback (goal, rating, text, at)
           SELECT $1::bigint, $2::float8, $3::text, $4::timestamptz WHERE NOT EXISTS (
               SELECT FROM feedback WHERE goal = $1 AND rating IS NOT DISTINCT FROM $2 AND text = $3)
           RETURNING true""",
        goal["num"], rating, text, change.now,
    )  # fmt: skip
    if not new:  # the same words again: a request that was sent twice
        return {"ok": True, "new": False}
    change.emit(goal["num"], "feedback.received", None, rating=rating, text=text)
    if text and goal["status"] not in GOAL_FINAL:
        await _note(change, goal["num"], "person", text, None)
    return {"ok": True, "new": True}


async def _answer(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    goal = await _goal(change, owner, body)
    row = await _task(change, goal, body)
    text = _text(body, "answer")
    if len(text.encode()) > INLINE_BYTES:
        raise Refused(
            "answer_too_long", f"the answer has {len(text.encode())} bytes; at most {INLINE_BYTES} are taken",
            field="answer", hint="give the long part to a goal as an input, and name it here",
        )  # fmt: skip
    if row.state is not State.PARKED:
        raise Refused("not_asked", f"task {row.key} is {row.state} and asks nothing", field="task_id")
    if row.lane != "human":
        if not await tasks.resume(change, row, (State.PARKED,), turns=0):
            raise Refused("not_asked", f"task {row.key} asks nothing any more")
    else:
        await answer(change, row, text)
    return {"ok": True, "task_id": str(row.id)}


async def answer(change: Change, row: TaskRow, text: str) -> None:
    """Take a person's answer (or the question's default) as the task's outcome."""
    done = outcomes.answer_of(row, text)
    change.name_values(row, [(name, ref.model_dump_json()) for name, ref in done.outputs.items()])
    change.record(row, "done", summary=done.summary, worker="person")
    change.emit(row.goal, "approval.answered", row.id, key=row.key, answer=text)
    tasks.succeeded_event(change, row, done.summary, done.outputs, 0, (0, 0))
    await tasks.complete(change, [(row.id, row.epoch)], [State.PARKED])


async def _replan(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    goal = await _goal(change, owner, body)
    target = goal["root_task"]
    if body.get("target_task_id") is not None:
        target = (await _task(change, goal, {"task_id": body["target_task_id"]})).id
    under_way = await change.db.fetchval(
        """SELECT t.id FROM task t JOIN task_spec s ON s.id = t.id
           WHERE t.goal = $1 AND s.key LIKE 'replan-%' AND s.spec->>'instruction' = $2
             AND t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')""",
        goal["num"], _text(body, "reason"),
    )  # fmt: skip
    if under_way is not None:  # asked twice
        return {"ok": True, "task_id": str(under_way)}
    row = (await change.load([target]))[target]
    evidence = [str(item) for item in body.get("evidence") or ()]
    task = await replans.open(change, row, _text(body, "reason"), evidence)
    return {"ok": True, "task_id": str(task)}


async def _retry(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    """Clone a dead task and its skipped dependants; a parked or waiting one just goes on. A goal that has ended
    takes up all that it had not finished."""
    goal = await _goal(change, owner, body, running=False)
    if goal["status"] == GoalStatus.DONE:
        raise Refused("goal_ended", f"goal {goal['goal_id']} is done: there is nothing to retry")
    if goal["status"] in GOAL_FINAL:
        if body.get("task_id") is not None:
            await _task(change, goal, body)
        return {"ok": True, "reopened": True, "added": await retries.reopen(change, goal)}
    row = await _task(change, goal, body)
    if row.state in (State.PARKED, State.RETRY_WAIT) and row.lane != "human":
        if not await tasks.resume(change, row, (State.PARKED, State.RETRY_WAIT), turns=0):
            raise Refused(
                "over_budget",
                f"task {row.key} waits for money",
                field="task_id",
                hint="raise the goal's budget",
            )
        return {"ok": True, "task_id": str(row.id)}
    if row.state is not State.DEAD or row.parent is None:
        raise Refused(
            "not_dead", f"task {row.key} is {row.state}; only a dead task is retried", field="task_id"
        )
    return {"ok": True, "added": await retries.retry(change, row)}


async def _skip(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    goal = await _goal(change, owner, body)
    row = await _task(change, goal, body)
    if row.state is State.SKIPPED:
        return {"ok": True, "skipped": 0}
    if row.state in FINAL or row.is_root:
        raise Refused("not_open", f"task {row.key} is {row.state} and cannot be skipped", field="task_id")
    below = [r["id"] for r in await change.fetch("descendants", [row.id])]
    await tasks.close(change, below, State.SKIPPED, f"needs {row.key}, which was skipped")
    await tasks.close(change, [row.id], State.SKIPPED, "skipped by request")
    return {"ok": True, "skipped": len(below) + 1}


async def _signal(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    """A finding of the reflector; its `signal_id` makes it count once."""
    goal = await _goal(change, owner, body)
    num = goal["num"]
    signal = _text(body, "signal")
    message = _text(body, "message", required=False)
    if signal == "progress":
        change.emit(num, "progress.reported", None, message=message, **_data(body))
        return {"ok": True, "new": True}
    action = body.get("action") or "note"
    if not await _note(
        change, num, "reflector", message or signal, _text(body, "signal_id"), pinned=action == "note"
    ):
        return {"ok": True, "new": False}
    change.emit(
        num, "reflection.signalled", None,
        signal=signal, message=message, severity=body.get("severity"), action=action,
        signal_id=body["signal_id"], evidence=list(body.get("evidence") or ()),
    )  # fmt: skip
    match action:
        case "retry":
            await _another_try(change, goal, body)
        case "replan":
            root = (await change.load([goal["root_task"]]))[goal["root_task"]]
            try:
                await replans.open(change, root, message or signal, body.get("evidence") or ())
            except Refused as error:  # the finding stays, whatever becomes of its advice
                return {"ok": True, "new": True, "not_done": str(error)}
        case "pause":
            await goals.pause(change, num, "loop", ask_seconds=change.settings.ask_timeout_seconds)
        case "stop_loop":
            await goals.finish(change, num, GoalStatus.STOPPED_LOOP, message or signal)
        case "stop_off_topic":
            await goals.finish(change, num, GoalStatus.STOPPED_OFF_TOPIC, message or signal)
    return {"ok": True, "new": True}


async def _another_try(change: Change, goal: Any, body: dict[str, Any]) -> None:
    """The reflector wants a running try given up: it counts as a failure, and the note reaches the next."""
    if body.get("task_id") is None:
        return
    row = await _task(change, goal, {"task_id": str(body["task_id"])})
    if row.state is State.DISPATCHED:
        change.settle(row, money.Bill(row.hold, 0), "given up")
        change.cancels.append(row.id)
        reason = _text(body, "message", required=False) or "the reflector asked for another try"
        await tasks.fail(change, row, TaskError(code="given_up", message=reason, retryable=True))


def _data(body: dict[str, Any]) -> dict[str, Any]:
    data = body.get("data")
    return {k: v for k, v in data.items() if k != "message"} if isinstance(data, dict) else {}


async def _note(
    change: Change, goal: int, author: str, text: str, signal_id: str | None, *, pinned: bool = True
) -> bool:
    row = await change.db.fetchrow(
        """INSERT INTO note (goal, author, text, pinned, signal_id, at) VALUES ($1, $2, $3, $4, $5, $6)
           ON CONFLICT DO NOTHING RETURNING id""",
        goal, author, text[:4000], pinned, signal_id, change.now,
    )  # fmt: skip
    if row is not None and pinned:
        change.emit(goal, "note.posted", None, text=text[:4000], author=author)
    return row is not None


async def _review(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    """Open at most one `reflect` task of a goal."""
    goal = await _goal(change, owner, body)
    open_one = await change.db.fetchval(
        """SELECT t.id FROM task t WHERE t.goal = $1 AND t.lane = 'reflect'
           AND t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped') LIMIT 1""",
        goal["num"],
    )
    if open_one is not None:
        return {"ok": True, "task_id": str(open_one), "new": False}
    number: int = await change.db.fetchval(
        "SELECT count(*) + 1 FROM task WHERE goal = $1 AND lane = 'reflect'", goal["num"]
    )
    reason = _text(body, "reason", required=False) or "a review is due"
    spec = TaskSpec(
        key=f"review-{number}", title="Review the goal", instruction=reason, lane="reflect", max_failures=1,
        params={"reason": reason, "root_task": str(goal["root_task"])},
    )  # fmt: skip
    task = await expansion.insert_aside(change, goal["num"], spec)
    return {"ok": True, "task_id": str(task), "new": True}


async def _lane(change: Change, owner: str, body: dict[str, Any]) -> Answer:
    """Add or change a lane, which all owners share. The lane is live when this has answered."""
    _operator(owner, "lane")
    try:
        lane, ignored = parse_lenient_value(Lane, body.get("lane"))
    except (ValidationError, ValueError) as error:
        raise Refused("bad_lane", str(error), field="lane") from error
    if not lane.name.startswith("custom.") and not lane.name.startswith("tool."):
        raise Refused("bad_lane", f"{lane.name}: lanes of your own begin with custom.", field="lane.name")
    await change.db.execute(
        "INSERT INTO lane (name, lane) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET lane = excluded.lane",
        lane.name, lane.model_dump_json(),
    )  # fmt: skip
    change.new_lanes[lane.name] = lane
    return {"ok": True, "lane": json.loads(lane.model_dump_json()), "ignored": ignored}


VERBS: dict[str, Verb] = {
    "pause": _pause, "resume": _resume, "cancel": _cancel, "budget": _budget, "feedback": _feedback,
    "answer": _answer, "replan": _replan, "retry": _retry, "skip": _skip, "signal": _signal,
    "review": _review, "lane": _lane,
}  # fmt: skip
