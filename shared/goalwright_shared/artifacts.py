"""Artifacts: named, typed, content-addressed values in the object store (or inline when small)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from nats.errors import Error as NatsError
from nats.js.api import ObjectInfo, ObjectMeta
from nats.js.client import JetStreamContext
from nats.js.errors import BucketNotFoundError, NotFoundError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from goalwright_shared import subjects
from goalwright_shared.errors import ArtifactUnavailable, TopologyMissing
from goalwright_shared.messages import INLINE_BYTES, ArtifactRef, ArtifactType, BodyRef

MEDIA_TYPES = {
    ArtifactType.TEXT: "text/plain",
    ArtifactType.JSON: "application/json",
    ArtifactType.TABLE: "text/csv",
    ArtifactType.DATASET: "application/x-tar",
    ArtifactType.DATABASE: "application/vnd.sqlite3",
    ArtifactType.FILE: "application/octet-stream",
    ArtifactType.FOLDER: "application/x-tar",
}


_STREAM = f"OBJ_{subjects.ARTIFACTS}"

_FRESH = timedelta(hours=12)
"""An object that is put again when it is older counts as put anew: whoever forgets old ones leaves it alone, although
nobody names it yet."""

FORGOTTEN_AFTER = timedelta(days=1)
"""Younger objects are never forgotten: messages may be under way that name them."""

_BLOCK = 1 << 20
"""Bytes held in memory while an object of any size comes or goes."""

_TRIES = 3
"""Of a get whose chunks vanish under it: the object was put anew meanwhile."""

_CHUNK = 128 * 1024
"""Bytes of a chunk of an object whose record does not tell."""

_RANGE_SECONDS = 30.0
"""A part of an object has come by then, or is given up."""


class Artifacts(Protocol):
    """The port: the object store in production, memory in unit tests."""

    async def put_bytes(
        self, name: str, type: ArtifactType, data: bytes, media_type: str | None = None
    ) -> ArtifactRef:
        """Store `data`; raises `ArtifactUnavailable`."""

    async def put_file(
        self, name: str, type: ArtifactType, path: Path, media_type: str | None = None
    ) -> ArtifactRef:
        """Store a file of any size, streamed; raises `ArtifactUnavailable`."""

    async def get_bytes(self, ref: ArtifactRef) -> bytes:
        """The whole content; raises `ArtifactUnavailable`, also when it is not what `ref` says."""

    async def get_range(self, ref: ArtifactRef, offset: int, length: int) -> bytes:
        """At most `length` bytes from byte `offset` on (none past the end), without the rest of the content;
        raises `ArtifactUnavailable`. A part cannot be held to the hash of the whole."""

    async def fetch(self, ref: ArtifactRef, path: Path) -> None:
        """Write the content to `path`, streamed; raises `ArtifactUnavailable`, also when it is not what `ref`
        says, and leaves nothing at `path` then."""


def inline_ref(name: str, type: ArtifactType, data: bytes, media_type: str | None) -> ArtifactRef | None:
    """An inline reference when `data` is small UTF-8 text without NUL (Postgres refuses it), else None."""
    if len(data) > INLINE_BYTES or b"\0" in data:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return ArtifactRef(
        name=name,
        type=type,
        media_type=media_type or MEDIA_TYPES[type],
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        inline=text,
    )


class ObjectArtifacts:
    """Artifacts in the JetStream object store. An object is named by the hex SHA-256 of its content and put
    only if absent (putting under an existing name makes a concurrent get hang)."""

    def __init__(self, js: JetStreamContext | Callable[[], JetStreamContext]) -> None:
        self._made = js  # a callable where parts are wired before the connection is there
        self._store: ObjectStore | None = None
        self._putting: dict[str, asyncio.Lock] = {}

    @property
    def _js(self) -> JetStreamContext:
        return self._made() if callable(self._made) else self._made

    async def _bucket(self) -> ObjectStore:
        if self._store is None:
            try:
                self._store = await self._js.object_store(subjects.ARTIFACTS)
            except (BucketNotFoundError, NotFoundError) as error:
                raise TopologyMissing(
                    "no_bucket",
                    f"the object store bucket {subjects.ARTIFACTS} does not exist",
                    hint="goalwright topology apply",
                ) from error
        return self._store

    async def put_bytes(
        self, name: str, type: ArtifactType, data: bytes, media_type: str | None = None
    ) -> ArtifactRef:
        """Store `data`, inline when it is small text."""
        small = inline_ref(name, type, data, media_type)
        if small is not None:
            return small
        digest = hashlib.sha256(data).hexdigest()
        await self._put_object(digest, io.BytesIO(data))
        return self._ref(name, type, media_type, len(data), digest)

    async def put_file(
        self, name: str, type: ArtifactType, path: Path, media_type: str | None = None
    ) -> ArtifactRef:
        """Store a file, hashed and then streamed."""
        size = (await asyncio.to_thread(path.stat)).st_size
        if size <= INLINE_BYTES:
            return await self.put_bytes(name, type, await asyncio.to_thread(path.read_bytes), media_type)
        digest = await asyncio.to_thread(_sha256_of_file, path)
        with path.open("rb") as file:
            await self._put_object(digest, file)
        return self._ref(name, type, media_type, size, digest)

    async def get_bytes(self, ref: ArtifactRef) -> bytes:
        """The whole content, checked against size and hash."""
        if ref.inline is not None:
            return ref.inline.encode()
        buffer = io.BytesIO()
        await self._get_object(ref, buffer)
        return buffer.getvalue()

    async def fetch(self, ref: ArtifactRef, path: Path) -> None:
        """Write the content to `path`, streamed, checked against size and hash."""
        if ref.inline is not None:
            await asyncio.to_thread(path.write_bytes, ref.inline.encode())
            return
        try:
            with path.open("wb") as file:
                await self._get_object(ref, file)
        except BaseException:
            _discard(path)
            raise

    async def get_range(self, ref: ArtifactRef, offset: int, length: int) -> bytes:
        """The chunks that hold the range, cut to it."""
        if ref.inline is not None:
            return ref.inline.encode()[offset : offset + length]
        assert ref.object is not None
        try:
            async with asyncio.timeout(_RANGE_SECONDS):
                info = await (await self._bucket()).get_info(ref.object)
                return await self._range(info, offset, min(length, (info.size or 0) - offset))
        except (NatsError, NotFoundError, TimeoutError) as error:
            raise _missing(ref, error) from error

    async def _range(self, info: ObjectInfo, offset: int, length: int) -> bytes:
        """The chunks that hold a range which is there, cut to it."""
        if length <= 0:
            return b""
        subject, found = f"$O.{subjects.ARTIFACTS}.C.{info.nuid}", bytearray()
        sequence, begins = await self._chunk_at(info, subject, offset)
        while begins + len(found) < offset + length:
            chunk = await self._js.get_msg(_STREAM, seq=sequence, subject=subject, next=True, direct=True)
            sequence, data = (chunk.seq or 0) + 1, chunk.data or b""
            if begins + len(data) <= offset and not found:
                begins += len(data)
            else:
                found += data
        return bytes(found[offset - begins : offset - begins + length])

    async def _chunk_at(self, info: ObjectInfo, subject: str, offset: int) -> tuple[int, int]:
        """The stream sequence of a chunk at or before `offset`, and the byte it begins with: the very one where the
        chunks stand together in the stream and are of one size (they mostly do), else the first."""
        first = (await self._js.get_msg(_STREAM, seq=1, subject=subject, next=True, direct=True)).seq or 0
        step = (info.options.max_chunk_size if info.options else None) or _CHUNK
        last = (await self._js.get_last_msg(_STREAM, subject, direct=True)).seq or 0
        if last - first + 1 != info.chunks or info.chunks != -(-(info.size or 0) // step):
            return first, 0
        return first + offset // step, offset // step * step

    async def size_of(self, digest: str) -> int | None:
        """Bytes of the object of that name, None when there is none."""
        try:
            info = await (await self._bucket()).get_info(digest)
        except (ObjectNotFoundError, NotFoundError):
            return None
        return info.size or 0

    async def forget(self, named: Collection[str], *, older_than: timedelta) -> int:
        """Delete the objects that are not `named` and were put (again) longer ago than that, and what is left of puts
        that died half way as long ago. Returns how many."""
        bucket = await self._bucket()
        try:
            stored = await bucket.list(ignore_deletes=True)
        except NotFoundError:  # there is none
            stored = []
        forgotten = await self._forget_halves({str(info.nuid) for info in stored}, older_than)
        for digest in {info.name for info in stored} - set(named):
            age = await self._age(digest)
            if age is not None and age >= older_than:
                await bucket.delete(digest)
                forgotten += 1
        return forgotten

    async def _forget_halves(self, whole: Collection[str], older_than: timedelta) -> int:
        """Delete chunks that belong to no object: its record comes last, and whoever put it died before."""
        chunks, forgotten = f"$O.{subjects.ARTIFACTS}.C.", 0
        held = (await self._js.stream_info(_STREAM, subjects_filter=f"{chunks}>")).state.subjects or {}
        for subject in held.keys() - {f"{chunks}{put}" for put in whole}:
            try:
                last = await self._js.get_last_msg(_STREAM, subject)
            except NotFoundError:  # it goes this moment
                continue
            if last.time is not None and datetime.now(UTC) - last.time >= older_than:
                await self._js.purge_stream(_STREAM, subject=subject)
                forgotten += 1
        return forgotten

    async def _age(self, digest: str) -> timedelta | None:
        """Since an object was put, or put again; None when there is none."""
        name = base64.urlsafe_b64encode(digest.encode()).decode()
        try:
            found = await self._js.get_last_msg(_STREAM, f"$O.{subjects.ARTIFACTS}.M.{name}")
        except NotFoundError:
            return None
        if found.time is None or json.loads(found.data or b"{}").get("deleted"):
            return None
        return datetime.now(UTC) - found.time

    @staticmethod
    def _ref(name: str, type: ArtifactType, media_type: str | None, size: int, digest: str) -> ArtifactRef:
        return ArtifactRef(
            name=name,
            type=type,
            media_type=media_type or MEDIA_TYPES[type],
            size=size,
            sha256=digest,
            object=digest,
        )

    async def _put_object(self, digest: str, data: BinaryIO) -> None:
        bucket = await self._bucket()
        async with self._putting.setdefault(digest, asyncio.Lock()):
            age = await self._age(digest)
            try:
                if age is None:
                    info = await bucket.put(digest, data)  # type: ignore[arg-type]  # any readable stream is taken
                    if _hex(info) != digest:
                        await bucket.delete(digest)
                        raise ArtifactUnavailable(
                            "artifact_not_stored",
                            f"artifact {digest[:12]} changed while it was stored",
                            hint="store it again when nobody writes to it",
                        )
                elif age > _FRESH:
                    await bucket.update_meta(digest, ObjectMeta(name=digest))
            except NatsError as error:
                raise ArtifactUnavailable(
                    "artifact_not_stored",
                    f"artifact {digest[:12]} could not be stored: {error}",
                    hint=f"is the disk of NATS full? see `df` and the limits of stream {_STREAM}",
                ) from error
        self._putting.pop(digest, None)

    async def _get_object(self, ref: ArtifactRef, target: BinaryIO) -> None:
        """The content of `ref`, and nothing else: whoever may put objects may put wrong ones under any name."""
        for last in (*[False] * (_TRIES - 1), True):
            try:
                digest, size = await self._copy(ref, target)
                break
            except (NatsError, NotFoundError, TimeoutError) as error:
                if isinstance(error, _Gone) and not last:
                    continue
                raise _missing(ref, error) from error
        if digest != ref.sha256 or size != ref.size:
            raise ArtifactUnavailable(
                "artifact_differs",
                f"artifact {ref.name} should have {ref.size} bytes and hash {ref.sha256[:12]}, but what is stored "
                f"under {str(ref.object)[:12]} has {size} (or more) and {digest[:12]}",
                hint="name an object by the hex SHA-256 of its content, and give its size in bytes",
            )

    async def _copy(self, ref: ArtifactRef, target: BinaryIO) -> tuple[str, int]:
        """Write an object to `target`; its hash and size. Stops soon after `ref.size` bytes.

        One request a chunk: five times as quick as the ordered consumer of the client library, and a chunk
        that is not there is an answer, not silence.
        """
        assert ref.object is not None
        info = await (await self._bucket()).get_info(ref.object)
        subject, sequence, digest, size = f"$O.{subjects.ARTIFACTS}.C.{info.nuid}", 1, hashlib.sha256(), 0
        block = bytearray()

        def write() -> None:
            digest.update(block)
            target.write(block)
            block.clear()

        target.seek(0)
        target.truncate()
        for number in range(info.chunks or 0):
            try:
                chunk = await self._js.get_msg(_STREAM, seq=sequence, subject=subject, next=True, direct=True)
            except NotFoundError as error:
                raise _Gone(f"chunk {number + 1} of {info.chunks} is not there") from error
            sequence = (chunk.seq or 0) + 1
            block += chunk.data or b""
            size += len(chunk.data or b"")
            if size > ref.size:
                break
            if len(block) >= _BLOCK:
                await asyncio.to_thread(write)
        await asyncio.to_thread(write)
        return digest.hexdigest(), size


def _missing(ref: ArtifactRef, error: Exception) -> ArtifactUnavailable:
    return ArtifactUnavailable(
        "artifact_missing",
        f"artifact {ref.name} ({str(ref.object)[:12]}) could not be read: {error or type(error).__name__}",
        hint="was it put into bucket ARTIFACTS under its hex SHA-256, and is it within retention?",
    )


class _Gone(NotFoundError):
    """A chunk of an object that is there is not: it was put anew, or deleted, while it was read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def __str__(self) -> str:
        return self._text


def _hex(info: ObjectInfo) -> str:
    """The SHA-256 of what was put, in hex."""
    return base64.urlsafe_b64decode((info.digest or "").removeprefix("SHA-256=")).hex()


def _discard(path: Path) -> None:
    path.unlink(missing_ok=True)


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def whole_answer(payload: bytes, artifacts: Artifacts) -> dict[str, Any]:
    """The JSON of an answer; one over 512 KiB came as a `body_ref`. Raises `ArtifactUnavailable`."""
    answer: dict[str, Any] = json.loads(payload)
    if set(answer) == {"body_ref"}:
        answer = json.loads(await artifacts.get_bytes(BodyRef.model_validate(answer).body_ref))
    return answer
