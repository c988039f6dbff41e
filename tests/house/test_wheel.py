"""The wheel is whole: what a plain `pip install` gets is what an editable one sees."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOPS = ("services", "shared", "cli", "rehearsal")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network and unpacked."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place / "site")
    return place / "site"


def test_every_file_of_every_package_is_in_the_wheel(installed: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [ROOT / name for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    there = {file.parent for top in TOPS for file in (ROOT / top).glob("**/goalwright_*/__init__.py")}
    assert set(packages) == there
    files = [
        (p.parent, file.relative_to(p.parent)) for p in packages for file in p.rglob("*") if file.is_file()
    ]
    wanted = {file for _, file in files if file.suffix != ".pyc" and not _hidden(file)}
    assert {"dispatch.sql", "plan.md", "libraries.txt", "profile.py", "script.py.mako"} <= {
        f.name for f in wanted
    }
    assert {file for file in wanted if not (installed / file).is_file()} == set()


def _hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)


def test_the_command_of_the_wheel_runs(installed: Path, tmp_path: Path) -> None:
    program = "import goalwright_cli.main as m; print(m.__file__); m.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "version"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(str(installed))
    assert done.stdout.splitlines()[1].startswith("goalwright ")
