"""What programs read, kept on this machine: contents by their hash, fetched once however many programs read them."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import time
from pathlib import Path
from weakref import WeakValueDictionary

import structlog
from goalwright_shared.artifacts import Artifacts
from goalwright_shared.messages import ArtifactRef

log = structlog.get_logger(__name__)

_MAX_FILES = 10_000
_LOCK = "lock"


class Inputs:
    """A part: a folder of files named by their SHA-256, at most `max_bytes` in all (0: none), shared by the slots
    of this executor and by every executor with the same folder, and kept when they end.

    A program gets a hard link, read-only and behind a read-only mount. A file gets its name here after its hash
    was verified, and is verified again when this process first hands it out: what a crash or a disk spoiled is
    thrown away and fetched anew. When there are too many, those unused for longest go.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._verified: dict[str, tuple[int, int, int]] = {}

    async def start(self) -> None:
        """Make the folder."""
        if self._max_bytes:
            await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)

    async def stop(self) -> None:
        """Nothing to release: the next executor finds the files."""

    async def place(self, ref: ArtifactRef, artifacts: Artifacts, target: Path) -> None:
        """Make the content of `ref` the new file `target`, to be read only: it may be a link to what others read
        too. Raises `ArtifactUnavailable`."""
        if ref.object is None or not 0 < ref.size <= self._max_bytes:
            await artifacts.fetch(ref, target)
            return
        async with self._fetching.setdefault(ref.sha256, asyncio.Lock()):
            if await asyncio.to_thread(self._take, ref.sha256, target):
                return
            await artifacts.fetch(ref, target)
            await asyncio.to_thread(self._keep, ref.sha256, target)

    def _take(self, digest: str, target: Path) -> bool:
        """Link a kept file to `target`; False when there is none, or none that is whole."""
        kept = self._folder / digest
        try:
            os.link(kept, target)
        except OSError:  # not there, or it went this moment
            return False
        found = target.stat()
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._verified.get(digest) != stamp:
            if _sha256(target) != digest:
                log.warning("a kept input was spoiled and is fetched again", sha256=digest)
                target.unlink()
                kept.unlink(missing_ok=True)
                return False
            self._verified[digest] = stamp
        os.utime(target, ns=(time.time_ns(), found.st_mtime_ns))
        return True

    def _keep(self, digest: str, target: Path) -> None:
        """Keep a file that was just fetched and verified."""
        target.chmod(0o444)
        found = target.stat()
        try:
            os.link(target, self._folder / digest)
        except FileExistsError:  # another executor was faster
            return
        except OSError as error:
            log.warning("an input is not kept", folder=str(self._folder), error=str(error))
            return
        os.utime(target, ns=(time.time_ns(), found.st_mtime_ns))
        self._verified[digest] = (found.st_ino, found.st_size, found.st_mtime_ns)
        self._shrink()

    def _shrink(self) -> None:
        """Forget what was unused for longest, until the rest fits."""
        with (self._folder / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two that shrink at once would forget too much
            with os.scandir(self._folder) as entries:
                kept = [(entry.stat(), entry.path) for entry in entries if entry.name != _LOCK]
            kept.sort(key=lambda one: one[0].st_atime_ns)
            size, files = sum(found.st_size for found, _ in kept), len(kept)
            free = shutil.disk_usage(self._folder).free
            most = min(self._max_bytes, (free + size) // 2)  # never most of a small disk
            for found, path in kept:
                if size <= most and files <= _MAX_FILES:
                    return
                Path(path).unlink(missing_ok=True)
                self._verified.pop(Path(path).name, None)
                size, files = size - found.st_size, files - 1


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
