"""The one connection to a running container: folder in, print and report out, limits enforced on the way."""

from __future__ import annotations

import io
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO

from goalwright_executor.core import Limit, Limits
from goalwright_executor.sandbox.inside import REPORT_SLACK_BYTES
from goalwright_executor.sandbox.port import OnOutput, SandboxLost

_TICK_SECONDS = 0.1
_LAST_SECONDS = 30.0
_CHUNK = 1 << 16
_STDERR = 2


class Attached:
    """`run` reads until the container has ended. It never stops reading: an engine that cannot write to us
    does not answer a kill. `cancel` may come from any thread."""

    def __init__(
        self,
        stream: Any,
        marker: bytes,
        report: BinaryIO,
        limits: Limits,
        on_output: OnOutput,
        kill: Callable[[], None],
    ) -> None:
        self._stream, self._marker, self._report = stream, marker, report
        self._limits, self._on_output, self._kill = limits, on_output, kill
        self._killed_at: float | None = None
        self._held, self._reporting, self._reported = b"", False, 0
        self._frames = Frames()
        self.limit: Limit | None = None
        self.is_cancelled = False
        self.stdout, self.stderr = bytearray(), bytearray()

    def cancel(self) -> None:
        """Kill the container soon."""
        self.is_cancelled = True

    def send(self, write: Callable[[IO[bytes]], None]) -> None:
        """Give `write` a pipe into the container, from a thread of its own."""

        def sending() -> None:
            try:
                with io.BufferedWriter(_Into(self._stream), 1 << 20) as pipe:
                    write(pipe)
            except OSError:  # the container has ended: `run` sees it too
                return

        threading.Thread(target=sending, name="container-input", daemon=True).start()

    def run(self) -> None:
        """Return at the end of the container; raises `SandboxLost` when a kill has no effect."""
        started = time.monotonic()
        self._stream.settimeout(_TICK_SECONDS)
        while True:
            now = time.monotonic()
            if now - started > self._limits.seconds:
                self._end(Limit.TIMEOUT)
            if self.is_cancelled:
                self._kill_once()
            if self._killed_at is not None and now - self._killed_at > _LAST_SECONDS:
                raise SandboxLost("the engine does not end the container")
            try:
                data = self._stream.recv(_CHUNK)
            except TimeoutError:
                continue
            if not data:
                break
            for source, payload in self._frames.feed(data):
                self._take(source, payload)
        self._printed(self.stdout, self._held)

    def _take(self, source: int, payload: bytes) -> None:
        if source == _STDERR:
            self._printed(self.stderr, payload)
        elif self._reporting:
            self._keep(payload)
        else:
            self._held += payload
            printed, marker, rest = self._held.partition(self._marker)
            if marker:
                self._reporting, self._held = True, b""
                self._printed(self.stdout, printed)
                self._keep(rest)
            else:
                sure = len(self._held) - _overlap(self._held, self._marker)
                self._printed(self.stdout, self._held[:sure])
                self._held = self._held[sure:]

    def _printed(self, kept: bytearray, data: bytes) -> None:
        room = self._limits.output_bytes - len(kept)
        kept += data[: max(0, room)]
        if data and self.limit is None:
            self._on_output(data[: max(0, room)])
        if len(data) > room:
            self._end(Limit.OUTPUT)

    def _keep(self, data: bytes) -> None:
        self._reported += len(data)
        if self._reported > self._limits.disk_bytes + REPORT_SLACK_BYTES:
            self._end(Limit.DISK)
        else:
            self._report.write(data)

    def _end(self, limit: Limit) -> None:
        self.limit = self.limit or limit
        self._kill_once()

    def _kill_once(self) -> None:
        if self._killed_at is None:
            self._killed_at = time.monotonic()
            threading.Thread(target=self._kill, name="container-kill", daemon=True).start()


def _overlap(data: bytes, marker: bytes) -> int:
    """How many bytes at the end of `data` may be the beginning of `marker`."""
    lengths = range(min(len(marker) - 1, len(data)), 0, -1)
    return next((n for n in lengths if data.endswith(marker[:n])), 0)


class Frames:
    """The engine's multiplexed stream: 8 bytes of head (source, 3 of padding, length), then the payload."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that are whole now, as (source, payload); 1 is stdout, 2 is stderr."""
        self._rest += data
        while len(self._rest) >= 8:
            source, length = struct.unpack(">BxxxL", self._rest[:8])
            if len(self._rest) < 8 + length:
                return
            yield source, self._rest[8 : 8 + length]
            self._rest = self._rest[8 + length :]


class _Into(io.RawIOBase):
    """A socket as a raw file to write to, whatever its timeout is."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        while True:
            try:
                sent: int = self._stream.send(data)
                return sent
            except TimeoutError:  # the container does not read yet
                continue
