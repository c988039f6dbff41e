"""The command `goalwright` as a person runs it: a process of its own, with pipes or with a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass

from goalwright_cli.main import build
from typer.testing import CliRunner

_COMMAND = (sys.executable, "-m", "goalwright_cli.main")
_SECONDS = 30.0


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of its output."""
        return self.out.splitlines()


def _environment(url: str, more: Mapping[str, str] | None) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("GOALWRIGHT_", "OPENAI_"))
    }
    return kept | {"GOALWRIGHT_NATS_URL": url, "NO_COLOR": "", "TERM": "xterm-256color"} | dict(more or {})


class Command:
    """A running `goalwright …` without a terminal."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._seen = ""

    @classmethod
    async def start(
        cls, *args: str, url: str, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Command:
        """Start it; its standard input is empty."""
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(
                *_COMMAND, *args, cwd=cwd, env=_environment(url, env),
                stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
            )
        )  # fmt: skip

    async def line_with(self, text: str) -> str:
        """The next line of its output that contains `text`."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_SECONDS):
            while line := (await self._process.stdout.readline()).decode():
                self._seen += line
                if text in line:
                    return line
        raise AssertionError(f"{text!r} did not come; it said:\n{self._seen}")

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    async def end(self) -> Ran:
        """Wait for its end."""
        try:
            out, err = await asyncio.wait_for(self._process.communicate(), _SECONDS)
        except TimeoutError:
            self._process.kill()
            raise
        assert self._process.returncode is not None
        return Ran(self._process.returncode, self._seen + out.decode(), err.decode())


async def goalwright(
    *args: str, url: str, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> Ran:
    """Run it to its end without a terminal."""
    return await (await Command.start(*args, url=url, env=env, cwd=cwd)).end()


async def invoke(*args: str, url: str) -> Ran:
    """The same inside this process, in a thread, for commands that neither follow a goal nor take signals."""
    env = {"GOALWRIGHT_NATS_URL": url}
    result = await asyncio.to_thread(CliRunner().invoke, build(), list(args), env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def _own_terminal() -> None:
    """In the child: its terminal is the one it controls, so that a typed Ctrl-C reaches it."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A running `goalwright …` whose input and output are a terminal."""

    def __init__(self, process: asyncio.subprocess.Process, fd: int) -> None:
        self._process = process
        self._fd = fd
        self.text = ""
        self._grown = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    @classmethod
    async def start(
        cls, *args: str, url: str, env: Mapping[str, str] | None = None, columns: int = 80, rows: int = 24
    ) -> Terminal:
        """Start it on a terminal of that size."""
        ours, theirs = pty.openpty()
        size = {"COLUMNS": str(columns), "LINES": str(rows)}
        process = await asyncio.create_subprocess_exec(
            *_COMMAND, *args, env=_environment(url, size | dict(env or {})),
            stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(theirs)
        return cls(process, ours)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other side has been closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
        self.text += data.decode(errors="replace")
        self._grown.set()

    async def shows(self, text: str) -> None:
        """Wait until `text` was written."""
        try:
            async with asyncio.timeout(_SECONDS):
                while text not in self.text:
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} did not come; it showed:\n{self.text}") from None

    def type(self, text: str) -> None:
        """What the person types."""
        os.write(self._fd, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    async def end(self) -> int:
        """Wait for its end; the exit code."""
        try:
            code = await asyncio.wait_for(self._process.wait(), _SECONDS)
        except TimeoutError:
            self._process.kill()
            raise
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        return code
