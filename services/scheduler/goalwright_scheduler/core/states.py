"""The one table of legal task transitions, and the states of goals. `docs/state_machine.md` draws it."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """States of a task."""

    BLOCKED = "blocked"  # waits for siblings
    READY = "ready"  # may be dispatched
    DISPATCHED = "dispatched"  # a performer has it, or soon will
    EXPANDED = "expanded"  # waits for a generation of children
    CHECKING = "checking"  # its answer is being checked by child tasks
    RETRY_WAIT = "retry_wait"  # ready again at `not_before`
    PARKED = "parked"  # waits for a person, or for money that its goal does not have
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


FINAL = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED, State.SKIPPED})
OPEN = frozenset(State) - FINAL

_ENDS = frozenset({State.CANCELLED, State.SKIPPED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.BLOCKED: frozenset({State.READY, State.DISPATCHED, State.PARKED}) | _ENDS,
    State.READY: frozenset(
        {State.BLOCKED, State.DISPATCHED, State.EXPANDED, State.SUCCEEDED, State.PARKED, State.DEAD}
    )
    | _ENDS,
    State.DISPATCHED: frozenset(
        {
            State.SUCCEEDED,
            State.EXPANDED,
            State.CHECKING,
            State.RETRY_WAIT,
            State.READY,
            State.PARKED,
            State.DEAD,
        }
    )
    | _ENDS,
    State.EXPANDED: frozenset({State.READY, State.SUCCEEDED, State.DEAD}) | _ENDS,
    State.CHECKING: frozenset({State.SUCCEEDED, State.RETRY_WAIT, State.DEAD}) | _ENDS,
    State.RETRY_WAIT: frozenset({State.READY, State.SUCCEEDED, State.DEAD}) | _ENDS,
    State.PARKED: frozenset({State.BLOCKED, State.READY, State.SUCCEEDED, State.DEAD}) | _ENDS,
    **dict.fromkeys(FINAL, frozenset()),
}


class GoalStatus(StrEnum):
    """States of a goal."""

    ACCEPTED = "accepted"
    PLANNING = "planning"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    PARTIAL = "partial"
    STOPPED_LOOP = "stopped_loop"
    STOPPED_OFF_TOPIC = "stopped_off_topic"
    FAILED = "failed"
    CANCELLED = "cancelled"


GOAL_OPEN = frozenset({GoalStatus.ACCEPTED, GoalStatus.PLANNING, GoalStatus.RUNNING, GoalStatus.PAUSED})
GOAL_FINAL = frozenset(GoalStatus) - GOAL_OPEN

PAUSE_REASONS = ("user", "budget", "loop", "approval", "question")
