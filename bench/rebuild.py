"""How long a scheduler that takes the lead needs to know what is open: its memory, rebuilt from Postgres."""

from __future__ import annotations

import asyncio
import statistics
import time

import asyncpg
from goalwright_cli.client import connected
from goalwright_scheduler.memory import Memory

from bench.runs import submit
from bench.stand import Stand
from bench.workloads import Graph, flat, layered, submission

_GOALS, _TASKS = 10, 10_000
_LONG = 3_600.0
"""Seconds of a task: nothing ends while it is measured."""

_OPEN = """
    SELECT state, count(*) AS n FROM task WHERE state IN ('blocked', 'ready', 'dispatched', 'expanded')
    GROUP BY state ORDER BY state"""


async def rebuild(stand: Stand, runs: int) -> str:
    """100,000 open tasks, half of them ready; then the shipped `Memory.load`, as a leader calls it, on a
    connection of its own."""
    async with connected(stand.nats.client_url) as client:
        for number in range(_GOALS):
            await submit(client, submission(_graph(number), f"open-{number}", "stays open"))
    db = await asyncpg.connect(stand.postgres.dsn())
    try:
        found = await _settled(db, stand.slots)
        took = [await _load(db) for _ in range(runs)]
    finally:
        await db.close()
    states = ", ".join(f"{count:,} {state}" for state, count in found.items())
    seconds = ", ".join(f"{each:.2f}" for each in took)
    return f"{states}: memory rebuilt in {statistics.median(took):.2f} s (median of {seconds})"


def _graph(number: int) -> Graph:
    return flat(_TASKS, seconds=_LONG) if number % 2 else layered(_TASKS, 100, seed=number, seconds=_LONG)


async def _settled(db: asyncpg.Connection[asyncpg.Record], slots: int) -> dict[str, int]:
    """How many tasks are open, by state, when all slots have work."""
    while True:
        found = {row["state"]: row["n"] for row in await db.fetch(_OPEN)}
        if found.get("dispatched", 0) >= slots:
            return found
        await asyncio.sleep(0.1)


async def _load(db: asyncpg.Connection[asyncpg.Record]) -> float:
    began = time.monotonic()
    await Memory().load(db)
    return time.monotonic() - began
