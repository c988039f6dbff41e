"""Events: gapless and in order per goal, enough to follow every task, and kept as long as is said."""

from __future__ import annotations

from typing import Any

import asyncpg
from goalwright_scheduler import migrations
from goalwright_scheduler.core.states import FINAL
from goalwright_shared import topology
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.messages import ArtifactType
from support.system import System, chain, echo

ENDS = {"task.succeeded": "succeeded", "task.skipped": "skipped", "task.cancelled": "cancelled"}


def replayed(events: list[Any]) -> dict[str, str]:
    """The state of every task as its events tell it."""
    states: dict[str, str] = {}
    for event in events:
        kind, data, task = event["kind"], event["data"], event["task_id"]
        match kind:
            case "plan.adopted" | "task.expanded":
                if kind == "task.expanded":
                    states[task] = "expanded"
                for told in data["tasks"]:
                    states.setdefault(told["task_id"], "waiting")
            case "plan.revised":
                for told in data["added"]:
                    states.setdefault(told["task_id"], "waiting")
            case "task.dispatched":
                states[task] = "dispatched"
            case "task.failed":
                states[task] = "dead" if data["final"] else "retry_wait"
            case _ if kind in ENDS:
                states[task] = ENDS[kind]
    return states


def misbehaving(work: Any) -> dict[str, Any]:
    """Answers of every kind."""
    key, first = work["spec"]["key"], work["epoch"] == 1
    kid = {"key": "kid", "lane": "custom.a", "outputs": [{"name": "k"}]}
    match key:
        case "shaky" if first:
            return {"kind": "failed", "error": {"code": "odd", "message": "not today", "retryable": True}}
        case "slow" if first:
            return {"kind": "throttled", "retry_after_seconds": 0.05}
        case "bad":
            return {"kind": "failed", "error": {"code": "no", "message": "cannot"}}
        case "asker" if work["continuation"] is None:
            return {"kind": "expand", "tasks": [kid], "continuation": 1}
        case "turns" if work["turn"] < 2:
            return {"kind": "expand", "tasks": [], "continuation": work["turn"]}
    return echo(work)


async def test_events_are_gapless_and_tell_what_became_of_every_task(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a", misbehaving)
    keys = ("shaky", "slow", "asker", "turns", "plain")
    tasks = [
        *(task for key in keys for task in chain("custom.a", key)),
        *chain("custom.a", "bad", "needs-bad"),
    ]
    goals = [await system.submit(plan={"tasks": tasks}) for _ in range(3)]
    for goal in goals:
        await system.finished(goal)
        events = await system.events(goal)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert len({event["event_id"] for event in events}) == len(events)
        assert (events[0]["kind"], events[-1]["kind"]) == ("goal.accepted", "goal.finished")
        assert [event["at"] for event in events] == sorted(event["at"] for event in events)
        graph = await system.request("query.graph", {"goal_id": goal})
        told = replayed(events)
        for task in graph["tasks"]:
            if task["key"] != "goal":
                assert told[task["task_id"]] == task["state"], task["key"]
                assert task["state"] in FINAL
        kinds = {event["kind"] for event in events}
        assert kinds >= {
            "plan.adopted", "task.dispatched", "task.expanded", "task.succeeded", "task.failed", "task.retried",
            "task.throttled", "task.skipped",
        }  # fmt: skip


async def test_events_are_replayed_from_the_stream_by_anyone_at_any_time(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y")})
    await system.finished(goal)
    first = await system.events(goal)
    await system.restart_nats()
    assert await system.events(goal) == first


async def test_stream_of_events_has_an_age_and_a_size(system: System) -> None:
    js = (await system.service()).jetstream()
    config = (await js.stream_info("EVENTS")).config
    (wanted,) = [stream for stream in topology.streams() if stream.name == "EVENTS"]
    assert (config.max_age, config.max_bytes) == (wanted.max_age, wanted.max_bytes)
    assert config.max_age
    assert config.max_bytes


async def test_objects_are_named_as_long_as_their_goals_are_kept(system: System) -> None:
    await system.start_scheduler()
    artifacts = ObjectArtifacts((await system.service()).jetstream())
    made: dict[str, str] = {}

    async def answer(work: Any) -> dict[str, Any]:
        ref = await artifacts.put_bytes("o-x", ArtifactType.TEXT, work["goal_id"].encode() * 3_000)
        made[work["goal_id"]] = ref.sha256
        return {"kind": "done", "outputs": {"o-x": ref.model_dump(mode="json")}}

    system.perform("custom.a", answer)
    for name in ("old", "young"):
        await system.finished(await system.submit(id=name, plan={"tasks": chain("custom.a", "x")}))
    assert set(made.values()) <= await migrations.named_objects(system.dsn)
    db = await asyncpg.connect(system.dsn)
    await db.execute("UPDATE goal SET finished_at = now() - interval '40 days' WHERE goal_id = 'old'")
    await db.close()
    await migrations.prune(system.dsn, older_than_days=30)
    named = await migrations.named_objects(system.dsn)
    assert made["young"] in named
    assert made["old"] not in named


async def test_prune_forgets_old_goals_with_everything_of_theirs(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a", misbehaving)
    tasks = [*chain("custom.a", "asker"), *chain("custom.a", "shaky")]
    old = await system.submit(id="old", plan={"tasks": tasks})
    young = await system.submit(id="young", plan={"tasks": tasks})
    await system.request("control.feedback", {"goal_id": old, "text": "good"})
    for goal in (old, young):
        await system.finished(goal)
    open_one = await system.submit(id="open", plan={"tasks": chain("custom.b", "z")})
    db = await asyncpg.connect(system.dsn)
    await db.execute("UPDATE goal SET finished_at = now() - interval '40 days' WHERE goal_id = 'old'")
    sizes = await _sizes(db)
    assert await migrations.prune(system.dsn, older_than_days=30) == 1
    left = await _sizes(db)
    assert (await system.goal(old))["error"]["code"] == "not_found"
    assert (await system.goal(young))["status"] == "done"
    assert (await system.goal(open_one))["status"] == "running"
    for table in ("task", "task_spec", "task_result", "artifact", "expansion"):
        assert 0 < left[table] < sizes[table], table
    orphans = await db.fetchval(
        """SELECT count(*) FROM (
               SELECT id FROM task_spec UNION ALL SELECT task FROM task_result UNION ALL SELECT parent FROM expansion
           ) AS kept WHERE id NOT IN (SELECT id FROM task)"""
    )
    assert orphans == 0
    assert left["feedback"] == left["note"] == 0
    assert await migrations.prune(system.dsn, older_than_days=30) == 0
    await db.close()


async def _sizes(db: asyncpg.Connection[Any]) -> dict[str, int]:
    tables = (
        "goal",
        "task",
        "task_spec",
        "task_result",
        "artifact",
        "expansion",
        "feedback",
        "note",
        "outbox",
    )
    return {table: await db.fetchval(f"SELECT count(*) FROM {table}") for table in tables}
