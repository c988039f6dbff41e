"""The agent on a provider that others imitate (llmock, from PyPI): that we read providers as we think they are is
said here by a server that does not know us, with limits, errors and headers of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest
from goalwright_agent.handlers import Agent
from goalwright_agent.provider import Provider
from goalwright_agent.roles import load_roles
from goalwright_agent.settings import AgentSettings
from goalwright_shared.messages import Expand, Failed, OutputSpec, TaskSpec, Throttled
from llmock.ratelimit import LimitSettings, RateLimiter
from llmock.scenarios import Delay, Fail, Reply, ToolCall, ToolFault
from llmock.testing import LLMockServer
from llmock.verdict import judge

from agent.play import Play, done_child, output_json, output_text, work_of
from agent.test_asking import GOOD, SCHEMA, VALUE, ask
from agent.test_embedding import embed


@pytest.fixture(scope="module")
def server() -> Iterator[LLMockServer]:
    """One server on a real socket, in a thread."""
    with LLMockServer() as running:
        yield running


@pytest.fixture
async def mocked(server: LLMockServer) -> AsyncIterator[Agent]:
    """An agent on that server, which has forgotten the last test."""
    server.state.reset()
    provider = Provider(
        AgentSettings(
            openai_api_key="sk-mock-0123456789", openai_base_url=server.base_url(), call_timeout_seconds=5
        )
    )
    await provider.start()
    yield Agent(provider, load_roles())
    await provider.stop()


async def test_a_text_and_a_structured_answer_come_with_their_bills(
    mocked: Agent, server: LLMockServer
) -> None:
    text = await Play(mocked).to_end(work_of(ask(None)))
    assert output_text(text, "verdict")
    outcome = await Play(mocked).to_end(work_of(ask()))
    assert set(output_json(outcome, "verdict")) == set(SCHEMA["properties"]), "it fills the schema it is sent"
    for one in (text, outcome):
        assert one.usage is not None
        assert one.usage.tokens_in > 0
        assert one.usage.tokens_out > 0
    assert judge(server.state.journal.records()).passed


async def test_tools_are_called_answered_and_end(mocked: Agent, server: LLMockServer) -> None:
    finish = ToolCall("finish", {"outputs": [{"name": "report", "text": "42"}], "summary": "done"})
    program = ToolCall(
        "run_program", {"language": "python", "source": "print(42)", "inputs": [], "outputs": [], "args": []}
    )
    server.state.scenarios.add(Reply(tool_calls=(program,)), Reply(tool_calls=(finish,)))
    spec = TaskSpec(key="t", lane="agent.coder", instruction="Count.", outputs=[OutputSpec(name="report")])
    outcome = await Play(mocked, child=done_child).to_end(work_of(spec))
    assert output_text(outcome, "report") == "42"


@pytest.mark.parametrize("kind", ["malformed_arguments", "unknown_tool"])
async def test_broken_tool_calls_are_answered_with_what_is_wrong(
    mocked: Agent, server: LLMockServer, kind: str
) -> None:
    finish = ToolCall("finish", {"outputs": [{"name": "report", "text": "42"}], "summary": "done"})
    server.state.scenarios.add(ToolFault(kind), Reply(tool_calls=(finish,)))  # type: ignore[arg-type]  # a Literal
    spec = TaskSpec(key="t", lane="agent.coder", instruction="Count.", outputs=[OutputSpec(name="report")])
    play = Play(mocked, child=done_child)
    outcome = await play.to_end(work_of(spec))
    assert outcome.kind in ("done", "failed")
    assert all(isinstance(turn, Expand) for turn in play.outcomes[:-1])


async def test_texts_become_vectors(mocked: Agent) -> None:
    play = Play(mocked)
    outcome = await play.to_end(
        work_of(embed(params={"texts": ["one long text", "another long text", "one long text"]}))
    )
    assert outcome.kind == "done"
    first, second, again = json.loads(await play.artifacts.get_bytes(outcome.outputs["vectors"]))
    assert first == again != second
    assert outcome.usage is not None
    assert outcome.usage.tokens_in > 0


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        (Fail(500), "provider_unavailable", True),
        (Fail(502), "provider_unavailable", True),
        (Fail(404), "model_not_found", False),
        (Fail(422), "bad_request", False),
    ],
)
async def test_errors_fail_the_try_once(
    mocked: Agent, server: LLMockServer, fault: Fail, code: str, retryable: bool
) -> None:
    server.state.scenarios.add(fault)
    outcome = await Play(mocked).step(work_of(ask(None)))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == (code, retryable)
    assert len(server.state.journal.records()) == 1, "the SDK does not retry behind our back"


@pytest.mark.parametrize(
    ("fault", "blocked"),
    [
        (Fail(429, retry_after=3), False),
        (Fail(503, retry_after=3), False),
        (Fail(529, retry_after=3), False),
        (Fail(429, code="insufficient_quota", message="You exceeded your current quota"), True),
        (Fail(401), True),
        (Fail(402), True),
        (Fail(403), True),
    ],
)
async def test_limits_and_bad_keys_throttle(
    mocked: Agent, server: LLMockServer, fault: Fail, blocked: bool
) -> None:
    server.state.scenarios.add(fault)
    outcome = await Play(mocked).step(work_of(ask(None)))
    assert isinstance(outcome, Throttled)
    assert outcome.reason is not None
    assert outcome.reason.startswith("pool_blocked: ") is blocked
    assert blocked or 3 <= outcome.retry_after_seconds < 4


async def test_its_limit_is_read_from_its_headers_and_its_429_waited_for(
    mocked: Agent, server: LLMockServer
) -> None:
    server.state.limiter = RateLimiter(LimitSettings(rpm=2))
    try:
        outcomes = [await Play(mocked).step(work_of(ask(None))) for _ in range(4)]
    finally:
        server.state.limiter = RateLimiter(LimitSettings())
    assert outcomes[0].rate is not None
    assert outcomes[0].rate.requests_per_minute == 2
    refused = [outcome for outcome in outcomes if isinstance(outcome, Throttled)]
    assert len(refused) == 2
    assert all(10 < outcome.retry_after_seconds < 80 for outcome in refused), "the next slot is 30 s away"


async def test_a_prompt_beyond_its_context_window_is_too_big(mocked: Agent, server: LLMockServer) -> None:
    server.state.limiter = RateLimiter(LimitSettings(context_window=20))
    try:
        outcome = await Play(mocked).step(work_of(ask()))
    finally:
        server.state.limiter = RateLimiter(LimitSettings())
    assert isinstance(outcome, Failed)
    assert outcome.error.too_big


async def test_a_cut_answer_is_asked_for_once_more_and_a_wrong_one_corrected(
    mocked: Agent, server: LLMockServer
) -> None:
    server.state.scenarios.add(
        Reply(text='{"passed": tr', finish_reason="length"), Reply(text="yes!"), Reply(text=GOOD)
    )
    play = Play(mocked)
    assert output_json(await play.to_end(work_of(ask())), "verdict") == VALUE
    assert len(play.outcomes) == 3


async def test_a_slow_answer_ends_at_the_tasks_own_limit(mocked: Agent, server: LLMockServer) -> None:
    server.state.scenarios.add(Delay(1))
    outcome = await Play(mocked).step(work_of(ask(None).model_copy(update={"timeout_seconds": 0.3})))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.usage) == ("timeout", None)
