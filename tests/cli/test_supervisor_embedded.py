"""The embedded servers: what `goalwright up` starts on a laptop."""

from __future__ import annotations

import asyncpg
import nats
from goalwright_cli.embedded_nats import EmbeddedNats


async def test_nats_keeps_its_streams_over_a_restart(nats_server: EmbeddedNats) -> None:
    first = await nats.connect(nats_server.service_url)
    await first.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await first.jetstream().publish("kept", b"1")
    await first.close()
    await nats_server.stop()
    await nats_server.start()
    second = await nats.connect(nats_server.service_url)
    assert (await second.jetstream().stream_info("KEPT")).state.messages == 1
    await second.close()


async def test_a_database_is_empty_and_survives_nothing_of_another_test(postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await connection.close()
