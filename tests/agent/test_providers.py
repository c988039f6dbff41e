"""Several endpoints and keys at once: what the settings mean, which call goes where, what is remembered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from goalwright_agent.core.dialect import Dialect
from goalwright_agent.dialects import Dialects
from goalwright_agent.handlers import Agent
from goalwright_agent.provider import Provider
from goalwright_agent.roles import load_roles
from goalwright_agent.settings import AgentSettings, lanes, pools
from goalwright_shared.errors import Refused
from goalwright_shared.messages import Failed, LlmGrant, Throttled, Work
from pydantic import ValidationError

from agent.model_server import ModelServer, refuses, says
from agent.play import Play, output_text, work_of
from agent.test_asking import GOOD, SCHEMA, ask

TWO_KEYS = """
model = "gpt-4.1-mini"
model_large = "local/qwen3:8b"
requests_per_minute = 500

[models]
writer = "second/gpt-4.1-mini"
embed = "local/nomic-embed-text"

[providers.second]
api_key_env = "SECOND_KEY"
requests_per_minute = 3500

[providers.local]
base_url = "http://127.0.0.1:11434/v1/"
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings come from the test alone."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "SECOND_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def granted(model: str, key_name: str = "default") -> Work:
    """A question to a model of a provider."""
    grant = LlmGrant(
        key_name=key_name, model=model, max_input_tokens=20_000, max_output_tokens=4_000, hold_usd=0.1
    )
    return work_of(ask(None), llm=grant)


def test_one_file_gives_every_lane_its_pool_and_every_pool_its_limits(tmp_path: Path) -> None:
    (tmp_path / "goalwright.toml").write_text(TWO_KEYS)
    settings = AgentSettings()
    rows = {row.name: row for row in lanes(settings)}
    assert rows["agent.coder"].pool == "default/gpt-4.1-mini"
    assert rows["agent.writer"].pool == "second/gpt-4.1-mini"
    assert rows["agent.judge"].pool == "local/qwen3:8b", "its class is large"
    assert rows["agent.embed"].pool == "local/nomic-embed-text"
    assert rows["agent.writer"].output_usd_per_mtok == rows["agent.coder"].output_usd_per_mtok > 0
    assert rows["agent.judge"].output_usd_per_mtok == 0, "a private address"
    limits = {limit.pool: limit.requests_per_minute for limit in pools(settings)}
    assert limits == {
        "default/gpt-4.1-mini": 500, "second/gpt-4.1-mini": 3500,
        "local/qwen3:8b": None, "local/nomic-embed-text": None,
    }  # fmt: skip
    assert settings.endpoints()["local"].base_url == "http://127.0.0.1:11434/v1"


def test_names_with_a_slash_stay_models_of_the_default_provider() -> None:
    settings = AgentSettings(
        openai_base_url="http://litellm:4000", model="openai/gpt-5-mini", model_large="default/openai/gpt-5"
    )
    assert settings.pool("agent.ask") == "default/openai/gpt-5-mini"
    assert settings.pool("agent.judge", "large") == "default/openai/gpt-5"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"model": "secnd/gpt-5"}, "no provider 'secnd'.*write second/gpt-5; or default/secnd/gpt-5"),
        ({"model": "second/"}, "names a provider, and no model"),
        ({"models": {"wizard": "gpt-5"}}, "no role wizard .field GOALWRIGHT_MODELS"),
    ],
)
def test_a_model_that_is_nowhere_is_refused_with_the_fix(given: Any, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        lanes(AgentSettings(providers={"second": {}}, **given))


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"api_key": "sk-1"}, "a key does not belong into a setting"),
        ({"api_key_env": "sk-proj-1234567890"}, "not the key itself"),
        ({"api_key_env": "A", "api_key_file": "b"}, "not by both"),
        ({"base_url": "localhost:11434"}, "an address like https://host/v1"),
        ({"rpm": 3}, "rpm"),
        ({"requests_per_minute": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_entry_is_refused_by_what_is_wrong_with_it(entry: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        AgentSettings(providers={"second": entry})
    with pytest.raises(ValidationError, match="cannot be called 'a/b'"):
        AgentSettings(providers={"a/b": {}})


def test_a_price_may_be_of_one_provider_only() -> None:
    settings = AgentSettings(
        model="gpt-4.1-mini",
        models={"writer": "second/gpt-4.1-mini"},
        providers={"second": {}},
        prices={"second/gpt-4.1-mini": {"input_usd_per_mtok": 7, "output_usd_per_mtok": 9}},
    )
    rows = {row.name: row for row in lanes(settings)}
    assert (rows["agent.writer"].input_usd_per_mtok, rows["agent.writer"].output_usd_per_mtok) == (7, 9)
    assert rows["agent.coder"].input_usd_per_mtok < 1


@pytest.fixture
async def other() -> AsyncIterator[ModelServer]:
    """A second server."""
    server = ModelServer(says("the other"))
    await server.start()
    yield server
    await server.stop()


async def agent_on(settings: AgentSettings, memory: Dialects | None = None) -> tuple[Agent, Provider]:
    """An agent as a process of its own would be."""
    provider = Provider(settings, memory)
    await provider.start()
    return Agent(provider, load_roles()), provider


async def test_each_call_goes_to_the_endpoint_and_key_of_its_pool(
    settings: AgentSettings,
    model: ModelServer,
    other: ModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECOND_KEY", "sk-second-0123456789\n")
    (tmp_path / "third").write_text("sk-third-0123456789\n")
    entries = {
        "second": {"base_url": other.url, "api_key_env": "SECOND_KEY"},
        "third": {"base_url": other.url, "api_key_file": str(tmp_path / "third")},
        "keyless": {"base_url": other.url},
    }
    made = AgentSettings(**settings.model_dump(exclude={"providers", "openai_api_key"}), providers=entries,
                         openai_api_key="sk-first-0123456789")  # fmt: skip
    agent, provider = await agent_on(made)
    answers = [output_text(await Play(agent).step(granted("m", name)), "verdict")
               for name in ("default", "second", "third", "keyless")]  # fmt: skip
    await provider.stop()
    assert answers == ["hello", "the other", "the other", "the other"]
    keys = [request["_headers"]["Authorization"] for request in model.requests + other.requests]
    assert keys == [f"Bearer {key}" for key in (
        "sk-first-0123456789", "sk-second-0123456789", "sk-third-0123456789", "none")]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "fix"),
    [
        ({"api_key_env": "SECOND_KEY"}, "set SECOND_KEY"),
        ({"api_key_file": "/nowhere/key"}, "set the key in /nowhere/key"),
    ],
)
async def test_a_provider_whose_key_is_missing_blocks_its_own_pool_without_a_call(
    settings: AgentSettings, other: ModelServer, model: ModelServer, entry: Any, fix: str
) -> None:
    providers = AgentSettings(providers={"second": {"base_url": other.url, **entry}}).providers
    agent, provider = await agent_on(settings.model_copy(update={"providers": providers}))
    outcome = await Play(agent).step(granted("m", "second"))
    well = await Play(agent).step(granted("m"))
    await provider.stop()
    assert isinstance(outcome, Throttled)
    assert outcome.reason is not None
    assert outcome.reason.startswith(f"pool_blocked: no key for {other.url}: {fix}")
    assert other.requests == []
    assert well.kind == "done"


async def test_a_refused_key_is_named_by_where_it_came_from(
    settings: AgentSettings, other: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECOND_KEY", "sk-second-0123456789")
    other.next(refuses(401, "no", "invalid_api_key"))
    entry = {"base_url": other.url, "api_key_env": "SECOND_KEY"}
    providers = AgentSettings(providers={"second": entry}).providers
    agent, provider = await agent_on(settings.model_copy(update={"providers": providers}))
    outcome = await Play(agent).step(granted("m", "second"))
    await provider.stop()
    assert isinstance(outcome, Throttled)
    assert outcome.reason is not None
    assert "Fix: set SECOND_KEY to a valid key that may use m" in outcome.reason


async def test_a_pool_of_a_provider_that_this_agent_does_not_know_is_blocked_with_the_fix(
    agent: Agent,
) -> None:
    outcome = await Play(agent).step(granted("m", "elsewhere"))
    assert isinstance(outcome, Throttled)
    assert outcome.reason is not None
    assert outcome.reason.startswith("pool_blocked: this agent knows no provider 'elsewhere', only default:")


async def test_what_one_process_learned_the_next_one_knows(
    settings: AgentSettings, model: ModelServer, tmp_path: Path
) -> None:
    memory = Dialects(tmp_path / "state" / "dialects.json")
    first, provider = await agent_on(settings, memory)
    model.next(refuses(400, "response_format json_schema is not supported"), says(GOOD))
    assert (await Play(first).to_end(work_of(ask()))).kind == "done"
    await provider.stop()
    assert len(model.requests) == 2
    second, provider = await agent_on(settings, memory)
    model.next(says(GOOD))
    assert (await Play(second).to_end(work_of(ask()))).kind == "done"
    await provider.stop()
    assert model.requests[-1]["response_format"] == {"type": "json_object"}
    assert len(model.requests) == 3


async def test_a_running_process_takes_over_what_another_has_learned(
    settings: AgentSettings, model: ModelServer, tmp_path: Path
) -> None:
    path = tmp_path / "dialects.json"
    agent, provider = await agent_on(settings, Dialects(path))
    model.next(says(GOOD))
    await Play(agent).to_end(work_of(ask()))
    await asyncio.to_thread(Dialects(path).learn, model.url, "test-model", Dialect(rung="json_object"))
    await Play(agent).to_end(work_of(ask()))
    await asyncio.to_thread(Dialects(path).learn, model.url, "test-model", Dialect(rung="text"))
    await Play(agent).to_end(work_of(ask()))
    await provider.stop()
    forms = [request.get("response_format", {}).get("type") for request in model.requests]
    assert forms == ["json_schema", "json_object", None], "without a refusal of its own"


WORDS, OTHER_SHAPE = says("It passed, I think."), says('{"verdict": "fine"}')


@pytest.mark.parametrize("ignored", [WORDS, OTHER_SHAPE])
async def test_a_server_that_takes_a_schema_and_ignores_it_is_asked_in_another_way(
    settings: AgentSettings, model: ModelServer, tmp_path: Path, ignored: Any
) -> None:
    agent, provider = await agent_on(settings, Dialects(tmp_path / "dialects.json"))
    model.next(ignored, ignored, says(GOOD))
    outcome = await Play(agent).to_end(work_of(ask()))
    await provider.stop()
    assert outcome.kind == "done", "it costs no try"
    forms = [request["response_format"]["type"] for request in model.requests]
    assert forms == ["json_schema", "json_schema", "json_object"]
    assert Dialects(tmp_path / "dialects.json").known(model.url, "test-model").rung == "json_object"


async def test_one_wrong_answer_among_good_ones_teaches_nothing(agent: Agent, model: ModelServer) -> None:
    model.next(OTHER_SHAPE, says(GOOD), WORDS, says(GOOD), OTHER_SHAPE, says(GOOD))
    for _ in range(3):
        assert (await Play(agent).to_end(work_of(ask()))).kind == "done"
    assert {request["response_format"]["type"] for request in model.requests} == {"json_schema"}


async def test_what_a_server_may_leave_to_us_is_not_taken_for_ignored(
    agent: Agent, model: ModelServer
) -> None:
    bounded = {**SCHEMA, "properties": {**SCHEMA["properties"], "mood": {"type": "string", "minLength": 9}}}
    model.next(says(GOOD), says(GOOD), says('{"passed": true, "mood": "long enough"}'))
    assert (await Play(agent).to_end(work_of(ask(bounded)))).kind == "done"
    assert {request["response_format"]["type"] for request in model.requests} == {"json_schema"}


def test_what_was_learned_is_forgotten_after_a_week_and_a_broken_file_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dialects.json"
    memory = Dialects(path)
    memory.learn("http://a/v1", "m", Dialect(rung="json_object"))
    memory.learn("http://a/v1", "m", Dialect(effort=False))
    memory.learn("http://b/v1", "m", Dialect(tools=False))
    for reader in (memory, Dialects(path)):
        assert reader.known("http://a/v1", "m") == Dialect(rung="json_object", effort=False)
        assert reader.known("http://b/v1", "m") == Dialect(tools=False)
    later = time.time() + 8 * 86_400
    monkeypatch.setattr(time, "time", lambda: later)
    for reader in (memory, Dialects(path)):
        assert reader.known("http://a/v1", "m") == Dialect(), "the process that learned it tries again too"
    path.write_text("[{")
    assert Dialects(path).known("http://a/v1", "m") == Dialect()
    nowhere = Dialects(Path("/proc/nowhere/dialects.json"))
    nowhere.learn("u", "m", Dialect(tools=False))
    assert nowhere.known("u", "m").tools is False


THINKS = "gpt-5-mini"


async def test_a_model_that_thinks_gets_room_for_it_beside_its_answer(
    agent: Agent, model: ModelServer
) -> None:
    grant = LlmGrant(
        key_name="default", model=THINKS, max_input_tokens=20_000, max_output_tokens=12_192, hold_usd=0.1
    )
    await Play(agent).step(work_of(ask(None), llm=grant))
    await Play(agent).step(work_of(ask(None, max_output_tokens=100), llm=grant))
    await Play(agent).step(work_of(ask(None), llm=grant.model_copy(update={"model": "llama3"})))
    small = grant.model_copy(update={"max_output_tokens": 4_000})
    await Play(agent).step(work_of(ask(None), llm=small))
    assert [request["max_tokens"] for request in model.requests] == [8_192 + 2_000, 8_192 + 100, 6_096, 4_000]


async def test_an_answer_that_thinking_used_up_is_asked_for_once_more_with_all_that_is_held(
    agent: Agent, model: ModelServer
) -> None:
    grant = LlmGrant(
        key_name="default", model=THINKS, max_input_tokens=20_000, max_output_tokens=12_192, hold_usd=0.1
    )
    model.next(says("", finish_reason="length"), says("here"))
    assert output_text(await Play(agent).to_end(work_of(ask(None), llm=grant)), "verdict") == "here"
    assert [request["max_tokens"] for request in model.requests] == [10_192, 12_192]
    model.next(says("", finish_reason="length"))
    outcome = await Play(agent).to_end(work_of(ask(None), llm=grant))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.too_big) == ("answer_cut", True)
