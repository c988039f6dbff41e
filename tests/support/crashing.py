"""Named points at which a scheduler under test dies, as by kill -9. The product knows nothing of them.

A point is a step that leaves the process, to Postgres (a statement, by its verb or the beginning of its text)
or to NATS (a message, by the beginning of its subject), before or after it was done. `POINTS` is the one table
to change when a statement or a subject changes. The variables CRASH_POINT and CRASH_AT (n: at the n-th time;
1 by default) arm one.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial, wraps
from inspect import signature
from typing import Any, NoReturn

from asyncpg import Connection
from asyncpg.prepared_stmt import PreparedStatement
from goalwright_scheduler import app, publisher
from goalwright_scheduler.sql import SQL
from goalwright_shared.broker import Outgoing, publish_many
from nats.aio.client import Client

CODE = 137
"""How a crashed process ends: as one that the kernel killed."""


@dataclass(frozen=True)
class Point:
    """Die `before` or `after` a `statement` (or one of several) or a `message`; only in a transaction that has run
    `within`."""

    before: str | tuple[str, ...] = ""
    after: str | tuple[str, ...] = ""
    within: str = ""


Call = Callable[[], Awaitable[Any]]
COMMIT = "COMMIT"
POINTS: dict[str, Point] = {
    # taking the lead
    "the lead is taken, memory is not loaded": Point(after="lead"),
    "memory is loaded, nothing was published again": Point(before="load_outbox"),
    # a goal
    "a plan is half inserted": Point(after="COPY task "),
    "a goal is inserted and not committed": Point(after="COPY task_spec "),
    "a goal is committed and not acked": Point(before="$JS.ACK.GOALS."),
    "a goal is committed and not answered": Point(after=COMMIT, within="INSERT INTO goal "),
    # an expansion
    "an expansion is inserted and not committed": Point(after="COPY task_spec ", within="load_tasks"),
    "a resumed parent is not committed": Point(after="resume"),
    # a batch of outcomes
    "between two outcomes of a batch": Point(after="retry"),
    "outcomes are applied and not committed": Point(after="complete"),
    "outcomes are committed and not acked": Point(before="$JS.ACK.OUTCOMES."),
    "a relay is asked for": Point(before=("link", "relay")),
    "a relay is committed and not told": Point(after=("link", "relay")),
    "bills are settled and not committed": Point(after="settle"),
    # a dispatch
    "money is held and nothing dispatched": Point(after="reserve"),
    "work is dispatched and not committed": Point(after="dispatch"),
    "work is committed and not published": Point(after=COMMIT, within="dispatch"),
    "work is published and not confirmed": Point(after="work."),
    # events
    "events are numbered and not committed": Point(after="emit"),
    "events are committed and not published": Point(after=COMMIT, within="emit"),
    "events are half published": Point(after="events."),
    # a cancel
    "a cancel is committed and not told": Point(before="cancel."),
    # the sweep
    "a due retry is woken and not committed": Point(after="wake"),
    "an expired lease is seen and not committed": Point(after="expired"),
}


class _Armed:
    """Counts how often the process passes its point, and ends it there."""

    def __init__(self, point: Point, at: int) -> None:
        self._point, self._left = point, at
        self._seen: set[str] = set()

    def passes(self, where: str, step: str, name: str | tuple[str, ...]) -> None:
        """The process is `where` ("before", "after") of a step with this text."""
        if name and _is(step, name) and (not self._point.within or self._point.within in self._seen):
            self._left -= 1
            if not self._left:
                _die()

    async def statement(self, step: str, call: Call) -> Any:
        """One statement of Postgres; those that found nothing to do are no step."""
        if step.startswith("BEGIN"):
            self._seen.clear()
        if self._point.within and _is(step, self._point.within):
            self._seen.add(self._point.within)
        self.passes("before", step, self._point.before)
        answer = await call()
        if answer:
            self.passes("after", step, self._point.after)
        return answer

    async def message(self, client: Client, subject: str, call: Call) -> Any:
        """One message of NATS; after it, it is surely with the server, and no answer was acted on."""
        self.passes("before", subject, self._point.before)
        answer = await call()
        if self._point.after and subject.startswith(self._point.after):
            await client.flush()
            self.passes("after", subject, self._point.after)
        return answer


def _is(step: str, name: str | tuple[str, ...]) -> bool:
    if isinstance(name, tuple):
        return any(_is(step, one) for one in name)
    return step == SQL[name] if name in SQL else step.startswith(name)


def _die() -> NoReturn:
    os._exit(CODE)


def arm(name: str, at: int) -> None:
    """Wrap what Postgres and NATS are spoken to with, so that the process dies at the point."""
    armed = _Armed(POINTS[name], at)
    verbs = ("fetch", "fetchrow", "fetchval", "execute", "executemany")
    for owner, verb in [(Connection, v) for v in verbs] + [(PreparedStatement, v) for v in verbs[:3]]:
        setattr(owner, verb, _watched(armed, getattr(owner, verb)))
    _wrap(Connection, "copy_records_to_table", lambda _, table, call: armed.statement(f"COPY {table} ", call))
    _wrap(Client, "publish", armed.message)
    publisher.publish_many = _one_by_one(armed)  # type: ignore[assignment, attr-defined]  # what it imported


def _wrap(owner: type, verb: str, watch: Callable[[Any, str, Call], Awaitable[Any]]) -> None:
    """Watch a verb whose first argument is what it is called by."""
    plain = getattr(owner, verb)
    first = list(signature(plain).parameters)[1]

    @wraps(plain)
    async def watched(self: Any, *given: Any, **named: Any) -> Any:
        return await watch(self, given[0] if given else named[first], lambda: plain(self, *given, **named))

    setattr(owner, verb, watched)


def _watched(armed: _Armed, verb: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(verb)
    async def watched(self: Any, *given: Any, **named: Any) -> Any:
        text = self.get_query() if isinstance(self, PreparedStatement) else given[0]
        return await armed.statement(text, lambda: verb(self, *given, **named))

    return watched


def _one_by_one(armed: _Armed) -> Callable[[Client, Iterable[Outgoing]], Coroutine[Any, Any, None]]:
    """`publish_many`, so that the process can die between two of its messages."""

    async def published(client: Client, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            one = partial(publish_many, client, [message])
            await armed.message(client, message.subject, one)

    return published


async def serve() -> int:
    """A scheduler, armed as the environment says."""
    if name := os.environ.get("CRASH_POINT"):
        arm(name, int(os.environ.get("CRASH_AT", "1")))
    return await app.serve()
