"""Every subject, stream, bucket and durable name. Raw subject strings live nowhere else."""

from __future__ import annotations

DEFAULT_OWNER = "public"

GOALS, WORK, OUTCOMES, EVENTS, DEAD = "GOALS", "WORK", "OUTCOMES", "EVENTS", "DEAD"
ADVISORIES = "ADVISORIES"
ARTIFACTS = "ARTIFACTS"
"""The object store bucket of artifacts; object name = hex SHA-256 of the content."""

GOALS_SUBMIT = "goals.submit"
GOALS_REQUEST = "goals.request"

CONTROL_VERBS = (
    "pause", "resume", "cancel", "budget", "feedback", "answer", "replan", "retry", "skip", "signal",
    "review", "lane",
)  # fmt: skip
QUERIES = ("goal", "goals", "graph", "task", "why", "workers", "inbox", "ledger", "artifacts", "lanes")

DURABLE_GOALS = "scheduler-goals"
DURABLE_OUTCOMES = "scheduler-outcomes"
DURABLE_ADVISORIES = "scheduler-advisories"
DURABLE_REFLECTOR = "reflector-events"


def _owned(base: str, owner: str | None) -> str:
    return base if owner in (None, DEFAULT_OWNER) else f"{base}.{owner}"


def submit(owner: str | None = None) -> str:
    """Where clients publish goals (stream GOALS)."""
    return _owned(GOALS_SUBMIT, owner)


def request(owner: str | None = None) -> str:
    """Where clients request goals (request/reply)."""
    return _owned(GOALS_REQUEST, owner)


def control(verb: str, owner: str | None = None) -> str:
    """Where clients steer goals (request/reply)."""
    return _owned(f"control.{verb}", owner)


def query(what: str, owner: str | None = None) -> str:
    """Where clients ask (request/reply, read only)."""
    return _owned(f"query.{what}", owner)


def work(lane: str) -> str:
    """Where the scheduler hands out the work of a lane (stream WORK)."""
    return f"work.{lane}"


def work_durable(lane: str) -> str:
    """The durable pull consumer of a lane on stream WORK."""
    return "work-" + lane.replace(".", "-")


def outcomes(lane: str) -> str:
    """Where performers of a lane publish outcomes (stream OUTCOMES)."""
    return f"outcomes.{lane}"


def lane_of_outcome(subject: str) -> str:
    """The lane an outcome was published on."""
    return subject.removeprefix("outcomes.")


def lane_of_alive(subject: str) -> str:
    """The lane a presence was announced on."""
    return subject.removeprefix("alive.")


def alive(lane: str) -> str:
    """Where performers of a lane announce what they hold (core NATS)."""
    return f"alive.{lane}"


def cancel(task_id: str) -> str:
    """Where performers hear that a task is no longer wanted (core NATS)."""
    return f"cancel.{task_id}"


CANCEL_ALL = "cancel.*"
ALIVE_ALL = "alive.>"
EVENTS_ALL = "events.>"
REQUESTS_ALL = (GOALS_REQUEST, f"{GOALS_REQUEST}.*")
CONTROL_ALL = ("control.*", "control.*.*")
QUERY_ALL = ("query.*", "query.*.*")
"""Bare, and with an owner."""


LEADER, PING = "leader", "ping"


def to_leader(subject: str) -> str:
    """Where a scheduler that does not lead passes a request on to the one that does."""
    return f"{LEADER}.{subject}"


def event(owner: str, goal_id: str, kind: str) -> str:
    """Where an event is published (stream EVENTS); the dot of `kind` makes two tokens."""
    return f"events.{owner}.{goal_id}.{kind}"


def events_of(goal_id: str, owner: str = DEFAULT_OWNER) -> str:
    """All events of one goal."""
    return f"events.{owner}.{goal_id}.>"


def logs(owner: str, goal_id: str, task_id: str) -> str:
    """Live output of a task (core NATS)."""
    return f"logs.{owner}.{goal_id}.{task_id}"


def dead(stream: str) -> str:
    """Where messages go that could not be handled (stream DEAD)."""
    return f"dead.{stream}"


def owner_of(subject: str, tokens_before: int) -> str:
    """The owner in the tail of a request subject; the bare form belongs to the default owner."""
    tokens = subject.split(".")
    return tokens[tokens_before] if len(tokens) > tokens_before else DEFAULT_OWNER
