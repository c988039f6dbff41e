"""Artifacts in memory, for tests of performers; they pass the suite of the real ones (tests/shared)."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from goalwright_shared.artifacts import MEDIA_TYPES, inline_ref
from goalwright_shared.errors import ArtifactUnavailable
from goalwright_shared.messages import ArtifactRef, ArtifactType


class MemoryArtifacts:
    """The port `Artifacts` over a dictionary of contents by hash; `reads` lists what was fetched, `full` makes
    every put that does not fit inline fail, as a full disk does."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.reads: list[str] = []
        self.full = False

    async def put_bytes(
        self, name: str, type: ArtifactType, data: bytes, media_type: str | None = None
    ) -> ArtifactRef:
        """Store `data`, inline when it is small text."""
        small = inline_ref(name, type, data, media_type)
        if small is not None:
            return small
        if self.full:
            raise ArtifactUnavailable("artifact_not_stored", "the store is full")
        digest = hashlib.sha256(data).hexdigest()
        self.objects[digest] = data
        return ArtifactRef(
            name=name,
            type=type,
            media_type=media_type or MEDIA_TYPES[type],
            size=len(data),
            sha256=digest,
            object=digest,
        )

    async def put_file(
        self, name: str, type: ArtifactType, path: Path, media_type: str | None = None
    ) -> ArtifactRef:
        """Store a file."""
        return await self.put_bytes(name, type, await asyncio.to_thread(path.read_bytes), media_type)

    async def get_bytes(self, ref: ArtifactRef) -> bytes:
        """The whole content."""
        if ref.inline is not None:
            return ref.inline.encode()
        assert ref.object is not None
        self.reads.append(ref.object)
        if ref.object not in self.objects:
            raise ArtifactUnavailable("artifact_missing", f"artifact {ref.name} is not there")
        return self.objects[ref.object]

    async def get_range(self, ref: ArtifactRef, offset: int, length: int) -> bytes:
        """A part of the content; not counted in `reads`, which lists what was read whole."""
        if ref.inline is not None:
            return ref.inline.encode()[offset : offset + length]
        assert ref.object is not None
        if ref.object not in self.objects:
            raise ArtifactUnavailable("artifact_missing", f"artifact {ref.name} is not there")
        return self.objects[ref.object][offset : offset + length]

    async def fetch(self, ref: ArtifactRef, path: Path) -> None:
        """Write the content to `path`."""
        await asyncio.to_thread(path.write_bytes, await self.get_bytes(ref))
