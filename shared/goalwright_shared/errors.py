"""The few errors that cross a wall. Each carries facts: what was wrong, where, and what to do.

A failed task is data (`messages.Failed`), never an exception.
"""

from __future__ import annotations

from goalwright_shared.messages import ErrorAnswer, ErrorBody


class GoalwrightError(Exception):
    """Something a person or a client can act on.

    `code` is a stable machine name, `field` the path of the offending field, `hint` what to do.
    """

    def __init__(self, code: str, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.hint = hint

    def answer(self) -> ErrorAnswer:
        """The error answer of DESIGN: `{"error": {...}}`."""
        return ErrorAnswer(
            error=ErrorBody(code=self.code, message=self.message, field=self.field, hint=self.hint)
        )

    def __str__(self) -> str:
        where = f" (field {self.field})" if self.field else ""
        fix = f" Fix: {self.hint}" if self.hint else ""
        stop = "" if self.message.endswith((".", "?", "!")) and not where else "."
        return f"{self.message}{where}{stop}{fix}"


class Refused(GoalwrightError):
    """A submission, control or query that is not acceptable; the sender is told why."""


class Unreachable(GoalwrightError):
    """NATS, Postgres, a model or a sandbox cannot be reached; the message names which and the fix."""


class TopologyMissing(GoalwrightError):
    """A stream or a durable consumer is absent or differs; `goalwright topology apply` mends it."""


class ArtifactUnavailable(GoalwrightError):
    """An artifact could not be stored or read (full disk, missing object, wrong hash)."""
