"""When a failed task is tried again: exponential backoff with full jitter from its identity.

Source: Brooker, "Exponential Backoff And Jitter" (2015); the jitter is a hash of task and epoch, so that a
replay decides the same.
"""

from __future__ import annotations

import hashlib

_FIRST_SECONDS = 0.5
_LAST_SECONDS = 60.0


def delay_seconds(task: int, epoch: int, failures: int) -> float:
    """Seconds to wait after the `failures`-th failure (1 = the first)."""
    ceiling = min(_LAST_SECONDS, _FIRST_SECONDS * 2.0 ** min(failures, 16))
    digest = hashlib.sha256(f"{task}:{epoch}".encode()).digest()
    return ceiling * (0.5 + int.from_bytes(digest[:4], "big") / 2**33)
