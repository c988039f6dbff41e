"""The lane `reflect`: two turns around one judge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import jsonschema
import pytest
from goalwright_reflector.core import review
from goalwright_reflector.handlers import build_perform
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.clock import SystemClock
from goalwright_shared.messages import (
    ArtifactRef,
    ArtifactType,
    ChildResult,
    Contract,
    Done,
    Expand,
    Outcome,
    TaskError,
    TaskSpec,
    Work,
)
from goalwright_shared.verdict import VERDICT_SCHEMA
from goalwright_shared.worker import Attempt
from nats.aio.client import Client


def row(task_id: str, key: str, parent: str | None, lane: str, state: str, **more: Any) -> dict[str, Any]:
    """One task as `query.graph` gives it."""
    return {"task_id": task_id, "key": key, "parent": parent, "lane": lane, "state": state, **more}


GRAPH = [
    row("1", "goal", None, "plan", "expanded", outputs=["report"]),
    row("2", "load", "1", "agent.coder", "succeeded", inputs=["raw"], outputs=["tidy"], title="Load",
        summary="12 rows"),
    row("3", "run", "2", "exec", "succeeded", outputs=["stdout"]),
    row("4", "write", "1", "agent.writer", "blocked", inputs=["tidy"], outputs=["report"]),
    row("5", "review", None, "reflect", "dispatched", outputs=[]),
    row("6", "judge", "5", "agent.judge", "dispatched", outputs=["verdict"]),
    row("7", "plan", "1", "agent.ask", "succeeded", outputs=["plan"]),
]  # fmt: skip


class Scheduler:
    """Answers queries from a fixed graph in pages of two, and keeps what it was told."""

    def __init__(self, refuse: str | None = None) -> None:
        self.said: list[tuple[str, str, dict[str, Any]]] = []
        self._refuse = refuse

    async def say(self, verb: str, owner: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Grants everything but the verb it was told to refuse."""
        json.dumps(body)
        self.said.append((verb, owner, dict(body)))
        if verb == self._refuse:
            return {"error": {"code": "busy", "message": "a replan is open"}}
        return {"ok": True}

    async def query(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """`goal` and `graph`."""
        if what == "goal":
            return {"goal_id": body["goal_id"], "text": "a report", "spent_usd": 0.2, "budget_usd": 1.0}
        at = int(body.get("cursor") or 0)
        following = at + 2 if at + 2 < len(GRAPH) else None
        return {"revision": 0, "tasks": GRAPH[at : at + 2], "pruned": [], "next": following}


def work(**changes: Any) -> Work:
    """A reflect task of the goal `g`."""
    spec = TaskSpec(key="review", lane="reflect", instruction="3 tasks were completed")
    base = Work(
        goal_id="g", owner="acme", task_id="5", epoch=1, lane="reflect", spec=spec,
        contract=Contract(objective="a report", deliverables=["report"]),
    )  # fmt: skip
    return base.model_copy(update=changes)


async def perform(scheduler: Scheduler, task: Work) -> Outcome:
    """One try; artifacts stay inline, so that no store is touched."""
    attempt = Attempt(task, cast(Client, None), ObjectArtifacts(cast(Any, None)), scheduler.query)
    return await build_perform(scheduler.say, SystemClock())(task, attempt)


def verdict(**changes: Any) -> dict[str, Any]:
    """A judge that is content, but for `changes`."""
    content = {
        "on_topic": True, "progressing": True, "plan_relevant": True, "better_plan": "",
        "evidence": ["load"], "score": 0.9, "passed": True, "summary": "It goes well.",
    }  # fmt: skip
    return {**content, **changes}


def judged(text: str) -> Work:
    """The reflect task, resumed with this answer of its judge."""
    ref = ArtifactRef.of_text("verdict", text, ArtifactType.JSON)
    child = ChildResult(key="judge", task_id="6", status="succeeded", outputs={"verdict": ref})
    return work(children=[child], continuation={"step": "judged"}, epoch=2, turn=1)


async def test_the_first_turn_asks_one_judge_with_everything_it_must_know() -> None:
    scheduler = Scheduler()
    outcome = await perform(scheduler, work())
    assert isinstance(outcome, Expand)
    assert outcome.continuation == {"step": "judged"}
    [judge] = outcome.tasks
    assert judge.lane == "agent.judge"
    assert [(o.name, o.type) for o in judge.outputs] == [("verdict", ArtifactType.JSON)]
    assert (judge.outputs[0].schema_ or {})["title"] == "Verdict"
    card = cast(dict[str, Any], judge.params)["review"]
    assert card["goal"] == "a report"
    assert card["contract"]["deliverables"] == ["report"]
    shown = {task["key"]: task["state"] for task in card["tasks"]}
    assert shown == {"load": "succeeded", "write": "blocked"}
    assert card["tasks"][0] == {
        "key": "load", "title": "Load", "lane": "agent.coder", "state": "succeeded", "inputs": ["raw"],
        "outputs": ["tidy"], "summary": "12 rows",
    }  # fmt: skip
    assert (card["spent_usd"], card["budget_usd"]) == (0.2, 1.0)
    assert scheduler.said == []


async def test_a_content_judge_ends_the_review_and_nothing_is_asked() -> None:
    scheduler = Scheduler()
    outcome = await perform(scheduler, judged(json.dumps(verdict())))
    assert isinstance(outcome, Done)
    assert outcome.summary == "It goes well."
    assert outcome.outputs == {}
    assert scheduler.said == []


@pytest.mark.parametrize("wrong", ["plan_relevant", "progressing"])
async def test_a_plan_found_wanting_is_replanned_at_the_root_for_its_owner(wrong: str) -> None:
    scheduler = Scheduler()
    answer = verdict(better_plan="add a chart of outliers", **{wrong: False})
    outcome = await perform(scheduler, judged(json.dumps(answer)))
    body = {"goal_id": "g", "reason": "add a chart of outliers", "evidence": ["load"]}
    assert scheduler.said == [("replan", "acme", body)]
    assert isinstance(outcome, Done)
    assert "A replan was asked for" in outcome.summary


async def test_without_a_better_plan_the_summary_is_the_reason() -> None:
    scheduler = Scheduler()
    await perform(scheduler, judged(json.dumps(verdict(plan_relevant=False, summary="Nothing fits."))))
    assert scheduler.said[0][2]["reason"] == "Nothing fits."


async def test_off_topic_is_signalled_and_replanned() -> None:
    scheduler = Scheduler()
    await perform(scheduler, judged(json.dumps(verdict(on_topic=False, summary="It writes poems."))))
    assert [verb for verb, _, _ in scheduler.said] == ["signal", "replan"]
    signal = scheduler.said[0][2]
    assert (signal["signal"], signal["action"]) == ("off_topic", "note")
    assert signal["message"] == "It writes poems."


async def test_a_refused_replan_is_told_and_fails_nothing() -> None:
    scheduler = Scheduler(refuse="replan")
    outcome = await perform(scheduler, judged(json.dumps(verdict(plan_relevant=False))))
    assert isinstance(outcome, Done)
    assert "A replan was refused: a replan is open." in outcome.summary


async def test_a_dead_judge_does_not_fail_the_review() -> None:
    error = TaskError(code="no_model", message="the model cannot be reached")
    child = ChildResult(key="judge", task_id="6", status="dead", error=error)
    scheduler = Scheduler()
    outcome = await perform(scheduler, work(children=[child], continuation={"step": "judged"}))
    assert isinstance(outcome, Done)
    assert outcome.summary == "review could not be had: the model cannot be reached"
    assert scheduler.said == []


@pytest.mark.parametrize("text", ["not JSON", "{}", json.dumps(verdict(on_topic="yes"))])
async def test_an_unreadable_verdict_is_unknown_and_never_fine(text: str) -> None:
    scheduler = Scheduler()
    outcome = await perform(scheduler, judged(text))
    assert isinstance(outcome, Done)
    assert outcome.summary.startswith("review could not be had: the verdict is not readable")
    assert scheduler.said == []


def test_the_schema_and_the_model_of_a_verdict_agree() -> None:
    jsonschema.Draft202012Validator.check_schema(VERDICT_SCHEMA)
    jsonschema.validate(verdict(), VERDICT_SCHEMA)
    assert set(VERDICT_SCHEMA["required"]) == set(review.Verdict.model_fields)
    assert set(VERDICT_SCHEMA["properties"]) == set(review.Verdict.model_fields)


def test_a_card_stays_small_and_shows_what_failed_first() -> None:
    rows: list[dict[str, Any]] = [{"task_id": "1", "parent": None, "lane": "plan"}]
    rows += [
        {"task_id": str(n), "parent": "1", "key": f"k{n}", "lane": "exec", "state": "succeeded"}
        for n in range(2, 1000)
    ]
    rows[700]["state"] = "dead"
    card = review.card({"text": "x"}, None, rows, 1.0)
    assert len(card["tasks"]) == 120
    assert card["tasks"][0]["state"] == "dead"
    assert card["states"] == {"succeeded": 997, "dead": 1}
