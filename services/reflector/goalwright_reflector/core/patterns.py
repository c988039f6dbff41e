"""Patterns in short sequences: the mathematics of the loop detectors, free of goals and events."""

from __future__ import annotations

from collections.abc import Sequence


def smallest_period(tokens: Sequence[object], max_period: int, repeats: int) -> int | None:
    """The smallest period ≤ `max_period` of which the tail of `tokens` is `repeats` repetitions."""
    for period in range(1, max_period + 1):
        tail = tokens[-period * repeats :]
        if len(tail) == period * repeats and all(a == b for a, b in zip(tail, tail[period:], strict=False)):
            return period
    return None


def alternates(names: Sequence[str], length: int) -> bool:
    """Whether the last `length` names go back and forth between exactly two."""
    tail = names[-length:]
    if len(tail) < length or tail[0] == tail[1]:
        return False
    return all(name == tail[i % 2] for i, name in enumerate(tail))


def stale(fresh: Sequence[bool], window: int, limit: int) -> bool:
    """Whether at least `limit` of the last `window` results brought nothing that was not known."""
    tail = fresh[-window:]
    return len(tail) == window and sum(not new for new in tail) >= limit


def similarity(a: str, b: str) -> float:
    """How much of two texts is the same, from 0 to 1: Jaccard index of their trigrams, case and spacing
    ignored."""
    one, other = _trigrams(a), _trigrams(b)
    return len(one & other) / len(one | other) if one and other else 0.0


def _trigrams(text: str) -> set[str]:
    plain = " ".join(text.lower().split())
    return {plain[i : i + 3] for i in range(len(plain) - 2)}
