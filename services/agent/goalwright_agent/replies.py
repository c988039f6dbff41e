"""What a reply means: the outcome of a try whose call was answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from goalwright_shared.messages import (
    ArtifactRef,
    ArtifactType,
    CheckResult,
    Done,
    Expand,
    Outcome,
    OutputSpec,
    TaskSpec,
)
from goalwright_shared.telemetry import redact

from goalwright_agent import continuation, material
from goalwright_agent.calls import Reply
from goalwright_agent.core import capability, prompt
from goalwright_agent.core.answers import candidate
from goalwright_agent.core.clipping import clip
from goalwright_agent.core.tools import Finish, PostNote, ReadArtifact, WriteArtifact
from goalwright_agent.core.turns import (
    MAX_CORRECTIONS,
    Call,
    State,
    Step,
    fault_message,
    private_reads,
    step_of,
    tool_message,
)
from goalwright_agent.core.wire import arguments_of
from goalwright_agent.outcomes import failed, ids
from goalwright_agent.sessions import ANSWER_TYPES, Session

_REPEATED_ANSWER = 4_000
"""Characters of a wrong answer that are sent back with its correction."""

WRITABLE_TYPES = (ArtifactType.TEXT, ArtifactType.JSON, ArtifactType.TABLE, ArtifactType.FILE)
"""What a model can write as text; the other types come from programs."""

_SELF_TOLD = ("summary", "reason", "objective", "title")
_SUMMARY = 300


async def read_reply(session: Session, reply: Reply, *, cut_at: int) -> Outcome:
    """The outcome of a reply; its usage and record are added by the caller."""
    work = session.work
    if reply.refusal or reply.finish_reason == "content_filter":
        why = redact(reply.refusal or "stopped by the provider's content filter")
        return failed(work, "refused", f"{session.grant.model} refused: {why}")
    if reply.finish_reason == "length":
        return await _cut_short(session, cut_at)
    if not reply.finish_reason:
        return failed(work, "invalid_answer", "the reply has no finish reason: it broke off", retryable=True)
    if session.raw_calls and reply.tool_calls:
        return await _calls_as_answer(session, reply)
    if not session.tools:
        return await _single_answer(session, reply)
    step = step_of(reply.content, reply.tool_calls, work, session.state, session.tools, session.askable)
    if "tool_calls" not in step.message:
        return await _answer_in_words(session, reply.content)
    return await _follow(session, step)


async def _cut_short(session: Session, cut_at: int) -> Outcome:
    """An answer cut by its length: once more with all that is held, then it is too big."""
    if not session.state.whole_cap and cut_at < session.grant.max_output_tokens:
        return await again(session, session.state.model_copy(update={"whole_cap": True}))
    return failed(
        session.work,
        "answer_cut",
        f"the answer did not fit into {cut_at} tokens: split the task, or raise the lane's max_output_tokens",
        too_big=True,
    )


async def _single_answer(session: Session, reply: Reply) -> Outcome:
    """One reply is the output: accept it, or send it back with what is wrong."""
    output = session.output
    assert output is not None, "a session without tools has one output"
    content = reply.content
    if session.schema is not None and reply.tool_calls:  # the forced tool of the ladder carries the answer
        content = arguments_of(reply.tool_calls[0])
    wants_object = session.schema is not None and session.schema.is_object
    found = candidate(output, content, want_object=wants_object)
    if found.fault:
        return await _corrected(session, content, [found.fault])
    return await _accepted(session, content, output, found.text)


async def _accepted(session: Session, content: str, output: OutputSpec, text: str) -> Outcome:
    spec = session.work.spec
    checks = await material.checked([output], spec.acceptance, {output.name: text}, {})
    if wrong := _evidence(checks):
        return await _corrected(session, content, wrong)
    made = await material.stored(session.attempt.artifacts, spec.outputs, {output.name: text})
    outputs = capability.marked(made, private=bool(private_reads(session.work, session.state)))
    return Done(**ids(session.work), outputs=outputs, summary=_summary_of(output, text), checks=checks)


async def _calls_as_answer(session: Session, reply: Reply) -> Outcome:
    """`agent.ask` with tools: whoever asked performs the calls."""
    calls = []
    for raw in reply.tool_calls:
        function = raw.get("function")
        function = function if isinstance(function, dict) else {}
        calls.append({"name": function.get("name"), "arguments": function.get("arguments")})
    declared = session.work.spec.outputs
    text = json.dumps({"content": reply.content, "tool_calls": calls}, ensure_ascii=False)
    outputs = await material.stored(session.attempt.artifacts, declared, {declared[0].name: text})
    return Done(**ids(session.work), outputs=outputs, summary=f"{len(calls)} tool calls")


async def _answer_in_words(session: Session, content: str) -> Outcome:
    """A reply without a tool call: the answer, when exactly one output is still to be given as text."""
    missing = [out for out in session.work.spec.outputs if out.name not in session.state.artifacts]
    if not missing and content.strip():
        return await _delivered(session, {}, content, content=content)
    if len(missing) == 1 and missing[0].type in ANSWER_TYPES:
        found = candidate(missing[0], content)
        if found.fault:
            return await _corrected(session, content, [found.fault, "or go on with a tool call"])
        return await _delivered(session, {missing[0].name: found.text}, content, content=content)
    names = ", ".join(out.name for out in missing) or "none"
    return await _corrected(
        session,
        content,
        [f"it has no tool call; still to be delivered: {names}. Call finish, or another tool"],
    )


async def _follow(session: Session, step: Step) -> Outcome:
    """Do what a reply's tool calls ask for; the notes among them go out with whatever becomes of it."""
    state = session.state.said(step.message)
    for call in step.faults:
        state = state.said(fault_message(call))
    for call in step.at_once:
        state = await _performed(session, state, call)
    posted = [redact(call.arguments.text) for call in step.at_once if isinstance(call.arguments, PostNote)]
    outcome = await _next(session, state, step)
    return outcome.model_copy(update={"notes": posted}) if posted else outcome


async def _next(session: Session, state: State, step: Step) -> Outcome:
    """The outcome of a reply, once what can be done at once is done."""
    if step.finish is not None and isinstance(step.finish.arguments, Finish):
        finish = step.finish.arguments
        texts = {out.name: out.text for out in finish.outputs if out.text is not None}
        return await _delivered(replace(session, state=state), texts, finish.summary, step.finish)
    corrections = 0 if step.children or step.at_once else state.corrections + 1
    if corrections > MAX_CORRECTIONS:
        why = "; ".join(call.fault for call in step.faults)[:2000]
        return failed(session.work, "invalid_answer", why, retryable=True)
    state = state.model_copy(
        update={"pending": list(step.pending), "corrections": corrections, "whole_cap": False}
    )
    await session.attempt.log(f"{session.role}: {', '.join(_called(step)) or 'another try'}")
    return await again(session, state, list(step.children), step.artifacts)


def _called(step: Step) -> list[str]:
    return [pending.tool for pending in step.pending] + [call.name for call in step.at_once]


async def _performed(session: Session, state: State, call: Call) -> State:
    """The state after a call that needs no child."""
    match call.arguments:
        case ReadArtifact() as wanted:
            refs = session.work.inputs | state.artifacts
            result = await material.read_part(
                session.attempt.artifacts, refs, wanted.name, wanted.offset, wanted.length
            )
        case WriteArtifact() as given:
            return await _written(session, state, call.call_id, given)
        case _:
            result = {"status": "succeeded"}  # a note: posted with the outcome
    return state.said(tool_message(call.call_id, result))


async def _written(session: Session, state: State, call_id: str, given: WriteArtifact) -> State:
    """Keep a text under a name; what is declared as an output is checked as such."""
    specs = {out.name: out for out in session.work.spec.outputs}
    spec = specs.get(given.name) or OutputSpec(name=given.name, type=ArtifactType(given.type))
    if given.name in session.work.spec.inputs:
        wrong = [f"{given.name} is an input of the task: choose another name"]
    elif spec.type not in WRITABLE_TYPES:
        wrong = [f"{given.name} is declared as a {spec.type}: let a program write it"]
    else:
        found = candidate(spec, given.text)
        text = given.text if found.fault else found.text
        checks = await material.checked([spec], [], {spec.name: text}, {})
        wrong = [found.fault] if found.fault else _evidence(checks)
    if wrong:
        return state.said(tool_message(call_id, {"status": "error", "error": "; ".join(wrong)}))
    kept = await material.stored(session.attempt.artifacts, [spec], {spec.name: text})
    made = capability.marked(kept, private=bool(private_reads(session.work, state)))
    result = {"status": "succeeded", "name": spec.name, "type": spec.type, "size": made[spec.name].size}
    return state.said(tool_message(call_id, result), artifacts=state.artifacts | made)


async def _delivered(
    session: Session, texts: Mapping[str, str], summary: str, call: Call | None = None, content: str = ""
) -> Outcome:
    """Deliver the declared outputs, or say what is wrong with them (`call`: the finish to be answered;
    without one `content` is the answer in words)."""
    specs, artifacts = session.work.spec.outputs, session.attempt.artifacts
    files: dict[str, ArtifactRef] = {}
    given: dict[str, str] = {}
    missing: list[str] = []
    for spec in specs:
        if texts.get(spec.name, "").strip():
            found = candidate(spec, texts[spec.name])
            given[spec.name] = texts[spec.name] if found.fault else found.text
        elif spec.name in session.state.artifacts:
            files[spec.name] = session.state.artifacts[spec.name].model_copy(update={"name": spec.name})
        else:
            missing.append(spec.name)
    if missing and call is not None and not (given or files) and session.state.corrections and summary:
        return failed(session.work, "given_up", redact(clip(summary, 2_000)))
    if missing:
        wrong = (
            f"nothing was delivered for {', '.join(missing)}: give it in finish, or let a program write it; "
            "if it cannot be had, call finish again without outputs and say why in its summary"
        )
        return await _not_delivered(session, [wrong], [], call, content)
    checks = await material.checked(
        specs, session.work.spec.acceptance, given, await material.contents(artifacts, files)
    )
    if wrong_ones := _evidence(checks):
        return await _not_delivered(session, wrong_ones, checks, call, content)
    made = await material.stored(artifacts, specs, given) | files
    outputs = capability.marked(made, private=bool(private_reads(session.work, session.state)))
    return Done(**ids(session.work), outputs=outputs, summary=redact(clip(summary, 2_000)), checks=checks)


async def _not_delivered(
    session: Session, wrong: list[str], checks: list[CheckResult], call: Call | None, content: str
) -> Outcome:
    if call is None:
        return await _corrected(session, content, wrong)
    state = session.state
    if state.corrections >= MAX_CORRECTIONS:
        return failed(session.work, "invalid_answer", "; ".join(wrong)[:2000], retryable=True)
    result = {
        "status": "error",
        "error": "not accepted: " + "; ".join(wrong),
        "checks": [check.model_dump(mode="json") for check in checks],
    }
    answered = state.said(
        tool_message(call.call_id, result), corrections=state.corrections + 1, whole_cap=False
    )
    return await again(session, answered)


async def _corrected(session: Session, content: str, wrong: list[str]) -> Outcome:
    """Send an answer back: another turn, at most twice in a row."""
    state = session.state
    if state.corrections >= MAX_CORRECTIONS:
        return failed(session.work, "invalid_answer", "; ".join(wrong)[:2000], retryable=True)
    answer = {"role": "assistant", "content": clip(content, _REPEATED_ANSWER) or "(empty)"}
    back = prompt.correction(wrong, whole=not session.tools)
    return await again(session, state.said(answer, back, corrections=state.corrections + 1, whole_cap=False))


async def again(
    session: Session,
    state: State,
    tasks: list[TaskSpec] | None = None,
    artifacts: Mapping[str, ArtifactRef] | None = None,
) -> Outcome:
    """Another turn, after `tasks` if there are any (which read `artifacts` of earlier turns); refused when this was
    the last one."""
    work = session.work
    if prompt.turns_left(work) == 0:
        return failed(work, "max_turns", f"not finished within {work.spec.max_turns} turns", retryable=True)
    saved = await continuation.saved(session.attempt.artifacts, state)
    return Expand(**ids(work), tasks=tasks or [], artifacts=dict(artifacts or {}), continuation=saved)


def _evidence(checks: list[CheckResult]) -> list[str]:
    return [f"{check.check}: {check.evidence}" for check in checks if not check.passed]


def _summary_of(output: OutputSpec, text: str) -> str:
    """One line on an answer, for people: what it says of itself, else how it begins."""
    value = json.loads(text) if output.type is ArtifactType.JSON else None
    told = value if isinstance(value, dict) else {}
    own = next((told[name] for name in _SELF_TOLD if isinstance(told.get(name), str) and told[name]), None)
    line = " ".join((own or text).split())
    return redact(line if len(line) <= _SUMMARY else f"{line[:_SUMMARY]}…")
