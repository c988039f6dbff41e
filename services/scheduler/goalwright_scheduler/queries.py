"""Answers to `query.…`: read only, from Postgres. Any scheduler gives them."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import asyncpg
from goalwright_shared import subjects
from goalwright_shared.errors import Refused
from goalwright_shared.messages import TaskSpec

from goalwright_scheduler import talk, why
from goalwright_scheduler.core import money
from goalwright_scheduler.memory import Memory, load_lanes
from goalwright_scheduler.sql import SQL

_PAGE = 1000
_PAGE_BYTES = 700_000
_SEEN_SECONDS = 90.0

Body = dict[str, Any]


class Queries:
    """One method per query; each takes the owner and the body, and raises `Refused`."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], memory: Memory, crew_of: why.CrewOf) -> None:
        self._pool, self._memory, self._crew_of = pool, memory, crew_of
        self._answers: Mapping[str, Callable[[str, Body], Awaitable[Body]]] = {
            "goal": self.goal, "goals": self.goals, "graph": self.graph, "task": self.task, "why": self.why,
            "workers": self.workers, "inbox": self.inbox, "ledger": self.ledger, "artifacts": self.artifacts,
            "lanes": self.lanes,
        }  # fmt: skip

    async def answer(self, what: str, owner: str, body: Body) -> Body:
        """The answer to `query.<what>`."""
        if what not in self._answers:
            raise Refused(
                "unknown_query", f"there is no query.{what}", hint=f"one of {', '.join(subjects.QUERIES)}"
            )
        return await self._answers[what](owner, body)

    async def _goal(self, owner: str, body: Body) -> asyncpg.Record:
        wanted = body.get("goal_id")
        if not isinstance(wanted, str):
            raise Refused("bad_field", "goal_id must be a text", field="goal_id")
        row = await self._pool.fetchrow(
            """SELECT g.*, s.text, s.labels, s.contract, s.pruned, s.missing, s.summary FROM goal g
               JOIN goal_spec s ON s.goal = g.num WHERE g.owner = $1 AND g.goal_id = $2""",
            owner, wanted,
        )  # fmt: skip
        if row is None:
            hint = "`goalwright ls` lists goals"
            raise Refused("not_found", f"there is no goal {wanted}", field="goal_id", hint=hint)
        return row

    async def _task(self, goal: asyncpg.Record, body: Body) -> asyncpg.Record:
        wanted = body.get("task_id")
        if not isinstance(wanted, str):
            raise Refused("bad_field", "task_id must be a text", field="task_id")
        row = await self._pool.fetchrow(
            """SELECT t.*, s.key, s.spec, s.inputs, s.outputs, s.value FROM task t JOIN task_spec s ON s.id = t.id
               WHERE t.goal = $1 AND (t.id::text = $2 OR s.key = $2)
               ORDER BY (t.id::text = $2) DESC, t.id DESC LIMIT 1""",
            goal["num"], wanted,
        )  # fmt: skip
        if row is None:
            raise Refused("not_found", f"goal {goal['goal_id']} has no task {wanted}", field="task_id")
        return row

    async def goal(self, owner: str, body: Body) -> Body:
        """A goal: status, money, counts, deliverables, the newest notes."""
        row = await self._goal(owner, body)
        counts = await self._pool.fetch(
            "SELECT state, count(*) AS n FROM task WHERE goal = $1 GROUP BY state", row["num"]
        )
        made = await self._pool.fetch(SQL["load_deliverables"], row["num"], row["root_task"])
        notes = await self._pool.fetch(SQL["load_notes"], [row["num"]])
        return {
            "goal_id": row["goal_id"], "owner": row["owner"], "status": row["status"], "reason": row["reason"],
            "text": row["text"], **_money(row), "counts": {r["state"]: r["n"] for r in counts},
            "deliverables": {r["name"]: json.loads(r["ref"]) for r in made},
            "missing": row["missing"] or [], "summary": row["summary"], "labels": json.loads(row["labels"]),
            "contract": json.loads(row["contract"]) if row["contract"] else None, "revision": row["revision"],
            "value": row["value"], "root_task_id": str(row["root_task"]),
            "notes": [{**talk.told_note(note), "at": note["at"].isoformat()} for note in notes],
            "created_at": row["created_at"].isoformat(), "deadline": row["deadline"].isoformat(),
            "finished_at": _iso(row["finished_at"]),
        }  # fmt: skip

    async def goals(self, owner: str, body: Body) -> Body:
        """The owner's goals, newest first."""
        most = body.get("limit")
        limit = most if isinstance(most, int) and 0 < most <= 1000 else 100
        rows = await self._pool.fetch(
            """SELECT g.*, s.text, s.labels, (
                   SELECT coalesce(jsonb_object_agg(c.state, c.n), '{}') FROM (
                       SELECT state, count(*) AS n FROM task WHERE goal = g.num GROUP BY state) AS c) AS counts
               FROM goal g JOIN goal_spec s ON s.goal = g.num
               WHERE g.owner = $1 ORDER BY g.num DESC LIMIT $2""",
            owner, limit,
        )  # fmt: skip
        return {
            "goals": [
                {
                    "goal_id": row["goal_id"], "status": row["status"], "reason": row["reason"],
                    "text": row["text"][:500], **_money(row), "labels": json.loads(row["labels"]),
                    "created_at": row["created_at"].isoformat(), "finished_at": _iso(row["finished_at"]),
                    "counts": json.loads(row["counts"]),
                }
                for row in rows
            ]
        }  # fmt: skip

    async def graph(self, owner: str, body: Body) -> Body:
        """The tasks of a goal, by pages: `next` is the cursor of the next page."""
        goal = await self._goal(owner, body)
        after = body.get("cursor")
        rows = await self._pool.fetch(
            SQL["load_graph"],
            goal["num"], int(after) if isinstance(after, str) and after.isdecimal() else 0, _PAGE,
        )  # fmt: skip
        tasks: list[Body] = []
        size = 0
        for row in rows:
            told = _told(row)
            size += len(json.dumps(told))
            if size > _PAGE_BYTES:
                break
            tasks.append(told)
        more = len(tasks) < len(rows) or len(rows) == _PAGE
        return {
            "revision": goal["revision"], "tasks": tasks, "pruned": json.loads(goal["pruned"]),
            "next": tasks[-1]["task_id"] if more and tasks else None,
        }  # fmt: skip

    async def task(self, owner: str, body: Body) -> Body:
        """One task with its attempts, and the questions that it has put to other roles."""
        goal = await self._goal(owner, body)
        row = await self._task(goal, body)
        attempts = await self._pool.fetch(
            """SELECT r.*, l.charged, l.overrun, l.model, l.tokens_in, l.tokens_cached, l.tokens_out
               FROM task_result r LEFT JOIN ledger l ON l.task = r.task AND l.epoch = r.epoch
               WHERE r.task = $1 ORDER BY r.epoch""",
            row["id"],
        )
        cost = await self._pool.fetchval(
            "SELECT coalesce(sum(charged + overrun), 0) FROM ledger WHERE task = $1", row["id"]
        )
        needs = await self._pool.fetch(
            "SELECT id FROM task WHERE parent = $1 AND generation = $2 AND $3 = ANY(children)",
            row["parent"], row["generation"], row["id"],
        )  # fmt: skip
        asks = [talk.exchange(ask) for ask in await self._pool.fetch(SQL["load_asked"], [], row["id"])]
        told = _told({**dict(row), "needs": [r["id"] for r in needs], "cost": cost, "summary": None})
        return {
            **told, "spec": json.loads(row["spec"]), "turns": row["turn"],
            "asks": asks, "asked_usd": round(sum(ask["cost_usd"] for ask in asks), 6),
            "attempts": [_attempt(attempt) for attempt in attempts],
        }  # fmt: skip

    async def ledger(self, owner: str, body: Body) -> Body:
        """A goal's money."""
        goal = await self._goal(owner, body)
        rows = await self._pool.fetch(
            "SELECT * FROM ledger WHERE goal = $1 ORDER BY at, task, epoch LIMIT 5000", goal["num"]
        )
        totals = await self._pool.fetchrow(
            """SELECT count(*) AS calls, coalesce(sum(tokens_in), 0) AS tokens_in,
                   coalesce(sum(tokens_out), 0) AS tokens_out, coalesce(sum(tokens_cached), 0) AS tokens_cached
               FROM ledger WHERE goal = $1 AND model IS NOT NULL""",
            goal["num"],
        )
        assert totals is not None
        return {
            **_money(goal), "calls": totals["calls"], "tokens_in": int(totals["tokens_in"]),
            "tokens_out": int(totals["tokens_out"]), "tokens_cached": int(totals["tokens_cached"]),
            "entries": [
                {
                    "task_id": str(row["task"]), "epoch": row["epoch"],
                    "usd": money.usd(row["charged"] + row["overrun"]), "hold_usd": money.usd(row["hold"]),
                    "overrun_usd": money.usd(row["overrun"]), "model": row["model"], "why": row["why"],
                    "tokens_in": row["tokens_in"], "tokens_cached": row["tokens_cached"],
                    "tokens_out": row["tokens_out"], "at": row["at"].isoformat(),
                    "settled": row["settled_at"] is not None,
                }
                for row in rows
            ],
        }  # fmt: skip

    async def artifacts(self, owner: str, body: Body) -> Body:
        """The named values of a goal."""
        goal = await self._goal(owner, body)
        rows = await self._pool.fetch(
            """SELECT a.*, s.key FROM artifact a LEFT JOIN task_spec s ON s.id = a.task
               WHERE a.goal = $1 AND (a.task IS NOT NULL OR a.scope = 0)
               ORDER BY a.scope, a.generation, a.name LIMIT 2000""",
            goal["num"],
        )
        return {
            "artifacts": [
                {
                    "task_id": None if row["task"] is None else str(row["task"]), "key": row["key"],
                    "scope": str(row["scope"]), "ref": _without_body(json.loads(row["ref"])),
                }
                for row in rows
            ]
        }  # fmt: skip

    async def inbox(self, owner: str, body: Body) -> Body:
        """Questions that wait for a person, and goals that wait for money."""
        rows = await self._pool.fetch(
            """SELECT g.goal_id, t.id, t.lane, t.dispatched_at, t.due_at, s.key, s.spec
               FROM task t JOIN goal g ON g.num = t.goal JOIN task_spec s ON s.id = t.id
               WHERE t.state = 'parked' AND t.over_budget IS NULL AND g.owner = $1
                 AND g.finished_at IS NULL ORDER BY t.id LIMIT 500""",
            owner,
        )
        short = await self._pool.fetch(
            """SELECT goal_id, reason, ask_until, budget FROM goal
               WHERE owner = $1 AND status = 'paused' AND reason <> 'user' ORDER BY num LIMIT 500""",
            owner,
        )
        return {"questions": [_question(row) for row in rows] + [_paused(row) for row in short]}

    async def lanes(self, owner: str, body: Body) -> Body:
        """Lanes with what waits and what runs on them."""
        rows = await self._pool.fetch(
            "SELECT lane, state, count(*) AS n FROM task WHERE state IN ('ready', 'dispatched') GROUP BY lane, state"
        )
        counts = {(row["lane"], row["state"]): row["n"] for row in rows}
        async with self._pool.acquire() as db:
            lanes = await load_lanes(db)  # type: ignore[arg-type]  # a pool's proxy is a connection
        return {
            "lanes": [
                {
                    **json.loads(lane.model_dump_json()), "ready": counts.get((name, "ready"), 0),
                    "dispatched": counts.get((name, "dispatched"), 0), "free": self._memory.free.get(name),
                }
                for name, lane in lanes.items()
            ]
        }  # fmt: skip

    async def workers(self, owner: str, body: Body) -> Body:
        """Performers that announced themselves lately (they do so while they have work), each with what it has of
        the owner's; the operator sees all."""
        now = time.monotonic()
        known = [worker for worker in self._memory.workers.values() if now - worker[2] < _SEEN_SECONDS]
        theirs = [task for alive, _, _ in known for task, _ in alive.tasks if task.isdecimal()]
        own = {
            str(row["id"])
            for row in await self._pool.fetch(
                """SELECT t.id FROM task t JOIN goal g ON g.num = t.goal
                   WHERE t.id = ANY($1::bigint[]) AND (g.owner = $2 OR $2 = $3)""",
                [int(task) for task in theirs], owner, subjects.DEFAULT_OWNER,
            )
        }  # fmt: skip
        return {
            "workers": [
                {
                    "worker": alive.worker, "lane": lane, "slots": alive.slots,
                    "tasks": [list(pair) for pair in alive.tasks if pair[0] in own],
                    "seen_seconds_ago": round(now - seen, 1),
                }
                for alive, lane, seen in known
            ]
        }  # fmt: skip

    async def why(self, owner: str, body: Body) -> Body:
        """Why a task is not running."""
        goal = await self._goal(owner, body)
        row = await self._task(goal, body)
        reason, detail = await why.reason(self._pool, self._crew_of, goal, row)
        return {"task_id": str(row["id"]), "state": row["state"], "reason": reason, "detail": detail}


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None


def _money(row: Any) -> Body:
    return {f"{name}_usd": money.usd(row[name]) for name in ("budget", "spent", "held", "overrun")}


def _without_body(ref: Body) -> Body:
    """References without inline bodies, so that a page of many stays small."""
    return (
        ref
        if ref.get("inline") is None or len(ref["inline"]) <= 512
        else {**ref, "inline": ref["inline"][:512]}
    )


def _told(row: Any) -> Body:
    spec = TaskSpec.model_validate_json(row["spec"])
    return {
        "task_id": str(row["id"]), "key": row["key"], "title": spec.title,
        "parent": None if row["parent"] is None else str(row["parent"]), "generation": row["generation"],
        "lane": row["lane"], "state": row["state"], "epoch": row["epoch"], "failures": row["failures"],
        "turn": row["turn"], "needs": [str(need) for need in row["needs"]], "inputs": list(row["inputs"]),
        "outputs": list(row["outputs"]), "after": list(spec.after), "value": row["value"], "rank": row["rank"],
        "cost_usd": money.usd(int(row["cost"])), "summary": row["summary"] or "",
    }  # fmt: skip


def _attempt(row: asyncpg.Record) -> Body:
    return {
        "epoch": row["epoch"], "kind": row["kind"], "at": row["at"].isoformat(), "seconds": row["seconds"],
        "summary": row["summary"], "error": json.loads(row["error"]) if row["error"] else None,
        "call": json.loads(row["call"]) if row["call"] else None,
        "program": json.loads(row["program"]) if row["program"] else None,
        "checks": json.loads(row["checks"]) if row["checks"] else [], "worker": row["worker"],
        "model": row["model"], "tokens_in": row["tokens_in"], "tokens_cached": row["tokens_cached"],
        "tokens_out": row["tokens_out"],
        "cost_usd": money.usd((row["charged"] or 0) + (row["overrun"] or 0)),
    }  # fmt: skip


def _question(row: asyncpg.Record) -> Body:
    spec = TaskSpec.model_validate_json(row["spec"])
    asked = spec.question
    return {
        "goal_id": row["goal_id"], "task_id": str(row["id"]), "key": row["key"],
        "text": asked.text if asked else f"task {row['key']} is parked: retry or skip it",
        "options": asked.options if asked else [], "default": asked.default if asked else None,
        "since": _iso(row["dispatched_at"]), "timeout_at": _iso(row["due_at"]),
    }  # fmt: skip


def _paused(row: asyncpg.Record) -> Body:
    return {
        "goal_id": row["goal_id"], "task_id": None, "key": None,
        "text": f"the goal is paused ({row['reason']}); budget {money.usd(row['budget']):.6f} USD",
        "options": [], "default": None, "since": None, "timeout_at": _iso(row["ask_until"]),
    }  # fmt: skip
