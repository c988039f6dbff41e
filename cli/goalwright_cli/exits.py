"""Exit codes of the command line; scripts rely on them."""

from __future__ import annotations

DONE = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
NOT_FOUND = 4
WAITING = 5
BUDGET = 6
TIMED_OUT = 7
DETACHED = 130


def of_goal(status: str, reason: str | None = None) -> int:
    """The exit code of a goal's status; one that ended at its budget is 6."""
    if status == "done":
        return DONE
    if status == "partial" and (reason or "").startswith("budget"):
        return BUDGET
    return FAILED


def of_error(code: str) -> int:
    """The exit code of an error answer."""
    if code in ("not_found", "unknown_goal", "unknown_task", "no_such_goal", "no_such_task"):
        return NOT_FOUND
    if code in ("no_answer", "nats_unreachable"):
        return UNREACHABLE
    return USAGE if code in ("bad_field", "bad_message", "usage") else FAILED
