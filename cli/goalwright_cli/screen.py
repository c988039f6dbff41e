"""Where a goal is shown while it is followed: a live tree on a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from datetime import UTC, datetime
from typing import Protocol, TextIO

from goalwright_shared.messages import Event
from rich.console import Console
from rich.live import Live
from rich.text import Text

from goalwright_cli import render
from goalwright_cli.view import GoalView

_MOST_LINES = 40


class Screen(Protocol):
    """Shows a goal and, where there is a person, asks."""

    can_ask: bool
    width: int | None
    """Where lines are broken; None: nowhere."""

    def tell(self, view: GoalView, event: Event) -> None:
        """An event was applied."""

    def draw(self, view: GoalView) -> None:
        """Show where the goal stands now."""

    async def ask(self, prompt: str) -> str:
        """A line from the person; may be cancelled."""

    def say(self, lines: list[Text]) -> None:
        """Print lines that stay."""

    def close(self) -> None:
        """Give the terminal back; idempotent."""


def open_screen(*, stdout: bool = True) -> Screen:
    """The live screen on a terminal, else lines; to stderr when stdout is kept for JSON."""
    stream = sys.stdout if stdout else sys.stderr
    console = console_for(stream)
    if stdout and stream.isatty() and not console.is_dumb_terminal:
        return LiveScreen(console)
    return LineScreen(console)


def console_for(stream: TextIO) -> Console:
    """A console that writes escape codes for colours only to a terminal without NO_COLOR."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? instead of failing
    plain = not stream.isatty() or bool(os.environ.get("NO_COLOR"))
    return Console(
        file=stream, highlight=False, markup=False, emoji=False, color_system=None if plain else "auto"
    )


class LineScreen:
    """One line for each thing that happens, never cut, no escape codes."""

    def __init__(self, console: Console) -> None:
        self.can_ask = sys.stdin.isatty() and console.file.isatty()
        self.width: int | None = None
        self._console = console

    def tell(self, view: GoalView, event: Event) -> None:
        """Print what the event says."""
        self.say(render.story(view, event, every=True))

    def draw(self, view: GoalView) -> None:
        """Lines need no redrawing."""

    async def ask(self, prompt: str) -> str:
        """A line from standard input."""
        self._console.print(prompt, end=" ", soft_wrap=True)
        return await read_line(sys.stdin)

    def say(self, lines: list[Text]) -> None:
        """Print, however long a line is."""
        for line in lines:
            self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Nothing to give back."""


class LiveScreen:
    """Headlines that scroll, and under them a tree of the tasks that is drawn again and again."""

    def __init__(self, console: Console) -> None:
        self.can_ask = sys.stdin.isatty()
        self.width: int | None = console.width
        self._console = console
        self._live = self._fresh()

    def _fresh(self) -> Live:
        """A drawing that starts below what was printed; a stopped one would draw over it."""
        return Live(console=self._console, auto_refresh=False, transient=False, redirect_stderr=False)

    def tell(self, view: GoalView, event: Event) -> None:
        """Print headlines above the tree."""
        self.say(render.story(view, event, every=False, width=self._console.width))

    def draw(self, view: GoalView) -> None:
        """Draw header and tree."""
        if not self._live.is_started:
            self._live.start()
        size = self._console.size
        height = min(size.height - 2, _MOST_LINES)
        self._live.update(render.screen(view, datetime.now(UTC), size.width, height), refresh=True)

    async def ask(self, prompt: str) -> str:
        """Stop drawing, read a line, go on."""
        self._live.stop()
        self._live = self._fresh()
        self._console.print(prompt, end=" ", style="bold magenta")
        return await read_line(sys.stdin)

    def say(self, lines: list[Text]) -> None:
        """Print above the tree."""
        for line in lines:
            self._console.print(line)

    def close(self) -> None:
        """Leave the last drawing where it is."""
        self._live.stop()


async def read_line(stream: TextIO) -> str:
    """The next line of a stream; unlike a thread that reads, it can be cancelled. "" at the end."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(stream.fileno(), readable.set)
    try:
        await readable.wait()
        return stream.readline().strip()
    finally:
        with contextlib.suppress(OSError, ValueError):
            loop.remove_reader(stream.fileno())
