"""compose.yaml end to end: built, started, given a goal, scaled, taken down."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest
from container import engine
from container.engine import IMAGE_TAG, System

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

PROGRAM = (
    "rows = open('in/orders').read().split()[1:]\n"
    "open('out/total', 'w').write(str(sum(int(r.split(',')[1]) for r in rows)))\n"
)
GOAL = {
    "text": "Add up the orders",
    "inputs": [{"name": "orders", "type": "table", "inline": "day,amount\n1,10\n2,12\n"}],
    "plan": {
        "tasks": [
            {
                "key": "sum",
                "lane": "exec",
                "inputs": ["orders"],
                "outputs": [{"name": "total", "type": "text"}],
                "program": {"language": "python", "source": PROGRAM},
            }
        ]
    },
}


async def finished(url: str, goal: dict[str, Any]) -> dict[str, Any]:
    """Publish a goal as any client would; the data of its `goal.finished`."""
    async with await nats.connect(url) as client:
        events = await client.subscribe(f"events.public.{goal['id']}.goal.finished")
        await client.publish("goals.submit", json.dumps(goal).encode())
        message = await events.next_msg(timeout=90)
        data: dict[str, Any] = json.loads(message.data)["data"]
        return data


def test_the_image_runs_without_root_rights(checkout: Path) -> None:
    user = engine.run("docker", "run", "--rm", "--entrypoint", "id", f"goalwright:{IMAGE_TAG}", "-u")
    assert user.strip() == "10001"


def test_every_service_is_ready(system: System) -> None:
    listed = [json.loads(line) for line in system.compose("ps", "--format", "json").splitlines()]
    health = {entry["Service"]: entry["Health"] for entry in listed}
    expected = {"nats", "postgres", "planner", "scheduler", "agent", "executor", "reflector", "rehearsal"}
    assert health == dict.fromkeys(expected, "healthy")


async def test_a_published_goal_is_done_by_a_program_in_a_container(system: System) -> None:
    data = await finished(system.client_url, {**GOAL, "id": "compose-sum"})
    assert data["status"] == "done", data
    assert data["deliverables"]["total"]["inline"] == "22"


async def test_four_agents_serve_after_scaling(system: System) -> None:
    await asyncio.to_thread(
        system.compose, "up", "--detach", "--no-build", "--no-recreate", "--wait", "--scale", "agent=4"
    )
    assert len(system.compose.containers("agent")) == 4
    data = await finished(system.client_url, {**GOAL, "id": "compose-scaled"})
    assert data["status"] == "done", data


def test_only_nats_is_published_and_only_on_loopback(system: System) -> None:
    services = json.loads(system.compose("config", "--format", "json"))["services"]
    published = {
        name: [port["host_ip"] for port in service.get("ports", [])] for name, service in services.items()
    }
    assert {name: hosts for name, hosts in published.items() if hosts} == {"nats": ["127.0.0.1"]}


def test_each_secret_reaches_only_the_services_that_use_it(system: System) -> None:
    services = json.loads(system.compose("config", "--format", "json"))["services"]

    def holders(secret: str) -> set[str]:
        value = system.secrets[secret]
        return {name for name, service in services.items() if value in json.dumps(service)}

    assert holders("OPENAI_API_KEY") == {"agent"}
    assert holders("GOALWRIGHT_POSTGRES_PASSWORD") == {"postgres", "bootstrap", "scheduler"}
    assert holders("GOALWRIGHT_NATS_CLIENT_PASSWORD") == {"nats"}
    sockets = {
        name for name, service in services.items() if "docker.sock" in json.dumps(service.get("volumes"))
    }
    assert sockets == {"executor"}
