"""A request → the model's reply. Pure and without memory: the same messages get the same answer."""

from __future__ import annotations

import json
from collections.abc import Mapping

from goalwright_rehearsal import messages, profiling, schemas, verdicts
from goalwright_rehearsal.messages import LABEL, Json, Reply, ToolCall, Wanted

REFUSAL = (
    "no model is set, and the rehearsal in its place (no intelligence) can only profile a CSV and report on it "
    "(FILE=table.csv); for anything else set OPENAI_API_KEY or OPENAI_BASE_URL, and GOALWRIGHT_MODEL"
)


def answer(request: Mapping[str, Json]) -> Reply:
    """What the rehearsal says to a chat completion request."""
    conversation = request["messages"]
    card = messages.card_of(conversation)
    wanted = messages.wanted_of(dict(request))
    scripted = _scripted(card, conversation)
    if scripted is not None:
        return scripted
    if card is not None and card.get("kind") in ("plan", "revise"):
        return _structured(_planned(card), wanted)
    if card is not None and (card.get("role") == "judge" or (wanted and wanted.name == "Verdict")):
        return _structured(verdicts.verdict(card), wanted)
    if wanted is not None:
        return _structured(schemas.minimal(wanted.schema) if wanted.schema else {"rehearsal": LABEL}, wanted)
    if card is not None and messages.tools_of(dict(request)):
        return _role_turn(card, conversation)
    return Reply(_plain(card, conversation))


def _planned(card: Mapping[str, Json]) -> Json:
    if card["kind"] == "revise":
        return profiling.revise(card)
    return profiling.plan(card) if profiling.knows(card) else _refusal()


def _refusal() -> dict[str, Json]:
    """The Plan that is none: no tasks, and the reason."""
    empty: dict[str, Json] = {
        name: [] for name in ("deliverables", "constraints", "out_of_scope", "questions")
    }
    return {"objective": "", **empty, "assumptions": [REFUSAL], "tasks": []}


def _structured(value: Json, wanted: Wanted | None) -> Reply:
    """`value` as JSON text, or as the arguments of the forced tool; it is made to fit the schema."""
    if wanted is not None and wanted.schema:
        value = schemas.fit(value, wanted.schema)
    if wanted is not None and wanted.tool is not None:
        return Reply(None, [ToolCall(wanted.tool, value)])
    return Reply(json.dumps(value, ensure_ascii=False))


def _role_turn(card: Mapping[str, Json], conversation: list[dict[str, Json]]) -> Reply:
    if profiling.step_of(card) is not None:
        return profiling.turn(card, messages.turns_of(conversation))
    if card.get("role") in ("writer", "critic"):
        return Reply(_plain(card, conversation))
    return profiling.give_up("there is no script for this task: " + REFUSAL)


def _plain(card: Mapping[str, Json] | None, conversation: list[dict[str, Json]]) -> str:
    """A labelled text: what the card holds, or the opening of what was asked."""
    if card is None:
        asked = next((m for m in reversed(conversation) if m.get("role") == "user"), {})
        return f"{LABEL}. You said: {messages.content_of(asked)[:200]}"
    lines = [f"{LABEL}: nothing was understood; this lists what there is.", str(card.get("title") or "")]
    for item in card.get("inputs") or []:
        lines.append(f"- {item.get('name')} ({item.get('type')}, {item.get('size')} bytes)")
    return "\n".join(lines)


def _scripted(card: Mapping[str, Json] | None, conversation: list[dict[str, Json]]) -> Reply | None:
    """A task may bring its own script: `params.rehearsal` is a list of replies, one per turn, each
    `{"text": …}` or `{"calls": [{"name", "arguments"}]}`; the last one repeats."""
    params = card.get("params") if card else None
    script = params.get("rehearsal") if isinstance(params, dict) else None
    if not isinstance(script, list) or not script:
        return None
    said = sum(message.get("role") == "assistant" for message in conversation)
    step = script[min(said, len(script) - 1)]
    calls = [ToolCall(str(call["name"]), call.get("arguments") or {}) for call in step.get("calls") or []]
    return Reply(step.get("text"), calls)
