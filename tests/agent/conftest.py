"""A model server and an agent that talks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from goalwright_agent.handlers import Agent
from goalwright_agent.provider import Provider
from goalwright_agent.roles import load_roles
from goalwright_agent.settings import AgentSettings

from agent.model_server import ModelServer, says


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """A server whose script the test writes."""
    server = ModelServer(says("hello"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def settings(model: ModelServer) -> AgentSettings:
    """Settings of an agent on that server."""
    return AgentSettings(
        openai_api_key="sk-test-0123456789", openai_base_url=model.url, call_timeout_seconds=30, connections=8
    )


@pytest.fixture
async def agent(settings: AgentSettings) -> AsyncIterator[Agent]:
    """The performer, with its real client."""
    provider = Provider(settings)
    await provider.start()
    yield Agent(provider, load_roles())
    await provider.stop()
