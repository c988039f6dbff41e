"""What a task reads and leaves: excerpts of artifacts, checked outputs, call records."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from goalwright_shared.artifacts import Artifacts
from goalwright_shared.checks import check_acceptance, check_output
from goalwright_shared.errors import ArtifactUnavailable
from goalwright_shared.messages import (
    ArtifactRef,
    ArtifactType,
    CallRecord,
    Check,
    CheckResult,
    OutputSpec,
)
from goalwright_shared.telemetry import redact

from goalwright_agent.core.answers import storable
from goalwright_agent.core.prompt import described
from goalwright_agent.core.visible import visible

log = structlog.get_logger(__name__)

READABLE_BYTES = 32 << 20
"""Artifacts above this are not read whole into the agent's memory; programs read those."""

_BEYOND_BYTES = 4_096
"""Read beyond an excerpt, so that a secret at its end is seen whole; a private key is shorter."""

_CHECKED_BYTES = 8 << 20
_TEXT_LIKE = (ArtifactType.TEXT, ArtifactType.JSON, ArtifactType.TABLE)


def clean(value: Any) -> Any:
    """JSON with the secrets in its strings masked, and storable; its shape and keys stay."""
    return _mapped(lambda text: redact(storable(text)), value)


def shown(value: Any) -> Any:
    """JSON as prompts show it: clean, and with nothing hidden in it. What is stored and delivered stays as it was."""
    return _mapped(lambda text: visible(redact(storable(text))), value)


def _mapped(change: Callable[[str], str], value: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(change, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(change, part) for part in value]
    return value


# --- artifacts -----------------------------------------------------------------------------------------


def is_text_like(ref: ArtifactRef) -> bool:
    """Whether an artifact can be shown as text."""
    media = ref.media_type
    return (
        ref.type in _TEXT_LIKE or media.startswith("text/") or media.endswith(("json", "csv", "xml", "+json"))
    )


async def text_of(artifacts: Artifacts, ref: ArtifactRef) -> str | None:
    """The whole text of an artifact; None when it is none, or too large to read here."""
    if not is_text_like(ref) or ref.size > READABLE_BYTES:
        return None
    try:
        return (await artifacts.get_bytes(ref)).decode("utf-8")
    except UnicodeDecodeError:
        return None


async def part_of(artifacts: Artifacts, ref: ArtifactRef, offset: int, length: int) -> tuple[int, str] | None:
    """At most `length` bytes of an artifact's text and the byte they begin at, which is `offset` or, inside a
    character, the next one's; None when it is no text. No more of the artifact is read, whatever its size."""
    if not is_text_like(ref):
        return None
    data = await artifacts.get_range(ref, offset, length)
    start = 0
    while offset and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    try:
        return offset + start, data[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data" or offset + len(data) >= ref.size:
            return None
        return offset + start, data[start : start + error.start].decode("utf-8")


async def describe(
    artifacts: Artifacts, refs: Mapping[str, ArtifactRef], excerpt_chars: int
) -> list[dict[str, Any]]:
    """Artifacts as cards and tool results show them; an unreadable one is shown without an excerpt."""
    return [described(ref, name, await _excerpt(artifacts, ref, excerpt_chars)) for name, ref in refs.items()]


async def _excerpt(artifacts: Artifacts, ref: ArtifactRef, characters: int) -> str:
    """The beginning of a text. Redacted before it is cut: half a secret is not seen for one."""
    try:
        found = await part_of(artifacts, ref, 0, 4 * characters + _BEYOND_BYTES)
    except ArtifactUnavailable as error:
        log.warning("no excerpt", artifact=ref.name, error=str(error))
        return ""
    return clean(found[1])[:characters] if found else ""


async def read_part(
    artifacts: Artifacts, refs: Mapping[str, ArtifactRef], name: str, offset: int, length: int
) -> dict[str, Any]:
    """The result of `read_artifact`: bytes are counted, so that any part of any size of artifact is at hand."""
    ref = refs.get(name)
    if ref is None:
        return {
            "status": "error",
            "error": f"there is no artifact {name!r}; there are {', '.join(refs) or 'none'}",
        }
    found = await part_of(artifacts, ref, offset, max(length, 4))  # a character has up to four
    if found is None:
        return {
            "status": "error",
            "error": f"{name} is no text that can be read here: read it with a program",
        }
    start, text = found
    end = start + len(text.encode())
    return {
        "status": "succeeded",
        "name": name,
        "offset": start,
        "size": ref.size,
        "text": text,
        "next_offset": end if text and end < ref.size else None,
    }


# --- outputs -------------------------------------------------------------------------------------------


async def checked(
    specs: Sequence[OutputSpec],
    acceptance: Sequence[Check],
    texts: Mapping[str, str],
    files: Mapping[str, bytes],
) -> list[CheckResult]:
    """Findings on outputs given as text and on those that programs left; off the event loop."""
    data = {name: text.encode("utf-8", "surrogatepass") for name, text in texts.items()} | dict(files)

    def run() -> list[CheckResult]:
        found = [
            result for spec in specs if spec.name in data for result in check_output(spec, data[spec.name])
        ]
        return found + check_acceptance(acceptance, specs, data)

    return await asyncio.to_thread(run)


async def stored(
    artifacts: Artifacts, specs: Sequence[OutputSpec], texts: Mapping[str, str]
) -> dict[str, ArtifactRef]:
    """Artifacts of outputs given as text."""
    types = {spec.name: spec.type for spec in specs}
    return {name: await artifacts.put_bytes(name, types[name], text.encode()) for name, text in texts.items()}


async def contents(artifacts: Artifacts, refs: Mapping[str, ArtifactRef]) -> dict[str, bytes]:
    """The bytes of what programs left, as far as they are small enough to be checked here again (the executor
    has checked them all)."""
    return {name: await artifacts.get_bytes(ref) for name, ref in refs.items() if ref.size <= _CHECKED_BYTES}


async def recorded(
    artifacts: Artifacts, prompt: Mapping[str, Any], raw: Mapping[str, Any], finish_reason: str | None,
    request_id: str | None,
) -> CallRecord:  # fmt: skip
    """Prompt and reply as artifacts, redacted. A full store loses the record, never the answer."""
    refs: list[ArtifactRef | None] = []
    for name, value in (("prompt", prompt), ("reply", raw)):
        body = json.dumps(clean(value), ensure_ascii=False).encode("utf-8", "replace")
        try:
            refs.append(await artifacts.put_bytes(name, ArtifactType.JSON, body))
        except ArtifactUnavailable as error:
            log.warning("call not recorded", error=str(error))
            refs.append(None)
    return CallRecord(prompt=refs[0], reply=refs[1], finish_reason=finish_reason, request_id=request_id)
