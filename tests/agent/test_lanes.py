"""Roles, lanes, pools and prices."""

from __future__ import annotations

from pathlib import Path

import pytest
from goalwright_agent.prices import Price, is_private, price_of
from goalwright_agent.roles import load_roles
from goalwright_agent.settings import AgentSettings, lanes, pools, served_lanes
from goalwright_shared.errors import Refused
from goalwright_shared.messages import Lane

BUILT_IN = ["analyst", "coder", "critic", "generalist", "judge", "researcher", "writer"]
OPENAI = "https://api.openai.com/v1"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings come from the test alone."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)


def lane(name: str, settings: AgentSettings) -> Lane:
    """One row."""
    return next(row for row in lanes(settings) if row.name == name)


def test_every_built_in_role_has_a_plannable_lane_with_a_description() -> None:
    rows = {row.name: row for row in lanes(AgentSettings())}
    assert sorted(rows) == sorted([f"agent.{role}" for role in BUILT_IN] + ["agent.ask", "agent.embed"])
    for role in BUILT_IN:
        assert rows[f"agent.{role}"].plannable
        assert rows[f"agent.{role}"].description
    assert not rows["agent.ask"].plannable
    assert not rows["agent.embed"].plannable


def test_lanes_may_do_what_their_tools_need_and_no_more() -> None:
    settings = AgentSettings()
    assert lane("agent.coder", settings).child_lanes == ["exec", "agent.*"]
    assert lane("agent.generalist", settings).child_lanes == ["exec", "agent.*", "human"]
    assert lane("agent.writer", settings).child_lanes == []
    assert lane("agent.judge", settings).child_lanes == []
    for name in ("agent.judge", "agent.ask", "agent.coder"):
        assert lane(name, settings).may == ["done", "expand", "failed", "throttled"]
    assert "expand" not in lane("agent.embed", settings).may


def test_lane_carries_pool_caps_and_bundled_price() -> None:
    row = lane("agent.coder", AgentSettings(model="gpt-5-mini", key_name="team"))
    assert row.pool == "team/gpt-5-mini"
    assert (row.max_input_tokens, row.max_output_tokens) == (48_000, 16_384 + 8_192), "with room to think"
    assert (row.input_usd_per_mtok, row.output_usd_per_mtok) == (0.25, 2.0)
    assert row.look_ahead == 0


def test_model_of_a_class_is_used_by_its_roles() -> None:
    settings = AgentSettings(model="gpt-5-mini", model_large="gpt-5")
    assert lane("agent.judge", settings).pool == "default/gpt-5"
    assert lane("agent.writer", settings).pool == "default/gpt-5-mini"


def test_own_price_overrides_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "GOALWRIGHT_PRICES", '{"gpt-5-mini": {"input_usd_per_mtok": 9, "output_usd_per_mtok": 0}}'
    )
    row = lane("agent.ask", AgentSettings())
    assert (row.input_usd_per_mtok, row.output_usd_per_mtok) == (9, 0)


def test_unknown_price_on_a_public_endpoint_is_refused_with_the_fix() -> None:
    settings = AgentSettings(model="nobody-1", openai_base_url="https://llm.example.com/v1")
    with pytest.raises(Refused) as refused:
        lanes(settings)
    assert refused.value.code == "unknown_price"
    assert refused.value.field == "GOALWRIGHT_PRICES"
    assert '"nobody-1"' in str(refused.value)
    assert "llm.example.com" in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:11434/v1", "http://10.1.2.3/v1", "http://ollama:11434/v1", "http://[::1]:1/v1"]
)
def test_unknown_price_on_a_private_endpoint_is_free(url: str) -> None:
    row = lane("agent.coder", AgentSettings(model="rehearsal-1", openai_base_url=url))
    assert (row.input_usd_per_mtok, row.output_usd_per_mtok) == (0, 0)


def test_paid_model_behind_a_private_proxy_keeps_its_price() -> None:
    price = price_of("openai/gpt-5-mini", "http://litellm:4000/v1", {}, 10_000)
    assert price == Price(input_usd_per_mtok=0.25, output_usd_per_mtok=2)


def test_tier_of_the_input_cap_is_the_price() -> None:
    small = price_of("claude-sonnet-4-5", OPENAI, {}, 100_000)
    large = price_of("claude-sonnet-4-5", OPENAI, {}, 300_000)
    assert large.input_usd_per_mtok > small.input_usd_per_mtok


@pytest.mark.parametrize("url", [OPENAI, "https://8.8.8.8/v1", "http://localhost.example.com/v1"])
def test_public_endpoints_are_not_taken_for_private(url: str) -> None:
    assert not is_private(url)


def test_pools_carry_the_limits_of_the_settings() -> None:
    settings = AgentSettings(model="gpt-5-mini", requests_per_minute=3500, tokens_per_minute=2_000_000)
    limits = {pool.pool: pool for pool in pools(settings)}
    assert set(limits) == {"default/gpt-5-mini", "default/text-embedding-3-small"}
    assert limits["default/gpt-5-mini"].requests_per_minute == 3500
    assert limits["default/gpt-5-mini"].tokens_per_minute == 2_000_000


def test_key_and_endpoint_come_under_their_usual_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/")
    settings = AgentSettings()
    assert settings.key == "sk-0123456789"
    assert settings.endpoint == "http://127.0.0.1:9/v1"
    assert "sk-0123456789" not in repr(settings)


ROLE = """---
description: translates
tools: [read_artifact]
max_output_tokens: 1000
---
You translate.
"""


def test_users_role_file_adds_a_lane_or_replaces_a_built_in(tmp_path: Path) -> None:
    (tmp_path / "translator.md").write_text(ROLE)
    (tmp_path / "writer.md").write_text(ROLE)
    settings = AgentSettings(roles=tmp_path, model="gpt-4.1-mini")
    assert lane("agent.translator", settings).max_output_tokens == 1000
    assert lane("agent.writer", settings).description == "translates"
    assert load_roles(tmp_path)["translator"].prompt == "You translate."
    assert "agent.translator" in served_lanes(settings)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("bad.md", "You translate.", "front matter"),
        (
            "bad.md",
            "---\ntools: [read_artefact]\ndescription: x\n---\nDo.",
            "no tool 'read_artefact': did you mean read_artifact?",
        ),
        ("bad.md", "---\ntools: ask\ndescription: x\n---\nDo.", "tools: 'ask' is no list: write [ask]"),
        ("bad.md", "---\ntools: []\n---\nDo.", "description is missing: add a line `description: …`"),
        ("bad.md", "---\ndescription: x\nmax_outputs_tokens: 9\n---\nDo.", "did you mean max_output_tokens?"),
        (
            "bad.md",
            "---\ndescription: x\nmax_output_tokens: 9\n---\nDo.",
            "greater than or equal to 256, not 9",
        ),
        ("bad.md", "---\ndescription: x\n---\n", "no prompt after the front matter"),
        ("bad.md", "---\n: [\n---\n", "no YAML"),
        ("ask.md", ROLE, "file name"),
        ("Bad Name.md", ROLE, "file name"),
    ],
)
def test_bad_role_file_is_refused_by_its_name_and_fault(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Refused) as refused:
        load_roles(tmp_path)
    assert name in str(refused.value)
    assert complaint in str(refused.value)


def test_missing_folder_of_roles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no folder"):
        load_roles(tmp_path / "nowhere")


def test_process_may_serve_some_lanes_only() -> None:
    assert served_lanes(AgentSettings(roles_served="coder, ask")) == ["agent.coder", "agent.ask"]
    assert len(served_lanes(AgentSettings())) == len(BUILT_IN) + 2
    with pytest.raises(Refused, match="there is no role wizard"):
        served_lanes(AgentSettings(roles_served="wizard"))
