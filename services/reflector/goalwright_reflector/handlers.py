"""The lane `reflect`: a review of a goal, as two turns around one judge."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import structlog
from goalwright_shared.clock import Clock
from goalwright_shared.messages import (
    ArtifactType,
    Done,
    Effort,
    Expand,
    Outcome,
    OutputSpec,
    TaskSpec,
    Work,
)
from goalwright_shared.verdict import VERDICT_SCHEMA
from goalwright_shared.worker import Attempt, Perform

from goalwright_reflector.control import Say
from goalwright_reflector.core import review
from goalwright_reflector.core.model import signal_id

log = structlog.get_logger(__name__)

_PAGES = 20
_JUDGED = "judged"


def build_perform(say: Say, clock: Clock) -> Perform:
    """`perform(work, attempt)` for the lane `reflect`; a review never fails its goal."""

    async def perform(work: Work, attempt: Attempt) -> Outcome:
        step = work.continuation.get("step") if isinstance(work.continuation, dict) else None
        if step == _JUDGED:
            return await _judged(work, attempt, say)
        return await _ask_judge(work, attempt, clock)

    return perform


async def _ask_judge(work: Work, attempt: Attempt, clock: Clock) -> Outcome:
    goal = await attempt.query("goal", {"goal_id": work.goal_id})
    tasks = await _graph(work.goal_id, attempt)
    contract = work.contract.model_dump(mode="json") if work.contract else goal.get("contract")
    card = review.card(goal, contract, tasks, _elapsed(goal, clock))
    return Expand(
        goal_id=work.goal_id,
        task_id=work.task_id,
        epoch=work.epoch,
        tasks=[_judge(card)],
        continuation={"step": _JUDGED},
    )


def _judge(card: dict[str, Any]) -> TaskSpec:
    return TaskSpec(
        key="judge",
        title="Judge how the goal is going",
        instruction=review.INSTRUCTION,
        lane="agent.judge",
        outputs=[
            OutputSpec(
                name="verdict",
                type=ArtifactType.JSON,
                description="the verdict on the goal's progress",
                schema=VERDICT_SCHEMA,
            )
        ],
        effort=Effort(tokens_in=3000, tokens_out=400, seconds=10),
        max_failures=2,
        max_turns=4,
        params={"review": card},
    )


async def _judged(work: Work, attempt: Attempt, say: Say) -> Outcome:
    verdict = await _verdict(work, attempt)
    if isinstance(verdict, str):
        return _done(work, f"review could not be had: {verdict}")
    advice = review.advice(verdict)
    said = [advice.summary]
    if advice.off_topic:
        await _tell_off_topic(work, advice, say)
    if advice.replan is not None:
        said.append(await _ask_replan(work, advice, say))
    return _done(work, " ".join(part for part in said if part))


async def _verdict(work: Work, attempt: Attempt) -> review.Verdict | str:
    """The judge's verdict, or why there is none."""
    judge = next((child for child in work.children if child.key == "judge"), None)
    if judge is None:
        return "the judge's result is missing"
    if judge.status != "succeeded" or "verdict" not in judge.outputs:
        return judge.error.message if judge.error else f"the judge is {judge.status}"
    return review.read_verdict(await attempt.artifacts.get_bytes(judge.outputs["verdict"]))


async def _tell_off_topic(work: Work, advice: review.Advice, say: Say) -> None:
    """Record it as a signal; the audit pauses the goal when two reviews in a row say so."""
    evidence = (f"review {work.task_id}",)
    body = {
        "goal_id": work.goal_id,
        "signal_id": signal_id(work.goal_id, "off_topic", evidence),
        "signal": "off_topic",
        "severity": "warning",
        "evidence": list(evidence),
        "action": "note",
        "message": advice.summary or "the work has left the goal's topic",
        "task_id": None,
        "data": {"evidence": list(advice.evidence)},
    }
    answer = await say("signal", work.owner, body)
    if "error" in answer:
        log.warning("signal refused", signal="off_topic", error=answer["error"])


async def _ask_replan(work: Work, advice: review.Advice, say: Say) -> str:
    """Without a `target_task_id` the scheduler replans the goal's root."""
    body = {"goal_id": work.goal_id, "reason": advice.replan, "evidence": list(advice.evidence)}
    answer = await say("replan", work.owner, body)
    if "error" in answer:
        log.warning("replan refused", error=answer["error"])
        return f"A replan was refused: {answer['error'].get('message')}."
    return f"A replan was asked for: {advice.replan}"


async def _graph(goal_id: str, attempt: Attempt) -> list[dict[str, Any]]:
    """All tasks of the goal, page by page (as far as a card could ever show)."""
    tasks: list[dict[str, Any]] = []
    cursor: Any = None
    for _ in range(_PAGES):
        page = await attempt.query("graph", {"goal_id": goal_id, **({"cursor": cursor} if cursor else {})})
        tasks += page.get("tasks") or []
        cursor = page.get("next")
        if not cursor:
            break
    return tasks


def _elapsed(goal: dict[str, Any], clock: Clock) -> float:
    accepted = goal.get("created_at")
    if not isinstance(accepted, str):
        return 0.0
    return max(0.0, (clock.now() - datetime.fromisoformat(accepted)).total_seconds())


def _done(work: Work, summary: str) -> Done:
    return Done(goal_id=work.goal_id, task_id=work.task_id, epoch=work.epoch, summary=summary)
