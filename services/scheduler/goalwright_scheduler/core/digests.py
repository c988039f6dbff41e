"""Digests by which the reflector sees repetition: of what a task does, and of what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from goalwright_shared.messages import TaskSpec


def digest(*parts: object) -> str:
    """A short digest of some parts: texts, or what JSON can say."""
    text = "\x1f".join(part if isinstance(part, str) else json.dumps(part, sort_keys=True) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def result_digest(hashes: Iterable[tuple[str, str]]) -> str:
    """What came of a task: its outputs' names and content hashes."""
    return digest(*(part for pair in sorted(hashes) for part in pair))


def action_digest(spec: TaskSpec) -> str:
    """What a task would do: its lane, words and program, not its key."""
    return digest(
        spec.lane,
        " ".join(spec.instruction.split()).lower(),
        spec.program.model_dump_json() if spec.program else "",
        spec.prompt.model_dump_json() if spec.prompt else "",
        "" if spec.params is None else spec.params,
        *spec.inputs,
    )
