"""One suite for the object store and for the fake that unit tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from goalwright_shared import topology
from goalwright_shared.artifacts import Artifacts, ObjectArtifacts
from goalwright_shared.errors import ArtifactUnavailable
from goalwright_shared.messages import ArtifactRef, ArtifactType

from agent.memory import MemoryArtifacts


@pytest.fixture(params=["memory", "object store"])
async def artifacts(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Artifacts]:
    """Each implementation of the port."""
    if request.param == "memory":
        yield MemoryArtifacts()
        return
    client = await nats.connect(nats_url, inbox_prefix="_INBOX_SERVICE", max_reconnect_attempts=0)
    await topology.apply(client.jetstream(), [])
    yield ObjectArtifacts(client.jetstream())
    await client.close()


@pytest.mark.parametrize("size", [0, 10, 8192, 8193, 300_000])
async def test_what_was_put_is_read_again(artifacts: Artifacts, size: int, tmp_path: Path) -> None:
    data = b"x" * size
    ref = await artifacts.put_bytes("it", ArtifactType.TEXT, data)
    assert (ref.inline is not None) == (size <= 8192)
    assert await artifacts.get_bytes(ref) == data
    await artifacts.fetch(ref, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert await artifacts.put_file("it", ArtifactType.TEXT, tmp_path / "copy") == ref


async def test_an_artifact_that_is_not_there_is_an_error(artifacts: Artifacts) -> None:
    ref = ArtifactRef(name="gone", type=ArtifactType.TEXT, size=9, sha256="0" * 64, object="0" * 64)
    with pytest.raises(ArtifactUnavailable, match="gone"):
        await artifacts.get_bytes(ref)
