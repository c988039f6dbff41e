"""The embedded servers: what `goalwright up` starts on a laptop."""

from __future__ import annotations

import tempfile
from pathlib import Path

import asyncpg
import nats
import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_cli.embedded_postgres import EmbeddedPostgres
from goalwright_shared.errors import Unreachable


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


@pytest.mark.parametrize("name", ["a home", "long-" * 20, "ünï,code'"])
async def test_postgres_runs_in_any_folder(name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="goalwright-pg-") as folder:
        server = EmbeddedPostgres(Path(folder) / name, options=("fsync=off",))
        await server.start()
        connection = await asyncpg.connect(server.dsn())
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        await connection.close()
        await server.stop()


async def test_a_killed_postgres_keeps_what_was_committed() -> None:
    with tempfile.TemporaryDirectory(prefix="goalwright-pg-") as folder:
        server = EmbeddedPostgres(Path(folder))
        await server.start()
        connection = await asyncpg.connect(server.dsn())
        await connection.execute("CREATE TABLE kept AS SELECT 1")
        assert server.process is not None
        server.process.kill()
        await server.start()
        connection = await asyncpg.connect(server.dsn())
        assert await connection.fetchval("SELECT count(*) FROM kept") == 1
        await connection.close()
        await server.stop()


async def test_a_server_that_cannot_start_says_why(nats_server: EmbeddedNats, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="address already in use") as caught:
        await EmbeddedNats(tmp_path, port=nats_server.port).start()
    assert "GOALWRIGHT_NATS_PORT" in str(caught.value)


async def test_a_database_is_empty_and_survives_nothing_of_another_test(postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await connection.close()
