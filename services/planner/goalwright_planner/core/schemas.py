"""The two answers the planner asks models for, as portable strict JSON Schema.

Flat objects, every field required, no defaults, unions, free dictionaries or constraint keywords: that is the
part of the language that all providers take. Limits are checked by the compiler.
"""

from __future__ import annotations

from pydantic import JsonValue

Schema = dict[str, JsonValue]


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = _list(_TEXT)
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_TYPE: Schema = {
    "type": "string",
    "enum": ["text", "json", "table", "dataset", "database", "file", "folder"],
}
_NAMED: Schema = _object(name=_TEXT, type=_TYPE, description=_TEXT)
_TASK: Schema = _object(
    key=_TEXT, title=_TEXT, instruction=_TEXT, lane=_TEXT, inputs=_TEXTS, outputs=_list(_NAMED), after=_TEXTS,
    value=_NUMBER, tokens_in=_INTEGER, tokens_out=_INTEGER, seconds=_NUMBER, confidence=_NUMBER,
    max_failures=_INTEGER, on_dead={"type": "string", "enum": ["skip", "fail_goal", "replan"]},
)  # fmt: skip

_QUESTION: Schema = _object(text=_TEXT, options=_TEXTS, default=_TEXT)
_DROP: Schema = _object(key=_TEXT, reason=_TEXT)
_VALUE: Schema = _object(key=_TEXT, value=_NUMBER)

PLAN: Schema = {
    "title": "Plan",
    **_object(
        objective=_TEXT,
        deliverables=_list(_NAMED),
        constraints=_TEXTS,
        out_of_scope=_TEXTS,
        assumptions=_TEXTS,
        questions=_list(_QUESTION),
        tasks=_list(_TASK),
    ),
}

REVISION: Schema = {
    "title": "Revision",
    **_object(
        reason=_TEXT,
        drop=_list(_DROP),
        add=_list(_TASK),
        values=_list(_VALUE),
        summary=_TEXT,
    ),
}

ANY_OBJECT: Schema = {"type": "object"}
"""What is taken as an answer: the compiler reads one that strays from its schema with good will, and knows better
than a validator what to ask for again."""
