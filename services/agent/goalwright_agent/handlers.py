"""One Work → one model call → one Outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping

from goalwright_shared.errors import GoalwrightError
from goalwright_shared.messages import (
    ArtifactType,
    Done,
    Failed,
    LlmGrant,
    Outcome,
    Work,
)
from goalwright_shared.telemetry import redact
from goalwright_shared.worker import Attempt

from goalwright_agent import continuation, material
from goalwright_agent.calls import Adapted, Broken, Limited, Reply, Request, Vectors
from goalwright_agent.core import prompt
from goalwright_agent.core.answers import first_cap
from goalwright_agent.core.packing import TooBig, estimate_tokens
from goalwright_agent.core.tools import definitions
from goalwright_agent.core.turns import State, askable
from goalwright_agent.outcomes import broken_off, failed, ids, nothing_used, throttled, too_big
from goalwright_agent.provider import Provider
from goalwright_agent.replies import again, read_reply
from goalwright_agent.roles import Role
from goalwright_agent.sessions import (
    Session,
    as_sent,
    ask_session,
    asked_schema,
    resume,
    texts_to_embed,
    tools_of,
)
from goalwright_agent.settings import ASK, EMBED


class Agent:
    """The performer of all agent lanes."""

    def __init__(self, provider: Provider, roles: Mapping[str, Role]) -> None:
        self._provider = provider
        self._roles = dict(roles)

    def learn(self, role: Role) -> None:
        """Perform this role from now on, or in this way: a turn that has begun goes on as it began."""
        self._roles[role.name] = role

    async def perform(self, work: Work, attempt: Attempt) -> Outcome:
        """Exactly one model call, or none when the task cannot be asked."""
        if work.llm is None:
            return failed(work, "no_grant", f"lane {work.lane} has no pool: run `goalwright topology apply`")
        if work.lane == EMBED:
            return await self._embed(work, attempt, work.llm)
        try:
            session = await self._session(work, attempt, work.llm)
        except continuation.BadContinuation as error:
            return failed(work, error.code, str(error))
        if isinstance(session, Failed):
            return session
        return await self._call(session)

    # --- what is asked ---

    async def _session(self, work: Work, attempt: Attempt, grant: LlmGrant) -> Session | Failed:
        state = await continuation.loaded(attempt.artifacts, work.continuation)
        if work.lane == ASK:
            return ask_session(work, attempt, grant, state)
        role = self._roles.get(work.lane.removeprefix("agent."))
        if role is None:
            return failed(work, "unknown_role", f"this agent has no role for lane {work.lane}")
        tools = tools_of(role, work)
        if state is None:
            inputs = await material.describe(attempt.artifacts, work.inputs, role.excerpt_chars)
            card = prompt.task_card(work, role.name, inputs)
            messages = prompt.opening(role.name, role.prompt, card, has_tools=bool(tools))
            newest = max((note.number for note in work.notes), default=0)
            state = State(messages=messages, notes_seen=newest, errors_seen=len(work.attempt_errors))
        if state.pending:
            state = await resume(work, attempt, state)
        if not tools:
            output = work.spec.outputs[0]
            return Session(
                work, attempt, grant, state, role.name, output=output, schema=asked_schema(output, work)
            )
        described = {name: other.description for name, other in self._roles.items()}
        return Session(
            work, attempt, grant, state, role.name, tools=tools,
            definitions=tuple(definitions(tools[:-1], askable(work, described))), askable=tuple(described),
        )  # fmt: skip

    async def _call(self, session: Session) -> Outcome:
        """Pack, call, and turn however the call ended into an outcome."""
        work, grant = session.work, session.grant
        try:
            messages, session = as_sent(session)
        except TooBig as error:
            return too_big(work, grant, error.tokens)
        cap = grant.max_output_tokens
        request = Request(
            key_name=grant.key_name,
            model=grant.model,
            messages=messages,
            max_output_tokens=cap
            if session.state.whole_cap
            else first_cap(cap, session.asked_cap, self._provider.room_to_think(grant.model)),
            tools=session.definitions,
            schema=session.schema,
            reasoning_effort=grant.reasoning_effort,
            timeout_seconds=work.spec.timeout_seconds,
            dialect=session.state.dialect,
        )
        match await self._provider.complete(request):
            case Limited() as limited:
                return throttled(work, grant, limited)
            case Broken() as broken:
                return broken_off(work, grant, broken)
            case Adapted(dialect):
                adapted = session.state.model_copy(update={"dialect": dialect})
                outcome = await again(session, adapted)
                return outcome.model_copy(update={"usage": nothing_used(grant)})
            case Reply() as reply:
                return await self._settled(session, request, reply)

    async def _settled(self, session: Session, request: Request, reply: Reply) -> Outcome:
        """The outcome of a reply, with its bill and its record whatever became of it."""
        sent = {
            "model": request.model,
            "max_output_tokens": request.max_output_tokens,
            "messages": request.messages,
            "tools": request.tools,
            "schema": request.schema.body if request.schema else None,
        }
        artifacts = session.attempt.artifacts
        call = await material.recorded(artifacts, sent, reply.raw, reply.finish_reason, reply.request_id)
        try:
            outcome = await read_reply(session, reply, cut_at=request.max_output_tokens)
        except GoalwrightError as error:  # the call is paid for: its bill must not be lost with its answer
            outcome = failed(session.work, error.code, str(error), retryable=True)
        return outcome.model_copy(update={"usage": reply.usage, "call": call, "rate": reply.rate})

    # --- embeddings ---

    async def _embed(self, work: Work, attempt: Attempt, grant: LlmGrant) -> Outcome:
        texts = await texts_to_embed(work, attempt)
        if texts is None or len(work.spec.outputs) != 1:
            takes = 'params {"texts": [...]} or one json input that is a list of strings'
            return failed(work, "bad_task", f"agent.embed takes {takes}, and has one json output")
        tokens = estimate_tokens([{"content": text} for text in texts])
        if tokens > grant.max_input_tokens:
            return too_big(work, grant, tokens)
        match await self._provider.embed(grant.key_name, grant.model, [redact(text) for text in texts]):
            case Limited() as limited:
                return throttled(work, grant, limited)
            case Broken() as broken:
                return broken_off(work, grant, broken)
            case Vectors() as found:
                return await _embedded(work, attempt, found)


async def _embedded(work: Work, attempt: Attempt, found: Vectors) -> Outcome:
    """The vectors as the task's output; their bill is sent even when they cannot be stored."""
    name, body = work.spec.outputs[0].name, json.dumps(found.vectors).encode()
    bill = {"usage": found.usage, "rate": found.rate}
    try:
        ref = await attempt.artifacts.put_bytes(name, ArtifactType.JSON, body)
    except GoalwrightError as error:
        return failed(work, error.code, str(error), retryable=True).model_copy(update=bill)
    done = Done(**ids(work), outputs={name: ref}, summary=f"{len(found.vectors)} vectors")
    return done.model_copy(update=bill)
