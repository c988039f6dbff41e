"""The goal's blackboard in a prompt: which notes a task is shown, and how."""

from __future__ import annotations

import re
from collections.abc import Sequence

from goalwright_shared.messages import Note, TaskSpec, Work

SHOWN = 12
"""Notes in a card."""

SHOWN_CHARS = 6_000
"""Characters of all notes of a card; pinned ones come first."""

_WORD = re.compile(r"\w{4,}")
"""Shorter words say little about what a text is about."""


def relevant(notes: Sequence[Note], spec: TaskSpec) -> list[Note]:
    """The notes that a task is shown: pinned ones, then those that share a word with the task, then the others; each
    group newest first, cut where the card has no more room."""
    subject = _words(
        f"{spec.title} {spec.instruction} {' '.join([*spec.inputs, *(o.name for o in spec.outputs)])}"
    )

    def order(note: Note) -> tuple[bool, bool, int]:
        return (not note.pinned, not subject & _words(note.text), -note.number)

    shown: list[Note] = []
    room = SHOWN_CHARS
    for note in sorted(notes, key=order)[:SHOWN]:
        if shown and len(note.text) > room:
            break
        shown.append(note)
        room -= len(note.text)
    return shown


def unseen(work: Work, newest_seen: int) -> list[Note]:
    """The notes that came while the task was worked on, but for its own."""
    own = (work.lane, work.spec.key)
    new = [note for note in work.notes if note.number > newest_seen and (note.author, note.key) != own]
    return relevant(new, work.spec)


def told(note: Note) -> dict[str, str]:
    """A note as prompts show it: who says what."""
    by = note.author.removeprefix("agent.")
    return {"by": f"{by}, task {note.key}" if note.key else by, "text": note.text}


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}
