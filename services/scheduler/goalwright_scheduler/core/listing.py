"""What a goal ended with, in plain words: for goals that no writer has summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goalwright_shared.messages import ArtifactRef

from goalwright_scheduler.core.states import State

SUMMARY = "goal-summary"
"""The artifact that a closing writer makes, in the goal's own scope."""

_SHOWN = 20


def summary(
    status: str, delivered: Mapping[str, ArtifactRef], missing: Sequence[str], counts: Mapping[str, int]
) -> str:
    """A plain summary: what is delivered, what is missing, how many tasks came to what."""
    parts = [f"The goal ended as {status}."]
    if delivered:
        names = [f"{name} ({ref.type}, {ref.size} bytes)" for name, ref in delivered.items()]
        parts.append(f"Delivered: {_some(names)}.")
    if missing:
        parts.append(f"Missing: {_some(missing)}.")
    ended = [f"{counts[state]} {state}" for state in State if counts.get(state)]
    parts.append(f"Tasks: {', '.join(ended)}.")
    return " ".join(parts)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
