"""`goalwright config show`: every setting, its origin, and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from goalwright_cli.config import Setting, of_reader
from goalwright_cli.main import build
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _setting(reader: str, variable: str) -> Setting:
    return next(row for row in of_reader(reader) if row.variable == variable)


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _setting("system", "GOALWRIGHT_DRAIN_SECONDS")
    assert (found.value, found.origin) == ("25.0", "default")
    (tmp_path / "goalwright.toml").write_text("drain_seconds = 3\n")
    found = _setting("system", "GOALWRIGHT_DRAIN_SECONDS")
    assert (found.value, found.origin) == ("3.0", "goalwright.toml")
    monkeypatch.setenv("GOALWRIGHT_DRAIN_SECONDS", "7")
    found = _setting("system", "GOALWRIGHT_DRAIN_SECONDS")
    assert (found.value, found.origin) == ("7.0", "environment")


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secretsecret")
    monkeypatch.setenv("GOALWRIGHT_NATS_URL", "nats://service:hunter22@host:4222")
    monkeypatch.setenv("GOALWRIGHT_POSTGRES_DSN", "postgresql://u:hunter22@host/db")
    shown = CliRunner().invoke(build(), ["config", "show"])
    assert shown.exit_code == 0
    assert "hunter22" not in shown.output
    assert "secretsecret" not in shown.output
    assert "host:4222" in shown.output


def test_json_lists_every_setting_with_what_it_is_for() -> None:
    shown = CliRunner().invoke(build(), ["config", "show", "agent", "--json"])
    rows = json.loads(shown.stdout)
    assert {row["reader"] for row in rows} == {"agent"}
    assert any(row["variable"] == "OPENAI_API_KEY" for row in rows)
    assert all(row["description"] for row in rows)


def test_an_unknown_reader_is_a_usage_error() -> None:
    assert CliRunner().invoke(build(), ["config", "show", "nobody"]).exit_code == 2


def test_serve_refuses_roles_for_a_service_that_has_none() -> None:
    ran = CliRunner().invoke(build(), ["serve", "executor", "--roles", "coder"])
    assert ran.exit_code == 2
    assert "the executor has no roles" in ran.output
