"""A goal that needs a page: real scheduler, planner, agent and executor, and a web server that the settings allow."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from agent.model_server import Answer, ModelServer, calls, names, says
from aiohttp import web
from goalwright_agent.app import build as build_agent
from goalwright_agent.settings import AgentSettings
from goalwright_agent.settings import lanes as agent_lanes
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_executor.app import build as build_executor
from goalwright_executor.settings import ExecutorSettings
from goalwright_executor.settings import lanes as executor_lanes
from goalwright_planner.app import build as build_planner
from goalwright_planner.settings import PlannerSettings
from goalwright_planner.settings import lanes as planner_lanes
from goalwright_scheduler.settings import HUMAN_LANE
from goalwright_shared.lifecycle import Stopper
from planner.plans import answer, task
from support.system import System, opened

PAGE = "<html><body><h1>Mast</h1><p>The mast is 42 m high.</p><script>steal()</script></body></html>"
FREE = {"m": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}}


@dataclass
class World:
    """What runs, and where the page is."""

    system: System
    model: ModelServer
    page: str
    asked: list[str] = field(default_factory=list)  # paths that the web server was asked for


def one_that_reads(page: str) -> Any:
    """A model that plans one task of the researcher, which fetches the page if it can and tells what it was told."""

    def reply(body: dict[str, Any]) -> Answer:
        if "tools" not in body:
            return says(json.dumps(answer([task("look", [], ["report"], "agent.researcher")], ["report"])))
        results = [message["content"] for message in body["messages"] if message["role"] == "tool"]
        if results or "fetch_url" not in names(body):
            text = results[0] if results else "no web"
            return calls(("finish", {"outputs": [{"name": "report", "text": text}], "summary": "read"}))
        return calls(("fetch_url", {"url": page}))

    return reply


@pytest.fixture
async def world(
    nats_server: EmbeddedNats, postgres_dsn: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[World]:
    """Scheduler, planner, agent and executor with one setting of allowed hosts, as `goalwright up` starts them."""
    asked: list[str] = []

    async def site(visit: web.Request) -> web.Response:
        asked.append(visit.path)
        return web.Response(text=PAGE, content_type="text/html")

    application = web.Application()
    application.router.add_get("/{path:.*}", site)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    page = f"http://localhost:{port}/mast"
    model = ModelServer(one_that_reads(page))
    await model.start()
    common: dict[str, Any] = {
        "nats_url": nats_server.service_url,
        "home": tmp_path,
        "web_hosts": request.param,
    }
    agent = AgentSettings(
        **common,
        openai_base_url=model.url,
        model="m",
        model_embed="m",
        prices=FREE,
        roles_served="researcher,ask",
    )
    executor = ExecutorSettings(**common, web_networks="127.0.0.1/32,::1/128", web_ports=str(port))
    planner = PlannerSettings(nats_url=nats_server.service_url, home=tmp_path)
    rows = [HUMAN_LANE, *planner_lanes(planner), *agent_lanes(agent), *executor_lanes(executor)]
    async with opened(nats_server, postgres_dsn, rows) as system:
        await system.start_scheduler()
        stopper = Stopper()
        services = (
            build_planner(planner, stopper),
            build_agent(agent, stopper),
            build_executor(executor, stopper),
        )
        for part in itertools.chain.from_iterable(services):
            await part.start()
            system.parts.append(part)
        yield World(system, model, page, asked)
    await model.stop()
    await runner.cleanup()


async def done(world: World) -> tuple[str, list[str]]:
    """What a goal that names the page delivers, and the planner's warnings."""
    goal = await world.system.submit(text=f"How high is the mast? It stands on {world.page}")
    ended = await world.system.finished(goal)
    events = await world.system.events(goal)
    warnings = [text for event in events for text in event["data"].get("warnings", ())]
    return str(ended["deliverables"]["report"]["inline"]), warnings


@pytest.mark.parametrize("world", ["localhost"], indirect=True)
async def test_page_of_an_allowed_host_is_fetched_read_and_told(world: World) -> None:
    report, warnings = await done(world)
    assert "The mast is 42 m high." in report
    assert "steal" not in report
    assert world.asked == ["/mast"]
    assert warnings == []


@pytest.mark.parametrize("world", [""], indirect=True, ids=["by default"])
async def test_without_allowed_hosts_the_planner_says_what_is_missing(world: World) -> None:
    report, [warning] = await done(world)
    assert report == "no web"
    assert world.page in warning
    assert "GOALWRIGHT_WEB_HOSTS" in warning
    assert world.asked == []


@pytest.mark.parametrize("world", ["example.org"], indirect=True)
async def test_page_of_another_host_than_the_allowed_ones_is_refused(world: World) -> None:
    report, _ = await done(world)
    assert "localhost is not among the allowed hosts (example.org)" in report
    assert world.asked == []
