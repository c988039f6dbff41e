"""Wait on facts: poll an assertion until it holds."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any


async def eventually(
    fact: Callable[[], Any], *, timeout_seconds: float = 10, every_seconds: float = 0.02
) -> Any:
    """The first true value of `fact` (awaited if need be); an AssertionError inside counts as not yet."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            found = fact()
            value = await found if inspect.isawaitable(found) else found
            why: object = f"it is {value!r}"
            if value:
                return value
        except AssertionError as error:
            why = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds} s: {why}")
        await asyncio.sleep(every_seconds)
