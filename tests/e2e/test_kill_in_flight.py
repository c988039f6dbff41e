"""Kill -9 of a performer that has work in its hands: it comes back by redelivery (30 s), and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest
from e2e.conftest import Outsider, Up
from e2e.test_profile import EXAMPLE, assert_delivered, assert_repaired_and_replanned

pytestmark = pytest.mark.timeout(180)


async def test_profile_ends_whole_when_the_executor_dies_with_its_program(up: Up, outsider: Outsider) -> None:
    rows = [{"n": str(n), "word": "wxyz"[n % 4]} for n in range(120)]
    body = "n,word\n" + "".join(f"{row['n']},{row['word']}\n" for row in rows)
    table = await outsider.put("data", "table", "text/csv", body.encode())
    dispatched = await outsider.client.subscribe("events.public.in-flight.task.dispatched")
    goal = json.loads((EXAMPLE / "goal.json").read_text())
    await outsider.submit(**goal, id="in-flight", inputs=[table])
    async with asyncio.timeout(60):
        async for message in dispatched.messages:
            if json.loads(message.data)["data"]["lane"] == "exec":
                break
    (victim,) = up.run.services["executor"]
    os.kill(victim, signal.SIGKILL)
    events = await outsider.watch("in-flight", 120)
    await assert_delivered(outsider, events, rows)
    assert_repaired_and_replanned(events)
    done = [event["task_id"] for event in events if event["kind"] == "task.succeeded"]
    assert len(done) == len(set(done))
    assert up.run.services["executor"] != [victim]
