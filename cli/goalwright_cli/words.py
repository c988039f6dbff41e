"""Values as words for people: durations, dollars, and texts that cannot harm a terminal. Pure.

Words of models and programs are stripped of control characters here, so that no answer can move the cursor
or colour the screen.
"""

from __future__ import annotations

import re
import unicodedata


def clean(text: object, *, lines: bool = False) -> str:
    """Text without control characters; one line unless `lines`."""
    kept = (c if not unicodedata.category(c).startswith("C") or c in "\n\t" else "" for c in str(text))
    whole = "".join(kept)
    return whole if lines else " ".join(whole.split())


def gist(text: object, most: int) -> str:
    """One line of at most `most` characters: whole, else its first sentence, else cut."""
    whole = clean(text)
    if len(whole) <= most:
        return whole
    sentence = re.split(r"(?<=[.!?]) ", whole, maxsplit=1)[0]
    return sentence if len(sentence) <= most else whole[: most - 1] + "…"


def said(summary: str, most: int) -> str:
    """A task's summary; the JSON of a structured answer says nothing to people."""
    return "" if summary.lstrip().startswith(("{", "[")) else gist(summary, most)


def clock(seconds: float) -> str:
    """A duration as 00:58 or 1:02:03."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def brief(seconds: float) -> str:
    """A duration in at most five characters: 0.4 s, 12 s, 3 m, 2 h."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} m" if seconds < 5940 else f"{seconds / 3600:.0f} h"


def money(usd: float) -> str:
    """Dollars with as many decimals as say something: $0, $0.0021, $0.07, $12.50."""
    if usd <= 0:
        return "$0"
    return f"${usd:.4f}" if usd < 0.0995 else f"${usd:.2f}"


def plural(count: int, word: str) -> str:
    """`3 tasks`, `1 task`."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def role(lane: str) -> str:
    """A lane as people call it."""
    return clean(lane).removeprefix("agent.")
