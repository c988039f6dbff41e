"""A real workflow graph on a custom lane, with a performer on plain nats-py; also while services are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Outsider, Up, done
from goalwright_cli.children import SERVICES
from support.waiting import eventually

GRAPH = Path(__file__).parent / "data" / "epigenomics.json"

pytestmark = pytest.mark.timeout(180)


def tasks_of(lane: str) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """The graph as tasks whose edges come from files alone, and the parents that it declares.

    Names are numbered: file names may be longer than a name of ours.
    """
    tasks = json.loads(GRAPH.read_text())["workflow"]["specification"]["tasks"]
    keys = {task["id"]: f"t{number}" for number, task in enumerate(tasks)}
    made = [file for task in tasks for file in task["outputFiles"]]
    files = {file: f"f{number}" for number, file in enumerate(made)}
    assert len(files) == len(made)
    plan = [
        {
            "key": keys[task["id"]],
            "title": task["name"][:100],
            "lane": lane,
            "inputs": [files[file] for file in dict.fromkeys(task["inputFiles"]) if file in files],
            "outputs": [{"name": files[file]} for file in task["outputFiles"]],
        }
        for task in tasks
    ]
    return plan, {keys[task["id"]]: [keys[parent] for parent in task["parents"]] for task in tasks}


@pytest.fixture(scope="module")
def lane(up: Up) -> str:
    """A lane that is added while the system runs."""
    assert "is live" in up.goalwright("lane", "add", "custom.genome", "--lease-seconds", "20")
    return "custom.genome"


def assert_each_once_and_in_order(events: Sequence[Any], parents: dict[str, list[str]]) -> None:
    """One success per task, dispatched only after the success of all it needs."""
    succeeded = {e["data"]["key"]: e["seq"] for e in events if e["kind"] == "task.succeeded"}
    assert [e["kind"] for e in events].count("task.succeeded") == len(parents) + 1  # and the goal itself
    assert set(parents) <= set(succeeded)
    for event in events:
        if event["kind"] == "task.dispatched":
            for parent in parents[event["data"]["key"]]:
                assert succeeded[parent] < event["seq"]


async def test_real_workflow_runs_every_task_once_and_never_before_its_inputs(
    outsider: Outsider, lane: str
) -> None:
    plan, parents = tasks_of(lane)
    outsider.perform(lane, done)
    goal = await outsider.submit(text="A genome", plan={"tasks": plan})
    events = await outsider.watch(goal)
    assert events[-1]["data"]["status"] == "done"
    assert_each_once_and_in_order(events, parents)
    assert sorted(key for key, _ in outsider.performed) == sorted(parents)
    given = {task["key"]: sorted(task["inputs"]) for task in plan}
    assert all(inputs == given[key] for key, inputs in outsider.performed)


async def test_same_id_twice_is_one_goal(outsider: Outsider, lane: str) -> None:
    outsider.perform(lane, done)
    name = uuid.uuid4().hex
    body = {"id": name, "plan": {"tasks": [{"key": "only", "lane": lane, "outputs": [{"name": "o"}]}]}}
    first, second = await asyncio.gather(*(outsider.request("goals.request", body) for _ in range(2)))
    await outsider.client.publish("goals.submit", json.dumps(body).encode())
    assert sorted(answer["duplicate"] for answer in (first, second)) == [False, True]
    events = await outsider.watch(name)
    third = await outsider.request("goals.request", body)
    assert (third["goal_id"], third["duplicate"], third["status"]) == (name, True, "done")
    assert [key for key, _ in outsider.performed] == ["only"]
    assert [event["kind"] for event in events].count("goal.accepted") == 1


async def test_goal_ends_once_while_each_service_is_killed_in_its_middle(
    up: Up, outsider: Outsider, lane: str
) -> None:
    plan, parents = tasks_of(lane)
    (end,) = [task for task in plan if not any(task["key"] in needed for needed in parents.values())]
    last = end["outputs"][0]["name"]
    program = {"language": "python", "source": "print(open('in/" + last + "').read())"}
    plan.append(
        {"key": "run", "lane": "exec", "inputs": [last], "outputs": [{"name": "stdout"}], "program": program}
    )
    parents["run"] = [end["key"]]
    go = asyncio.Semaphore(0)

    async def when_told(work: Any) -> dict[str, Any]:
        await go.acquire()
        return await done(work)

    outsider.perform(lane, when_told)
    goal = await outsider.submit(text="A genome under fire", plan={"tasks": plan})
    for number, service in enumerate(SERVICES):

        async def reached(least: int = 6 * number) -> bool:
            counts = (await outsider.request("query.goal", {"goal_id": goal}))["counts"]
            return bool(counts.get("succeeded", 0) >= least)

        await eventually(reached, timeout_seconds=40)
        (victim,) = up.run.services[service]
        os.kill(victim, signal.SIGKILL)
        for _ in range(6):
            go.release()
        await eventually(lambda s=service, v=victim: up.run.services[s] != [v], timeout_seconds=40)  # type: ignore[misc]
    for _ in range(len(plan)):
        go.release()
    events = await outsider.watch(goal, 90)
    assert events[-1]["data"]["status"] == "done"
    assert events[-1]["data"]["deliverables"]["stdout"]["inline"].startswith("made by")
    assert_each_once_and_in_order(events, parents)
