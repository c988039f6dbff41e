"""Sandboxes that have outlived their executor, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def end(folder: Path) -> int:
    """Kill every bubblewrap that was started for a program in `folder`, whose executor is dead; how many there were.

    The kernel kills a sandbox with its executor, but only once bubblewrap has asked for it, some milliseconds after its
    start; and its child, killed in between, waits for ever for the word of a parent that is no more."""
    return sum(_kill(int(name), f"{folder}/".encode()) for name in os.listdir("/proc") if name.isdigit())


def _kill(pid: int, within: bytes) -> bool:
    with contextlib.suppress(OSError):  # it has ended, or is somebody else's
        handle = os.pidfd_open(pid)
        try:
            name, *words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if name.endswith(b"bwrap") and any(word.startswith(within) for word in words):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False
