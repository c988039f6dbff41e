"""Streams, consumers and lanes against a real nats-server and Postgres."""

from __future__ import annotations

import json

import pytest
from goalwright_cli import topology
from goalwright_cli.embedded_nats import BUILT_IN_LANES, EmbeddedNats
from goalwright_cli.lane import build_lane
from goalwright_cli.main import build
from goalwright_scheduler import migrations
from goalwright_shared import subjects
from goalwright_shared import topology as shape
from goalwright_shared.messages import Lane
from nats.aio.msg import Msg
from nats.js.api import StreamConfig
from typer.testing import CliRunner


def test_every_lane_has_one_owner_and_names_what_it_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "tool.web" not in [lane.name for lane in topology.collect_lanes()]
    monkeypatch.setenv("GOALWRIGHT_WEB_HOSTS", "example.org")
    names = [lane.name for lane in topology.collect_lanes()]
    assert len(names) == len(set(names))
    assert set(BUILT_IN_LANES) == set(names)


async def test_preparing_twice_changes_nothing(nats_url: str, postgres_dsn: str) -> None:
    first = await topology.prepare(nats_url, postgres_dsn)
    assert "stream GOALS created" in first
    assert await topology.prepare(nats_url, postgres_dsn) == []
    assert await topology._differences(nats_url) == []


async def test_a_lane_of_a_user_keeps_its_consumer_when_the_topology_is_applied(
    nats_server: EmbeddedNats, postgres_dsn: str
) -> None:
    from goalwright_scheduler.lanes import store_lanes

    await migrations.migrate(postgres_dsn)
    await store_lanes(postgres_dsn, [Lane(name="custom.etl", performer="custom", lease_seconds=7)], [])
    await topology.apply_all(nats_server.service_url, postgres_dsn)
    async with topology.connection(nats_server.service_url) as client:
        config = (await client.jetstream().consumer_info(subjects.WORK, "work-custom-etl")).config
    assert config.ack_wait == 37, "its lease and a margin: its performers need not extend the delivery"


async def test_goals_are_synced_and_what_postgres_can_rebuild_is_not(nats_url: str) -> None:
    async with topology.connection(nats_url) as client:
        await shape.apply(client.jetstream(), [])
        raw = {
            name: json.loads((await client.request(f"$JS.API.STREAM.INFO.{name}", b"")).data)["config"]
            for name in (subjects.GOALS, f"OBJ_{subjects.ARTIFACTS}", subjects.OUTCOMES, subjects.EVENTS)
        }
    modes = {name: config.get("persist_mode", "default") for name, config in raw.items()}
    assert modes == {"GOALS": "default", "OBJ_ARTIFACTS": "default", "OUTCOMES": "async", "EVENTS": "async"}


async def test_verify_names_what_is_missing_and_what_differs_and_apply_mends_it(nats_url: str) -> None:
    lanes = topology.performed(topology.collect_lanes())
    async with topology.connection(nats_url) as client:
        js = client.jetstream()
        await js.add_stream(StreamConfig(name=subjects.EVENTS, subjects=["events.>"], max_age=60))
        await shape.apply(js, [lane for lane in lanes if lane != "exec"])
        await js.update_stream(StreamConfig(name=subjects.EVENTS, subjects=["events.>"], max_age=60))
        found = await topology._differences(nats_url)
        await shape.apply(js, lanes)
    assert await topology._differences(nats_url) == []
    assert any("work-exec" in line and "does not exist" in line for line in found)
    assert any(line.startswith("stream EVENTS: max_age is 60") for line in found)


async def test_an_unreachable_server_is_named_without_its_password() -> None:
    url = "nats://service:hunter22@127.0.0.1:9"
    with pytest.raises(Exception, match="no NATS server answers at") as caught:
        async with topology.connection(url):
            pass
    assert "hunter22" not in str(caught.value)
    assert "goalwright up" in str(caught.value)


def test_a_lane_that_may_expand_may_use_every_lane() -> None:
    lane = build_lane("custom.split", may_expand=True, lease_seconds=5.0)
    assert (lane.performer, "expand" in lane.may, lane.child_lanes) == ("custom", True, ["*"])
    assert "expand" not in build_lane("custom.etl", may_expand=False).may


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["etl"], "does not start with custom."),
        (["custom."], "does not start with custom."),
        (["custom.a b"], "name"),
        (["custom.llm", "--pool", "key/model"], "--max-input-tokens"),
    ],
)
def test_a_wrong_lane_is_a_usage_error(arguments: list[str], says: str) -> None:
    ran = CliRunner().invoke(build(), ["lane", "add", *arguments])
    assert ran.exit_code == 2
    assert says in " ".join(ran.output.split())


async def test_lane_add_tells_performers_where_to_pull(nats_server: EmbeddedNats) -> None:
    """Against a scheduler that answers as ours does; the scheduler's own tests cover what it then creates."""
    import asyncio

    asked = []

    async def scheduler(message: Msg) -> None:
        asked.append(json.loads(message.data))
        await message.respond(b'{"lane": "custom.etl"}')

    async with topology.connection(nats_server.service_url) as client:
        await client.subscribe(subjects.control("lane"), cb=scheduler)
        await client.flush()
        ran = await asyncio.to_thread(
            CliRunner().invoke, build(), ["lane", "add", "custom.etl", "--description", "cleans", "--json"],
            env={"GOALWRIGHT_NATS_URL": nats_server.client_url},
        )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["durable"] == "work-custom-etl"
    assert asked[0]["lane"]["description"] == "cleans"
