"""One try before its call: what is remembered, what is asked, how the reply is to be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import (
    ArtifactType,
    ChildResult,
    Failed,
    LlmGrant,
    OutputSpec,
    Work,
)
from goalwright_shared.worker import Attempt
from pydantic import JsonValue

from goalwright_agent import material
from goalwright_agent.core import capability, prompt
from goalwright_agent.core.dialect import Schema, schema_of
from goalwright_agent.core.packing import TooBig, estimate_tokens, pack
from goalwright_agent.core.turns import (
    State,
    child_result,
    private_reads,
    resumed,
)
from goalwright_agent.outcomes import failed
from goalwright_agent.roles import Role

log = structlog.get_logger(__name__)

ANSWER_TYPES = (ArtifactType.TEXT, ArtifactType.JSON, ArtifactType.TABLE)


@dataclass(frozen=True)
class Session:
    """One try: the work, what is remembered, and how its reply is to be read."""

    work: Work
    attempt: Attempt
    grant: LlmGrant
    state: State
    role: str
    tools: tuple[str, ...] = ()  # what may be called; empty: one answer is expected
    definitions: tuple[dict[str, Any], ...] = ()
    output: OutputSpec | None = None  # the one output an answer goes to
    schema: Schema | None = None
    raw_calls: bool = False  # agent.ask with tools: the calls are the answer
    asked_cap: int | None = None
    askable: tuple[str, ...] = ()  # roles that may be asked


def ask_session(work: Work, attempt: Attempt, grant: LlmGrant, state: State | None) -> Session | Failed:
    """A given prompt: `agent.ask`."""
    spec = work.spec.prompt
    if spec is None or len(work.spec.outputs) != 1:
        return failed(work, "bad_task", "a task on agent.ask needs a prompt and exactly one output")
    output = work.spec.outputs[0]
    schema = None
    if (
        spec.schema_ is not None
    ):  # what is asked for; who asks may take less, and says so in its output's schema
        schema = schema_of(spec.schema_, output.name or work.spec.key)
        accepted = output.schema_ or spec.schema_
        output = output.model_copy(update={"schema_": accepted, "type": ArtifactType.JSON})
    if state is None:
        given = [message.model_dump(mode="json", exclude_none=True) for message in spec.messages]
        state = State(messages=prompt.with_schema_written(given, spec.schema_ or output.schema_))
    return Session(
        work,
        attempt,
        grant,
        state,
        "ask",
        output=output,
        schema=schema or asked_schema(output, work),
        raw_calls=bool(spec.tools),
        definitions=tuple(spec.tools or ()),
        asked_cap=spec.max_output_tokens,
    )


def tools_of(role: Role, work: Work) -> tuple[str, ...]:
    """What a role may call on this task; () when one answer is all there is to give."""
    outputs = work.spec.outputs
    if not role.tools and len(outputs) == 1 and outputs[0].type in ANSWER_TYPES:
        return ()
    return (*role.tools, "finish")


def asked_schema(output: OutputSpec, work: Work) -> Schema | None:
    if output.type is not ArtifactType.JSON or output.schema_ is None:
        return None
    return schema_of(output.schema_, output.name or work.spec.key)


async def resume(work: Work, attempt: Attempt, state: State) -> State:
    """The state with the results of the children that have ended."""
    tools = {pending.key: pending.tool for pending in state.pending}
    results = {}
    for child in work.children:
        if child.key in tools:
            is_program = tools[child.key] == "run_program"
            program = await _program_report(work, attempt, child) if is_program else {}
            outputs = await material.describe(
                attempt.artifacts, child.outputs, 2_000 if is_program else 12_000
            )
            result = child_result(child, program, outputs)
            results[child.key] = result if is_program else result | {"exit_code": None} | _told(tools, child)
    private = bool(private_reads(work, state))
    return _learned(work, state, resumed(state, results, work.children), private=private)


def _learned(work: Work, before: State, after: State, *, private: bool) -> State:
    """The state with what a person has allowed; what children made of nothing private is not private either."""
    tools = {pending.key: pending for pending in before.pending}
    approved, artifacts = list(before.approved), dict(after.artifacts)
    for child in work.children:
        pending = tools.get(child.key)
        if pending is None or pending.tool == "request_approval":
            continue
        if pending.tool == "fetch_url" and (allowed := capability.allowed_by(child)) is not None:
            artifacts = {name: ref for name, ref in artifacts.items() if name not in child.outputs}
            approved += [pending.url] if allowed else []
        elif not private:
            made = {name: artifacts[name] for name in child.outputs if name in artifacts}
            artifacts |= capability.marked(made, private=False)
    return after.model_copy(update={"approved": approved, "artifacts": artifacts})


def _told(tools: Mapping[str, str], child: ChildResult) -> dict[str, Any]:
    """What a person's answer to the question whether to fetch means for the model."""
    allowed = capability.allowed_by(child) if tools[child.key] == "fetch_url" else None
    if allowed is None:
        return {}
    if allowed:
        return {"next": "a person has allowed this address: call fetch_url with it again"}
    return {"status": "dead", "error": "a person did not allow this address: do without this page"}


async def _program_report(work: Work, attempt: Attempt, child: ChildResult) -> dict[str, Any]:
    """What the sandbox told about a child's last try; empty when the scheduler does not say."""
    try:
        answer = await attempt.query("task", {"goal_id": work.goal_id, "task_id": child.task_id})
    except GoalwrightError as error:
        log.warning("no report of the program", child=child.key, error=str(error))
        return {}
    for entry in reversed(answer.get("attempts") or []):
        if isinstance(entry, dict) and isinstance(entry.get("program"), dict):
            program: dict[str, Any] = entry["program"]
            return program
    return {}


def as_sent(session: Session) -> tuple[prompt.ChatMessages, Session]:
    """The transcript as it fits what is paid for, with the facts of now after it once there have been turns; and
    the session that remembers how it was packed. Raises TooBig."""
    state, cap = session.state, session.grant.max_input_tokens
    now = ""
    if session.tools and state.turns:
        seen = {"notes_seen": state.notes_seen, "errors_seen": state.errors_seen}
        now = material.shown(prompt.now_section(session.work, **seen))
    room = cap - (estimate_tokens([{"content": now}]) if now else 0)
    try:
        packed = pack(material.shown(state.messages), session.definitions, room, state.packing, state.recap)
    except TooBig as error:
        raise TooBig(error.tokens + cap - room) from error
    sent = prompt.with_now(packed.messages, now) if now else packed.messages
    return sent, replace(session, state=state.packed(packed))


async def texts_to_embed(work: Work, attempt: Attempt) -> list[str] | None:
    params = work.spec.params
    texts: JsonValue = params.get("texts") if isinstance(params, dict) else None
    if texts is None and len(work.inputs) == 1:
        body = await material.text_of(attempt.artifacts, next(iter(work.inputs.values())))
        try:
            texts = json.loads(body or "null")
        except ValueError:
            return None
    if not isinstance(texts, list) or not texts:
        return None
    found = [text for text in texts if isinstance(text, str) and text]
    return found if len(found) == len(texts) else None
