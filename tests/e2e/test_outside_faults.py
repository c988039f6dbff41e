"""What is outside fails: the disk of artifacts, the model, its key. The message says so, and the next goal works."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import nats
import pytest
from e2e.conftest import Outsider, Up, done, outside, running_up
from goalwright_cli import processes, runfile
from nats.js.client import JetStreamContext
from support.waiting import eventually

pytestmark = pytest.mark.timeout(180)


def writes(megabytes: int) -> dict[str, Any]:
    """A plan of one program that leaves a large file nobody has stored yet."""
    source = f"import os\nopen('out/big', 'wb').write(os.urandom({megabytes} << 20))\n"
    task = {"key": "big", "lane": "exec", "max_failures": 1, "outputs": [{"name": "big", "type": "file"}],
            "program": {"language": "python", "source": source}}  # fmt: skip
    return {"tasks": [task]}


@pytest.fixture
async def operator(up: Up) -> AsyncIterator[JetStreamContext]:
    """All rights on the system's NATS."""
    client = await nats.connect(runfile.operator_url(up.home, None))
    yield client.jetstream()
    await client.close()


@contextlib.asynccontextmanager
async def full_disk(js: JetStreamContext) -> AsyncIterator[None]:
    """The bucket takes no more than it has and a little; lifted afterwards."""
    info = await js.stream_info("OBJ_ARTIFACTS")
    await js.update_stream(info.config.evolve(max_bytes=info.state.bytes + 50_000))
    try:
        yield
    finally:
        await js.update_stream(info.config)


async def test_full_disk_for_artifacts_fails_the_task_with_the_hint(
    outsider: Outsider, operator: JetStreamContext
) -> None:
    async with full_disk(operator):
        goal = await outsider.submit(id="full", plan=writes(2))
        events = await outsider.watch(goal)
        assert events[-1]["data"]["status"] == "failed"
        told = await outsider.request("query.task", {"goal_id": goal, "task_id": "big"})
        error = told["attempts"][-1]["error"]
        assert error["code"] == "artifact_not_stored"
        assert "is the disk of NATS full" in error["message"] and "OBJ_ARTIFACTS" in error["message"]
        assert "could not be stored" in events[-1]["data"]["reason"]
        small = await outsider.submit(id="small-while-full", plan=writes(0))
        assert (await outsider.watch(small))[-1]["data"]["status"] == "done", "what fits still works"
    events = await outsider.watch(await outsider.submit(id="roomy", plan=writes(2)))
    assert events[-1]["data"]["status"] == "done"
    assert events[-1]["data"]["deliverables"]["big"]["size"] == 2 << 20


BAD_KEY = json.dumps(
    {
        "error": {
            "message": "Incorrect API key provided",
            "type": "invalid_request_error",
            "code": "invalid_api_key",
        }
    }
).encode()


@pytest.fixture(scope="module")
def port() -> int:
    """Where the model should be."""
    return processes.free_port()


@pytest.fixture(scope="module")
def without_model(port: int) -> Iterator[Up]:
    """A system of its own whose model is at a port where nobody listens yet."""
    with running_up(
        OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1",
        OPENAI_API_KEY="sk-wrong-wrong-wrong-wrong",
        GOALWRIGHT_MODEL="some-model",
        GOALWRIGHT_POOL_PARK_SECONDS="1",
    ) as up:
        up.goalwright("lane", "add", "custom.calm")
        yield up


async def next_goal_works(outsider: Outsider) -> None:
    """A goal that needs no model."""
    task = {"key": "calm", "lane": "custom.calm", "outputs": [{"name": "o"}]}
    outsider.perform("custom.calm", done)
    events = await outsider.watch(await outsider.submit(id=uuid.uuid4().hex, plan={"tasks": [task]}))
    assert events[-1]["data"]["status"] == "done"


async def test_unreachable_model_fails_the_goal_with_the_fix(without_model: Up, port: int) -> None:
    async with outside(without_model) as outsider:
        events = await outsider.watch(await outsider.submit(text="Say something"), 120)
        finished = events[-1]["data"]
        assert finished["status"] == "failed"
        assert f"no model answers at http://127.0.0.1:{port}/v1" in finished["reason"], finished["reason"]
        assert "set OPENAI_BASE_URL" in finished["reason"]
        await next_goal_works(outsider)


@contextlib.asynccontextmanager
async def refusing_server(port: int) -> AsyncIterator[list[bytes]]:
    """A provider that refuses every key; what it was asked."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(
                b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(BAD_KEY), BAD_KEY)
            )
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", port)
    try:
        yield asked
    finally:
        server.close()
        await server.wait_closed()


async def test_wrong_key_parks_the_model_with_one_clear_message(without_model: Up, port: int) -> None:
    async with outside(without_model) as outsider, refusing_server(port) as asked:
        goal = await outsider.submit(text="Say something", id="keyless")

        async def told() -> Any:
            graph = await outsider.request("query.graph", {"goal_id": goal})
            waiting = [task for task in graph["tasks"] if task["lane"] == "agent.ask" and asked]
            for task in waiting:
                why = await outsider.request("query.why", {"goal_id": goal, "task_id": task["task_id"]})
                if "refused the key" in why["detail"]:
                    return why
            return None

        why = await eventually(told, timeout_seconds=40)
        assert why["reason"] == "waits_for_rate"
        assert "(401)" in why["detail"] and "Fix: set OPENAI_API_KEY" in why["detail"]
        assert "sk-wrong" not in json.dumps(why)
        assert (await outsider.request("query.goal", {"goal_id": goal}))["finished_at"] is None
        await next_goal_works(outsider)
        await outsider.request("control.cancel", {"goal_id": goal})
        events = await outsider.watch(goal)
        assert events[-1]["data"]["status"] == "cancelled"
        (reason, *_) = [e["data"]["reason"] for e in events if e["kind"] == "task.throttled"]
        assert "refused the key" in reason
