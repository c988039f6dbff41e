"""Verdicts by simple heuristics, which say that they are that: nothing is understood here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from goalwright_rehearsal import profiling
from goalwright_rehearsal.messages import LABEL, Json

_TRACES = ("Traceback (most recent call last)", "cannot do this task", "TODO")


def verdict(card: Mapping[str, Json]) -> dict[str, Json]:
    """The Verdict on a goal's progress (`params.review`), or on the inputs of a rubric."""
    params = card.get("params")
    review = params.get("review") if isinstance(params, dict) else None
    return _of_goal(review) if isinstance(review, dict) else _of_inputs(card)


def _of_goal(review: Mapping[str, Json]) -> dict[str, Json]:
    """By the states of the tasks; a replan is asked for once, when a profile is there to be followed up."""
    tasks = [task for task in review.get("tasks") or [] if isinstance(task, dict)]
    done = [task for task in tasks if task.get("state") == "succeeded"]
    dead = [task for task in tasks if task.get("state") == "dead"]
    profile = profiling.wants_patterns(tasks)
    found = _most_telling(str(profile.get("summary") or "")) if profile else ""
    better = f"Look closer before the report is written: {found} Add patterns; report_with_patterns replaces report."
    share = len(done) / len(tasks) if tasks else 0.0
    return {
        "on_topic": True,
        "progressing": len(done) >= len(dead),
        "plan_relevant": profile is None,
        "better_plan": better if profile else "",
        "evidence": [f"profile: {found}"] if profile else [f"{task.get('key')} is dead" for task in dead],
        "score": round(share, 3),
        "passed": profile is None and not dead,
        "summary": f"{LABEL}, counted: {len(done)} of {len(tasks)} tasks succeeded, {len(dead)} are dead.",
    }


def _most_telling(summary: str) -> str:
    """The sentence of a profile's summary to be followed up: a link, else the course of time, else gaps."""
    sentences = re.split(r"(?<=\.) (?=\S)", summary)
    for word in ("correlation", "explains", "runs from", "gaps"):
        for sentence in sentences:
            if word in sentence:
                return sentence[:200]
    return "nothing stands out in the profile, so the values themselves come next."


def _of_inputs(card: Mapping[str, Json]) -> dict[str, Json]:
    """A rubric passes when everything it is about is there and holds no sign of a failure."""
    inputs = [item for item in card.get("inputs") or [] if isinstance(item, dict)]
    faults = [f"{item.get('name')} is empty" for item in inputs if not item.get("size")]
    for item in inputs:
        found = [trace for trace in _TRACES if trace in str(item.get("excerpt") or "")]
        faults += [f"{item.get('name')} contains “{trace}”" for trace in found]
    passed = bool(inputs) and not faults
    evidence = faults or [f"{item.get('name')}: {item.get('size')} bytes" for item in inputs]
    return {
        "on_topic": True,
        "progressing": passed,
        "plan_relevant": True,
        "better_plan": "",
        "evidence": evidence or ["there is nothing to judge"],
        "score": 1.0 if passed else 0.0,
        "passed": passed,
        "summary": f"{LABEL}: only looked whether the outputs are there and show no sign of a failure.",
    }
