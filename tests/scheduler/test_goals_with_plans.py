"""Goals that bring their own plan: from submission to deliverables, through real NATS and Postgres."""

from __future__ import annotations

from support.system import System, chain


async def test_chain_runs_in_order_and_delivers(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    goal = await system.submit(id="chain", text="a chain", plan={"tasks": chain("custom.a", "x", "y", "z")})
    ended = await system.finished(goal)
    assert ended["status"] == "done"
    assert ended["deliverables"]["o-z"]["inline"] == "z(o-y=y(o-x=x()))"
    assert [key for key, _, _ in system.performed] == ["x", "y", "z"]


async def test_events_are_gapless_and_ordered(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    goal = await system.submit(text="events", plan={"tasks": chain("custom.a", "x", "y")})
    await system.finished(goal)
    events = await system.events(goal)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "goal.accepted"
    assert kinds[-1] == "goal.finished"
    assert kinds.count("task.dispatched") == kinds.count("task.succeeded") - 1 == 2
