"""What a task remembers between two turns, stored so that a turn stores little more than what it has said.

The continuation names objects that never change, and holds what has been said since the last of them inline. A turn
that is lost, or done twice, leaves an object that nobody names: the scheduler keeps one continuation of each turn.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from goalwright_shared.artifacts import Artifacts
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import INLINE_BYTES, ArtifactRef, ArtifactType
from pydantic import JsonValue, TypeAdapter, ValidationError

from goalwright_agent.core.turns import Kept, Segment, State
from goalwright_agent.material import clean

SEGMENT_BYTES = 2 * INLINE_BYTES
"""What was said since the last segment becomes one when it is longer: each turn stores at most so much again, and the
longest prompts need a few dozen objects. Smaller ones would be inline."""

_FORM = "state"
_MESSAGES = TypeAdapter(list[dict[str, Any]])
_ARTIFACTS = TypeAdapter(dict[str, ArtifactRef])


class BadContinuation(GoalwrightError):
    """A continuation that this agent did not write."""


async def saved(artifacts: Artifacts, state: State) -> JsonValue:
    """The state as a continuation. Raises ArtifactUnavailable."""
    stored = sum(segment.messages - segment.told for segment in state.segments)
    tail, segments = clean(state.messages[stored:]), state.segments
    if body := _long(tail):
        ref = await artifacts.put_bytes("transcript", ArtifactType.JSON, body)
        opening = 0 if segments else state.opening
        segments, tail = [*segments, Segment(ref=ref, messages=len(tail), opening=opening)], []
    new = {name: ref for name, ref in state.artifacts.items() if state.kept_artifacts.get(name) != ref}
    kept, made = state.kept, _ARTIFACTS.dump_python(new, mode="json", exclude_defaults=True)
    if body := _long(made):
        ref = await artifacts.put_bytes("artifacts", ArtifactType.JSON, body)
        kept = [*kept, Kept(ref=ref, objects=[one.object for one in new.values() if one.object])]
        made = {}
    head = state.model_copy(update={"segments": segments, "kept": kept, "messages": [], "artifacts": {}})
    dumped = head.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {_FORM: clean(dumped) | {"messages": tail, "artifacts": clean(made)}}


def _long(value: Any) -> bytes | None:
    """The JSON of what is to become an object; None where it is short."""
    body = json.dumps(value, ensure_ascii=False).encode()
    return body if len(body) > SEGMENT_BYTES else None


async def loaded(artifacts: Artifacts, continuation: JsonValue) -> State | None:
    """The state in a continuation, with the objects that its prompt needs; None when there is none. Raises
    BadContinuation, ArtifactUnavailable."""
    if continuation is None:
        return None
    if not isinstance(continuation, dict) or _FORM not in continuation:
        raise BadContinuation(
            "bad_continuation",
            "the continuation was not written by this version of the agent",
            hint="publish the goal again",
        )
    try:
        state = State.model_validate_json(json.dumps(continuation[_FORM]))
        refs = [*(segment.ref for segment in state.segments), *(kept.ref for kept in state.kept)]
        bodies = await asyncio.gather(*(artifacts.get_bytes(ref) for ref in refs))
        messages: list[dict[str, Any]] = []
        found: dict[str, ArtifactRef] = {}
        for segment, body in zip(state.segments, bodies, strict=False):
            messages += segment.needed(_MESSAGES.validate_json(body))
        for body in bodies[len(state.segments) :]:
            found |= _ARTIFACTS.validate_json(body)
    except ValidationError as error:
        raise BadContinuation(
            "bad_continuation", f"the continuation does not parse: {error}"[:500]
        ) from error
    changes = {
        "messages": messages + state.messages,
        "artifacts": found | state.artifacts,
        "kept_artifacts": found,
    }
    return state.model_copy(update=changes)
