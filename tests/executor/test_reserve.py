"""Containers that wait for a program, without an engine: who gets one, and what happens to those that end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from goalwright_executor.sandbox.engine import Bounds, Container
from goalwright_executor.sandbox.port import SandboxLost
from goalwright_executor.sandbox.reserve import MAX_WAIT_SECONDS, Reserve
from support.waiting import eventually

BOUNDS = Bounds(memory_bytes=1, processes=1, disk_bytes=1, room_bytes=1)


class Maker:
    """Makes "containers" of a socket pair each: one ends when its far end is closed."""

    def __init__(self) -> None:
        self.far: dict[str, socket.socket] = {}
        self.removed: list[str] = []
        self.age_seconds = 0.0
        self.is_lost = threading.Event()
        self.refused = threading.Event()

    def start(self, bounds: Bounds, seconds: float) -> Container:
        if self.is_lost.is_set():
            self.refused.set()
            raise SandboxLost("the engine is away")
        near, far = socket.socketpair()
        name = f"container-{len(self.far)}"
        self.far[name] = far
        return Container(name, near, bounds, started=time.monotonic() - self.age_seconds)

    def is_waiting(self, container: Container) -> bool:
        return container.is_silent()

    def remove(self, container: Container) -> None:
        self.removed.append(container.id)
        container.stream.close()
        self.far[container.id].close()

    def sweep(self) -> None:
        if self.is_lost.is_set():
            raise SandboxLost("the engine is away")


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def reserve(maker: Maker) -> Iterator[Reserve]:
    reserve = Reserve(maker, 2, BOUNDS, seconds=60)
    yield reserve
    reserve.close()


async def filled(reserve: Reserve) -> list[str]:
    await eventually(lambda: len(reserve.waiting()) == 2)
    return reserve.waiting()


async def test_each_waiting_container_is_handed_out_once_and_another_takes_its_place(
    reserve: Reserve, maker: Maker
) -> None:
    reserve.start()
    taken = []
    for _ in range(5):
        await filled(reserve)
        container = reserve.take(BOUNDS, 60)
        assert container is not None
        taken.append(container.id)
    assert len(set(taken)) == 5
    assert not set(taken) & set(await filled(reserve))
    assert maker.removed == []


async def test_programs_with_other_bounds_or_more_time_get_none(reserve: Reserve) -> None:
    reserve.start()
    await filled(reserve)
    assert reserve.take(replace(BOUNDS, memory_bytes=2), 60) is None
    assert reserve.take(replace(BOUNDS, room_bytes=2), 60) is None
    assert reserve.take(BOUNDS, 61) is None
    assert reserve.take(BOUNDS, 1) is not None


async def test_a_container_that_ended_is_not_handed_out(reserve: Reserve, maker: Maker) -> None:
    reserve.start()
    for name in await filled(reserve):
        maker.far[name].close()
    container = reserve.take(BOUNDS, 60)
    assert container is None or container.is_silent()


async def test_a_container_that_ended_is_replaced_unasked(reserve: Reserve, maker: Maker) -> None:
    reserve.start()
    ended, stays = await filled(reserve)
    maker.far[ended].close()
    await eventually(lambda: ended not in reserve.waiting() and len(reserve.waiting()) == 2)
    assert maker.removed == [ended]
    assert stays in reserve.waiting()


async def test_a_container_that_waited_long_is_replaced(reserve: Reserve, maker: Maker) -> None:
    maker.age_seconds = MAX_WAIT_SECONDS + 1
    reserve.start()
    old = await filled(reserve)
    maker.age_seconds = 0
    await eventually(lambda: len(reserve.waiting()) == 2 and not set(old) & set(reserve.waiting()))
    assert set(old) <= set(maker.removed)


async def test_an_engine_that_is_back_fills_the_reserve_again(
    reserve: Reserve, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goalwright_executor.sandbox.reserve._RETRY_SECONDS", 0.05)
    maker.is_lost.set()
    reserve.start()
    await eventually(maker.refused.is_set)
    assert reserve.take(BOUNDS, 60) is None
    maker.is_lost.clear()
    await filled(reserve)


async def test_close_removes_every_container_that_waits(reserve: Reserve, maker: Maker) -> None:
    reserve.start()
    await filled(reserve)
    reserve.close()
    reserve.close()
    assert reserve.waiting() == []
    assert sorted(maker.removed) == sorted(maker.far)
