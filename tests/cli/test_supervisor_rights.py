"""What a client of the embedded NATS may do, and what it may not: DESIGN's clients and custom performers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import nats
import pytest
from goalwright_cli import embedded_nats
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_shared import subjects, topology
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext
from support.waiting import eventually

REPOSITORY = Path(__file__).parents[2]


class AsClient:
    """A connection with the rights of a client that remembers what was refused."""

    def __init__(self, client: Client, refused: list[str]) -> None:
        self.nats, self.refused = client, refused
        self.js: JetStreamContext = client.jetstream(timeout=1)

    async def expect_refusal(self, act: Callable[[], Awaitable[object]]) -> None:
        """The server refuses what `act` does."""
        await act()
        await eventually(lambda: self.refused, timeout_seconds=3)


@pytest.fixture
async def service(nats_server: EmbeddedNats) -> AsyncIterator[Client]:
    """A service's connection, with the topology and one custom lane applied."""
    connection = await nats.connect(nats_server.service_url)
    await topology.apply(connection.jetstream(), [*embedded_nats.BUILT_IN_LANES, "custom.etl"])
    yield connection
    await connection.close()


@pytest.fixture
async def client(nats_server: EmbeddedNats, service: Client) -> AsyncIterator[AsClient]:
    """A client's connection."""
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error))

    connection = await nats.connect(nats_server.client_url, error_cb=on_error)
    yield AsClient(connection, refused)
    await connection.close()


async def test_a_client_submits_asks_steers_and_follows_events(client: AsClient, service: Client) -> None:
    async def answer(message: Msg) -> None:
        await message.respond(json.dumps({"subject": message.subject}).encode())

    for subject in ("goals.request", "control.*", "query.*"):
        await service.subscribe(subject, cb=answer)
    await service.flush()
    ack = await client.js.publish(subjects.GOALS_SUBMIT, b"a goal")
    assert ack.stream == subjects.GOALS
    for subject in (subjects.request(), subjects.control("pause"), subjects.query("goal")):
        reply = await client.nats.request(subject, b"{}", timeout=2)
        assert json.loads(reply.data) == {"subject": subject}
    await service.jetstream().publish(subjects.event("public", "g", "goal.accepted"), b"1")
    ordered = await client.js.subscribe(subjects.EVENTS_ALL, ordered_consumer=True)
    assert (await ordered.next_msg(timeout=2)).data == b"1"
    live = await client.nats.subscribe(subjects.events_of("g"))
    await client.nats.flush()
    await service.publish(subjects.event("public", "g", "goal.finished"), b"2")
    assert (await live.next_msg(timeout=2)).data == b"2"
    assert client.refused == []


async def test_a_custom_performer_takes_and_answers_its_own_work(client: AsClient, service: Client) -> None:
    await service.jetstream().publish(subjects.work("custom.etl"), b"work")
    pull = await client.js.pull_subscribe(
        subjects.work("custom.etl"), durable="work-custom-etl", stream=subjects.WORK
    )
    (message,) = await pull.fetch(1, timeout=2)
    assert message.data == b"work"
    await client.js.publish(subjects.outcomes("custom.etl"), b"done")
    await client.nats.publish(subjects.alive("custom.etl"), b"{}")
    await message.in_progress()
    await message.ack_sync(timeout=2)
    info = await service.jetstream().consumer_info(subjects.WORK, "work-custom-etl")
    assert (info.num_pending, info.num_ack_pending) == (0, 0)
    assert client.refused == []


async def test_a_client_puts_and_gets_artifacts(client: AsClient) -> None:
    bucket = await client.js.object_store(subjects.ARTIFACTS)
    await bucket.put("0f3c", b"x" * 300_000)
    assert (await bucket.get("0f3c")).data == b"x" * 300_000
    assert client.refused == []


async def test_a_client_cannot_take_the_work_of_a_built_in_lane(client: AsClient, service: Client) -> None:
    await service.jetstream().publish(subjects.work("agent.coder"), b"secret")
    inbox = client.nats.new_inbox()
    replies = await client.nats.subscribe(inbox)
    await client.expect_refusal(
        lambda: client.nats.publish("$JS.API.CONSUMER.MSG.NEXT.WORK.work-agent-coder", b"1", reply=inbox)
    )
    assert replies.pending_msgs == 0


@pytest.mark.parametrize(
    "subject",
    [
        "outcomes.agent.coder", "outcomes.exec", "alive.exec", "work.exec", "work.custom.etl",
        "events.public.g.goal.finished", "cancel.7", "dead.GOALS",
        "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.DELETE.GOALS", "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.CONSUMER.DELETE.WORK.work-exec", "$JS.API.CONSUMER.CREATE.WORK.mine",
        "$JS.API.STREAM.MSG.GET.WORK", "$JS.ACK.WORK.work-exec.1.1.1.1.0",
        f"$JS.API.CONSUMER.DELETE.EVENTS.{subjects.DURABLE_REFLECTOR}",
        f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{subjects.DURABLE_REFLECTOR}",
        f"$JS.API.CONSUMER.CREATE.EVENTS.{subjects.DURABLE_REFLECTOR}.events.>",
        f"$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.{subjects.DURABLE_REFLECTOR}",
    ],
)  # fmt: skip
async def test_a_client_cannot_publish(client: AsClient, subject: str) -> None:
    await client.expect_refusal(lambda: client.nats.publish(subject, b"{}"))


@pytest.mark.parametrize("subject", ["work.>", "outcomes.>", "_INBOX_SERVICE.>", "goals.>", ">"])
async def test_a_client_cannot_listen_to(client: AsClient, subject: str) -> None:
    async def listen() -> None:
        await client.nats.subscribe(subject)

    await client.expect_refusal(listen)


def test_the_deployed_configuration_has_the_same_rights() -> None:
    variables = embedded_nats.Credentials(
        "$GOALWRIGHT_NATS_SERVICE_PASSWORD", "$GOALWRIGHT_NATS_CLIENT_PASSWORD"
    )
    wanted = embedded_nats.render_config("0.0.0.0:4222", Path("/data/jetstream"), variables)
    assert (REPOSITORY / "deploy/nats/nats.conf").read_text().endswith(wanted)
