"""The short way of a turn: plain answers are taken, and what they free goes out, in one statement.

Most turns of a large goal are like this. `loop` tries it first; a turn in which more is to do goes the long way, and
what it does is the same (`docs/decisions/0012`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, TypeAlias

import asyncpg
import orjson
from goalwright_shared.messages import Lane

from goalwright_scheduler import dispatch, outcomes, tasks
from goalwright_scheduler.change import Change, GoalLine, Told, checks_of
from goalwright_scheduler.core.ready import Ready
from goalwright_scheduler.memory import Memory
from goalwright_scheduler.outcomes import Arrived

Row: TypeAlias = asyncpg.Record

REFUSED = "GW001"
"""SQLSTATE of a relay that is not enough: `goalwright_refuse`."""


@dataclass(slots=True)
class Relay:
    """One such turn: what has been answered, what goes of the ready ones, and how much room is left for others."""

    answers: list[tasks.Answer]
    told: dict[int, list[Told]]  # the events of the answers, by goal; of the goals of `chosen` none
    lines: dict[int, GoalLine]
    seconds: list[float]
    chosen: list[Ready]
    room: dict[str, int]

    def statements(self, lanes: Mapping[str, Lane]) -> Iterator[tuple[str, list[Any]]]:
        """The statements that may do it, the shortest first, with their arguments from the third on."""
        if len(self.answers) == 1 and not self.chosen:
            yield "link", self._of_link(lanes)
        yield "relay", self._of_relay(lanes)

    def _of_link(self, lanes: Mapping[str, Lane]) -> list[Any]:
        (answer,) = self.answers
        flight, given, events = answer.flight, answer.outcome, self.told[answer.flight.goal]
        return [
            flight.id, flight.epoch, self.seconds[0], given.summary,
            given.program.model_dump_json() if given.program else None, checks_of(given), given.worker,
            [name for name, _ in answer.refs], [ref for _, ref in answer.refs],
            list(self.room), list(self.room.values()), [lanes[lane].lease_seconds for lane in self.room],
            self.lines[flight.goal].next_seq, len(events), b",".join(event.payload for event in events).decode(),
        ]  # fmt: skip

    def _of_relay(self, lanes: Mapping[str, Lane]) -> list[Any]:
        flights = [answer.flight for answer in self.answers]
        given = [answer.outcome for answer in self.answers]
        made = [
            (a.flight.id, a.flight.goal, a.flight.parent or 0, a.flight.generation, name, ref)
            for a in self.answers
            for name, ref in a.refs
        ]
        return [
            [flight.id for flight in flights], [flight.epoch for flight in flights], self.seconds,
            [o.summary for o in given],
            [o.program.model_dump_json() if o.program else None for o in given],
            [checks_of(o) for o in given],
            [o.worker for o in given],
            *(map(list, zip(*made, strict=True)) if made else ([] for _ in range(6))),
            [task.id for task in self.chosen], [lanes[task.lane].lease_seconds for task in self.chosen],
            list(self.room), list(self.room.values()), [lanes[lane].lease_seconds for lane in self.room],
            list(self.told), [self.lines[goal].next_seq for goal in self.told],
            [len(events) for events in self.told.values()],
            [b",".join(event.payload for event in events).decode() or None for events in self.told.values()],
        ]  # fmt: skip


def may_be(arrived: Sequence[Arrived], memory: Memory) -> bool:
    """Whether these outcomes look like a relay's, at a glance."""
    return all(one.outcome.task_id in memory.flights for one in arrived)


def lanes_without_look_ahead(arrived: Sequence[Arrived], memory: Memory) -> set[str]:
    """Lanes that have answered, and on which an answer does not say that a slot is free: it must be asked for."""
    lanes = {one.lane for one in arrived}
    return {name for name in lanes if (lane := memory.lanes.get(name)) is not None and not lane.look_ahead}


def plan(arrived: Sequence[Arrived], memory: Memory, now: datetime) -> Relay | None:
    """The relay for these outcomes; None when one of them is not a plain answer, or more may depend on it. `now` is
    about the time of Postgres."""
    answers: dict[int, tasks.Answer] = {}
    answered: Counter[str] = Counter()
    for one in arrived:
        flight = memory.flights.get(one.outcome.task_id)
        if flight is None or flight.id in answers or flight.id in memory.leaders:
            return None
        answer = outcomes.plain(flight, one) if flight.goal in memory.lines else None
        if answer is None or flight.estimate is not None:  # what is paid goes the long way
            return None
        answers[flight.id] = answer
        answered[flight.lane] += 1
    seconds = [max(0.0, (now - a.flight.dispatched_at).total_seconds()) for a in answers.values()]
    events: dict[int, list[tuple[str, int, dict[str, Any]]]] = {}
    for answer, took in zip(answers.values(), seconds, strict=True):
        events.setdefault(answer.flight.goal, []).append(tasks.answered(answer, took))
    told = {goal: memory.lines[goal].tell(now, happened) for goal, happened in events.items()}
    chosen, room = _choose(memory, answered)
    for task in chosen:
        told.setdefault(task.goal, [])
    if not told.keys() <= memory.lines.keys():
        memory.ready.push(chosen)
        return None
    return Relay(
        list(answers.values()), told, {goal: memory.lines[goal] for goal in told}, seconds, chosen, room
    )


def _choose(memory: Memory, answered: Counter[str]) -> tuple[list[Ready], dict[str, int]]:
    """For lanes with free slots: the best of the ready tasks; and how many of those that will be ready may go at once,
    where none waits before them."""
    chosen: list[Ready] = []
    room: dict[str, int] = {}
    waiting = memory.ready.waiting()
    for name, lane in memory.lanes.items():
        if lane.pool is not None or lane.name == "plan" or lane.performer == "human":
            continue
        freed = answered[name] if lane.look_ahead else 0
        free = min(memory.free.get(name, 0) + freed, dispatch.MOST - len(chosen))
        if free <= 0:
            continue
        taken = memory.ready.take([name], {name: free}, free, memory.may_run) if name in waiting else []
        chosen += taken
        if len(taken) < free:  # none waits any more
            room[name] = free - len(taken)
    return chosen, room


@dataclass(slots=True)
class Done:
    """A relay that is committed: Postgres's time of it and its rows by what they are."""

    relay: Relay
    now: datetime
    sent: list[Row]
    ready: list[Row]
    outbox: dict[int, int]


def read(relay: Relay, rows: Sequence[Row]) -> Done | None:
    """What the statement has answered; None when the term is over."""
    now: datetime | None = None
    sent: list[Row] = []
    ready: list[Row] = []
    outbox: dict[int, int] = {}
    for row in rows:
        match row["what"]:
            case "sent":
                sent.append(row)
            case "ready":
                ready.append(row)
            case "outbox":
                outbox[row["goal"]] = row["id"]
            case "lead":
                now = row["dispatched_at"]
    return None if now is None else Done(relay, now, sent, ready, outbox)


def remember(done: Done, memory: Memory) -> None:
    """At once what the next relay builds on: slots, ready tasks, and the numbers of the next events."""
    for answer in done.relay.answers:
        lane = memory.lanes.get(answer.flight.lane)
        if lane is not None and lane.look_ahead:
            memory.free[lane.name] = memory.free.get(lane.name, 0) + 1
    events = Counter({goal: len(told) for goal, told in done.relay.told.items()})
    for row in done.sent:
        memory.free[row["lane"]] = memory.free.get(row["lane"], 0) - 1
        events[row["goal"]] += 1
    memory.lines |= {
        goal: line._replace(next_seq=line.next_seq + events[goal]) for goal, line in done.relay.lines.items()
    }
    memory.ready.push(Ready(row["id"], row["goal"], row["lane"], row["rank"]) for row in done.ready)


async def fold(done: Done, change: Change, memory: Memory) -> None:
    """The rest, as any change tells it: what goes out, and what is in flight."""
    told = done.relay.told
    for row in sorted(done.sent, key=itemgetter("goal", "seq")):
        told[row["goal"]].append(
            Told(row["owner"], row["goal_id"], "task.dispatched", row["seq"], row["told"].encode())
        )
        change.due.append((row["due_at"], row["id"]))
    for goal, events in told.items():
        if events:
            change.told += events[:-1]
            change.told.append(events[-1]._replace(outbox=done.outbox[goal]))
    made: dict[tuple[int, int, int], dict[str, str]] = {}
    for answer in done.relay.answers:
        flight = answer.flight
        change.landed.append(flight.id)
        made.setdefault((flight.goal, flight.parent or 0, flight.generation), {}).update(answer.refs)
    change.works = await dispatch.works(change, memory, [_with_inputs(row, made) for row in done.sent])


def _with_inputs(row: Row, made: Mapping[tuple[int, int, int], Mapping[str, str]]) -> dict[str, Any]:
    """The row of a dispatch with what its siblings have made in the same statement, which it cannot see itself."""
    whole = {**row, "hold": 0}
    fresh = made.get(
        (row["goal"], row["parent"] or 0, row["generation"] if row["parent"] is not None else 0), {}
    )
    members = {name: f'"{name}":{fresh[name]}' for name in row["names"] if name in fresh}
    if members and row["inputs"] is not None:  # of what was made once more the newest counts
        older = orjson.loads(f"{{{row['inputs']}}}")
        members |= {
            name: orjson.dumps({name: ref})[1:-1].decode()
            for name, ref in older.items()
            if name not in members
        }
    if members:
        whole["inputs"] = ",".join(members[name] for name in row["names"] if name in members)
    return whole
