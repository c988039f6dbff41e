"""One writer, one loop: take what has arrived, one transaction, publish, ack. No locks, group commit for free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, TypeAlias, cast

import asyncpg
import structlog
from goalwright_shared import subjects, topology
from goalwright_shared.errors import Refused
from goalwright_shared.messages import Failed, GoalAnswer, Lane, TaskError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.client import JetStreamContext
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from goalwright_scheduler import (
    accounts,
    checking,
    control,
    dispatch,
    goals,
    outcomes,
    relay,
    sweep,
    talk,
    tasks,
    twins,
)
from goalwright_scheduler.arrivals import Arrivals
from goalwright_scheduler.change import (
    AskEnded,
    Change,
    ChecksEnded,
    GoalEnds,
    ReplanEnded,
    TwinEnded,
    VotesCast,
)
from goalwright_scheduler.core.states import GoalStatus
from goalwright_scheduler.intake import bury, refuse_publish
from goalwright_scheduler.items import Control, Item, Outcomes, Presence, Submission
from goalwright_scheduler.memory import Memory
from goalwright_scheduler.outcomes import Arrived
from goalwright_scheduler.publisher import Publisher
from goalwright_scheduler.settings import SchedulerSettings
from goalwright_scheduler.sql import SQL

log = structlog.get_logger(__name__)

_TICK_SECONDS = 0.25
_LATER_SECONDS = 0.01
"""How long events and acks of relays are gathered: short turns share what it costs to send and to store them."""

_MANY_CALLS = 32
"""Tries under way from which on answers to calls wait a little for each other."""

_CREDIT_FIRST, _CREDIT_LAST = 0.002, 0.05
"""Seconds between looks at free slots while tasks wait: quick after a change, then slower."""

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class InTurn:
    """The leader's connection for those who may ask while a relay runs: one statement at a time."""

    def __init__(self, db: Db) -> None:
        self._db, self._lock = db, asyncio.Lock()

    async def fetch(self, *arguments: Any) -> list[asyncpg.Record]:
        """As a connection's."""
        async with self._lock:
            return await self._db.fetch(*arguments)


class LostLead(Exception):
    """Another scheduler has a newer term: stop writing at once."""


@dataclass(slots=True)
class _Answers:
    """What to tell after the commit."""

    replies: list[tuple[asyncio.Future[Any], Any]] = field(default_factory=list)
    acks: list[Msg] = field(default_factory=list)


class Loop:
    """The leader's loop over one term. Raises `LostLead` when the term is over."""

    def __init__(
        self,
        *,
        db: Db,
        client: Client,
        publisher: Publisher,
        memory: Memory,
        settings: SchedulerSettings,
        term: int,
        holder: str,
        mend: Callable[[], Awaitable[Sequence[str]]],
    ) -> None:
        self._mend, self._mend_at = mend, 0.0
        self._work_was_lost = False
        self._work_lost_at: datetime | None = None  # dispatched before: its message may be gone
        self._db, self._client, self._publisher, self._memory = db, client, publisher, memory
        self._in_turn = cast(Db, InTurn(db))
        self._settings, self._term, self._holder = settings, term, holder
        self._js: JetStreamContext = client.jetstream(timeout=2)
        self._published: list[int] = []  # outbox rows to delete with the next commit
        self._next_tick = 0.0
        self._clock = datetime.now(UTC), time.monotonic()
        self._day: date | None = None  # of Postgres, as it was at the last tick
        self._behind: tuple[relay.Done, Change, list[Msg]] | None = None  # committed, and to be told
        self._told_at = 0.0  # when events and acks were last sent
        self._acks: list[Msg] = []  # of what is committed
        self._left_out: list[tuple[str, Exception]] = []  # of a tick, with why
        self._stopping = False  # `wait_for` inside nats-py may swallow a cancel that races with a reply
        self._credit_pause = _CREDIT_FIRST
        self.arrivals = Arrivals(settings.batch, self._gathers)
        """Where everything is put that the loop is to do."""
        self.leases_expire_from = float("inf")
        """Monotonic time from which expired leases count (set once stored outcomes are drained)."""

    def stop(self) -> None:
        """End after the turn in hand."""
        self._stopping = True

    async def run(self) -> None:
        """Turn until stopped or the lead is lost."""
        while not self._stopping:
            items = await self._arrived()
            tick = time.monotonic() >= self._next_tick
            if items or tick or await self._found_slots():
                if tick:
                    self._next_tick = time.monotonic() + _TICK_SECONDS
                    items = [*self.arrivals.presences(), *items]
                await self._turn(items, tick=tick)
                if self.arrivals.empty():
                    await self._catch_up(at_once=False)
                self._credit_pause = _CREDIT_FIRST
            else:
                self._credit_pause = min(self._credit_pause * 1.5, _CREDIT_LAST)
                await self._finish_telling()
            if self._publisher.troubled:
                await self._mend_topology()
        await self._catch_up()
        await self._finish_telling()

    async def _arrived(self) -> list[Item]:
        """What waits for a turn; waits itself for the next tick or look at free slots."""
        pause = max(0.0, self._next_tick - time.monotonic())
        if self._acks:
            pause = min(pause, _LATER_SECONDS)
        if self._memory.ready.waiting() or self._publisher.backlog:
            pause = min(pause, self._credit_pause)
        return await self.arrivals.take(pause)

    # --- free slots ------------------------------------------------------------------------------------

    async def _found_slots(self) -> bool:
        """Whether a task that waits can go out."""
        await self._look_for_slots()
        return any(self._memory.free.get(lane, 0) > 0 for lane in self._memory.ready.waiting())

    async def _look_for_slots(self, soon: Iterable[str] = ()) -> None:
        """Free slots = waiting pulls − pending messages − those under way + look-ahead, for lanes that have ready
        tasks (or may have some `soon`) and no slot that is known. (Where there is a look-ahead, each answer frees a
        slot: `_answered`.)"""
        wanted = {*self._memory.ready.waiting(), *soon}
        lanes = [lane for lane in wanted if self._memory.free.get(lane, 0) <= 0]
        if lanes:
            free = await asyncio.gather(*(self._slots(lane) for lane in lanes))
            self._memory.free.update(zip(lanes, free, strict=True))
        for lane in lanes:  # why a slot became free is read before it is given away: it may be a refusal
            if self.arrivals.unread(lane) > 0 and self._is_paid(lane):
                self._memory.free[lane] = 0

    def _is_paid(self, lane: str) -> bool:
        known = self._memory.lanes.get(lane)
        return known is not None and known.pool is not None

    def _gathers(self, lane: str) -> bool:
        return len(self._memory.flights) >= _MANY_CALLS and self._is_paid(lane)

    def _answered(self, change: Change, arrived: Sequence[Arrived]) -> None:
        """Performers have answered: where work lies ready for them, each takes its next at once. (Repeated and late
        answers free nobody.)"""
        landed = {str(task) for task in change.landed}
        for one in {one.outcome.task_id: one for one in arrived if one.outcome.task_id in landed}.values():
            lane = self._memory.lanes.get(one.lane)
            if lane is not None and lane.look_ahead:
                self._memory.free[lane.name] = self._memory.free.get(lane.name, 0) + 1

    async def _slots(self, name: str) -> int:
        lane: Lane | None = self._memory.lanes.get(name)
        if lane is None or lane.performer == "human":
            return 0
        try:
            info = await self._js.consumer_info(subjects.WORK, subjects.work_durable(name))
        except NotFoundError:  # NATS came back without its memory
            await self._mend_topology()
            return 0
        except (NatsError, JetStreamError, TimeoutError):
            return 0
        waiting, pending = info.num_waiting or 0, info.num_pending or 0
        present = waiting or info.num_ack_pending
        under_way = self._publisher.unconfirmed_on(name) + self._untold_on(name)
        return waiting - pending - under_way + (lane.look_ahead if present else 0)

    def _untold_on(self, lane: str) -> int:
        """Dispatches of the last relay, if they have not been handed to the publisher."""
        return sum(row["lane"] == lane for row in self._behind[0].sent) if self._behind is not None else 0

    async def _mend_topology(self) -> None:
        """Make anew what NATS may have lost; at most once a second."""
        if time.monotonic() < self._mend_at or not self._client.is_connected:
            return
        self._mend_at = time.monotonic() + 1
        try:
            changed = await self._mend()
            self._work_was_lost |= f"stream {subjects.WORK} created" in changed
        except (NatsError, JetStreamError, TimeoutError) as error:
            log.warning("topology not mended, trying again", error=repr(error))

    # --- transactions ----------------------------------------------------------------------------------

    async def turn(self, items: Sequence[Item], *, tick: bool) -> None:
        """Commit a batch, and tell what it did."""
        await self._turn(items, tick=tick)
        await self._catch_up()

    async def _turn(self, items: Sequence[Item], *, tick: bool) -> None:
        """Commit a batch; one that errors is halved until the culprit is alone. What a relay did may still have to be
        told (`_catch_up`)."""
        if not tick and await self._relayed(items):
            return
        await self._catch_up()
        try:
            await self._commit(items, tick=tick)
        except (LostLead, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError):
            raise
        except Exception as error:
            await self._memory.load(self._db)
            if tick:
                log.warning("a tick failed and is done one by one", error=repr(error))
                if items:
                    await self.turn(items, tick=False)
                await self._commit([], tick=True, apart=True)
            elif len(items) > 1:
                half = len(items) // 2
                log.warning("a batch failed and is halved", size=len(items), error=repr(error))
                await self.turn(items[:half], tick=False)
                await self.turn(items[half:], tick=False)
            elif items:
                await self._commit([], tick=False)  # the fault is the item's: without it a turn is fine
                log.error("an item failed", exc_info=error)
                await self._reject(items[0], error)
            else:
                raise

    async def _relayed(self, items: Sequence[Item]) -> bool:
        """The short way, if these are plain answers and nothing else is to do."""
        arrived = [one for item in items if isinstance(item, Outcomes) for one in item.arrived]
        if not arrived or not all(isinstance(item, Outcomes) for item in items):
            return False
        memory = self._memory
        if not relay.may_be(arrived, memory):
            return False
        await self._look_for_slots(relay.lanes_without_look_ahead(arrived, memory))
        made = relay.plan(arrived, memory, self._now())
        if made is None:
            return False
        for verb, arguments in made.statements(memory.lanes):
            rows = await self._asked(verb, arguments)
            if rows is not None:
                break
        else:
            memory.ready.push(made.chosen)
            return False
        done = relay.read(made, rows)
        if done is None:
            raise LostLead(f"term {self._term} is over")
        change = self._change(done.now, self._in_turn)
        relay.remember(done, memory)
        self._behind = done, change, [item.message for item in items if isinstance(item, Outcomes)]
        return True

    async def _asked(self, verb: str, arguments: Sequence[Any]) -> list[asyncpg.Record] | None:
        """What a statement of a relay answers; None when it refused. What the last one did is told meanwhile."""
        statement = asyncio.ensure_future(
            self._in_turn.fetch(SQL[verb], self._term, self._holder, *arguments)
        )
        statement.add_done_callback(_seen)
        try:
            await asyncio.sleep(0)  # it is on its way
            await self._catch_up()
            if time.monotonic() >= self._told_at + _LATER_SECONDS:
                await self._finish_telling()
        finally:
            await asyncio.wait([statement])
        try:
            return statement.result()
        except asyncpg.PostgresConnectionError:
            raise
        except (asyncpg.PostgresError, asyncpg.DataError) as error:
            if getattr(error, "sqlstate", None) != relay.REFUSED:
                log.warning("a statement of a relay failed", verb=verb, error=repr(error))
            return None

    async def _catch_up(self, *, at_once: bool = True) -> None:
        """Tell what the last relay did; where not all of it `at_once`, work only."""
        if self._behind is None:
            return
        (done, change, messages), self._behind = self._behind, None
        await relay.fold(done, change, self._memory)
        await self._memory.take(change, self._in_turn)
        await self._tell(change, _Answers(acks=messages), at_once=at_once)

    async def _commit(self, items: Sequence[Item], *, tick: bool, apart: bool = False) -> None:
        """One transaction. With `apart`, what is due is done each by itself, and what cannot be done is left out."""
        answers = _Answers()
        self._published += self._publisher.settled()
        if tick:
            await self._memory.learn(self._db)
        async with self._db.transaction():
            change = await self._begin()
            await self._apply(change, items, answers)
            await self._memory.admissions.review(change, self._memory.short_goals, look=tick)
            if tick:
                await self._sweep(change, apart=apart)
            while any(task.screened for task in change.ready):
                await twins.screen(change)
                await follow(change)
            await self._settle(change, tick=tick)
            await change.flush_results()  # what is dispatched may need them
            self._memory.ready.push(change.ready)
            change.ready.clear()
            await self._look_for_slots()
            await dispatch.dispatch(change, self._memory)
            await dispatch.store_rates(change)
            await change.flush_events()
        self._published.clear()
        while self._left_out:  # told now: a long story must not hold up a transaction
            name, error = self._left_out.pop()
            log.error("what was due could not be done and is left out", what=name, exc_info=error)
        if tick:
            self._day = change.now.astimezone(UTC).date()
        await self._memory.take(change, self._db)
        await self._tell(change, answers)

    async def _begin(self) -> Change:
        row = await self._db.fetchrow(
            SQL["term"],
            self._term,
            self._holder,
            self._settings.leader_lease_seconds,
            self._published,
        )
        if row is None:
            raise LostLead(f"term {self._term} is over")
        return self._change(row["now"], self._db)

    def _now(self) -> datetime:
        """About the time of Postgres: as it was with the last commit, and what has passed since."""
        now, at = self._clock
        return now + timedelta(seconds=time.monotonic() - at)

    def _change(self, now: datetime, db: Db) -> Change:
        self._clock = now, time.monotonic()
        memory = self._memory
        return Change(
            db, now, self._settings, memory.lanes, memory.rates, flights=memory.flights,
            lines=memory.lines, leaders=memory.leaders, calibrations=memory.admissions.calibrations,
        )  # fmt: skip

    async def _apply(self, change: Change, items: Sequence[Item], answers: _Answers) -> None:
        await self._extend_leases(change, [item for item in items if isinstance(item, Presence)])
        arrived = [one for item in items if isinstance(item, Outcomes) for one in item.arrived]
        if arrived:
            await outcomes.apply(change, arrived)
            self._answered(change, arrived)
            await follow(change)
        for item in items:
            match item:
                case Outcomes():
                    answers.acks.append(item.message)
                case Submission():
                    await self._submit(change, item, answers)
                case Control():
                    await self._control(change, item, answers)

    async def _submit(self, change: Change, item: Submission, answers: _Answers) -> None:
        part = change.fork()
        try:
            async with self._db.transaction():
                goal_id, status, duplicate = await goals.accept(
                    part, item.owner, item.parsed, item.sizes, item.message_id
                )
                await follow(part)
        except Refused as error:
            await self._refused(change, item, error, answers)
            return
        change.merge(part)
        answer = GoalAnswer(
            goal_id=goal_id, status=status, duplicate=duplicate, warnings=list(item.parsed.warnings)
        )
        if item.reply is not None:
            answers.replies.append((item.reply, answer))
        if item.message is not None:
            answers.acks.append(item.message)

    async def _refused(self, change: Change, item: Submission, error: Refused, answers: _Answers) -> None:
        if item.reply is not None:
            answers.replies.append((item.reply, error))
        if item.message is not None:
            given = (item.message.headers or {}).get("Nats-Msg-Id")  # else nobody knows our own id
            goal_id = item.parsed.submission.id or (given if given == item.message_id else None)
            await refuse_publish(self._client, item.owner, goal_id, item.message.data, error)
            answers.acks.append(item.message)

    async def _control(self, change: Change, item: Control, answers: _Answers) -> None:
        part = change.fork()
        try:
            async with self._db.transaction():
                answer = await control.apply(part, item.verb, item.owner, item.body)
                await follow(part)
        except Refused as error:
            answers.replies.append((item.reply, error))
            return
        change.merge(part)
        for lane in part.new_lanes.values():
            self._memory.lanes[lane.name] = lane
        answers.replies.append((item.reply, answer))

    async def _extend_leases(self, change: Change, items: Sequence[Presence]) -> None:
        tasks = {
            (int(task), epoch): self._memory.lanes[item.lane].lease_seconds
            for item in items
            if item.lane in self._memory.lanes
            for task, epoch in item.alive.tasks
            if task.isdecimal()
        }
        if tasks:
            await change.execute(
                "extend_leases",
                [t for t, _ in tasks],
                [e for _, e in tasks],
                list(tasks.values()),
                change.now,
            )

    async def _sweep(self, change: Change, *, apart: bool) -> None:
        if self._day != change.now.astimezone(UTC).date():
            await accounts.begin_day(change, witnessed=self._day is not None)
        if self._work_was_lost:
            self._work_was_lost, self._work_lost_at = False, change.now
        leases = sweep.Leases(
            expire=time.monotonic() >= self.leases_expire_from,
            unconfirmed=frozenset(self._publisher.unconfirmed()),
            lost_before=self._work_lost_at,
        )
        due = self._memory.due(change.now, sweep.AT_ONCE)
        await sweep.sweep(change, leases, due, partial(self._apart, change) if apart else None)
        await follow(change)

    async def _apart(self, change: Change, name: str, act: sweep.Act) -> bool:
        """Do it by itself, or not at all: one that cannot be done must not stop all others for good."""
        part = change.fork()
        try:
            async with self._db.transaction():
                await act(part)
                await follow(part)
        except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError):
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, others must go on
            self._left_out.append((name, error))
            return False
        change.merge(part)
        return True

    async def _settle(self, change: Change, *, tick: bool) -> None:
        await change.flush_bills()
        for goal, overrun in change.moved:
            if overrun:
                change.emit(goal, "budget.exhausted", None, overrun=True)
                await goals.pause(change, goal, "budget", ask_seconds=self._settings.ask_timeout_seconds)
            if goal in self._memory.short_goals:
                change.reload.add(goal)
        if tick:
            await dispatch.pause_short_goals(change, self._memory)

    async def _tell(self, change: Change, answers: _Answers, *, at_once: bool = True) -> None:
        """After the commit: work and events out, then replies and acks. Nothing here waits for an answer: what is
        not confirmed stays in the publisher's lines and in the outbox."""
        await self._publisher.events(change.told)
        await self._publisher.work(change.works)
        await self._publisher.push(events=at_once)
        self._acks += answers.acks
        for lane in change.new_lanes.values():
            await topology.apply_consumer(
                self._js, subjects.WORK, topology.lane_consumer(lane.name, ack_wait=lane.lease_seconds + 30)
            )
        await self._publisher.cancels(change.cancels)
        for future, answer in answers.replies:
            if not future.done():
                if isinstance(answer, Refused):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        if at_once:
            await self._finish_telling()

    async def _finish_telling(self) -> None:
        """Send the events that wait, and acks. Between turns, or while Postgres works: not while a performer does, who
        has the work already."""
        self._told_at = time.monotonic()
        await self._publisher.push()
        acks, self._acks = self._acks, []
        for message in acks:
            try:
                await message.ack()
            except NatsError as error:
                log.warning("ack failed; the epoch fences a redelivery", error=repr(error))

    async def _reject(self, item: Item, error: Exception) -> None:
        """One item that cannot be applied: it is kept as dead, and whoever waits is told."""
        reason = f"{type(error).__name__}: {error}"
        match item:
            case Submission(reply=reply, message=message):
                refused = Refused("cannot_store", f"the goal could not be stored: {reason}")
                if reply is not None and not reply.done():
                    reply.set_exception(refused)
                if message is not None:
                    goal_id = item.parsed.submission.id
                    await refuse_publish(self._client, item.owner, goal_id, message.data, refused)
                    await message.ack()
            case Control(reply=reply):
                if not reply.done():
                    reply.set_exception(Refused("cannot_apply", f"it could not be applied: {reason}"))
            case Outcomes():
                await self._reject_outcomes(item, reason)
            case Presence():
                log.error("presence dropped", error=reason)

    async def _reject_outcomes(self, item: Outcomes, reason: str) -> None:
        if len(item.arrived) > 1:  # apply what can be applied, one by one
            for arrived in item.arrived:
                await self.turn([Outcomes([arrived], item.message)], tick=False)
            return
        await bury(self._client, subjects.OUTCOMES, item.message.data, "cannot_apply", reason)
        outcome = item.arrived[0].outcome
        failed = Failed(
            goal_id=outcome.goal_id, task_id=outcome.task_id, epoch=outcome.epoch,
            error=TaskError(code="bad_outcome", message=reason.replace("\0", "")[:2000], retryable=False),
        )  # fmt: skip
        if isinstance(outcome, Failed) and outcome.error.code == "bad_outcome":
            await item.message.ack()
            return
        await self.turn([Outcomes([Arrived(item.arrived[0].lane, failed)], item.message)], tick=False)


def _seen(statement: asyncio.Future[Any]) -> None:
    """How a statement ended that nobody waits for any more, since the reign is over, is no news."""
    if not statement.cancelled():
        statement.exception()


async def follow(change: Change) -> None:
    """Do what applying has left to do, until nothing is left: goals that end, checks to read."""
    while change.followups:
        match change.followups.pop(0):
            case GoalEnds(goal, status, reason):
                await goals.finish(change, goal, GoalStatus(status), reason)
            case ChecksEnded(task):
                row = (await change.load([task])).get(task)
                if row is not None:
                    await checking.verdict(change, row)
            case TwinEnded(task):
                await twins.release(change, [task])
            case VotesCast(task):
                row = (await change.load([task])).get(task)
                if row is not None:
                    await twins.count_votes(change, row)
            case AskEnded(task):
                await talk.answered(change, task)
            case ReplanEnded(task):
                row = (await change.load([task])).get(task)
                if row is not None and row.parent is not None:
                    await tasks.skip_orphans(change, row.parent, row.generation)
