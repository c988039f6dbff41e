"""How the ways a try can end become outcomes."""

from __future__ import annotations

from typing import Any

from goalwright_shared.messages import (
    Failed,
    LlmGrant,
    TaskError,
    Throttled,
    Usage,
    Work,
)
from goalwright_shared.telemetry import redact

from goalwright_agent.calls import Broken, Limited


def ids(work: Work) -> dict[str, Any]:
    """The fence of an outcome: which try it answers."""
    return {"goal_id": work.goal_id, "task_id": work.task_id, "epoch": work.epoch}


def nothing_used(grant: LlmGrant) -> Usage:
    """The bill of a call that was refused before it began: known to be nothing."""
    return Usage(model=grant.model, tokens_in=0, tokens_out=0)


def failed(
    work: Work,
    code: str,
    message: str,
    *,
    retryable: bool = False,
    too_big: bool = False,
    usage: Usage | None = None,
) -> Failed:
    """This try failed; the message is redacted."""
    error = TaskError(code=code, message=redact(message), retryable=retryable, too_big=too_big)
    return Failed(**ids(work), error=error, usage=usage)


def too_big(work: Work, grant: LlmGrant, tokens: int) -> Failed:
    """The prompt does not fit what is paid for; nothing was called."""
    cap = grant.max_input_tokens
    return failed(
        work,
        "too_big",
        f"the prompt needs about {tokens} tokens, the lane's cap is {cap}: split the task",
        too_big=True,
        usage=nothing_used(grant),
    )


def throttled(work: Work, grant: LlmGrant, limited: Limited) -> Throttled:
    """The provider cannot now; it has charged nothing."""
    return Throttled(
        **ids(work),
        retry_after_seconds=limited.retry_after_seconds,
        reason=limited.reason,
        rate=limited.rate,
        usage=nothing_used(grant),
    )


def broken_off(work: Work, grant: LlmGrant, broken: Broken) -> Failed:
    """The call failed; without a bill from the provider none is sent (the hold counts)."""
    usage = nothing_used(grant) if broken.unbilled else None
    return failed(
        work, broken.code, broken.message, retryable=broken.retryable, too_big=broken.too_big, usage=usage
    )
