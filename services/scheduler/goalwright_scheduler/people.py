"""Questions to people: human tasks have no performer; a ready one is parked and asked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from goalwright_scheduler.change import Change


async def ask(change: Change, ids: Iterable[int]) -> None:
    """Human tasks whose turn has come: park them and ask."""
    for row in (await change.load(list(ids))).values():
        if row.lane != "human":
            continue  # parked for money: what it needs is there, but nobody is asked
        question = row.spec.question
        seconds = question.timeout_seconds if question else None
        until = change.now + timedelta(seconds=seconds) if seconds is not None else None
        await change.fetchrow("park", row.id, ["ready", "parked", "blocked"], until)
        if until is not None:
            change.due.append((until, row.id))
        change.emit(
            row.goal, "approval.requested", row.id,
            key=row.key, lane=row.lane, text=question.text if question else row.spec.instruction,
            options=question.options if question else [], default=question.default if question else None,
            timeout_at=until.isoformat() if until else None,
        )  # fmt: skip
