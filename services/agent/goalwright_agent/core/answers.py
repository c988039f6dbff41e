"""The answer in a model's reply, as the model wrote it. Nothing is ever completed or guessed; whether it is
acceptable is for the checks to say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from goalwright_shared.messages import ArtifactType, OutputSpec

_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\n\s*")
_WHOLE_FENCE = re.compile(r"\s*```[A-Za-z0-9_-]*[ \t]*\n(.*)\n[ \t]*```\s*", re.S)
_STARTS = 64
"""Brackets at which the start of a JSON value is looked for in prose; each may cost a parse of the rest."""

_BEGINS_JSON = re.compile(r'\{\s*(["}]|$)|\[\s*(["{\[\]]|$)')
"""Prose has brackets too; these are followed by what follows them in JSON."""

_THOUGHTS_BEGIN = 64
_THOUGHTS = re.compile(
    r"\s*(<think(?:ing)?>.*?(</think(?:ing)?>|\Z)|(?:(?!<think).)*?</think(?:ing)?>)", re.S
)

_DECODER = json.JSONDecoder()


def storable(value: Any) -> Any:
    """JSON without what a database cannot hold: NUL and halves of surrogate pairs in its strings."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {storable(key): storable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [storable(part) for part in value]
    return value


def extract_json(text: str, *, want_object: bool = False) -> str | None:
    """The JSON text of a reply: the whole of it, a fenced block, or the first object or array inside prose.

    None when there is no complete value (`want_object`: no object); a value that broke off is not searched for
    whole parts. Call it only for replies that ended by themselves.
    """
    for candidate in _candidates(text.strip()):
        try:
            value, end = _DECODER.raw_decode(candidate)
        except (ValueError, RecursionError):
            if _BEGINS_JSON.match(candidate):
                return None
            continue
        if isinstance(value, dict) or not want_object:
            return candidate[:end]
        if isinstance(value, list) and any(isinstance(part, dict) for part in value):
            return None  # one object of a list is a part of the answer, not the answer
    return None


def _candidates(text: str) -> Iterator[str]:
    if text[:1] in ("{", "["):
        yield text
    for match in _FENCE.finditer(text):
        yield text[match.end() :]  # where the value ends JSON says itself: a fence may stand inside a string
    for match in islice(re.finditer(r"[{\[]", text), _STARTS):
        yield text[match.start() :]
    if text[:1] not in ("{", "["):
        yield text  # a bare string or number


def without_thoughts(text: str) -> str:
    """A reply without the thinking that some servers leave in it: `<think>…</think>`, or, where the template has
    opened it already, all up to the first `</think>`. One that was never closed is all there is: no answer."""
    if "<think" not in text[:_THOUGHTS_BEGIN] and "</think" not in text:
        return text
    thought = _THOUGHTS.match(text)
    return text[thought.end() :].lstrip() if thought else text


def unfenced(text: str) -> str:
    """A text answer without the one code fence that some models put around all of it."""
    match = _WHOLE_FENCE.fullmatch(text)
    return match[1] if match and "```" not in match[1] else text


@dataclass(frozen=True)
class Candidate:
    """A reply read as the value of an output; `fault` says why it cannot be one."""

    text: str = ""
    fault: str = ""


def candidate(output: OutputSpec, content: str, *, want_object: bool = False) -> Candidate:
    """The value that a reply gives for `output`, freed of fences and prose."""
    if not content.strip():
        return Candidate(fault="the answer was empty")
    if output.type is ArtifactType.JSON:
        found = extract_json(content, want_object=want_object)
        if found is None:
            what = "object" if want_object else "value"
            return Candidate(fault=f"there is no complete JSON {what} in the answer")
        return Candidate(text=found)
    return Candidate(text=unfenced(content))


def first_cap(grant: int, asked: int | None, thinking: int = 0) -> int:
    """The output cap of a first call: what was asked for, else half of what is held, so that an answer that
    is cut can be asked for once more with a larger cap without spending more than the hold. What the model may
    need for `thinking` comes on top: it counts as output too."""
    room = grant - thinking
    if room <= 0:
        return grant
    if asked is not None and asked < room:
        return max(asked, 1) + thinking
    return (room // 2 if room >= 1024 else room) + thinking
