"""The Makefile's own promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAND_IN = '#!/bin/sh\nfor argument in "$@"; do printf "<%s>\\n" "$argument"; done\n'


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The Makefile beside everything `setup` would make, and a `goalwright` that echoes its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    executor = tmp_path / "services/executor/goalwright_executor"
    program = tmp_path / ".venv/bin/goalwright"
    for folder in (executor, program.parent):
        folder.mkdir(parents=True)
    for source in ("pyproject.toml", "constraints.txt"):
        (tmp_path / source).touch()
    for source in ("libraries.py", "libraries.txt"):
        (executor / source).touch()
    for stamp in (".python", ".installed", ".libraries"):
        (tmp_path / ".venv" / stamp).touch()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-s", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_lists_every_command_with_what_it_does() -> None:
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    listed = make(ROOT)
    assert [name for name in targets[1].split() if not re.search(rf"make {name} +\S", listed)] == []


@pytest.mark.parametrize(
    "goal",
    ["it's", 'say "hi"', "costs $5 $(HOME) ${x}", "`id` \\ ; # &", "--help", "two\nlines", "Zürich → 東京"],
)
def test_a_goal_arrives_as_it_was_typed(installed: Path, goal: str) -> None:
    assert make(installed, "run", f"GOAL={goal}") == f"<run>\n<-->\n<{goal}>\n"


def test_a_file_with_spaces_arrives_as_one_argument(installed: Path) -> None:
    said = make(installed, "run", "GOAL=Profile it", "FILE=my data/a $1.csv")
    assert said == "<run>\n<--file>\n<my data/a $1.csv>\n<-->\n<Profile it>\n"


def test_run_without_a_goal_leaves_the_choice_to_the_program(installed: Path) -> None:
    assert make(installed, "run") == "<run>\n"


def test_an_old_python_is_refused_with_the_fix(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "-s", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
