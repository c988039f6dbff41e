"""The environments of rivals: made on demand by uv (and npm) in a cache folder, made anew when asked for otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_REQUIREMENTS = Path(__file__).parent / "requirements"


class Missing(Exception):
    """An environment cannot be made here; the message says why."""


def folder(rival: str) -> Path:
    """Where the environment of a rival is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "goalwright-bench" / rival


def ensure(rival: str) -> Path:
    """The folder with everything installed; raises `Missing`."""
    home = folder(rival)
    wanted = "".join(file.read_text() for file in sorted(_REQUIREMENTS.glob(f"{rival}.*")))
    stamp = home / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        _install_python(home, _REQUIREMENTS / f"{rival}.txt")
        packages = _REQUIREMENTS / f"{rival}.npm"
        if packages.exists():
            _run(
                ["npm", "install", "--no-audit", "--no-fund", "--prefix", home, *packages.read_text().split()]
            )
        stamp.write_text(wanted)
    return home


def python(rival: str) -> Path:
    """The interpreter of an environment."""
    return folder(rival) / "venv" / "bin" / "python"


def _install_python(home: Path, requirements: Path) -> None:
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else "uv"
    _run([uv, "venv", "--quiet", "--python", sys.executable, home / "venv"])
    if requirements.read_text():
        _run(
            [
                uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                home / "venv" / "bin" / "python",
                "-r",
                requirements,
            ]
        )


def _run(command: list[str | Path]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from error
    if done.returncode:
        raise Missing(f"{' '.join(map(str, command))}: {done.stderr.strip()[-400:]}")
