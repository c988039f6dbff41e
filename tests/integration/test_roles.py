"""A role file dropped into a folder: a lane that planners are offered, while the system runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from goalwright_agent.settings import AgentSettings, lanes, pools
from goalwright_scheduler.lanes import store_lanes
from support.system import LANES, System, wait_for

ROLE = "---\ndescription: translates texts and keeps their form\ntools: [ask]\n---\nYou translate.\n"


async def test_role_that_is_dropped_as_a_file_is_offered_to_the_planner_until_it_is_gone(
    system: System, tmp_path: Path
) -> None:
    await system.start_scheduler()
    offered: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    def plan(work: Any) -> dict[str, Any]:
        offered.put_nowait({lane["name"]: lane["description"] for lane in work["lanes"]})
        return {"kind": "failed", "error": {"code": "no", "message": "no plan is wanted here"}}

    async def offers() -> dict[str, str]:
        await system.submit(text="Anything")
        return await offered.get()

    system.perform("plan", plan, client="service")
    assert "agent.translator" not in await offers()

    async def apply() -> list[str]:
        settings = AgentSettings(openai_base_url="http://127.0.0.1:9/v1", model="local", roles=tmp_path)
        return await store_lanes(system.dsn, [*LANES, *lanes(settings)], pools(settings))

    (tmp_path / "translator.md").write_text(ROLE)
    assert "lane agent.translator created" in await apply()
    plan_on_it = {"plan": {"tasks": [{"key": "a", "lane": "agent.translator", "instruction": "x"}]}}

    async def is_live() -> bool:
        return "goal_id" in await system.request("goals.request", plan_on_it)

    await wait_for(is_live)
    assert (await offers())["agent.translator"] == "translates texts and keeps their form"

    (tmp_path / "translator.md").unlink()
    assert [line for line in await apply() if "translator" in line] == [
        "lane agent.translator has no role any more: it is not offered to planners"
    ]

    async def is_gone() -> bool:
        return "agent.translator" not in await offers()

    await wait_for(is_gone)
