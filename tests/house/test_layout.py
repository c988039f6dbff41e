"""Every service looks the same, and the walls between them stand."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES = sorted(folder.name for folder in (ROOT / "services").iterdir() if folder.is_dir())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LONGEST_FILE = 600
LONGER = {"messages.py"}  # all messages on one page, so that the contract is read in one place


def package(service: str) -> Path:
    return ROOT / "services" / service / f"goalwright_{service}"


def sources() -> Iterator[Path]:
    for top in ("services", "shared", "cli", "rehearsal"):
        yield from (ROOT / top).rglob("*.py")


def functions(path: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_five_services_are_there() -> None:
    assert SERVICES == ["agent", "executor", "planner", "reflector", "scheduler"]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "file", ["__init__.py", "app.py", "handlers.py", "settings.py", "py.typed", "../README.md"]
)
def test_every_service_has_the_same_files(service: str, file: str) -> None:
    assert (package(service) / file).exists()


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_a_pure_core(service: str) -> None:
    assert (package(service) / "core.py").exists() or (package(service) / "core").is_dir()


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_started_by_serve_and_names_its_lanes(service: str) -> None:
    assert isinstance(functions(package(service) / "app.py")["serve"], ast.AsyncFunctionDef)
    assert "lanes" in functions(package(service) / "settings.py")


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_says_what_it_consumes_answers_and_owns(service: str) -> None:
    page = (ROOT / "services" / service / "README.md").read_text().lower()
    assert all(word in page for word in ("consumes", "answers", "owns", "settings"))
    assert len(page.splitlines()) < 120


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_packaged_and_walled_in(service: str) -> None:
    hatch, name = PROJECT["tool"]["hatch"]["build"], f"goalwright_{service}"
    assert f"services/{service}" in hatch["dev-mode-dirs"]
    assert f"services/{service}/{name}" in hatch["targets"]["wheel"]["packages"]
    assert name in PROJECT["tool"]["importlinter"]["root_packages"]
    assert name in PROJECT["tool"]["importlinter"]["contracts"][0]["modules"]


def test_compose_runs_each_service_under_its_folder_name() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    commands = {name: service.get("command") for name, service in services.items()}
    assert all(commands[service] == ["serve", service] for service in SERVICES)


def test_the_walls_between_the_packages_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


SUBJECT = re.compile(
    r"(goals\.(submit|request)|(work|outcomes|events|alive|logs|cancel|dead|control|query)\.([a-z]|$))"
)


def raw_subjects(path: Path) -> list[str]:
    """Strings of a module that spell a subject: not its prose, and not patterns of permissions."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]
    return [s for s in strings if SUBJECT.match(s) and " " not in s and not s.endswith((">", "*"))]


def test_raw_subjects_live_in_subjects_only() -> None:
    found = {
        str(path.relative_to(ROOT)): raw_subjects(path) for path in sources() if path.name != "subjects.py"
    }
    assert {path: raw for path, raw in found.items() if raw} == {}


def test_no_file_outgrows_its_reader() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources() if path.name not in LONGER}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST_FILE} == {}
