"""Leadership: one scheduler writes. Its term is a row in Postgres that every write checks; a standby takes
over when the lease runs out. A reign is everything that runs while leading."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import asyncpg
import structlog
from faststream.nats import NatsBroker
from goalwright_shared import subjects, topology
from goalwright_shared.artifacts import ObjectArtifacts
from nats.aio.client import Client
from nats.aio.msg import Msg

from goalwright_scheduler import dispatch, intake
from goalwright_scheduler.change import Change
from goalwright_scheduler.handlers import LeaderDesk, lead_subscribers
from goalwright_scheduler.loop import Loop, LostLead
from goalwright_scheduler.memory import Memory
from goalwright_scheduler.publisher import Publisher, told_of
from goalwright_scheduler.settings import SchedulerSettings
from goalwright_scheduler.sql import SQL
from goalwright_scheduler.touch import until_deaf, until_heard, until_out_of_touch

log = structlog.get_logger(__name__)

_PAGE = 1_000

_DEDUPED_SECONDS = 100.0
"""Younger than the duplicate window of stream WORK (120 s) by a margin."""

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Leadership:
    """A part: tries to lead, reigns, and tries again. `memory` is what queries see."""

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[Db]],
        broker: NatsBroker,
        client: Callable[[], Client],
        artifacts: ObjectArtifacts,
        settings: SchedulerSettings,
        holder: str,
    ) -> None:
        self._connect, self._broker, self._client = connect, broker, client
        self._artifacts, self._settings, self._holder = artifacts, settings, holder
        self.memory = Memory()
        self.leads = False
        self.desk: LeaderDesk | None = None  # while leading
        self._task: asyncio.Task[None] | None = None
        self._loop: Loop | None = None
        self._stopping = False

    async def start(self) -> None:
        """Begin to try; returns at once (a standby is as ready as a leader)."""
        self._task = asyncio.create_task(self._run(), name="leadership")

    async def stop(self) -> None:
        """Finish the turn in hand and give the lead back."""
        self._stopping = True
        if self._loop is not None:
            self._loop.stop()  # `wait_for` inside nats-py may swallow the cancel
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while not self._stopping:
            pause = self._settings.leader_lease_seconds / 4
            try:
                db = await self._connect()
                try:
                    term = await db.fetchval(SQL["lead"], self._holder, self._settings.leader_lease_seconds)
                    if term is not None:
                        await self._reign(db, term)
                    else:  # at once when the lease is over, if it is not renewed
                        left = await db.fetchval(
                            "SELECT extract(epoch FROM until - goalwright_clock())::float8 FROM leader"
                        )
                        pause = min(pause, max(0.01, left))
                finally:
                    self.leads = False
                    await _close(db)
            except LostLead as error:
                log.warning("lost the lead", error=str(error))
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                log.warning("postgres is away", error=repr(error))
            except Exception:
                log.exception("the reign ended by a fault of ours")
            await asyncio.sleep(pause)

    async def _reign(self, db: Db, term: int) -> None:
        log.info("leading", term=term)
        client = self._client()

        async def mend() -> Sequence[str]:
            return await self._mend_topology(client, db)

        await mend()
        await self.memory.load(db)
        publisher = Publisher(self._client, self._artifacts)
        loop = Loop(
            db=db, client=client, publisher=publisher, memory=self.memory, settings=self._settings, term=term,
            holder=self._holder, mend=mend,
        )  # fmt: skip
        self._loop = loop
        await self._republish(db, publisher)
        desk = LeaderDesk(loop, client, self._artifacts, self.memory)
        parts = self._intakes(client, desk, loop)
        subscribers = lead_subscribers(self._broker, desk)
        turning = asyncio.create_task(loop.run(), name="loop")
        try:
            for part in parts:
                await part.start()
            for subscriber in subscribers:
                await subscriber.start()
            self.leads, self.desk = True, desk
            leases = asyncio.create_task(self._end_leases(parts[1], loop, client), name="leases")
            touch = asyncio.create_task(
                until_out_of_touch(self._connect, self._settings.leader_lease_seconds), name="touch"
            )
            try:
                await asyncio.wait({turning, touch}, return_when=asyncio.FIRST_COMPLETED)
                if not turning.done():
                    db.terminate()
                    raise LostLead("Postgres is out of touch")
                await turning
            finally:
                leases.cancel()
                touch.cancel()
        finally:
            self.leads, self.desk = False, None
            loop.stop()
            turning.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await turning
            desk.close()  # before the subscribers, which wait for answers that are still owed
            for subscriber in subscribers:
                await subscriber.stop()
            for part in parts:
                await part.stop()
            await publisher.close()
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await db.execute(SQL["step_down"], term, self._holder)

    def _intakes(self, client: Client, desk: LeaderDesk, loop: Loop) -> Sequence[intake.Intake]:
        async def advisory(message: Msg) -> None:
            await intake.bury_undeliverable(client, message)

        batch, room = self._settings.batch, loop.arrivals.has_room
        return (
            intake.Intake(
                client, subjects.GOALS, subjects.DURABLE_GOALS, desk.on_goal, batch=batch, room=room
            ),
            intake.Intake(
                client, subjects.OUTCOMES, subjects.DURABLE_OUTCOMES, desk.on_outcome, batch=batch, room=room
            ),
            intake.Intake(
                client, subjects.ADVISORIES, subjects.DURABLE_ADVISORIES, advisory, batch=10, room=room
            ),
        )

    async def _end_leases(self, outcomes: intake.Intake, loop: Loop, client: Client) -> None:
        """A leader ends no lease before stored outcomes are drained and presences could be heard, nor while it is
        deaf or has been just now."""
        await outcomes.drained.wait()
        while True:
            loop.leases_expire_from = time.monotonic() + self._settings.leader_lease_seconds + 10
            await until_deaf(client)
            loop.leases_expire_from = float("inf")
            log.warning("NATS is not heard: no lease ends")
            await until_heard(client)

    async def _mend_topology(self, client: Client, db: Db) -> Sequence[str]:
        """Streams in memory are gone after a restart of NATS: the leader, who knows the lanes, makes them anew."""
        lanes = [
            row["name"] for row in await db.fetch("SELECT name FROM lane WHERE lane->>'performer' <> 'human'")
        ]
        leases = {
            row["name"]: row["lease"]
            for row in await db.fetch(
                "SELECT name, (lane->>'lease_seconds')::float8 AS lease FROM lane WHERE lane->>'performer' = 'custom'"
            )
        }
        js = client.jetstream(timeout=10)
        ours = [lane for lane in lanes if lane not in leases]
        changed = await topology.apply(js, ours)
        for lane, lease in leases.items():
            await topology.apply_consumer(
                js, subjects.WORK, topology.lane_consumer(lane, ack_wait=lease + 30)
            )
        if changed:
            log.warning("topology mended", changed=changed)
        return changed

    async def _republish(self, db: Db, publisher: Publisher) -> None:
        """What the last leader committed and perhaps did not publish: events, and work so young that the
        stream still knows whether it had it."""
        last = 0
        while rows := await db.fetch(SQL["load_outbox"], last, _PAGE):
            await publisher.events(told_of(rows))
            last = rows[-1]["id"]
        young = await db.fetch(
            """SELECT id FROM task WHERE state = 'dispatched' AND NOT announced
               AND dispatched_at > goalwright_clock() - $1::float8 * interval '1 second' ORDER BY id""",
            _DEDUPED_SECONDS,
        )
        if young:
            now = await db.fetchval("SELECT goalwright_clock()")
            change = Change(db, now, self._settings, self.memory.lanes, self.memory.rates)
            rows = await change.fetch("load_work", [row["id"] for row in young])
            await publisher.work(await dispatch.works(change, self.memory, rows))
            await self.memory.take(change, db)
        await publisher.push()


async def _close(db: Db) -> None:
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        await db.close(timeout=2)
