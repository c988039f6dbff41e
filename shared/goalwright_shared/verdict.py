"""The answer asked of a judge, by reviews (reflector) and by rubric checks (scheduler)."""

from __future__ import annotations

from typing import Any

VERDICT_SCHEMA: dict[str, Any] = {
    "title": "Verdict",
    "type": "object",
    "additionalProperties": False,
    "required": [
        "on_topic", "progressing", "plan_relevant", "better_plan", "evidence", "score", "passed", "summary",
    ],
    "properties": {
        "on_topic": {"type": "boolean", "description": "the work serves the goal's objective"},
        "progressing": {"type": "boolean", "description": "the goal is coming closer"},
        "plan_relevant": {"type": "boolean", "description": "the remaining tasks are still the right ones"},
        "better_plan": {"type": "string", "description": "what to change, if a change pays; else empty"},
        "evidence": {"type": "array", "items": {"type": "string"}, "description": "task keys and facts"},
        "score": {"type": "number", "description": "0 (hopeless) to 1 (could not be better)"},
        "passed": {"type": "boolean", "description": "the plan may go on as it is"},
        "summary": {"type": "string", "description": "one or two sentences for people"},
    },
}  # fmt: skip
"""Portable-strict: flat, every field required, no constraint keywords."""
