"""One lifecycle for every part: the order of start and stop, what ends a process, and with which code."""

from __future__ import annotations

import asyncio
import signal
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_shared.health import Health
from goalwright_shared.lifecycle import Stopper, run
from support.waiting import eventually

from shared.conftest import SmallService


@dataclass
class Part:
    """Writes down what happens to it; may fail or wait."""

    name: str
    diary: list[str]
    fails_to: str = ""
    gate: asyncio.Event | None = None
    running: bool = field(default=False)

    async def start(self) -> None:
        """Become ready, or fail."""
        self.diary.append(f"start {self.name}")
        if self.fails_to == "start":
            raise OSError(f"{self.name} cannot start")
        if self.gate is not None:
            await self.gate.wait()
        self.running = True

    async def stop(self) -> None:
        """End."""
        self.diary.append(f"stop {self.name}")
        if self.fails_to == "stop":
            raise OSError(f"{self.name} cannot stop")
        self.running = False


def asked() -> Stopper:
    """A stopper that was asked before the start had ended."""
    stopper = Stopper()
    asyncio.get_running_loop().call_later(0.05, stopper.ask, "enough")
    return stopper


async def test_parts_start_in_order_and_stop_in_reverse() -> None:
    diary: list[str] = []
    assert await run([Part(name, diary) for name in "abc"], asked()) == 0
    assert diary == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


async def test_a_part_that_fails_to_start_stops_those_before_it() -> None:
    diary: list[str] = []
    parts = [Part("a", diary), Part("b", diary), Part("c", diary, fails_to="start"), Part("d", diary)]
    with pytest.raises(OSError, match="c cannot start"):
        await run(parts, Stopper())
    assert diary == ["start a", "start b", "start c", "stop b", "stop a"]


async def test_a_part_that_fails_to_stop_keeps_no_other_from_it() -> None:
    diary: list[str] = []
    parts = [Part("a", diary), Part("b", diary, fails_to="stop"), Part("c", diary)]
    assert await run(parts, asked()) == 1
    assert diary[-3:] == ["stop c", "stop b", "stop a"]


async def test_being_asked_during_the_start_ends_it() -> None:
    diary: list[str] = []
    parts = [Part("a", diary), Part("b", diary, gate=asyncio.Event()), Part("c", diary)]
    assert await run(parts, asked()) == 0
    assert diary == ["start a", "start b", "stop a"]


async def test_a_fatal_part_ends_with_one() -> None:
    diary: list[str] = []
    stopper = Stopper()
    stopper.fatal("lost")
    assert await run([Part("a", diary)], stopper) == 1


async def test_the_first_reason_counts() -> None:
    """A connection that closes because of a signal is no failure."""
    stopper = Stopper()
    stopper.ask("SIGTERM")
    stopper.fatal("the connection was closed")
    assert (stopper.reason, stopper.failed) == ("SIGTERM", False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_service_with_zero_and_work_in_hand_is_handed_back(
    small_service: SmallService, nats_server: EmbeddedNats, number: signal.Signals
) -> None:
    await small_service.said("ready")
    await small_service.hand_out("hang")
    await eventually(lambda: _taken(small_service))
    small_service.signal(number)
    assert await small_service.end() == 0
    assert [line["reason"] for line in small_service.lines if line["event"] == "stopping"] == [number.name]
    message = await small_service.client.jetstream().get_last_msg("OUTCOMES", "outcomes.exec")
    assert b'"throttled"' in (message.data or b"")


async def _taken(service: SmallService) -> bool:
    info = await service.client.jetstream().consumer_info("WORK", "work-exec")
    return bool(info.num_ack_pending == 1)


async def test_a_signal_right_at_the_start_ends_it_too(small_service: SmallService) -> None:
    await small_service.said("health")  # its handlers are there, its last part has perhaps not started
    small_service.signal()
    assert await small_service.end() == 0


async def test_a_signal_without_nats_ends_in_time_with_zero(
    small_service: SmallService, nats_server: EmbeddedNats
) -> None:
    await small_service.said("ready")
    await small_service.hand_out("hang")
    await eventually(lambda: _taken(small_service))
    await nats_server.stop()
    await small_service.said("nats disconnected")
    begun = asyncio.get_running_loop().time()
    small_service.signal()
    assert await small_service.end() == 0
    assert asyncio.get_running_loop().time() - begun < 15
    await nats_server.start()


async def test_a_performer_that_cannot_go_on_ends_its_service_with_one(small_service: SmallService) -> None:
    await small_service.said("ready")
    await small_service.hand_out("fatal")
    assert await small_service.end() == 1


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_a_service_answers_over_http_and_is_not_ready_without_nats(
    small_service: SmallService, nats_server: EmbeddedNats
) -> None:
    live = (await small_service.said("health"))["live"]
    await small_service.said("ready")
    assert await asyncio.to_thread(_get, live) == (200, '{"service":"small","live":true}')
    ready = live.replace("/live", "/ready")
    assert await asyncio.to_thread(_get, ready) == (200, '{"service":"small","ready":true,"missing":null}')
    assert (await asyncio.to_thread(_get, live.replace("/live", "/metrics")))[1].startswith("# HELP")
    await nats_server.stop()
    await small_service.said("nats disconnected")
    status, text = await asyncio.to_thread(_get, ready)
    assert (status, "NATS is not connected" in text) == (503, True)
    assert (await asyncio.to_thread(_get, live))[0] == 200
    await nats_server.start()
    await small_service.said("nats reconnected")
    assert (await asyncio.to_thread(_get, ready))[0] == 200


async def test_health_is_not_ready_until_the_last_part_has_started() -> None:
    async def fine() -> str | None:
        return None

    health = Health("x", "127.0.0.1", 0, fine)
    gate, stopper, diary = asyncio.Event(), Stopper(), list[str]()
    running = asyncio.create_task(run([health, Part("last", diary, gate=gate)], stopper))
    await eventually(lambda: diary)
    url = f"{health.url}/ready"
    assert await asyncio.to_thread(_get, url) == (
        503, '{"service":"x","ready":false,"missing":"still starting"}'
    )  # fmt: skip
    gate.set()
    await eventually(lambda: _ready(url))
    stopper.ask("enough")
    assert await running == 0


async def _ready(url: str) -> bool:
    return (await asyncio.to_thread(_get, url))[0] == 200


async def test_health_starts_again_and_stops_twice_in_peace() -> None:
    async def fine() -> str | None:
        return None

    health = Health("x", "127.0.0.1", 0, fine)
    for act in (health.start, health.stop, health.start, health.stop, health.stop):
        await act()
