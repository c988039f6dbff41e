"""A role task as a sequence of turns: what a reply asks for, and what the transcript becomes.

The state between two turns is the continuation. Its transcript only ever grows at its end.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from goalwright_shared import graph
from goalwright_shared.messages import (
    ArtifactRef,
    ArtifactType,
    Asked,
    ChildResult,
    OutputSpec,
    ProgramSpec,
    QuestionSpec,
    TaskSpec,
    Work,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from goalwright_agent.core import capability
from goalwright_agent.core.answers import extract_json, storable
from goalwright_agent.core.clipping import clip
from goalwright_agent.core.dialect import Dialect
from goalwright_agent.core.packing import Packed, Packing
from goalwright_agent.core.recap import Recap
from goalwright_agent.core.tools import (
    NOTES_PER_REPLY,
    Arguments,
    Ask,
    BadCall,
    FetchUrl,
    Finish,
    PostNote,
    ReadArtifact,
    RequestApproval,
    RunProgram,
    WriteArtifact,
    read_call,
)

HOP_LIMIT = 2
"""How often an asked role may ask on."""

SUCCEEDED = "succeeded"

SHOWN_OUTPUT = 6_000
"""Characters of a program's stdout and stderr that a model sees (head and tail)."""

MAX_CALLS = 16
"""Tool calls of one reply that are performed: as many children at most."""

MAX_CORRECTIONS = 2
"""Corrections in a row before the try fails."""


class Pending(BaseModel):
    """A tool call that waits for a child."""

    model_config = ConfigDict(frozen=True)

    call_id: str
    key: str
    tool: str
    question: str = ""  # of an `ask`: its digest
    url: str = ""  # of a `fetch_url`


class Segment(BaseModel):
    """Messages of a transcript that are stored as one object and stay as they are."""

    model_config = ConfigDict(frozen=True)

    ref: ArtifactRef
    messages: int  # in the object
    opening: int = 0  # its first ones, which every prompt begins with
    told: int = 0  # those after the opening that the recap tells

    def needed(self, stored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of the messages in the object, those that the recap does not tell."""
        return [*stored[: self.opening], *stored[self.opening + self.told :]]


class Kept(BaseModel):
    """Artifacts of a task, their small texts included, that are stored as one object."""

    model_config = ConfigDict(frozen=True)

    ref: ArtifactRef
    objects: list[
        str
    ] = []  # that those artifacts are in: named here too, so that they are not forgotten as unnamed


class State(BaseModel):
    """What a task remembers between two turns.

    `messages` is the opening and the turns that the recap does not tell. The first of them are in `segments`, in
    their order; likewise the first of `artifacts` in `kept`.
    """

    model_config = ConfigDict(frozen=True)

    messages: list[dict[str, Any]] = []
    recap: Recap = Recap()
    segments: list[Segment] = []
    kept: list[Kept] = []
    kept_artifacts: dict[str, ArtifactRef] = Field(default={}, exclude=True)  # what is in them
    pending: list[Pending] = []
    artifacts: dict[str, ArtifactRef] = {}  # what was written or left by children, by name; the latest counts
    asked: dict[str, str] = {}  # questions that were put, by digest: the calls that put them
    approved: list[str] = []  # addresses that a person has allowed to be fetched
    notes_seen: int = 0  # the number of the newest note, and how many failed tries, that the card knows
    errors_seen: int = 0
    corrections: int = 0  # in a row
    whole_cap: bool = False  # the last answer was cut: ask with all that is held
    dialect: Dialect = Dialect()
    packing: Packing = Packing()  # how the transcript was shown last

    @property
    def turns(self) -> int:
        """Replies so far."""
        return self.recap.total + len([one for one in self.messages if one["role"] == "assistant"])

    @property
    def opening(self) -> int:
        """Messages before the first reply."""
        replies = (at for at, message in enumerate(self.messages) if message["role"] == "assistant")
        return next(replies, len(self.messages))

    def packed(self, packed: Packed) -> State:
        """The state that remembers how its transcript was packed: what the recap tells is let go."""
        first, left = self.opening, packed.told
        segments: list[Segment] = []
        for segment in self.segments:
            told = min(left, segment.messages - segment.opening - segment.told)
            left -= told
            if segment.opening or segment.told + told < segment.messages:
                segments.append(segment.model_copy(update={"told": segment.told + told}))
        messages = [*self.messages[:first], *self.messages[first + packed.told :]]
        changes = {
            "messages": messages,
            "segments": segments,
            "recap": packed.recap,
            "packing": packed.packing,
        }
        return self.model_copy(update=changes)

    def said(self, *messages: Mapping[str, Any], **changes: Any) -> State:
        """The state with `messages` at the end of the transcript."""
        return self.model_copy(update={"messages": [*self.messages, *(dict(m) for m in messages)], **changes})


@dataclass(frozen=True)
class Call:
    """One tool call of a reply: understood (`arguments`) or not (`fault` tells the model why)."""

    call_id: str
    name: str
    arguments: Arguments | None = None
    fault: str = ""


@dataclass(frozen=True)
class Step:
    """What a reply asks for."""

    message: dict[str, Any]  # the assistant message as it enters the transcript
    faults: tuple[Call, ...] = ()
    at_once: tuple[Call, ...] = ()  # what needs no child: reading, writing, notes
    finish: Call | None = None
    children: tuple[TaskSpec, ...] = ()
    artifacts: Mapping[str, ArtifactRef] = field(default_factory=dict)  # of earlier turns, which they read
    pending: tuple[Pending, ...] = ()


def step_of(
    content: str, tool_calls: Sequence[Mapping[str, Any]], work: Work, state: State, allowed: Sequence[str],
    roles: Sequence[str],
) -> Step:  # fmt: skip
    """Read a reply with tool calls. Calls that mean nothing become faults, the others go on."""
    raw: Sequence[Mapping[str, Any]] = tool_calls[: MAX_CALLS + 1]
    if not raw:
        raw, content = calls_in_text(content, allowed)
    calls = [_read(f"call_{state.turns}_{at}", call, allowed) for at, call in enumerate(raw)]
    if len(calls) > MAX_CALLS:
        beyond = f"at most {MAX_CALLS} calls in one reply: this one and those after it were not performed"
        calls[-1] = _fault(calls[-1], beyond)
    message = _assistant(content, calls, raw)
    wanting = [call for call in calls if _makes_child(call)]
    specs, refused = _children(wanting, work, state, roles)
    noisy = [call for call in calls if isinstance(call.arguments, PostNote)][NOTES_PER_REPLY:]
    refused += [
        _fault(call, f"at most {NOTES_PER_REPLY} notes at a time: post what matters") for call in noisy
    ]
    faults = [call for call in calls if call.fault] + refused
    answered = {call.call_id for call in faults}
    at_once = tuple(call for call in calls if _is_at_once(call) and call.call_id not in answered)
    finishes = [call for call in calls if isinstance(call.arguments, Finish)]
    waits = specs or faults or any(isinstance(call.arguments, ReadArtifact) for call in at_once)
    if finishes and (waits or len(finishes) > 1):
        early = "call finish alone, when the results of all other calls are known"
        faults += [_fault(call, early) for call in finishes]
        finishes = []
    return Step(
        message=message,
        faults=tuple(faults),
        at_once=at_once,
        finish=finishes[0] if finishes else None,
        children=tuple(specs),
        artifacts=_brought(specs, work, state),
        pending=tuple(_pending(call, work, state) for call in wanting if call.call_id not in answered),
    )


def _is_at_once(call: Call) -> bool:
    return isinstance(call.arguments, ReadArtifact | WriteArtifact | PostNote)


def _pending(call: Call, work: Work, state: State) -> Pending:
    question = _question(call.arguments, work, state) if isinstance(call.arguments, Ask) else ""
    return Pending(call_id=call.call_id, key=_key(call), tool=call.name, question=question, url=_url(call))


def _makes_child(call: Call) -> bool:
    return isinstance(call.arguments, RunProgram | Ask | RequestApproval | FetchUrl)


def _url(call: Call) -> str:
    return call.arguments.url if isinstance(call.arguments, FetchUrl) else ""


def _fault(call: Call, text: str) -> Call:
    return Call(call.call_id, call.name, fault=text)


def _read(call_id: str, raw: Mapping[str, Any], allowed: Sequence[str]) -> Call:
    """One call, under an id of our own: servers repeat theirs, or leave them out."""
    function = raw.get("function")
    function = function if isinstance(function, Mapping) else {}
    name = str(function.get("name") or "")
    try:
        return Call(call_id, name, read_call(name, function.get("arguments"), allowed))
    except BadCall as bad:
        return Call(call_id, name or "unknown", fault=str(bad))


def _assistant(content: str, calls: Sequence[Call], raw: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The reply as later prompts repeat it; arguments that are not JSON would break some servers."""
    repeated = [
        {
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": _repeatable(original)},
        }
        for call, original in zip(calls, raw, strict=True)
    ]
    message: dict[str, Any] = {"role": "assistant", "content": content}
    return {**message, "tool_calls": repeated} if repeated else message


def _repeatable(raw: Mapping[str, Any]) -> str:
    function = raw.get("function")
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(arguments, str):
        return json.dumps(arguments or {}, ensure_ascii=False)
    try:
        value = storable(json.loads(arguments or "{}", strict=False))
    except (ValueError, RecursionError):
        value = {"not_json": arguments[:500]}
    return json.dumps(value, ensure_ascii=False)


def calls_in_text(content: str, allowed: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """A tool call that a model wrote as text, `{"name": …, "arguments": {…}}`, and the words before it."""
    found = extract_json(content, want_object=True)
    value = json.loads(found, strict=False) if found else {}
    arguments = value.get("arguments", value.get("parameters"))
    if value.get("name") not in allowed or not isinstance(arguments, dict):
        return [], content
    words = content[: content.find(found or "")]
    call = {"function": {"name": value["name"], "arguments": arguments}}
    return [call], re.sub(r"(```\w*|<tool_call>)\s*$", "", words.rstrip()).rstrip()


# --- children ------------------------------------------------------------------------------------------


def _key(call: Call) -> str:
    """Unique over all generations of a task, so that logs and outputs never mix."""
    return f"{call.name.replace('_', '-')}-{call.call_id.removeprefix('call_').replace('_', '-')}"


def _children(
    calls: Sequence[Call], work: Work, state: State, roles: Sequence[str]
) -> tuple[list[TaskSpec], list[Call]]:
    """Child tasks for the calls, and the calls that cannot be: a generation must be a graph."""
    built: dict[str, TaskSpec] = {}
    refused: list[Call] = []
    asked = dict(state.asked)
    for call in calls:
        try:
            built[call.call_id] = _child(call, work, state, roles)
            if isinstance(call.arguments, Ask):
                _refuse_repetition(call, _question(call.arguments, work, state), asked)
        except BadCall as bad:
            built.pop(call.call_id, None)
            refused.append(_fault(call, str(bad)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(step) for step in first["loc"])
            refused.append(_fault(call, f"{where}: {first['msg']}"))
    while built:
        specs = list(built.values())
        problem = next(graph.problems(specs, [*work.spec.inputs, *_brought(specs, work, state)]), None)
        if problem is None:
            return specs, refused
        by_key = {spec.key: call_id for call_id, spec in built.items()}
        at = _blamed(problem.field, specs)
        call_id = by_key.get(at, next(reversed(built)))
        hint = f" ({problem.hint})" if problem.hint else ""
        known = ", ".join([*work.spec.inputs, *state.artifacts]) or "none"
        text = f"{problem}{hint}; artifacts that can be read: {known}"
        refused.append(_fault(next(call for call in calls if call.call_id == call_id), text))
        del built[call_id]
    return [], refused


def _brought(specs: Sequence[TaskSpec], work: Work, state: State) -> dict[str, ArtifactRef]:
    """What these tasks read of earlier turns: names live in one generation, so it is handed on by reference."""
    made = {out.name for spec in specs for out in spec.outputs} | set(work.spec.inputs)
    wanted = {name for spec in specs for name in spec.inputs} - made
    return {name: state.artifacts[name] for name in sorted(wanted & state.artifacts.keys())}


def _blamed(where: str | None, specs: Sequence[TaskSpec]) -> str:
    """The key of the task that a problem's field (`tasks.3.inputs`) points at; "" if none."""
    parts = (where or "").split(".")
    for part in parts:
        if part.isdigit() and int(part) < len(specs):
            return specs[int(part)].key
    return ""


def _child(call: Call, work: Work, state: State, roles: Sequence[str]) -> TaskSpec:
    match call.arguments:
        case RunProgram() as program:
            return _program(call, program, work)
        case Ask() as ask:
            return _asked(call, ask, work, roles)
        case RequestApproval() as approval:
            return _approval(call, approval, work)
        case FetchUrl() as wanted:
            return capability.fetch_task(
                _key(call), wanted.url, work, private_reads(work, state), state.approved
            )
    raise BadCall(f"{call.name} makes no child")


def _program(call: Call, program: RunProgram, work: Work) -> TaskSpec:
    declared = {out.name: out for out in work.spec.outputs}
    taken = [out.name for out in program.outputs if out.name in work.spec.inputs]
    if taken:
        raise BadCall(f"an output cannot have the name of the task's input {', '.join(taken)}: rename it")
    return TaskSpec(
        key=_key(call),
        title=f"Program of {work.spec.title or work.spec.key}",
        lane="exec",
        inputs=program.inputs,
        outputs=[
            declared.get(out.name) or OutputSpec(name=out.name, type=ArtifactType(out.type))
            for out in program.outputs
        ],
        program=ProgramSpec(language=program.language, source=program.source, args=program.args),
    )


def hops(work: Work) -> int:
    """How often the question that this task is has been asked on; 0 for a task that nobody asked for."""
    return work.spec.asked.hops if work.spec.asked else 0


def passed_roles(work: Work) -> list[str]:
    """The roles between the first asker of this task's question and this task, itself included."""
    return [*(work.spec.asked.roles if work.spec.asked else ()), work.lane.removeprefix("agent.")]


def askable(work: Work, roles: Mapping[str, str]) -> dict[str, str]:
    """Of the roles (with their descriptions), those that this task may ask: a question goes on twice at most, and
    never back."""
    if hops(work) >= HOP_LIMIT:
        return {}
    passed = passed_roles(work)
    return {name: text for name, text in roles.items() if name not in passed}


def private_reads(work: Work, state: State) -> list[str]:
    """What this task has read that may be private; a given prompt may hold anything."""
    asked = hops(work) > 0 or work.spec.prompt is not None
    return capability.private_reads(work, state.artifacts, asked=asked)


def _asked(call: Call, ask: Ask, work: Work, roles: Sequence[str]) -> TaskSpec:
    passed = passed_roles(work)
    if hops(work) >= HOP_LIMIT:
        raise BadCall("this question has been passed on often enough: answer it yourself")
    if ask.role == passed[-1]:
        raise BadCall(f"you are the {ask.role} yourself: do it, or ask another role")
    if ask.role in passed:
        back = "to ask it back would go in circles; answer with what there is, and say what is missing"
        raise BadCall(f"this question came from the {ask.role}: {back}")
    if ask.role not in roles:
        raise BadCall(f"there is no role {ask.role!r}; the roles are {', '.join(roles)}")
    key = _key(call)
    return TaskSpec(
        key=key,
        title=f"{ask.role} for {work.spec.title or work.spec.key}",
        instruction=ask.instruction,
        lane=f"agent.{ask.role}",
        inputs=ask.inputs,
        outputs=[OutputSpec(name=f"{key}-answer", description="the answer, as plain text or Markdown")],
        asked=Asked(by=work.spec.key, roles=passed),
    )


def _question(ask: Ask, work: Work, state: State) -> str:
    """A digest of who is asked what about which contents: the same words about another draft are another
    question."""
    known = {**state.artifacts, **work.inputs}
    parts = [ask.role, " ".join(ask.instruction.split()).casefold()]
    parts += [f"{name}={known[name].sha256 if name in known else ''}" for name in sorted(set(ask.inputs))]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest()[:16]


def _refuse_repetition(call: Call, question: str, asked: dict[str, str]) -> None:
    """Remember a question as put. Raises BadCall when it was put before."""
    if question in asked:
        where = f"its result is that of {asked[question]}"
        raise BadCall(f"the same was asked before, {where}: use it, ask something else, or go on without")
    asked[question] = call.call_id


def _approval(call: Call, approval: RequestApproval, work: Work) -> TaskSpec:
    key = _key(call)
    return TaskSpec(
        key=key,
        title=approval.text[:80],
        lane="human",
        outputs=[OutputSpec(name=f"{key}-answer")],
        question=QuestionSpec(text=approval.text, options=approval.options, default=approval.default or None),
    )


# --- transcript ----------------------------------------------------------------------------------------


def tool_message(call_id: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a tool call, as it enters the transcript."""
    return {"role": "tool", "tool_call_id": call_id, "content": json.dumps(result, ensure_ascii=False)}


def fault_message(call: Call) -> dict[str, Any]:
    """The answer to a call that was not understood."""
    return tool_message(call.call_id, {"status": "error", "error": call.fault})


def resumed(state: State, results: Mapping[str, Mapping[str, Any]], children: Sequence[ChildResult]) -> State:
    """The state after its children have ended: their results (by key) in the transcript, what they left
    remembered. A call whose child is missing is answered as dead."""
    lost = {"status": "dead", "error": "the result was lost"}
    answers = [tool_message(p.call_id, results.get(p.key, lost)) for p in state.pending]
    artifacts = dict(state.artifacts)
    for child in children:
        if child.status == SUCCEEDED:
            artifacts |= child.outputs
    asked = state.asked | {p.question: p.call_id for p in state.pending if p.question}
    return state.said(*answers, pending=[], artifacts=artifacts, asked=asked)


def child_result(
    child: ChildResult, program: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What a child's end tells the model; `program` is what the sandbox reported, if it was one."""
    succeeded = child.status == SUCCEEDED
    error = child.error
    logs = error.logs if error and error.logs else ""
    return {
        "status": SUCCEEDED if succeeded else "dead",
        "exit_code": program.get("exit_code", 0 if succeeded else None),
        "stdout": clip(str(program.get("stdout") or ""), SHOWN_OUTPUT),
        "stderr": clip(str(program.get("stderr") or logs), SHOWN_OUTPUT),
        "limit": program.get("limit"),
        "outputs": list(outputs),
        "error": None if succeeded else (f"{error.code}: {error.message}" if error else child.status),
    }
