"""What has arrived for the loop and waits for its turn."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from goalwright_scheduler.items import Item, Outcomes, Presence

_GATHER_SECONDS = 0.08
"""How long after the last turn answers may be gathered. Where many calls are under way a turn costs much the same for
one answer as for ten, and calls take seconds."""


class Arrivals:
    """Presences for the next tick, everything else for the next turn. `gathers(lane)`: whether its answers may wait
    for others."""

    def __init__(self, batch: int, gathers: Callable[[str], bool]) -> None:
        self._batch, self._gathers = batch, gathers
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._unread: Counter[str] = Counter()
        self._presences: list[Item] = []
        self._taken_at = 0.0

    def put(self, item: Item) -> None:
        """One more."""
        if isinstance(item, Presence):
            self._presences.append(item)
            return
        self._items.put_nowait(item)
        if isinstance(item, Outcomes):
            self._unread.update(one.lane for one in item.arrived)

    def empty(self) -> bool:
        """Whether nothing waits for a turn."""
        return self._items.empty()

    def has_room(self) -> bool:
        """Whether intake should read more."""
        return self._items.qsize() < 4 * self._batch

    def unread(self, lane: str) -> int:
        """Outcomes of a lane that wait for a turn."""
        return self._unread[lane]

    def presences(self) -> list[Item]:
        """All that have come since they were last asked for."""
        taken, self._presences = self._presences, []
        return taken

    async def take(self, pause: float) -> list[Item]:
        """Everything that waits, at most a batch; where nothing does, what arrives within `pause` seconds."""
        items: list[Item] = []
        if not await self._drain(items, pause):
            return items
        while self._may_wait(items) and (left := self._taken_at + _GATHER_SECONDS - time.monotonic()) > 0:
            await self._drain(items, left)
        self._taken_at = time.monotonic()
        self._unread.subtract(
            one.lane for item in items if isinstance(item, Outcomes) for one in item.arrived
        )
        return items

    async def _drain(self, into: list[Item], pause: float) -> bool:
        """Take what is there, or wait for something to take."""
        if self._items.empty():
            try:
                async with asyncio.timeout(pause):
                    into.append(await self._items.get())
            except TimeoutError:
                return False
        weight = sum(map(_weight, into))
        while weight < self._batch and not self._items.empty():
            item = self._items.get_nowait()
            weight += _weight(item)
            into.append(item)
        return True

    def _may_wait(self, items: list[Item]) -> bool:
        if sum(map(_weight, items)) >= self._batch:
            return False
        return all(
            isinstance(item, Outcomes) and all(self._gathers(one.lane) for one in item.arrived)
            for item in items
        )


def _weight(item: Item) -> int:
    return len(item.arrived) if isinstance(item, Outcomes) else 1
