"""A TCP proxy that is a bad network: it can be cut, slow, silent or half open, and it can heal."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from enum import StrEnum


class Network(StrEnum):
    """What the network does."""

    PASSES = "passes"
    CUT = "cut"  # connections are reset and new ones refused
    SLOW = "slow"  # every piece arrives late
    SILENT = "silent"  # nothing arrives and nobody is told; what was sent arrives when it heals, as with TCP
    HALF_OPEN = "half open"  # the far side sees the connection end, the near side goes on talking to nobody


@dataclass(eq=False)
class _Line:
    """One connection through the proxy."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    broken: bool = False  # bytes were lost: it cannot go on when the network heals

    def reset(self) -> None:
        """End both sides at once."""
        for side in (self.near, self.far):
            if side is not None and side.transport is not None:
                side.transport.abort()


@dataclass
class Proxy:
    """Listens on a port of loopback and passes everything on to `host` and `port`, or to a Unix socket."""

    host: str = "127.0.0.1"
    port: int = 0
    socket: str | None = None
    network: Network = Network.PASSES
    seconds: float = 0.2  # how late, when slow
    _lines: set[_Line] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for line in list(self._lines):
            line.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def listens(self) -> int:
        """The port that stands for the other side."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def becomes(self, network: Network, seconds: float | None = None) -> None:
        """Change the network, for open connections too."""
        self.network = network
        self.seconds = self.seconds if seconds is None else seconds
        for line in list(self._lines):
            if network is Network.CUT or (network is Network.PASSES and line.broken):
                line.reset()
            elif network is Network.HALF_OPEN and line.far is not None:
                line.broken = True
                line.far.transport.abort()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        line = _Line(near)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._lines.add(line)
        try:
            with contextlib.suppress(OSError):
                await self._connected(line, near_reader)
        finally:
            line.reset()
            self._lines.discard(line)
            self._tasks.discard(task)

    async def _connected(self, line: _Line, near_reader: asyncio.StreamReader) -> None:
        if self.network is Network.CUT:
            return
        while self.network in (Network.SILENT, Network.HALF_OPEN):  # accepted, and then nothing
            await self._changed.wait()
        far_reader, line.far = await (
            asyncio.open_unix_connection(self.socket)
            if self.socket
            else asyncio.open_connection(self.host, self.port)
        )
        await asyncio.gather(
            self._pass(line, near_reader, line.far, back=False),
            self._pass(line, far_reader, line.near, back=True),
        )

    async def _pass(
        self, line: _Line, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, back: bool
    ) -> None:
        """Bytes of one direction, until either side ends."""
        while piece := await source.read(1 << 16):
            if self.network is Network.SLOW:
                await asyncio.sleep(self.seconds)
            while self.network is Network.SILENT:
                await self._changed.wait()
            if line.broken:
                continue  # swallowed
            target.write(piece)
            await target.drain()
        if line.broken and back:
            await asyncio.Event().wait()  # the near side hears nothing of the end
        line.reset()
