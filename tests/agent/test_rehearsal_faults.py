"""The agent on the rehearsal server as an ill provider: each fault it can imitate, over real HTTP."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from goalwright_agent.handlers import Agent
from goalwright_agent.provider import Provider
from goalwright_agent.roles import load_roles
from goalwright_agent.settings import AgentSettings
from goalwright_rehearsal.app import build_app
from goalwright_rehearsal.settings import RehearsalSettings
from goalwright_shared.messages import ChatMessage, Failed, Outcome, Throttled

from agent.play import Play, output_json, output_text, work_of
from agent.test_asking import ask
from agent.test_embedding import embed

LABELLED: dict[str, Any] = {"type": "object", "properties": {"rehearsal": {"type": "string"}}}
LABELLED |= {"required": ["rehearsal"], "additionalProperties": False}
LONG = ask(None, messages=[ChatMessage(role="user", content="A long story. " * 20)])

Ill = Callable[..., Awaitable[Agent]]


@asynccontextmanager
async def rehearsing(**settings: Any) -> AsyncIterator[str]:
    """The rehearsal server in a thread, on a free port; its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = build_app(RehearsalSettings(**{"latency_seconds": 0, **settings}))
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, 10)


@pytest.fixture
async def ill() -> AsyncIterator[Ill]:
    """Makes an agent on a server with these settings; everything ends with the test."""
    async with AsyncExitStack() as stack:

        async def make(key: str = "sk-rehearsal-012345", seconds: float = 10, **settings: Any) -> Agent:
            url = await stack.enter_async_context(rehearsing(**settings))
            made = AgentSettings(openai_api_key=key, openai_base_url=url, call_timeout_seconds=seconds)
            provider = Provider(made)
            await provider.start()
            stack.push_async_callback(provider.stop)
            return Agent(provider, load_roles())

        yield make


async def one(agent: Agent, spec: Any = None) -> Outcome:
    """One try of a question in words."""
    return await Play(agent).step(work_of(spec or ask(None)))


async def test_an_error_a_broken_connection_and_a_refusal_are_failures(ill: Ill) -> None:
    for share, code, retryable in (
        ("error_share", "provider_unavailable", True),
        ("drop_share", "provider_unavailable", True),
        ("refuse_share", "refused", False),
    ):
        outcome = await one(await ill(**{share: 1}))
        assert isinstance(outcome, Failed), share
        assert (outcome.error.code, outcome.error.retryable) == (code, retryable)
        assert (outcome.usage is not None) == (share == "refuse_share"), "without a bill the hold counts"


async def test_silence_ends_at_the_limit_of_a_call_and_its_hold_is_charged(ill: Ill) -> None:
    began = time.monotonic()
    outcome = await one(await ill(hang_share=1, seconds=0.3))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.usage) == ("timeout", None)
    assert time.monotonic() - began >= 0.3


async def test_a_used_up_quota_and_a_wrong_key_block_the_pool_and_a_rate_does_not(ill: Ill) -> None:
    for agent in (await ill(quota_share=1), await ill(api_key="another")):
        outcome = await one(agent)
        assert isinstance(outcome, Throttled)
        assert outcome.reason is not None
        assert outcome.reason.startswith("pool_blocked: ")
    agent = await ill(requests_per_minute=60)
    outcomes = [await one(agent) for _ in range(61)]
    assert outcomes[0].rate is not None
    assert outcomes[0].rate.requests_per_minute == 60
    refused = outcomes[-1]
    assert isinstance(refused, Throttled)
    assert refused.reason is not None
    assert refused.reason.startswith("rate limited")
    assert refused.retry_after_seconds < 2


@pytest.mark.parametrize("way", ["follow", "refuse", "ignore"])
async def test_a_schema_that_is_refused_or_ignored_is_asked_for_in_another_way(ill: Ill, way: str) -> None:
    agent = await ill(json_schema=way)
    play = Play(agent)
    outcome = await play.to_end(work_of(ask(LABELLED)))
    assert set(output_json(outcome, "verdict")) == {"rehearsal"}
    assert len(play.outcomes) == {"follow": 1, "refuse": 2, "ignore": 3}[way], "no try is lost"
    second = Play(agent)
    await second.to_end(work_of(ask(LABELLED)))
    assert len(second.outcomes) == 1, "the ladder is climbed down once"


async def test_an_answer_that_is_cut_is_asked_for_once_more_and_then_too_big(ill: Ill) -> None:
    play = Play(await ill(cut_share=1))
    outcome = await play.to_end(work_of(LONG))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.too_big, len(play.outcomes)) == ("answer_cut", True, 2)
    play = Play(await ill(cut_share=0.5))
    assert (await one(play.agent)).kind == "done"
    assert output_text(await play.to_end(work_of(LONG)), "verdict")
    assert len(play.outcomes) == 2


async def test_texts_become_vectors(ill: Ill) -> None:
    play = Play(await ill())
    outcome = await play.to_end(work_of(embed(params={"texts": ["a", "b"]})))
    assert outcome.kind == "done"
    assert outcome.usage is not None
    assert (outcome.usage.tokens_in, outcome.usage.tokens_out) == (2, 0)
