"""Events in the order of their `seq`, each once, however they arrive. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from goalwright_shared.messages import Event


@dataclass(frozen=True, slots=True)
class Inbox:
    """Events that came before their turn; `seq` is the last one handed on."""

    seq: int = 0
    early: Mapping[int, Event] = field(default_factory=dict)


def receive(inbox: Inbox, event: Event) -> tuple[Inbox, list[Event]]:
    """The events that are due now, in order. A repeat gives none; an early one waits for those before it."""
    if event.seq <= inbox.seq or event.seq in inbox.early:
        return inbox, []
    return _drain(inbox.seq, {**inbox.early, event.seq: event})


def skip_gap(inbox: Inbox) -> tuple[Inbox, list[Event]]:
    """Give up on missing events (older than the stream's retention) and hand on what follows the gap."""
    if not inbox.early:
        return inbox, []
    return _drain(min(inbox.early) - 1, dict(inbox.early))


def _drain(seq: int, early: dict[int, Event]) -> tuple[Inbox, list[Event]]:
    due = []
    while seq + 1 in early:
        seq += 1
        due.append(early.pop(seq))
    return Inbox(seq, early), due
