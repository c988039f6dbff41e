"""Files of the person at the terminal: as inputs of a goal, and as the deliverables it hands back."""

from __future__ import annotations

import asyncio
import mimetypes
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from goalwright_shared.errors import ArtifactUnavailable
from goalwright_shared.messages import ArtifactRef, ArtifactType, GoalInput

_TYPES = {
    ".csv": (ArtifactType.TABLE, "text/csv"),
    ".tsv": (ArtifactType.TABLE, "text/tab-separated-values"),
    ".parquet": (ArtifactType.TABLE, "application/vnd.apache.parquet"),
    ".json": (ArtifactType.JSON, "application/json"),
    ".txt": (ArtifactType.TEXT, "text/plain"),
    ".md": (ArtifactType.TEXT, "text/markdown"),
    ".db": (ArtifactType.DATABASE, "application/vnd.sqlite3"),
    ".sqlite": (ArtifactType.DATABASE, "application/vnd.sqlite3"),
    ".sqlite3": (ArtifactType.DATABASE, "application/vnd.sqlite3"),
}
_SUFFIXES = {media_type: suffix for suffix, (_, media_type) in reversed(_TYPES.items())} | {
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "image/jpeg": ".jpg",
    "text/html": ".html",
    "application/pdf": ".pdf",
    "text/x-python": ".py",
}
_TARS = (ArtifactType.FOLDER, ArtifactType.DATASET)


class Store(Protocol):
    """The part of the artifact store that files need."""

    async def put_file(
        self, name: str, type: ArtifactType, path: Path, media_type: str | None = None
    ) -> ArtifactRef:
        """Store a file of any size."""

    async def fetch(self, ref: ArtifactRef, path: Path) -> None:
        """Write the content to `path`."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A deliverable on disk: its path, its bytes, and how many files it is."""

    name: str
    path: Path
    size: int
    files: int = 1


def type_of(path: Path) -> tuple[ArtifactType, str]:
    """Artifact type and media type of a file, by its extension."""
    known = _TYPES.get(path.suffix.lower())
    guess = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return known or (ArtifactType.FILE, guess)


def input_names(paths: Iterable[Path]) -> list[str]:
    """One distinct artifact name per path: the file's name without its extension, in allowed characters."""
    names: list[str] = []
    for path in paths:
        name = _clean(path.stem)
        if name in names:
            name = _clean(f"{path.stem}_{path.suffix.lstrip('.')}")
        base, number = name, 2
        while name in names:
            name, number = f"{base[:120]}_{number}", number + 1
        names.append(name)
    return names


def _clean(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:128] or "file"


async def upload(store: Store, paths: list[Path]) -> list[GoalInput]:
    """The files as inputs of a goal: small texts inline, others as objects."""
    inputs = []
    for name, path in zip(input_names(paths), paths, strict=True):
        kind, media_type = type_of(path)
        ref = await store.put_file(name, kind, path, media_type)
        inputs.append(
            GoalInput(name=name, type=kind, media_type=media_type, inline=ref.inline, object=ref.object)
        )
    return inputs


async def download(store: Store, refs: Mapping[str, ArtifactRef], folder: Path) -> list[Delivered]:
    """Write each artifact into `folder` (folders and data sets unpacked); raises `ArtifactUnavailable`."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    return [await _download(store, name, ref, folder) for name, ref in refs.items()]


async def _download(store: Store, name: str, ref: ArtifactRef, folder: Path) -> Delivered:
    if ref.type in _TARS:
        packed = folder / f".{_clean(name)}.tar"
        try:
            await store.fetch(ref, packed)
            return unpack(packed, folder / _clean(name), name)
        finally:
            packed.unlink(missing_ok=True)
    path = folder / file_name(name, ref)
    await store.fetch(ref, path)
    return Delivered(name, path, ref.size)


def unfetched(name: str, ref: ArtifactRef) -> Delivered:
    """A deliverable that was not written to disk, as it would be called there."""
    return Delivered(name, Path(_clean(name) if ref.type in _TARS else file_name(name, ref)), ref.size)


def file_name(name: str, ref: ArtifactRef) -> str:
    """A file name for an artifact: its own name, with the extension of its media type when it has none."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".") or "artifact"
    media_type = ref.media_type.split(";", 1)[0].strip()
    suffix = _SUFFIXES.get(media_type) or (".md" if ref.type is ArtifactType.TEXT else "")
    if media_type == "text/plain" and ref.type is ArtifactType.TEXT:
        suffix = ".md" if _looks_like_markdown(ref) else ".txt"
    return safe if "." in safe else safe + suffix


def _looks_like_markdown(ref: ArtifactRef) -> bool:
    return ref.inline is not None and bool(re.search(r"^#{1,3} ", ref.inline, re.M))


def unpack(packed: Path, folder: Path, name: str) -> Delivered:
    """Unpack a tar that a program wrote: regular files and folders only, nothing outside `folder`.

    Written by hand because `tarfile`'s own filters are missing before Python 3.11.4. Raises
    `ArtifactUnavailable` on anything else than a tar; members that are links, devices or point outside are
    refused the same way.
    """
    size = files = 0
    try:
        with tarfile.open(packed) as tar:
            folder.mkdir(parents=True, exist_ok=True)
            for member in tar:
                target = _inside(folder, member)
                if target is None:
                    raise tarfile.TarError(f"member {member.name!r} is a link, a device or points outside")
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                content = tar.extractfile(member)
                assert content is not None
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    while chunk := content.read(1 << 20):
                        file.write(chunk)
                size, files = size + member.size, files + 1
    except (tarfile.TarError, EOFError) as error:
        raise ArtifactUnavailable(
            "bad_folder", f"folder {name} could not be unpacked: {error}", hint="ask for it as a file"
        ) from error
    return Delivered(name, folder, size, files)


def _inside(folder: Path, member: tarfile.TarInfo) -> Path | None:
    """Where a member may be written, or None; a link already on disk must not lead out either."""
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()) or path.is_absolute() or ".." in path.parts:
        return None
    target = folder.joinpath(*path.parts)
    return target if target.resolve().is_relative_to(folder.resolve()) else None


def size_text(size: int) -> str:
    """Bytes for people: 312 B, 4.1 kB, 38 kB, 1.2 MB."""
    if size < 1000:
        return f"{size} B"
    amount, units = float(size), iter(("kB", "MB", "GB", "TB"))
    unit = ""
    while amount >= 1000 and (following := next(units, None)):
        amount, unit = amount / 1000, following
    return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
