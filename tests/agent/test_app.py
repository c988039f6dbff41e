"""The service as it runs: over a real nats-server, against a server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from goalwright_agent import role_folder
from goalwright_agent.app import build
from goalwright_agent.settings import AgentSettings, lanes
from goalwright_shared import lifecycle, subjects, topology
from goalwright_shared.errors import TopologyMissing
from goalwright_shared.lifecycle import Stopper
from goalwright_shared.messages import Outcome, parse_outcomes
from nats.aio.client import Client
from structlog.testing import capture_logs
from support.waiting import eventually

from agent.model_server import Answer, ModelServer, calls, refuses, says
from agent.play import output_text, work_of
from agent.test_asking import ask
from agent.test_role_turns import finish, task


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    """Stands for the scheduler."""
    connection = await nats.connect(nats_url, inbox_prefix="_INBOX_SERVICE")
    yield connection
    await connection.close()


@pytest.fixture
def service(settings: AgentSettings, nats_url: str) -> AgentSettings:
    """Settings of a small agent."""
    return settings.model_copy(
        update={"nats_url": nats_url, "agent_slots": 2, "drain_seconds": 2.0, "prices": {}}
    )


@pytest.fixture
async def running(service: AgentSettings, client: Client) -> AsyncIterator[list[object]]:
    """The parts of app.py, started in order and stopped in reverse."""
    await topology.apply(client.jetstream(), [lane.name for lane in lanes(service)])
    parts = list(build(service, Stopper()))
    for part in parts:
        await part.start()
    yield list(parts)
    for part in reversed(parts):
        await part.stop()


async def outcomes(client: Client, count: int) -> list[Outcome]:
    """The first outcomes on the stream."""
    js = client.jetstream()

    async def arrived() -> bool:
        return (await js.stream_info(subjects.OUTCOMES)).state.messages >= count

    await eventually(arrived)
    found = [await js.get_msg(subjects.OUTCOMES, seq) for seq in range(1, count + 1)]
    return [parse_outcomes(message.data or b"", trusted=True)[0][0] for message in found]


async def test_work_from_the_stream_is_answered_on_the_lane_of_outcomes(
    running: list[object], client: Client, model: ModelServer
) -> None:
    model.next(lambda body: calls(finish(report="22")) if "tools" in body else says("fine"))
    js = client.jetstream()
    await js.publish(subjects.work("agent.ask"), work_of(ask(None), task_id="1").to_json())
    await js.publish(subjects.work("agent.coder"), work_of(task(inputs=[]), task_id="2").to_json())
    found = {outcome.task_id: outcome for outcome in await outcomes(client, 2)}
    assert output_text(found["1"], "verdict") == "fine"
    assert output_text(found["2"], "report") == "22"
    assert found["1"].worker


async def test_bad_key_throttles_and_the_next_work_is_done_when_it_is_mended(
    running: list[object], client: Client, model: ModelServer
) -> None:
    model.next(refuses(401, "Incorrect API key provided: sk-test-0123456789"), says("fine"))
    js = client.jetstream()
    await js.publish(subjects.work("agent.ask"), work_of(ask(None)).to_json())
    [first] = await outcomes(client, 1)
    assert first.kind == "throttled"
    assert first.reason is not None
    assert first.reason.startswith("pool_blocked: ")
    assert "sk-test-0123456789" not in first.reason
    await js.publish(subjects.work("agent.ask"), work_of(ask(None), epoch=2).to_json())
    assert (await outcomes(client, 2))[1].kind == "done"


async def test_cancelled_call_is_given_up_without_an_outcome(
    running: list[object], client: Client, model: ModelServer
) -> None:
    model.next(Answer(hang=True))
    js = client.jetstream()
    await js.publish(subjects.work("agent.ask"), work_of(ask(None), task_id="77").to_json())
    await eventually(lambda: len(model.requests) == 1)
    await client.publish(subjects.cancel("77"), b"")
    model.next(says("fine"))
    await js.publish(subjects.work("agent.ask"), work_of(ask(None), task_id="78").to_json())
    assert [outcome.task_id for outcome in await outcomes(client, 1)] == ["78"]


async def test_agent_without_topology_says_what_to_run(service: AgentSettings, client: Client) -> None:
    with pytest.raises(TopologyMissing, match="goalwright topology apply"):
        await lifecycle.run(build(service, Stopper()), Stopper())


ROLE = "---\ndescription: translates\n---\nYou translate into {language}.\n"


async def test_role_file_that_is_dropped_in_while_the_agent_runs_is_performed_once_it_is_applied(
    service: AgentSettings,
    client: Client,
    model: ModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(role_folder, "POLL_SECONDS", 0.05)
    service, js = service.model_copy(update={"roles": tmp_path}), client.jetstream()
    await topology.apply(js, [lane.name for lane in lanes(service)])
    parts = list(build(service, Stopper()))
    for part in parts:
        await part.start()

    async def told() -> str:
        """What the role is told, found out by a task of its own."""
        before = len(model.requests)
        work = work_of(task("translator", inputs=[]), task_id=f"t{before}")
        await js.publish(subjects.work("agent.translator"), work.to_json())
        await eventually(lambda: len(model.requests) > before)
        return str(model.sent()[0]["content"])

    async def is_told(language: str) -> bool:
        return f"into {language}" in await told()

    try:
        file = tmp_path / "translator.md"
        with capture_logs() as lines:
            file.write_text("---\nhalf of a fi")
            await eventually(lambda: "front matter" in str(lines))
            file.write_text(ROLE.format(language="Latin"))
            await eventually(lambda: "topology apply" in str(lines))
        await topology.apply(js, [lane.name for lane in lanes(service)])
        assert await is_told("Latin")
        file.write_text(ROLE.format(language="Old Greek"))
        await eventually(lambda: is_told("Old Greek"))
    finally:
        for part in reversed(parts):
            await part.stop()
