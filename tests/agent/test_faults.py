"""What becomes of a call that a provider refuses, breaks or never answers; the next call always works."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator

import pytest
from goalwright_agent.handlers import Agent
from goalwright_agent.provider import Provider
from goalwright_agent.roles import load_roles
from goalwright_agent.settings import AgentSettings
from goalwright_shared.messages import Failed, Outcome, Throttled

from agent.model_server import Answer, ModelServer, refuses, says
from agent.play import Play, work_of
from agent.test_asking import ask

TEXT = ask(None)


async def fault(agent: Agent, model: ModelServer, answer: Answer) -> Outcome:
    """The outcome of one faulty call, after which a good one works and nothing was retried."""
    model.next(answer)
    outcome = await Play(agent).step(work_of(TEXT))
    assert len(model.requests) == 1, "one work is one call"
    model.next(says("fine"))
    assert (await Play(agent).step(work_of(TEXT))).kind == "done"
    return outcome


async def test_429_throttles_until_the_provider_wants_and_a_little_later(
    agent: Agent, model: ModelServer
) -> None:
    outcome = await fault(agent, model, refuses(429, "slow down", "rate_limit_exceeded", retry_after="7"))
    assert isinstance(outcome, Throttled)
    assert 7 < outcome.retry_after_seconds < 7 * 1.25 + 0.1
    assert outcome.reason is not None
    assert "slow down" in outcome.reason
    assert not outcome.reason.startswith("pool_blocked:")
    assert outcome.usage is not None
    assert outcome.usage.tokens_in == 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after_ms": "250"}, 0.25),
        ({"x_ratelimit_reset_requests": "1m30s", "x_ratelimit_reset_tokens": "20ms"}, 90),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry_after": "soon"}, 5),
        ({}, 5),
    ],
)
async def test_429_reads_every_form_of_waiting(
    agent: Agent, model: ModelServer, headers: dict[str, str], seconds: float
) -> None:
    outcome = await fault(agent, model, refuses(429, "slow down", **headers))
    assert isinstance(outcome, Throttled)
    assert seconds < outcome.retry_after_seconds <= seconds * 1.25 + 0.02


async def test_rate_limit_that_advertises_billing_is_no_used_up_quota(
    agent: Agent, model: ModelServer
) -> None:
    said = "Rate limit reached. Add a payment method at https://platform.openai.com/account/billing."
    outcome = await fault(agent, model, refuses(429, said, "rate_limit_exceeded", retry_after="1"))
    assert isinstance(outcome, Throttled)
    assert outcome.reason is not None
    assert outcome.reason.startswith("rate limited")


async def test_429_carries_the_limits_it_was_told(agent: Agent, model: ModelServer) -> None:
    outcome = await fault(agent, model, refuses(429, "slow down", x_ratelimit_limit_requests="60"))
    assert outcome.rate is not None
    assert outcome.rate.requests_per_minute == 60


@pytest.mark.parametrize(
    ("status", "code", "fix"),
    [
        (401, "invalid_api_key", "set OPENAI_API_KEY to a valid key"),
        (403, None, "set OPENAI_API_KEY to a valid key"),
        (429, "insufficient_quota", "add credit"),
        (402, None, "wants payment"),
    ],
)
async def test_bad_key_or_used_up_quota_blocks_the_pool_and_says_what_to_do(
    agent: Agent, model: ModelServer, status: int, code: str | None, fix: str
) -> None:
    outcome = await fault(agent, model, refuses(status, "no", code))
    assert isinstance(outcome, Throttled)
    assert outcome.reason is not None
    assert outcome.reason.startswith("pool_blocked: ")
    assert fix in outcome.reason
    assert outcome.retry_after_seconds >= 60


async def test_unknown_model_fails_with_the_fix(agent: Agent, model: ModelServer) -> None:
    outcome = await fault(agent, model, refuses(404, "model 'test-model' not found"))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("model_not_found", False)
    assert "GOALWRIGHT_MODEL" in outcome.error.message
    assert model.url in outcome.error.message


async def test_bad_request_fails_with_the_servers_words(agent: Agent, model: ModelServer) -> None:
    outcome = await fault(agent, model, refuses(400, "messages: at least one is required"))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("bad_request", False)
    assert "at least one is required" in outcome.error.message


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 8192 tokens",
        "'max_tokens' or 'max_completion_tokens' is too large: 9000. The maximum context length is 4096",
        "the request exceeds the available context size",
    ],
)
async def test_prompt_beyond_the_models_context_is_too_big(
    agent: Agent, model: ModelServer, said: str
) -> None:
    outcome = await fault(agent, model, refuses(400, said, "context_length_exceeded"))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.too_big) == ("too_big", True)


@pytest.mark.parametrize(
    "answer",
    [
        refuses(500, "internal"),
        refuses(502, "bad gateway"),
        refuses(503, "loading the model"),
        Answer(body="<html>proxy</html>"),
        Answer(body={"choices": []}),
        Answer(body={"error": {"message": "upstream died", "code": 502}}),
        Answer(drop=True),
        Answer(body={}, headers={"x-long": "a" * 20_000}),
        Answer(body=b"no gzip", headers={"content-encoding": "gzip"}),
        Answer(body=gzip.compress(b" " * 300_000_000, 9), headers={"content-encoding": "gzip"}),
    ],
)
async def test_broken_provider_is_worth_another_try(agent: Agent, model: ModelServer, answer: Answer) -> None:
    outcome = await fault(agent, model, answer)
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("provider_unavailable", True)
    assert outcome.usage is None, "nobody knows what it cost"


@pytest.mark.parametrize(
    "answer",
    [
        refuses(503, "overloaded", retry_after="2"),
        refuses(529, "overloaded", retry_after="2"),
        Answer(body={"error": {"message": "limited", "code": 429}}),
    ],
)
async def test_overload_with_a_time_throttles(agent: Agent, model: ModelServer, answer: Answer) -> None:
    assert isinstance(await fault(agent, model, answer), Throttled)


async def test_an_answer_that_never_ends_is_cut_off(
    agent: Agent, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goalwright_agent.client._ANSWER_BYTES", 1 << 20)
    outcome = await fault(agent, model, Answer(endless=True))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("provider_unavailable", True)
    assert "an answer of more than 1048576 bytes" in outcome.error.message


async def test_what_is_no_http_is_told_without_the_key_it_was_asked_with(settings: AgentSettings) -> None:
    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 nonsense\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    given = {"openai_base_url": f"http://127.0.0.1:{port}/v1", "openai_api_key": "sk-of-nobody-else"}
    provider = Provider(AgentSettings.model_validate(given))
    await provider.start()
    async with server:
        outcome = await Play(Agent(provider, load_roles())).step(work_of(TEXT))
    await provider.stop()
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("provider_unavailable", True)
    assert "broke: no HTTP" in outcome.error.message
    assert "sk-of-nobody-else" not in outcome.model_dump_json()


async def test_connection_that_breaks_is_told_from_one_that_never_was(
    agent: Agent, model: ModelServer
) -> None:
    outcome = await fault(agent, model, Answer(drop=True))
    assert isinstance(outcome, Failed)
    assert f"the connection to {model.url} broke" in outcome.error.message


async def test_unreachable_model_names_the_address_and_what_to_set() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    provider = Provider(AgentSettings(openai_base_url=f"http://127.0.0.1:{port}/v1"))
    await provider.start()
    try:
        outcome = await Play(Agent(provider, load_roles())).step(work_of(TEXT))
    finally:
        await provider.stop()
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("provider_unavailable", True)
    assert f"no model answers at http://127.0.0.1:{port}/v1" in outcome.error.message
    assert "(connection refused)" in outcome.error.message
    assert "OPENAI_BASE_URL" in outcome.error.message
    assert outcome.usage is not None
    assert outcome.usage.tokens_in == 0


@pytest.fixture
async def impatient(settings: AgentSettings) -> AsyncIterator[Agent]:
    """An agent whose calls may take a fifth of a second."""
    provider = Provider(settings.model_copy(update={"call_timeout_seconds": 0.2}))
    await provider.start()
    yield Agent(provider, load_roles())
    await provider.stop()


async def test_call_without_an_answer_ends_at_its_timeout_and_sends_no_bill(
    impatient: Agent, agent: Agent, model: ModelServer
) -> None:
    model.next(Answer(hang=True))
    outcome = await Play(impatient).step(work_of(TEXT))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("timeout", True), "the hold is charged"
    assert "within 0.2 s" in outcome.error.message
    assert outcome.usage is None
    model.next(says("fine"))
    assert (await Play(agent).step(work_of(TEXT))).kind == "done"


async def test_tasks_own_time_limit_counts_too(agent: Agent, model: ModelServer) -> None:
    model.next(Answer(hang=True))
    outcome = await Play(agent).step(work_of(TEXT.model_copy(update={"timeout_seconds": 0.2})))
    assert isinstance(outcome, Failed)
    assert "within 0.2 s" in outcome.error.message


async def test_openai_without_a_key_blocks_the_pool_without_a_call() -> None:
    provider = Provider(AgentSettings(openai_api_key=None, openai_base_url=None))
    await provider.start()
    try:
        outcome = await Play(Agent(provider, load_roles())).step(work_of(TEXT))
    finally:
        await provider.stop()
    assert isinstance(outcome, Throttled)
    assert outcome.reason is not None
    assert outcome.reason.startswith("pool_blocked: no key for https://api.openai.com/v1: set OPENAI_API_KEY")


async def test_more_calls_than_a_default_pool_allows_are_in_flight_together(
    settings: AgentSettings, model: ModelServer
) -> None:
    """The transport's own default is 100 connections; ours is what the settings say."""
    together = asyncio.Event()
    count = 0

    def counted(_: dict[str, object]) -> Answer:
        nonlocal count
        count += 1
        if count == 150:
            together.set()
        return Answer(hang=True)

    model.next(counted)
    provider = Provider(settings.model_copy(update={"connections": 512}))
    await provider.start()
    play = Play(Agent(provider, load_roles()))
    tries = [asyncio.create_task(play.step(work_of(TEXT))) for _ in range(150)]
    try:
        await asyncio.wait_for(together.wait(), 10)
    finally:
        for attempt in tries:
            attempt.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
        await provider.stop()
