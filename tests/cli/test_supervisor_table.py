"""The table of commands: all are there, imported only when called, and errors carry an exit code and a fix."""

from __future__ import annotations

import subprocess
import sys

import pytest
from goalwright_cli import exits
from goalwright_cli.main import COMMANDS, _explained, build
from goalwright_cli.settings import SystemSettings
from goalwright_shared.errors import GoalwrightError, Refused, Unreachable
from pydantic_core import ValidationError
from typer.testing import CliRunner


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_explains_itself(name: str) -> None:
    ran = CliRunner().invoke(build(), [name, "--help"])
    assert ran.exit_code == 0, ran.output
    assert "Usage" in ran.output


def test_help_lists_every_command_and_imports_none() -> None:
    source = (
        "import sys\nfrom goalwright_cli.main import main\nsys.argv = ['goalwright', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('loaded', *sorted(name for name in sys.modules if name.startswith('goalwright_')))"
    )
    said = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert all(f" {name} " in said for name in COMMANDS)
    assert said.splitlines()[-1] == "loaded goalwright_cli goalwright_cli.main"


def test_a_mistyped_command_is_a_usage_error_with_a_suggestion() -> None:
    ran = CliRunner().invoke(build(), ["stauts"])
    assert ran.exit_code == exits.USAGE
    assert "status" in ran.output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unreachable("nats_unreachable", "no server"), exits.UNREACHABLE),
        (GoalwrightError("not_found", "no goal x"), exits.NOT_FOUND),
        (Refused("bad_home", "no"), exits.FAILED),
    ],
)
def test_an_error_that_a_person_can_mend_has_its_exit_code(error: GoalwrightError, code: int) -> None:
    assert _explained(error) == (str(error), code)


def test_a_bug_is_not_hidden_behind_a_message() -> None:
    assert _explained(KeyError("x")) is None


def test_a_wrong_setting_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOALWRIGHT_NATS_PORT", "many")
    with pytest.raises(ValidationError) as caught:
        SystemSettings()
    found = _explained(caught.value)
    assert found is not None
    assert "GOALWRIGHT_NATS_PORT" in found[0]
    assert found[1] == exits.USAGE
