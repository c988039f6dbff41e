"""Why a task is not running: every task that waits says for what, and it is so, whichever scheduler is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from goalwright_scheduler.lanes import store_lanes
from goalwright_shared import topology
from goalwright_shared.messages import Lane
from support.system import System, echo, wait_for

SLOW = Lane(
    name="agent.writer", pool="k/slow", max_input_tokens=1000, max_output_tokens=1000, lease_seconds=60
)
OPEN_TASKS = """SELECT t.id, s.key, t.state FROM task t JOIN task_spec s ON s.id = t.id
WHERE t.state NOT IN ('succeeded', 'dead', 'cancelled', 'skipped')"""


def task(key: str, lane: str, **more: Any) -> dict[str, Any]:
    return {"key": key, "lane": lane, "outputs": [{"name": f"o-{key}"}], **more}


PROMPT = {"messages": [{"role": "user", "content": "?"}]}
PROGRAM = {"source": "check()"}

BUSY = [
    task("runs", "custom.a"),
    task("blocked", "custom.a", inputs=["o-runs", "o-nobody"]),
    task("after", "custom.a", after=["blocked"]),
    task("nobody", "custom.b"),
    task("person", "human", question={"text": "Shall we?", "timeout_seconds": 600}),
    task("later", "custom.a"),
    task("parent", "custom.a"),
    task("checked", "custom.a", acceptance=[{"kind": "program", "program": PROGRAM}]),
    task("busy", "agent.generalist", value=90),
    task("next", "agent.generalist", value=50),
    task("last", "agent.generalist", value=1),
    task("dear", "agent.ask", prompt=PROMPT),
    task("external", "custom.b", effects="external"),
    task("refused", "agent.writer"),
]

EXPECTED = {
    "goal": ("waits_for_children", "14 tasks under it are open: runs (dispatched)"),
    "runs": ("running", "on custom.a"),
    "blocked": ("waits_for_input", "o-runs, from task runs (dispatched"),
    "after": ("waits_for_input", "task blocked (blocked on custom.a)"),
    "nobody": ("no_performer", "custom.b"),
    "person": ("waits_for_person", "asks a person until"),
    "later": ("retry_at", "after 0 failures"),
    "parent": ("waits_for_children", "2 tasks under it are open: kid (ready), short (ready)"),
    "kid": ("no_performer", "custom.b"),
    "checked": ("checks_under_way", "1 checks of its answer are open: check-1 (ready)"),
    "check-1": ("no_performer", "exec"),
    "busy": ("running", "on agent.generalist"),
    "next": ("waits_for_slot", "agent.generalist (0 ahead, 1 running)"),
    "last": ("waits_for_slot", "agent.generalist (1 ahead, 1 running)"),
    "dear": ("over_budget", "what it serves would need 0.005000 USD and 0.001000 are left"),
    "short": ("over_budget", "it may cost 0.005000 USD and 0.001000 are left"),
    "external": ("waits_for_person", "retry or skip it by hand"),
    "refused": ("waits_for_rate", "pool k/slow: the provider asked to wait; again at"),
    "held-up": ("goal_paused", "user"),
    "held-up-next": ("waits_for_input", "task held-up (ready on custom.b); and the goal is paused: user"),
}


async def test_every_task_that_waits_says_for_what_and_it_is_so(system: System) -> None:
    await store_lanes(system.dsn, [SLOW], [])
    js = (await system.service()).jetstream()
    await topology.apply_consumer(js, "WORK", topology.lane_consumer(SLOW.name))
    for worker in ("one", "two"):  # a leader and a standby: either answers
        await system.start_scheduler(worker=worker)
    release = asyncio.Event()

    async def answer(work: Any) -> Any:
        match work["spec"]["key"]:
            case "later":
                return {"kind": "throttled", "retry_after_seconds": 600}
            case "parent":
                tasks = [task("kid", "custom.b"), task("short", "agent.ask", prompt=PROMPT)]
                return {"kind": "expand", "tasks": tasks, "continuation": 1}
            case "refused":
                return {"kind": "throttled", "retry_after_seconds": 600}
            case "runs" | "busy":
                await release.wait()
        return echo(work)

    system.perform("custom.a", answer, slots=8)
    system.perform("agent.generalist", answer, slots=1, client="service")
    system.perform("agent.writer", answer, slots=1, client="service")
    goal = await system.submit(budget_usd=0.001, plan={"tasks": BUSY})
    held_up = [task("held-up", "custom.b"), task("held-up-next", "custom.b", after=["held-up"])]
    paused = await system.submit(plan={"tasks": held_up})
    await system.request("control.pause", {"goal_id": paused})
    db = await asyncpg.connect(system.dsn)
    # a lease that ran out, without waiting for it
    await db.execute(
        """UPDATE task SET state = 'parked', epoch = 1
           FROM task_spec s WHERE s.id = task.id AND s.key = 'external'"""
    )

    async def wrong() -> dict[str, Any]:
        found = {}
        for row in await db.fetch(OPEN_TASKS):
            asked = {
                "goal_id": paused if row["key"].startswith("held-up") else goal,
                "task_id": str(row["id"]),
            }
            if row["key"] == "goal":
                asked["goal_id"], expected = await owner_of(row["id"]), ROOTS
            else:
                expected = [EXPECTED[row["key"]]]
            told = await system.request("query.why", asked)
            reasons = [(code, words) for code, words in expected if words in told.get("detail", "")]
            if told.get("reason") not in [code for code, _ in reasons]:
                found[row["key"]] = told
        return found

    async def owner_of(root: int) -> str:
        return str(await db.fetchval("SELECT goal_id FROM goal WHERE root_task = $1", root))

    wrongs: dict[str, Any] = {}

    async def right() -> bool:
        found = await wrong()
        wrongs.clear()
        wrongs.update(found)
        return not found

    try:
        await wait_for(right, 20)
    except TimeoutError:
        raise AssertionError(wrongs) from None
    keys = {row["key"] for row in await db.fetch(OPEN_TASKS)}
    assert keys == set(EXPECTED)
    for _ in range(6):  # the two schedulers take turns
        assert not await wrong()
    release.set()
    await db.close()


ROOTS = [
    EXPECTED["goal"],
    ("waits_for_children", "2 tasks under it are open: held-up (ready), held-up-next (blocked)"),
]


async def test_owner_whose_account_is_used_up_is_named(system: System) -> None:
    await system.start_scheduler()
    plan = {"tasks": [task("dear", "agent.ask", prompt=PROMPT), task("other", "custom.b")]}
    await system.request("control.budget", {"owner": "acme", "budget_usd": 0.001, "per": "day"})
    goal = (await system.request("goals.request.acme", {"plan": plan}))["goal_id"]
    why = await system.request("query.why.acme", {"goal_id": goal, "task_id": "dear"})
    assert why["reason"] == "over_budget"
    assert "owner acme has 0.001000 left today" in why["detail"]


async def test_task_that_has_ended_says_so(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    goal = await system.submit(plan={"tasks": [task("x", "custom.a")]})
    await system.finished(goal)
    why = await system.request("query.why", {"goal_id": goal, "task_id": "x"})
    assert (why["reason"], why["detail"]) == ("ended", "it is succeeded")
