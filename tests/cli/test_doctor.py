"""`goalwright doctor` names what is wrong and the exact fix."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from goalwright_cli.doctor import Finding, examine
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_cli.settings import SystemSettings


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GOALWRIGHT_NATS_URL", "GOALWRIGHT_POSTGRES_DSN"):
        monkeypatch.delenv(name, raising=False)


async def _examine(home: Path, **given: str) -> dict[str, Finding]:
    settings = SystemSettings(home=home).model_copy(update=given)
    return {finding.check: finding for finding in await examine(settings)}


async def test_a_healthy_machine_without_a_model(tmp_path: Path) -> None:
    found = await _examine(tmp_path)
    assert list(found) == [
        "python", "disk", "nats", "postgres", "sandbox", "program libraries", "model"
    ]  # fmt: skip
    assert {check for check, finding in found.items() if finding.status == "broken"} == set()
    assert "2.1" in found["nats"].detail
    assert found["model"].status == "warning"
    assert "OPENAI_API_KEY" in found["model"].fix


async def test_servers_that_are_given_are_asked(
    tmp_path: Path, nats_server: EmbeddedNats, postgres_dsn: str
) -> None:
    found = await _examine(tmp_path, nats_url=nats_server.service_url, postgres_dsn=postgres_dsn)
    assert found["nats"].status == "ok"
    assert "service" not in found["nats"].detail
    assert (found["postgres"].status, found["postgres"].fix) == ("broken", "goalwright db migrate")


async def test_servers_that_do_not_answer_are_broken(tmp_path: Path) -> None:
    found = await _examine(
        tmp_path, nats_url="nats://127.0.0.1:9", postgres_dsn="postgresql://u@127.0.0.1:9/x"
    )
    assert (found["nats"].status, found["postgres"].status) == ("broken", "broken")
    assert "GOALWRIGHT_NATS_URL" in found["nats"].fix
    assert "GOALWRIGHT_POSTGRES_DSN" in found["postgres"].fix


@pytest.mark.parametrize(
    ("status", "verdict", "says"), [(200, "ok", "answers"), (401, "broken", "refuses the key")]
)
async def test_the_model_endpoint_is_asked_with_the_key(
    status: int, verdict: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefgh")
        found = (await _examine(tmp_path))["model"]
    assert found.status == verdict
    assert says in found.detail
    assert heard[0].startswith("GET /v1/models ")
    assert "Bearer sk-abcdefgh" in heard[0]
    assert "sk-abcdefgh" not in found.detail
