"""One suite for every implementation of the port `Artifacts`: the object store, and the fake of tests."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import nats
import pytest
from goalwright_shared import topology
from goalwright_shared.artifacts import Artifacts, ObjectArtifacts
from goalwright_shared.errors import ArtifactUnavailable
from goalwright_shared.messages import INLINE_BYTES, ArtifactRef, ArtifactType
from support.artifacts import MemoryArtifacts


@pytest.fixture(params=["memory", "object store"])
async def artifacts(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Artifacts]:
    if request.param == "memory":
        yield MemoryArtifacts()
        return
    client = await nats.connect(nats_url)
    try:
        js = client.jetstream()
        await topology.apply(js, [])
        yield ObjectArtifacts(js)
    finally:
        await client.close()


BIG = ("zürich,1\n" * 4000).encode()


async def test_small_text_is_inline_and_comes_back(artifacts: Artifacts) -> None:
    ref = await artifacts.put_bytes("note", ArtifactType.TEXT, "grüß".encode())
    assert (ref.inline, ref.object, ref.size) == ("grüß", None, 6)
    assert ref.sha256 == hashlib.sha256("grüß".encode()).hexdigest()
    assert await artifacts.get_bytes(ref) == "grüß".encode()


async def test_small_bytes_that_are_no_text_are_an_object(artifacts: Artifacts) -> None:
    ref = await artifacts.put_bytes("blob", ArtifactType.FILE, b"\xff\x00\xfe")
    assert ref.inline is None
    assert await artifacts.get_bytes(ref) == b"\xff\x00\xfe"


async def test_large_content_is_an_object_named_by_its_hash(artifacts: Artifacts) -> None:
    assert len(BIG) > INLINE_BYTES
    ref = await artifacts.put_bytes("rows", ArtifactType.TABLE, BIG)
    assert ref.object == ref.sha256 == hashlib.sha256(BIG).hexdigest()
    assert ref.media_type == "text/csv"
    assert await artifacts.get_bytes(ref) == BIG


@pytest.mark.parametrize("size", [0, INLINE_BYTES, INLINE_BYTES + 1, 300_000])
async def test_text_up_to_the_limit_is_inline_as_bytes_and_as_file(
    artifacts: Artifacts, size: int, tmp_path: Path
) -> None:
    ref = await artifacts.put_bytes("it", ArtifactType.TEXT, b"x" * size)
    assert (ref.inline is not None) == (size <= INLINE_BYTES)
    await artifacts.fetch(ref, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x" * size
    assert await artifacts.put_file("it", ArtifactType.TEXT, tmp_path / "copy") == ref


async def test_the_same_content_put_twice_is_one_object(artifacts: Artifacts) -> None:
    one = await artifacts.put_bytes("a", ArtifactType.FILE, BIG)
    two = await artifacts.put_bytes("b", ArtifactType.FILE, BIG)
    assert one.object == two.object
    assert await artifacts.get_bytes(two) == BIG


async def test_a_file_goes_in_and_comes_out(artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(BIG)
    ref = await artifacts.put_file("rows", ArtifactType.TABLE, tmp_path / "in.csv", "text/csv")
    await artifacts.fetch(ref, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == BIG


@pytest.mark.parametrize("size", [0, 20, 300_000])
async def test_any_range_is_read_without_the_rest(artifacts: Artifacts, size: int) -> None:
    data = bytes(at * 7 % 251 for at in range(size))
    ref = await artifacts.put_bytes("it", ArtifactType.FILE, data)
    for offset, length in [(0, 5), (3, 10), (131_071, 2), (131_072, 9), (200_000, 90_000), (299_999, 5)]:
        assert await artifacts.get_range(ref, offset, length) == data[offset : offset + length]
    assert await artifacts.get_range(ref, 300_000, 5) == b""
    assert await artifacts.get_range(ref, 0, 0) == b""


async def test_range_is_found_though_chunks_of_others_stand_between(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    try:
        js = client.jetstream()
        await topology.apply(js, [])
        store = ObjectArtifacts(js)
        datas = [bytes(at * step % 251 for at in range(1_000_000)) for step in (3, 5, 7)]
        refs = await asyncio.gather(*(store.put_bytes("it", ArtifactType.FILE, data) for data in datas))
        for ref, data in zip(refs, datas, strict=True):
            assert await store.get_range(ref, 700_001, 150_000) == data[700_001:850_001]
    finally:
        await client.close()


async def test_what_is_not_there_says_so(artifacts: Artifacts) -> None:
    digest = hashlib.sha256(b"never put").hexdigest()
    ref = ArtifactRef(name="ghost", type=ArtifactType.FILE, size=9, sha256=digest, object=digest)
    with pytest.raises(ArtifactUnavailable, match="ghost"):
        await artifacts.get_bytes(ref)
    with pytest.raises(ArtifactUnavailable, match="ghost"):
        await artifacts.get_range(ref, 0, 1)


async def test_a_file_that_changes_while_it_is_stored_is_refused(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await nats.connect(nats_url)
    js = client.jetstream()
    await topology.apply(js, [])
    artifacts = ObjectArtifacts(js)
    (tmp_path / "x").write_bytes(BIG)
    before = hashlib.sha256(b"what it was when it was hashed").hexdigest()
    monkeypatch.setattr("goalwright_shared.artifacts._sha256_of_file", lambda path: before)
    with pytest.raises(ArtifactUnavailable, match="changed while it was stored"):
        await artifacts.put_file("x", ArtifactType.FILE, tmp_path / "x")
    assert await artifacts.size_of(before) is None
    await client.close()


async def test_what_nobody_names_is_forgotten_when_it_is_old_enough(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    js = client.jetstream()
    await topology.apply(js, [])
    artifacts = ObjectArtifacts(js)
    day, at_once = timedelta(days=1), timedelta(0)
    await artifacts.forget([], older_than=at_once)  # of other tests
    assert await artifacts.forget([], older_than=at_once) == 0
    kept = await artifacts.put_bytes("kept", ArtifactType.TABLE, BIG)
    gone = await artifacts.put_bytes("gone", ArtifactType.TABLE, BIG * 2)
    assert await artifacts.forget([], older_than=day) == 0
    assert await artifacts.forget([kept.sha256], older_than=at_once) == 1
    assert await artifacts.get_bytes(kept) == BIG
    with pytest.raises(ArtifactUnavailable):
        await artifacts.get_bytes(gone)
    assert (
        await artifacts.get_bytes(await artifacts.put_bytes("again", ArtifactType.TABLE, BIG * 2)) == BIG * 2
    )
    await client.close()


async def test_what_a_put_left_that_died_half_way_is_forgotten_when_it_is_old(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    js = client.jetstream()
    await topology.apply(js, [])
    artifacts = ObjectArtifacts(js)
    await artifacts.forget([], older_than=timedelta(0))  # of other tests
    kept = await artifacts.put_bytes("kept", ArtifactType.TABLE, BIG)
    for _ in range(3):
        await js.publish("$O.ARTIFACTS.C.half", b"x" * 1_000)
    held = (await js.stream_info("OBJ_ARTIFACTS")).state.messages
    assert await artifacts.forget([kept.sha256], older_than=timedelta(days=1)) == 0, "a put may be under way"
    assert (await js.stream_info("OBJ_ARTIFACTS")).state.messages == held
    assert await artifacts.forget([kept.sha256], older_than=timedelta(0)) == 1
    assert (await js.stream_info("OBJ_ARTIFACTS")).state.messages == held - 3
    assert await artifacts.get_bytes(kept) == BIG
    await client.close()


async def test_what_is_put_again_counts_as_put_anew(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await nats.connect(nats_url)
    js = client.jetstream()
    await topology.apply(js, [])
    artifacts = ObjectArtifacts(js)

    async def put() -> int:
        await artifacts.put_bytes("rows", ArtifactType.TABLE, BIG * 3)
        return (await js.stream_info("OBJ_ARTIFACTS")).state.last_seq

    first = await put()
    assert await put() == first, "it is fresh: nothing is written"
    monkeypatch.setattr("goalwright_shared.artifacts._FRESH", timedelta(0))
    assert await put() == first + 1
    assert (await artifacts.put_bytes("rows", ArtifactType.TABLE, BIG * 3)).size == len(BIG) * 3
    ref = await artifacts.put_bytes("rows", ArtifactType.TABLE, BIG * 3)
    assert await artifacts.get_bytes(ref) == BIG * 3
    await client.close()
