"""A network that is cut, slow, silent or half open: goals end when it heals, and a leader who is cut off is
replaced and writes nothing more."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from urllib.parse import parse_qs, urlsplit

import pytest
from support.forked import Process
from support.performer import Call, Manner
from support.proxy import Network, Proxy
from support.system import System, wait_for

from failure import witness
from failure.goals import PERFORMED, ended_whole, layered, progress

DEAD = [Network.CUT, Network.SILENT, Network.HALF_OPEN]
MANNER = Manner((0.05, 0.15))
TASKS = 8 * 6 + 1
FAULT_SECONDS = 2.0
"""Shorter than a lease of these lanes: no performer loses its work."""


def networks(now: Sequence[Network], later: Sequence[Network]) -> pytest.MarkDecorator:
    """The networks of `make test`, and those of `make chaos` beside them."""
    return pytest.mark.parametrize(
        "network", [*now, *(pytest.param(network, marks=pytest.mark.chaos) for network in later)]
    )


@contextlib.asynccontextmanager
async def through(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A bad network to the server at `url`, and the address that leads through it."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host")
    proxy = Proxy(socket=f"{folder[0]}/.s.PGSQL.5432") if folder else Proxy(port=parts.port or 0)
    async with proxy:
        user = parts.netloc.rpartition("@")[0]
        yield proxy, f"{parts.scheme}://{user}@127.0.0.1:{proxy.listens}{parts.path}"


async def breaks_and_heals(system: System, proxy: Proxy, network: Network) -> None:
    """A goal, in the middle of which the network is bad for a while; it ends whole."""
    goal = await system.submit(plan={"tasks": layered(PERFORMED)})
    await progress(system, goal, 10)
    proxy.becomes(network)
    await asyncio.sleep(FAULT_SECONDS)  # how long the fault lasts
    proxy.becomes(Network.PASSES)
    await ended_whole(system, goal, TASKS)


@networks([Network.CUT, Network.HALF_OPEN], [Network.SLOW, Network.SILENT])
async def test_goal_ends_when_the_network_to_nats_heals(world: System, network: Network) -> None:
    async with through(world.server.service_url) as (proxy, url):
        await world.start_scheduler_process(GOALWRIGHT_NATS_URL=url)
        performer = await world.start_performer([PERFORMED], 6, Call(MANNER))
        await breaks_and_heals(world, proxy, network)
        assert performer.twice() == []


@networks([Network.CUT, Network.SILENT], [Network.SLOW, Network.HALF_OPEN])
async def test_goal_ends_when_the_network_to_postgres_heals(world: System, network: Network) -> None:
    async with through(world.dsn) as (proxy, dsn):
        await world.start_scheduler_process(GOALWRIGHT_POSTGRES_DSN=dsn)
        performer = await world.start_performer([PERFORMED], 6, Call(MANNER))
        await breaks_and_heals(world, proxy, network)
        assert performer.twice() == []


@networks([Network.HALF_OPEN], [Network.CUT, Network.SLOW, Network.SILENT])
async def test_goal_ends_when_the_network_of_a_performer_heals(world: System, network: Network) -> None:
    async with through(world.server.service_url) as (proxy, url):
        await world.start_scheduler_process()
        performer = await world.start_performer([PERFORMED], 6, Call(MANNER), url=url)
        await breaks_and_heals(world, proxy, network)
        assert performer.twice() == []


@networks([Network.SILENT], [Network.CUT, Network.HALF_OPEN])
async def test_leader_cut_off_from_postgres_is_replaced_and_writes_nothing_more(
    world: System, network: Network
) -> None:
    await witness.watch_writers(world.dsn)
    world.environment["GOALWRIGHT_LEADER_LEASE_SECONDS"] = "3"  # as shipped
    async with through(world.dsn) as (proxy, dsn):
        await start_named(world, "first", dsn)
        await start_named(world, "second", world.dsn)
        performer = await world.start_performer([PERFORMED], 6, Call(MANNER))
        goal = await world.submit(plan={"tasks": layered(PERFORMED)})
        await progress(world, goal, 10)
        proxy.becomes(network)
        await taken_over(world, "second")
        await wait_for(lambda: is_answered_each_time(world, goal), 30)
        await progress(world, goal, 30)
        proxy.becomes(Network.PASSES)
        await ended_whole(world, goal, TASKS)
        assert performer.twice() == []
        await wrote_only_while_leading(world)


async def test_leader_stopped_for_longer_than_its_lease_writes_nothing_when_it_goes_on(world: System) -> None:
    await witness.watch_writers(world.dsn)
    world.environment["GOALWRIGHT_LEADER_LEASE_SECONDS"] = "3"  # as shipped
    leader = await start_named(world, "first", world.dsn)
    await start_named(world, "second", world.dsn)
    performer = await world.start_performer([PERFORMED], 6, Call(MANNER))
    goal = await world.submit(plan={"tasks": layered(PERFORMED)})
    await progress(world, goal, 10)
    leader.send_signal(signal.SIGSTOP)
    await taken_over(world, "second")
    leader.send_signal(signal.SIGCONT)
    await ended_whole(world, goal, TASKS)
    assert performer.twice() == []
    await wrote_only_while_leading(world)


@networks([Network.SILENT], [Network.CUT, Network.HALF_OPEN])
async def test_query_says_that_postgres_is_away_until_it_is_back(world: System, network: Network) -> None:
    async with through(world.dsn) as (proxy, dsn):
        await world.start_scheduler_process(GOALWRIGHT_POSTGRES_DSN=dsn)
        goal = await world.submit(plan={"tasks": [{"key": "waits", "lane": PERFORMED}]})

        async def error() -> str:
            answer = await world.tried(world.goal(goal))
            return str(answer["error"]["code"]) if "error" in answer else str(answer.get("status"))

        proxy.becomes(network)
        await wait_for(lambda: becomes(error, "postgres_unreachable"), 30)
        proxy.becomes(Network.PASSES)
        await wait_for(lambda: becomes(error, "running"), 30)


async def becomes(look: Callable[[], Awaitable[str]], wanted: str) -> bool:
    return await look() == wanted


async def is_answered_each_time(system: System, goal: str) -> bool:
    """No scheduler that cannot read is asked: with two of them, one in 4,000 looks would not see it."""
    answers = [await system.tried(system.goal(goal)) for _ in range(12)]
    return all("counts" in answer for answer in answers)


async def start_named(system: System, name: str, dsn: str) -> Process:
    """A scheduler that leads and writes under a name."""
    return await system.start_scheduler_process(
        GOALWRIGHT_WORKER=name, GOALWRIGHT_POSTGRES_DSN=await witness.named(dsn, name)
    )


async def taken_over(system: System, name: str) -> None:
    """That scheduler leads: three seconds and a moment later, as shipped, where nothing else is done."""

    async def leads() -> bool:
        return (await witness.leader(system.dsn))[1] == name

    await wait_for(leads)


async def wrote_only_while_leading(system: System) -> None:
    """The first wrote in its term, the second in the next, and nobody in another's."""
    assert await witness.terms_by_writer(system.dsn) == {"first": {1}, "second": {2}}


@pytest.mark.chaos
@pytest.mark.parametrize("network", DEAD)
async def test_no_lease_ends_while_the_scheduler_cannot_hear(world: System, network: Network) -> None:
    """Slow, as a new leader waits before it ends any lease."""
    async with through(world.server.service_url) as (proxy, url):
        await world.start_scheduler_process(GOALWRIGHT_NATS_URL=url)
        performer = await world.start_performer([PERFORMED], 1, Call(Manner((20, 20))))
        goal = await world.submit(plan={"tasks": [{"key": "long", "lane": PERFORMED}]})
        await asyncio.sleep(13)  # until the new leader ends leases
        proxy.becomes(network)
        await asyncio.sleep(5)  # longer than the lease
        proxy.becomes(Network.PASSES)
        await ended_whole(world, goal, 2)
        assert len(performer.performed) == 1
