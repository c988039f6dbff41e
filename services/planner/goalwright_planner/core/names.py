"""Which artifact a model meant: one name per thing, however it was spelt.

Models drift: `Sales Report`, `sales_reports.md` and `report_sales` are one artifact. A name is matched in
tiers, strictest first, and only when exactly one candidate fits; a guess between two is left as an error.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import lru_cache

_EXTENSION = re.compile(
    r"\.(csv|tsv|json|jsonl|md|markdown|txt|html?|pdf|png|svg|jpe?g|parquet|sqlite|db|xlsx?|zip|tar|py)$",
    re.I,
)
_WORD = re.compile(r"[a-z]+|[0-9]+")
_FILLERS = frozenset([
    "a", "an", "the", "of", "and", "for", "to", "in", "with", "all", "new", "final", "output", "result",
    "artifact", "data", "dataset", "table", "file", "document", "doc", "text", "content",
])  # fmt: skip
_SAME = {
    word: group[0]
    for group in (
        ("chart", "plot", "figure", "graph", "diagram", "visualization", "visualisation", "image"),
        ("summary", "overview", "abstract", "synopsis", "digest"),
        ("finding", "insight", "conclusion", "observation"),
        ("statistic", "stat", "metric", "measure"),
        ("correlation", "association"),
        ("outlier", "anomaly"),
        ("clean", "tidy", "sanitized", "sanitised"),
        ("specification", "spec"),
        ("code", "script", "program", "source"),
        ("config", "configuration", "setting"),
        ("outline", "structure", "skeleton"),
        ("review", "critique", "feedback"),
        ("comparison", "compare"),
        ("analysis", "analyses"),
    )
    for word in group
}
_ENDINGS = (
    ("ies", "y"),
    ("ied", "y"),
    ("sses", "ss"),
    ("ches", "ch"),
    ("xes", "x"),
    ("ning", "n"),
    ("ing", ""),
    ("ned", "n"),
    ("ed", ""),
)
_CLOSE = 0.86
"""Likeness (difflib) above which two spellings are one name."""

_REMEMBERED = 16_384
"""Names whose forms are kept: matching compares every name with every other."""

_MARGIN = 0.03
"""By how much the nearest must be nearer than the second."""


def slug(text: str) -> str:
    """`text` as a name (`[A-Za-z0-9][A-Za-z0-9._-]{0,127}`); "" when nothing of it can stand in one."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:128].strip("._-")


def unique(name: str, taken: Collection[str]) -> str:
    """`name`, or `name-2`, `name-3`, … when it is taken."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name[:120]}-{number}"
    return candidate


def match(name: str, candidates: Iterable[str]) -> str | None:
    """The one candidate that `name` means, or None when none or several fit."""
    pool = list(dict.fromkeys(candidates))
    if name in pool:
        return name
    for key in (_folded, _stemmed, _loose):
        wanted = key(name)
        same = [candidate for candidate in pool if key(candidate) == wanted] if wanted else []
        if same:
            return same[0] if len(same) == 1 else None
    return _closest(name, pool)


def _closest(name: str, pool: list[str]) -> str | None:
    """The nearest spelling, when it is near and the second is not as near."""
    wanted = _folded(name)
    if len(wanted) < 4:
        return None
    alike = {_folded(candidate): candidate for candidate in pool if _numbers(candidate) == _numbers(name)}
    near = difflib.get_close_matches(wanted, alike, n=2, cutoff=_CLOSE)
    if not near or (len(near) == 2 and _likeness(wanted, near[1]) > _likeness(wanted, near[0]) - _MARGIN):
        return None
    return alike[near[0]]


def _likeness(wanted: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, wanted).ratio()


def _words(name: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", _EXTENSION.sub("", plain))  # camelCase is two words
    return _WORD.findall(spaced.lower())


@lru_cache(_REMEMBERED)
def _folded(name: str) -> str:
    return "".join(_words(name))


@lru_cache(_REMEMBERED)
def _stemmed(name: str) -> str:
    return " ".join(_stem(word) for word in _words(name))


@lru_cache(_REMEMBERED)
def _loose(name: str) -> str:
    words = {_SAME.get(stem, stem) for stem in map(_stem, _words(name))}
    return " ".join(sorted(words - _FILLERS))


@lru_cache(_REMEMBERED)
def _numbers(name: str) -> tuple[str, ...]:
    """`part_1` and `part_2` look alike and are not."""
    return tuple(word for word in _words(name) if word.isdigit())


def _stem(word: str) -> str:
    """Singular and without the endings by which one word drifts into another."""
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)] + instead
    if word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
