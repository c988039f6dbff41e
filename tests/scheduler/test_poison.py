"""What cannot be done for one task stops nobody else, and nothing is thrown away for a fault that is not its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from goalwright_scheduler import control, dispatch
from support.system import System, chain, echo

ASKS = {
    "key": "asks", "lane": "human", "outputs": [{"name": "said"}],
    "question": {"text": "?", "default": "poison", "timeout_seconds": 0.2},
}  # fmt: skip


async def term(system: System) -> int:
    db = await asyncpg.connect(system.dsn)
    try:
        found: int = await db.fetchval("SELECT term FROM leader")
    finally:
        await db.close()
    return found


async def test_a_question_whose_default_cannot_be_taken_fails_and_others_go_on(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = control.answer

    async def answer(change: Any, row: Any, text: str) -> None:
        if text == "poison":
            raise ValueError("it does not fit")
        await plain(change, row, text)

    monkeypatch.setattr(control, "answer", answer)
    await system.start_scheduler()
    asked = await system.submit(plan={"tasks": [ASKS]})
    await system.until(asked, "asks", "dead")
    assert (await system.task(asked, "asks"))["attempts"][-1]["error"]["code"] == "cannot_apply"
    system.perform("custom.a")
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y")})
    assert (await system.finished(goal))["status"] == "done"
    assert await term(system) == 1, "nobody else had to lead"


async def test_a_task_that_cannot_be_read_is_left_out_and_others_go_on(system: System) -> None:
    await system.start_scheduler()
    asked = await system.submit(plan={"tasks": [ASKS]})
    await system.until(asked, "asks", "parked")
    db = await asyncpg.connect(system.dsn)
    await db.execute("""UPDATE task_spec SET spec = '{"key": "asks"}' WHERE key = 'asks'""")
    await db.close()
    await asyncio.sleep(0.5)  # its time has come, and comes again
    system.perform("custom.a")
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y")})
    assert (await system.finished(goal))["status"] == "done"
    assert await term(system) == 1


async def test_answers_are_kept_while_the_fault_is_not_theirs(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, is_ill = dispatch.dispatch, asyncio.Event()

    async def ill(*arguments: Any) -> None:
        if is_ill.is_set():
            raise ValueError("ill")
        await plain(*arguments)

    monkeypatch.setattr(dispatch, "dispatch", ill)
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        is_ill.set()
        return echo(work) | {"notes": ["this is more than a plain answer"]}

    system.perform("custom.a", answer)
    dead: list[Any] = []

    async def bury(message: Any) -> None:
        dead.append(json.loads(message.data))

    await (await system.service()).subscribe("dead.>", cb=bury)
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y")})
    await is_ill.wait()
    await asyncio.sleep(1)  # it is tried again and again
    assert dead == []
    is_ill.clear()
    monkeypatch.setattr(dispatch, "dispatch", plain)
    ended = await system.finished(goal)
    assert (ended["status"], dead) == ("done", [])
