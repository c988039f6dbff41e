"""The scheduler's loop on a real Postgres, with a NATS made of memory: what happens is decided by the test.

A `Rig` owns the clock, the free slots and the moments at which a connection breaks. Whatever the loop
publishes is kept in `Nats`: Work as performers get it, events as subscribers see them. All that depends on
how the loop is built is in `Rig._lead` and `Rig._turn`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Literal, cast

import asyncpg
from goalwright_scheduler.core.submission import Parsed
from goalwright_scheduler.items import Control, Item, Outcomes, Presence, Submission
from goalwright_scheduler.loop import Loop, LostLead
from goalwright_scheduler.outcomes import Arrived
from goalwright_scheduler.publisher import Publisher
from goalwright_scheduler.reign import Leadership
from goalwright_scheduler.settings import SchedulerSettings
from goalwright_scheduler.sql import SQL
from goalwright_shared import subjects
from goalwright_shared.errors import Refused
from goalwright_shared.messages import Alive, GoalSubmission, Lane, Outcome
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.js.api import ConsumerConfig, ConsumerInfo

Crash = Literal["before", "after"]
Trouble = Literal["away", "cut", "deaf"]
"""Gone; gone with what is sent now; gone after what is sent now, before it is confirmed."""

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Nats:
    """What the loop sees of NATS. Streams drop a repeated `Nats-Msg-Id` and refuse a message that names another
    one before it than the last; consumers count the pulls that wait; answers arrive when the test says so."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._look_ahead = {lane.name: lane.look_ahead for lane in lanes}
        self._durables = {subjects.work_durable(lane.name): lane.name for lane in lanes}
        self.stats = {"reconnects": 0}
        self.trouble: Trouble | None = None
        self.waiting: Counter[str] = Counter()  # pulls that wait, by lane
        self.pending: dict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self.hands: list[dict[str, Any]] = []  # Work that performers hold or held
        self.unacked: set[tuple[int, int]] = set()  # of it, what they have not acked
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.works: list[dict[str, Any]] = []
        self._ids: set[str] = set()
        self._last: dict[str, str] = {}  # by stream: the id of its last message
        self._answers: list[tuple[str, dict[str, Any]]] = []
        self._listeners: list[tuple[str, Callable[[Any], Awaitable[None]]]] = []
        self._inboxes = itertools.count()

    # --- performers -------------------------------------------------------------------------------------

    def pull(self, lane: str, slots: int) -> None:
        """Performers ask for so many tasks."""
        self.waiting[lane] += slots
        while self.waiting[lane] and self.pending[lane]:
            self.waiting[lane] -= 1
            work = self.pending[lane].popleft()
            self.hands.append(work)
            self.unacked.add((int(work["task_id"]), work["epoch"]))

    def vanish(self) -> None:
        """All performers are killed; what they hold is lost with them."""
        self.waiting.clear()
        self.unacked.clear()

    def free(self, lane: str) -> int:
        """Free slots, as DESIGN counts them."""
        held = any(
            (int(work["task_id"]), work["epoch"]) in self.unacked
            for work in self.hands
            if work["lane"] == lane
        )
        present = held or self.waiting[lane]
        return self.waiting[lane] - len(self.pending[lane]) + (self._look_ahead[lane] if present else 0)

    # --- the client -------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        return self.trouble != "away"

    def jetstream(self, **_: Any) -> Nats:
        return self

    def new_inbox(self) -> str:
        return f"_INBOX.{next(self._inboxes)}"

    async def subscribe(self, subject: str, cb: Callable[[Any], Awaitable[None]]) -> None:
        self._listeners.append((subject.removesuffix("*.*"), cb))

    async def consumer_info(self, stream: str, durable: str) -> ConsumerInfo:
        if not self.is_connected:
            raise ConnectionClosedError
        lane = self._durables[durable]
        held = sum(
            (int(work["task_id"]), work["epoch"]) in self.unacked
            for work in self.hands
            if work["lane"] == lane
        )
        return ConsumerInfo(
            name=durable, stream_name=stream, config=ConsumerConfig(), created=NOON, num_waiting=self.waiting[lane],
            num_pending=len(self.pending[lane]), num_ack_pending=held,
        )  # fmt: skip

    async def publish(self, subject: str, payload: bytes = b"", **_: Any) -> None:
        """Core NATS: cancels, and what is buried, of which there must be none."""
        assert subject.startswith("cancel."), payload

    async def _send_command(self, commands: bytes) -> None:
        """The wire: HPUBs of `publish_many`."""
        while commands:
            line, _, rest = commands.partition(b"\r\n")
            _, subject, *reply, head, size = line.decode().split()
            headers = dict(row.split(": ", 1) for row in rest[: int(head)].decode().splitlines()[1:] if row)
            payload, commands = rest[int(head) : int(size)], rest[int(size) + 2 :]
            if self.trouble == "cut":
                continue
            answer = self._store(subject, headers, payload)
            if reply and self.trouble is None:
                self._answers.append((reply[0], answer))

    async def _flush_pending(self) -> None:
        """Nothing is kept back."""

    def _store(self, subject: str, headers: dict[str, str], payload: bytes) -> dict[str, Any]:
        name, stream = headers["Nats-Msg-Id"], subject.split(".")[0]
        if name in self._ids:
            return {"stream": stream, "seq": 1, "duplicate": True}
        expected = headers.get("Nats-Expected-Last-Msg-Id")
        if expected is not None and expected != self._last.get(stream, ""):
            return {"error": {"code": 400, "description": f"wrong last msg ID: {self._last.get(stream)}"}}
        self._ids.add(name)
        self._last[stream] = name
        body = json.loads(payload)
        if stream == "events":
            self.events[body["goal_id"]].append(body)
        else:
            assert subject == subjects.work(body["lane"])
            self.works.append(body)
            self.pending[body["lane"]].append(body)
            self.pull(body["lane"], 0)
        return {"stream": stream, "seq": 1}

    async def answer(self) -> None:
        """Confirmations arrive. A connection in trouble is gone after that."""
        while self._answers:
            subject, body = self._answers.pop(0)
            for prefix, listener in self._listeners:
                if subject.startswith(prefix):
                    await listener(
                        SimpleNamespace(subject=subject, data=json.dumps(body).encode(), headers=None)
                    )
        if self.trouble is not None:
            self.trouble = "away"

    def reconnect(self) -> None:
        """The connection is there again."""
        self.trouble = None
        self.stats["reconnects"] += 1


@dataclass
class Message:
    """A message of a stream."""

    data: bytes = b""
    headers: dict[str, str] | None = None
    acked: bool = False

    async def ack(self) -> None:
        self.acked = True


class Connection(asyncpg.Connection):
    """A connection that is lost at a commit, just before it or just after it, when the test says so."""

    __slots__ = ("crash",)

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.crash: Crash | None = None

    async def execute(self, query: str, *arguments: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - asyncpg's own
        if query != "COMMIT;" or self.crash is None:
            return await super().execute(query, *arguments, timeout=timeout)
        crash, self.crash = self.crash, None
        await super().execute("COMMIT;" if crash == "after" else "ROLLBACK;")
        raise asyncpg.ConnectionDoesNotExistError(f"lost {crash} the commit")

    async def fetch(self, query: str, *arguments: Any, **more: Any) -> Any:
        if query not in (SQL["link"], SQL["relay"]) or self.crash is None:
            return await super().fetch(query, *arguments, **more)
        crash, self.crash = self.crash, None
        if crash == "after":
            try:
                await super().fetch(query, *arguments, **more)
            except asyncpg.PostgresError:
                self.crash = crash  # it goes the long way, and is lost there
                raise
        raise asyncpg.ConnectionDoesNotExistError(f"lost {crash} the commit of a relay")


@dataclass(frozen=True)
class Row:
    """A task as it is in Postgres."""

    id: int
    goal_id: str
    parent: int | None
    generation: int
    key: str
    lane: str
    state: str
    epoch: int
    turn: int
    failures: int
    unmet: int
    open_children: int
    hold: int
    rank: float
    due: float | None
    over_budget: bool
    twin: int | None  # for which it waits


@dataclass(frozen=True)
class Snapshot:
    """What is in Postgres: tasks by id, goals by their id, when pools may call again, owners' accounts."""

    tasks: dict[int, Row]
    goals: dict[str, dict[str, Any]]
    pools: dict[str, dict[str, Any]]
    accounts: dict[str, dict[str, Any]]


_SNAPSHOT = """SELECT json_build_array(
    (SELECT json_agg(json_build_array(
        t.id, g.goal_id, t.parent, t.generation, s.key, t.lane, t.state, t.epoch, t.turn, t.failures, t.unmet,
        t.open_children, t.hold, t.rank, extract(epoch FROM t.due_at), t.over_budget IS NOT NULL,
        (SELECT leader FROM follower f WHERE f.task = t.id)) ORDER BY t.id)
     FROM task t JOIN task_spec s ON s.id = t.id JOIN goal g ON g.num = t.goal),
    (SELECT json_object_agg(goal_id, json_build_object(
        'status', status, 'reason', reason, 'budget', budget, 'spent', spent, 'held', held, 'overrun', overrun,
        'next_seq', next_seq, 'deadline', extract(epoch FROM deadline))) FROM goal),
    (SELECT json_object_agg(pool, json_build_object(
        'next_request', extract(epoch FROM next_request), 'next_tokens', extract(epoch FROM next_tokens),
        'blocked_until', extract(epoch FROM blocked_until), 'probes', blocked_reason IS NOT NULL,
        'told_requests', told_requests, 'told_tokens', told_tokens))
     FROM rate),
    (SELECT json_object_agg(owner, json_build_object('budget', budget, 'per', per, 'spent', spent, 'held', held))
     FROM account))"""


_KEPT = ("alembic_version", "lane", "rate")
_RESET = [
    """UPDATE rate SET next_request = NULL, next_tokens = NULL, blocked_until = NULL, blocked_reason = NULL,
       told_requests = NULL, told_tokens = NULL""",
    "SELECT setval('task_ids', 1, false), setval(pg_get_serial_sequence('goal', 'num'), 1, false)",
]
"""What else differs after an example: a retry's jitter follows from its id, so ids begin anew."""


@dataclass
class Rig:
    """See the module. One database for many examples: `begin` empties it."""

    dsn: str
    lanes: Sequence[Lane]
    settings: SchedulerSettings
    db: Connection = field(init=False)
    nats: Nats = field(init=False)
    now: datetime = NOON
    _loop: Loop = field(init=False)
    _empty: str = field(init=False)
    _leaders: int = 0

    async def connect(self) -> None:
        """Open the connection of the leader."""
        self.db = cast(Connection, await asyncpg.connect(self.dsn, connection_class=Connection))
        await self.db.execute("SET synchronous_commit = off; SET jit = off")
        rows = await self.db.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND NOT tablename = ANY($1)", _KEPT
        )
        self._empty = "; ".join(
            [
                "SET session_replication_role = replica",  # no foreign keys for now: all tables are emptied
                *(f"DELETE FROM {row['tablename']}" for row in rows),
                "RESET session_replication_role",
                *_RESET,
            ]
        )

    async def begin(self) -> None:
        """An empty database, an empty NATS and a new leader."""
        await self.db.execute(self._empty)
        self.nats = Nats(self.lanes)
        await self.set_clock(NOON)
        await self.takeover()
        self.drained()

    async def set_clock(self, now: datetime) -> None:
        """Postgres's time from now on."""
        self.now = now
        await self.db.execute(f"SET goalwright.clock = '{now.isoformat()}'")

    async def advance(self, seconds: float) -> None:
        """Time passes."""
        await self.set_clock(self.now + timedelta(seconds=seconds))

    async def takeover(self) -> None:
        """Another scheduler leads, as soon as the lease of the last has run out."""
        self._leaders += 1
        holder = f"leader-{self._leaders}"
        term = await self.db.fetchval(SQL["lead"], holder, self.settings.leader_lease_seconds)
        if term is None:
            await self.advance(self.settings.leader_lease_seconds + 0.1)
            term = await self.db.fetchval(SQL["lead"], holder, self.settings.leader_lease_seconds)
        assert term is not None
        await self._lead(holder, term)

    async def _lead(self, holder: str, term: int) -> None:
        """What a reign begins with."""
        client = cast(Client, self.nats)
        leadership = Leadership(
            connect=cast(Any, None), broker=cast(Any, None), client=lambda: client, artifacts=cast(Any, None),
            settings=self.settings, holder=holder,
        )  # fmt: skip
        publisher = Publisher(lambda: client, cast(Any, None))
        await leadership.memory.load(self.db)

        async def mend() -> Sequence[str]:
            return ()

        self._loop = Loop(
            db=self.db, client=client, publisher=publisher, memory=leadership.memory, settings=self.settings,
            term=term, holder=holder, mend=mend,
        )  # fmt: skip
        self._memory, self._publisher = leadership.memory, publisher
        await leadership._republish(self.db, publisher)
        await self.nats.answer()

    async def _turn(self, items: Sequence[Item], tick: bool) -> None:
        """One turn of the loop, which looks for slots anew, and the answers of NATS to what it published."""
        self._memory.free.clear()
        await self._loop.turn(items, tick=tick)
        await self.nats.answer()

    def leader(self) -> Loop:
        """Who leads now."""
        return self._loop

    async def turn_as(self, deposed: Loop) -> None:
        """One that no longer leads tries to write: it learns that its term is over."""
        try:
            await deposed.turn([], tick=True)
        except LostLead:
            return
        raise AssertionError("a deposed leader wrote")

    def drained(self) -> None:
        """The stored outcomes are drained and presences were heard: leases may expire."""
        self._loop.leases_expire_from = 0.0

    def unconfirmed(self) -> set[int]:
        """Tasks whose Work is not in the stream."""
        return self._publisher.unconfirmed()

    def backlog(self) -> int:
        """Messages that are committed and not confirmed."""
        return self._publisher.backlog

    async def turn(
        self, items: Sequence[Item] = (), *, tick: bool = False, crash: Crash | None = None
    ) -> bool:
        """One turn; False when it lost its connection."""
        self.db.crash = crash
        try:
            await self._turn(items, tick)
        except asyncpg.ConnectionDoesNotExistError:
            return False
        return True

    async def snapshot(self) -> Snapshot:
        """Everything that is in Postgres."""
        tasks, goals, pools, accounts = json.loads(await self.db.fetchval(_SNAPSHOT))
        rows = [Row(*values) for values in tasks or ()]
        return Snapshot({row.id: row for row in rows}, goals or {}, pools or {}, accounts or {})


def outcomes(lane: str, *found: Outcome) -> Outcomes:
    """A message of outcomes."""
    return Outcomes([Arrived(lane, outcome) for outcome in found], cast(Msg, Message()))


def submission(goal: GoalSubmission, owner: str) -> Submission:
    """A goal by request."""
    return Submission(owner, Parsed(goal, ()), {}, reply=asyncio.get_event_loop().create_future())


def control(verb: str, owner: str, body: dict[str, Any]) -> Control:
    """A control request of an owner."""
    return Control(verb, owner, body, asyncio.get_event_loop().create_future())


def presence(lane: str, *tasks: tuple[str, int]) -> Presence:
    """An `alive` message."""
    return Presence(lane, Alive(worker="performer", tasks=list(tasks)))


def refusal(item: Item) -> str | None:
    """The code by which a request was refused; None when it was not, or is no request."""
    if not isinstance(item, Submission | Control):
        return None
    assert item.reply is not None and item.reply.done()
    error = item.reply.exception()
    if error is None:
        return None
    assert isinstance(error, Refused) and not error.code.startswith("cannot_"), error
    return error.code
