"""Archives to and from programs: what comes in is unpacked, what comes out is taken apart, without trust."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

from goalwright_executor.core import MAX_ENTRIES, Kind, safe_path

_BLOCK = 1 << 20


class Refused(ValueError):
    """The archive holds what we do not take; the text says what."""


@dataclass(frozen=True)
class Entries:
    """What an archive holds: kinds by path, and where the content of each regular file is."""

    kinds: dict[str, Kind]
    members: dict[str, tarfile.TarInfo]


def read_entries(archive: tarfile.TarFile, *, max_bytes: int) -> Entries:
    """Every entry by its path; raises `Refused` on escapes, too many entries or too many bytes."""
    kinds: dict[str, Kind] = {}
    members: dict[str, tarfile.TarInfo] = {}
    total = 0
    for member in archive:
        path = safe_path(member.name)
        if path is None:
            raise Refused(f"the path {member.name[:200]!r} leaves its folder or is too long")
        if path == "":
            continue
        total += member.size if member.isreg() else 0
        if len(kinds) >= MAX_ENTRIES:
            raise Refused(f"there are more than {MAX_ENTRIES} files")
        if total > max_bytes:
            raise Refused(f"the files are larger than {max_bytes >> 20} MB")
        kinds[path] = "file" if member.isreg() else "folder" if member.isdir() else "other"
        members[path] = member
    return Entries(kinds, members)


def look(source: Path, *, max_bytes: int) -> None:
    """Raises `Refused` when `unpack` would: an archive that a program hands over is looked at at once."""
    try:
        with tarfile.open(source) as archive:
            entries = read_entries(archive, max_bytes=max_bytes)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise Refused(f"not a readable tar: {error}") from error
    for path, kind in entries.kinds.items():
        if kind == "other":
            raise Refused(f"{path[:200]!r} is a link or a device")


def write_file(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """The content of one regular file."""
    source = archive.extractfile(member)
    if source is None:
        raise Refused(f"{member.name} is no regular file")
    with target.open("wb") as file:
        while block := source.read(_BLOCK):
            file.write(block)


def write_folder(archive: tarfile.TarFile, entries: Entries, folder: str, target: Path) -> None:
    """One folder as a tar of its own, with plain names, times and owners, so that equal content is equal."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as out:
        for path in sorted(p for p in entries.kinds if p.startswith(f"{folder}/")):
            plain = tarfile.TarInfo(path.removeprefix(f"{folder}/"))
            if entries.kinds[path] == "folder":
                plain.type, plain.mode = tarfile.DIRTYPE, 0o755
                out.addfile(plain)
            else:
                plain.size, plain.mode = entries.members[path].size, 0o644
                out.addfile(plain, archive.extractfile(entries.members[path]))


def unpack(source: Path, target: Path, *, max_bytes: int) -> None:
    """A folder that came as a tar, written to `target`; raises `Refused` on all but files and folders.

    By hand, because the `data` filter of tarfile is not in every Python 3.11.
    """
    target.mkdir()
    try:
        with tarfile.open(source) as archive:
            entries = read_entries(archive, max_bytes=max_bytes)
            for path, kind in entries.kinds.items():
                if kind == "other":
                    raise Refused(f"{path[:200]!r} is a link or a device")
                place = target / path
                (place if kind == "folder" else place.parent).mkdir(parents=True, exist_ok=True)
                if kind == "file":
                    write_file(archive, entries.members[path], place)
    except (tarfile.TarError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise
        raise Refused(f"not a readable tar: {error}") from error
