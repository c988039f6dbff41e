"""Identifiers. Goal ids are UUIDv7 text (time-ordered) unless the client names one; task ids are numbers
given by the scheduler and written as text in messages."""

from __future__ import annotations

import os
import time
import uuid


def new_goal_id() -> str:
    """A UUID version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, then random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80
    value |= 0x7 << 76 | (random >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=value))
