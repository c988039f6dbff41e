"""Identifiers. Goal ids are UUIDv7 text (time-ordered) unless the client names one; task ids are numbers
given by the scheduler and written as text in messages."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from datetime import datetime


def new_goal_id() -> str:
    """A UUID version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, then random bits."""
    return _uuid7(time.time_ns() // 1_000_000, os.urandom(10))


def stored_goal_id(stored: datetime, sequence: int) -> str:
    """The same for a goal that a stream holds: of its place and time there, so that a redelivery after a crash
    is the goal that exists and not another one."""
    seed = hashlib.sha256(f"{stored.isoformat()}/{sequence}".encode()).digest()
    return _uuid7(int(stored.timestamp() * 1000), seed[:10])


def _uuid7(milliseconds: int, bits: bytes) -> str:
    random = int.from_bytes(bits, "big")
    value = (milliseconds & (1 << 48) - 1) << 80
    value |= 0x7 << 76 | (random >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=value))
