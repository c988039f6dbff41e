"""The lane `plan`: a goal, a part of one, or a revision → tasks. One `Work` is one step; between two steps
the continuation is all there is to remember."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from goalwright_shared.artifacts import Artifacts
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import (
    ArtifactRef,
    ArtifactType,
    ChatMessage,
    ChildResult,
    Done,
    Effort,
    Expand,
    Failed,
    Outcome,
    OutputSpec,
    PromptSpec,
    QuestionSpec,
    Revise,
    TaskError,
    TaskSpec,
    Work,
    parse_strict,
)
from goalwright_shared.telemetry import redact
from goalwright_shared.worker import Attempt
from pydantic import BaseModel, JsonValue

from goalwright_planner.core import answers, approval, briefs, cards, compiler, names, revision
from goalwright_planner.core.compiler import Brief, Plan, Rejected
from goalwright_planner.core.revision import Situation
from goalwright_planner.core.schemas import ANY_OBJECT, PLAN, REVISION, Schema
from goalwright_planner.settings import PlannerSettings, limits

_EXCERPT_CHARS = 2000
_EXCERPTS_CHARS = 24_000
"""Of all inputs together: many inputs get shorter excerpts, so that the prompt stays within a model's reach."""
_GRAPH_PAGES = 50
_TEXT_MEDIA = ("text/", "application/json", "application/x-ndjson", "application/xml", "application/yaml")


class Step(BaseModel):
    """The continuation: where a plan task is, and what it must remember."""

    step: Literal["", "planned", "approval", "revised"] = ""
    repairs: int = 0  # repair turns taken
    replans: int = 0  # plans made anew because a person wanted another
    answer: JsonValue = None  # the last answer that could be read
    feedback: str = ""
    plan: JsonValue = None  # the compiled Expand that waits for approval


class Planner:
    """Performs the lane `plan`."""

    def __init__(self, settings: PlannerSettings, prompts: cards.Prompts) -> None:
        self._limits = limits(settings)
        self._floor_tokens = settings.plan_split_floor_tokens
        self._max_repairs = settings.plan_max_repairs
        self._prompts = prompts

    async def perform(self, work: Work, attempt: Attempt) -> Outcome:
        """One step of a plan task."""
        step = Step.model_validate(work.continuation or {})
        replan = briefs.replan_of(work)
        if not briefs.offered_lanes(work, self._limits):
            return _failed(work, TaskError(code="no_lanes", message="no lane was offered to plan for"))
        if replan is not None:
            return await self._revise(work, attempt, step, replan)
        match step.step:
            case "planned":
                return await self._planned(work, attempt, step)
            case "approval":
                return await self._decided(work, attempt, step)
            case _:
                return await self._begin(work, attempt)

    async def _begin(self, work: Work, attempt: Attempt) -> Outcome:
        """Ask a model for a plan, unless a part is better done in one piece."""
        brief = briefs.brief_of(work, self._limits)
        if brief.parent is not None:
            reason = briefs.why_not_split(work, self._limits, self._floor_tokens)
            if reason is not None:
                return _expand(work, brief, compiler.atomic(brief, work.spec, reason))
        return _ask(work, await self._plan_prompt(work, attempt, brief), PLAN, Step(step="planned"))

    async def _planned(self, work: Work, attempt: Attempt, step: Step) -> Outcome:
        """Compile the answer; repair it, or fall back, or go on with it."""
        brief = briefs.brief_of(work, self._limits)
        child = work.children[0]
        if child.status != "succeeded":
            if step.answer is None:
                return _failed(work, _error_of(child, "planning_failed"))
            return await self._fall_back(work, attempt, step, brief, ["the repair could not be asked for"])
        answer = await _answer(child, attempt.artifacts)
        reason = compiler.refusal(answer)
        if reason is not None:
            return _failed(work, TaskError(code="cannot_plan", message=reason))
        compiled = compiler.compile_plan(answer, brief)
        if isinstance(compiled, Plan):
            return await self._adopt(work, attempt, step, brief, compiled)
        step = step.model_copy(update={"answer": answer if isinstance(answer, dict) else step.answer})
        if step.repairs >= self._max_repairs:
            return await self._fall_back(work, attempt, step, brief, compiled.errors)
        prompt = await self._plan_prompt(work, attempt, brief, step.feedback)
        messages = cards.with_repair(self._prompts, prompt, answer, compiled.errors)
        return _ask(work, messages, PLAN, step.model_copy(update={"repairs": step.repairs + 1}))

    async def _fall_back(
        self, work: Work, attempt: Attempt, step: Step, brief: Brief, errors: Sequence[str]
    ) -> Outcome:
        compiled = compiler.compile_sequence(step.answer, brief)
        if isinstance(compiled, Rejected):
            message = "no plan could be made of the answers: " + "; ".join([*errors, *compiled.errors][:6])
            return _failed(work, TaskError(code="invalid_plan", message=message))
        return await self._adopt(work, attempt, step, brief, compiled)

    async def _adopt(self, work: Work, attempt: Attempt, step: Step, brief: Brief, plan: Plan) -> Outcome:
        """The plan as the outcome, or first a person's word on it."""
        expand = _expand(work, brief, plan)
        params = work.spec.params
        if brief.parent is not None or not (isinstance(params, dict) and params.get("approve_plan")):
            return expand
        usd = approval.estimated_usd(plan.tasks, await _lane_rows(attempt))
        text = redact(approval.question_text(expand, usd, work.budget_left_usd))
        waiting = Step(step="approval", replans=step.replans, plan=json.loads(expand.to_json()))
        return _one_task(work, _approval_task(work, text), waiting)

    async def _decided(self, work: Work, attempt: Attempt, step: Step) -> Outcome:
        """A person approved the plan, rejected it, or said what should be different."""
        child = work.children[0]
        if child.status != "succeeded":
            return _failed(work, _error_of(child, "not_approved"))
        words = await _text(child, attempt.artifacts)
        decision = approval.decision(words)
        if decision == "approve":
            approved = parse_strict(Expand, json.dumps(step.plan))
            return approved.model_copy(update={"epoch": work.epoch})
        if decision == "reject" or step.replans:
            return _failed(work, TaskError(code="rejected", message=f"the plan was rejected: {words}"))
        brief = briefs.brief_of(work, self._limits)
        prompt = await self._plan_prompt(work, attempt, brief, words)
        return _ask(work, prompt, PLAN, Step(step="planned", replans=1, feedback=words))

    async def _revise(self, work: Work, attempt: Attempt, step: Step, replan: dict[str, Any]) -> Outcome:
        """Ask for a revision of the graph as it stands now, or apply the one that was answered."""
        now = await self._situation(work, attempt, replan)
        if now is None:
            message = (
                f"generation {replan.get('generation')} of task {replan.get('target_task_id')} is not there"
            )
            return _failed(work, TaskError(code="stale_revision", message=message))
        lanes = briefs.offered_lanes(work, self._limits)
        messages = cards.revise_messages(self._prompts, cards.revise_card(work, now, lanes, replan))
        if step.step != "revised":
            return _ask(work, messages, REVISION, Step(step="revised"))
        child = work.children[0]
        if child.status != "succeeded":
            return _failed(work, _error_of(child, "replanning_failed"))
        answer = await _answer(child, attempt.artifacts)
        compiled = revision.compile_revision(answer, now)
        if isinstance(compiled, revision.Revision):
            compiled = revision.affordable(compiled, await _lane_rows(attempt), work.budget_left_usd)
        if isinstance(compiled, revision.Revision):
            return _revision(work, replan, compiled)
        if step.repairs >= self._max_repairs:
            message = "the revision does not compile: " + "; ".join(compiled.errors)
            return _failed(work, TaskError(code="invalid_revision", message=message))
        repaired = cards.with_repair(self._prompts, messages, answer, compiled.errors)
        return _ask(work, repaired, REVISION, Step(step="revised", repairs=step.repairs + 1))

    async def _plan_prompt(
        self, work: Work, attempt: Attempt, brief: Brief, feedback: str = ""
    ) -> list[ChatMessage]:
        share = min(_EXCERPT_CHARS, _EXCERPTS_CHARS // max(1, len(work.inputs)))
        excerpts = {name: await excerpt(ref, attempt.artifacts, share) for name, ref in work.inputs.items()}
        lanes = briefs.offered_lanes(work, self._limits)
        return cards.plan_messages(self._prompts, cards.plan_card(work, brief, lanes, excerpts, feedback))

    async def _situation(self, work: Work, attempt: Attempt, replan: dict[str, Any]) -> Situation | None:
        return revision.read_situation(
            await _graph(work, attempt),
            str(replan.get("target_task_id")),
            int(replan.get("generation") or 0),
            lanes=tuple(lane.name for lane in briefs.offered_lanes(work, self._limits)),
            limits=self._limits,
            exports=work.contract.deliverables if work.contract else (),
        )


async def excerpt(ref: ArtifactRef, artifacts: Artifacts, chars: int = _EXCERPT_CHARS) -> str:
    """The first characters of a text-like artifact, secrets masked; "" of anything else."""
    textual = ref.media_type.startswith(_TEXT_MEDIA) or ref.type in (ArtifactType.TEXT, ArtifactType.JSON)
    if not textual:
        return ""
    head = await artifacts.get_range(ref, 0, 4 * _EXCERPT_CHARS)
    return "" if b"\0" in head else redact(head.decode(errors="ignore"))[:chars]


async def _graph(work: Work, attempt: Attempt) -> list[dict[str, Any]]:
    """All tasks of the goal, page by page."""
    rows: list[dict[str, Any]] = []
    body: dict[str, Any] = {"goal_id": work.goal_id, "owner": work.owner}
    for _ in range(_GRAPH_PAGES):
        answer = await attempt.query("graph", body)
        rows += answer.get("tasks") or []
        if answer.get("next") is None:
            break
        body = {**body, "cursor": answer["next"]}
    return rows


async def _lane_rows(attempt: Attempt) -> list[dict[str, Any]]:
    """Lanes with their prices; none when nobody tells (the question then says that the cost is unknown)."""
    try:
        rows = (await attempt.query("lanes", {})).get("lanes")
    except GoalwrightError:
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


async def _text(child: ChildResult, artifacts: Artifacts) -> str:
    """The child's one output as text."""
    ref = next(iter(child.outputs.values()), None)
    return "" if ref is None else (await artifacts.get_bytes(ref)).decode(errors="replace")


async def _answer(child: ChildResult, artifacts: Artifacts) -> JsonValue:
    """The child's one output as JSON, or as the text that it is instead."""
    return answers.read_json(await _text(child, artifacts))


def _ask(work: Work, messages: list[ChatMessage], schema: Schema, step: Step) -> Expand:
    """One call of a model, then the next step."""
    title = str(schema["title"])
    size = sum(len(message.content or "") for message in messages)
    output = OutputSpec(
        name=_free_name(work, title.lower()),
        type=ArtifactType.JSON,
        description=f"the answer, a {title}",
        schema=ANY_OBJECT,
    )
    task = TaskSpec(
        key=title.lower(),
        title="Ask a model for the plan" if schema is PLAN else "Ask a model for a revision of the plan",
        lane="agent.ask",
        outputs=[output],
        effort=Effort(tokens_in=size // 4, tokens_out=2000, seconds=30),
        prompt=PromptSpec(messages=messages, schema=schema),
    )
    return _one_task(work, task, step)


def _approval_task(work: Work, text: str) -> TaskSpec:
    return TaskSpec(
        key="approve-plan",
        title="Approve the plan",
        lane="human",
        outputs=[
            OutputSpec(name=_free_name(work, "answer"), description="approve, reject, or what to change")
        ],
        question=QuestionSpec(text=text, options=approval.OPTIONS),
    )


def _free_name(work: Work, name: str) -> str:
    """An output name that no input of the work has: children see those."""
    return names.unique(name, {*work.spec.inputs, *work.inputs})


def _one_task(work: Work, task: TaskSpec, step: Step) -> Expand:
    return Expand(
        goal_id=work.goal_id,
        task_id=work.task_id,
        epoch=work.epoch,
        tasks=[task],
        continuation=step.model_dump(mode="json", exclude_defaults=True),
    )


def _expand(work: Work, brief: Brief, plan: Plan) -> Expand:
    """The plan as an outcome; the contract and the deliverables are the goal's alone."""
    root = brief.parent is None
    return Expand(
        goal_id=work.goal_id,
        task_id=work.task_id,
        epoch=work.epoch,
        tasks=plan.tasks,
        contract=plan.contract if root else None,
        deliverables=plan.deliverables if root else [],
        pruned=plan.pruned,
        warnings=plan.warnings,
    )


def _revision(work: Work, replan: dict[str, Any], compiled: revision.Revision) -> Outcome:
    if not compiled.operations:
        return Done(goal_id=work.goal_id, task_id=work.task_id, epoch=work.epoch, summary="no change")
    return Revise(
        goal_id=work.goal_id,
        task_id=work.task_id,
        epoch=work.epoch,
        target_task_id=str(replan["target_task_id"]),
        generation=int(replan["generation"]),
        base_revision=int(replan["base_revision"]),
        operations=compiled.operations,
        summary=compiled.summary,
        notes=compiled.warnings,
    )


def _error_of(child: ChildResult, code: str) -> TaskError:
    """Why a child gave nothing, in its own words; its tries are used up, so this one must not repeat it."""
    error = child.error or TaskError(
        code=code, message=child.summary or f"task {child.key} is {child.status}"
    )
    return error.model_copy(update={"retryable": False, "too_big": False})


def _failed(work: Work, error: TaskError) -> Failed:
    return Failed(goal_id=work.goal_id, task_id=work.task_id, epoch=work.epoch, error=error)
