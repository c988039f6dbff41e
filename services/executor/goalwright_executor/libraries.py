"""The libraries of programs: a read-only folder of their own, apart from the services' environment.

Built once per content of the requirements and Python version into `share/goalwright/libraries/<hash>` of the
virtual environment (`$GOALWRIGHT_HOME/libraries/<hash>` where that is read-only), so that every home shares it:
`packages/` goes on the programs' PYTHONPATH, `matplotlib/` holds a font list made in advance (making it takes
a second of every program that draws). `python -m goalwright_executor.libraries` builds it and prints where.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import structlog
from goalwright_shared.errors import GoalwrightError
from goalwright_shared.telemetry import configure_logging

from goalwright_executor.settings import ExecutorSettings

log = structlog.get_logger(__name__)

BUILT_IN = Path(__file__).with_name("libraries.txt")

_COMPLETE = "complete"
_FONT_LIST = "import matplotlib.font_manager"


class LibrariesFailed(GoalwrightError):
    """The program libraries could not be installed; the message is the installer's."""


def requirements(settings: ExecutorSettings) -> list[Path]:
    """The requirements files: ours, and the user's on top; raises `LibrariesFailed` when that is missing."""
    own = settings.program_requirements
    if own is not None and not own.is_file():
        raise LibrariesFailed(
            "no_requirements", f"{own} does not exist", hint="mend GOALWRIGHT_PROGRAM_REQUIREMENTS"
        )
    return [BUILT_IN] + ([own] if own else [])


def folder(settings: ExecutorSettings) -> Path:
    """Where the libraries are, or will be."""
    if settings.program_libraries is not None:
        return settings.program_libraries.absolute()
    digest = hashlib.sha256()
    digest.update(f"{sys.version_info[:2]} {platform.machine()} {sys.implementation.cache_tag}".encode())
    for file in requirements(settings):
        digest.update(b"\0" + file.read_bytes())
    name = digest.hexdigest()[:16]
    shared, own = (
        Path(sys.prefix) / "share/goalwright/libraries" / name,
        settings.home.absolute() / "libraries" / name,
    )
    return shared if is_complete(shared) or os.access(sys.prefix, os.W_OK) else own


def is_complete(place: Path) -> bool:
    """Whether a folder was built to its end."""
    return (place / _COMPLETE).is_file()


def ensure(settings: ExecutorSettings) -> Path:
    """The complete folder, built now if need be (20 s and a package index). Safe to call from many processes:
    one builds, the others wait. Raises `LibrariesFailed`."""
    place = folder(settings)
    if is_complete(place):
        return place
    if settings.program_libraries is not None:
        raise LibrariesFailed(
            "no_libraries",
            f"{place} is no library folder",
            hint="build one with `python -m goalwright_executor.libraries`, or unset "
            "GOALWRIGHT_PROGRAM_LIBRARIES",
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(place.with_suffix(".lock")):
        if not is_complete(place):
            _build(place, requirements(settings))
    return place


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(place: Path, files: list[Path]) -> None:
    """Install beside the final place and rename, so that a killed build leaves nothing that looks whole."""
    log.info("building the program libraries, once", folder=str(place))
    building = place.with_suffix(".building")
    for old in (building, place):
        shutil.rmtree(old, ignore_errors=True)
    (building / "packages").mkdir(parents=True)
    _run([*_installer(building / "packages"), *(word for file in files for word in ("-r", str(file)))])
    _make_font_list(building)
    (building / _COMPLETE).write_text("\n".join(file.read_text() for file in files))
    building.rename(place)


def _installer(target: Path) -> list[str]:
    python = str(base_python())
    uv = shutil.which(
        "uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    )
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", python, "--target", str(target),
                "--compile-bytecode"]  # fmt: skip
    pip = sys.executable if find_spec("pip") else python  # an environment may be made without pip
    return [pip, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--target", str(target)]  # fmt: skip


def _make_font_list(building: Path) -> None:
    """Only where matplotlib is among the libraries; programs do without when it fails."""
    if not (building / "packages" / "matplotlib").is_dir():
        return
    (building / "matplotlib").mkdir()
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(building),
        "PYTHONPATH": str(building / "packages"),
        "MPLCONFIGDIR": str(building / "matplotlib"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    subprocess.run(
        [str(base_python()), "-c", _FONT_LIST], env=environment, capture_output=True, check=False, timeout=120
    )


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-1_500:]
        raise LibrariesFailed(
            "libraries_failed",
            f"the program libraries could not be installed: {said}",
            hint="is a package index reachable, and uv or pip installed? then "
            "`python -m goalwright_executor.libraries` again",
        )


def base_python() -> Path:
    """The interpreter that programs run under: ours, without the virtual environment around it."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


@functools.cache
def site_packages(python: Path) -> tuple[str, ...]:
    """The folders that an interpreter imports installed packages from, those that there are."""
    command = [str(python), "-I", "-S", "-c", "import site; print(*site.getsitepackages(), sep='\\n')"]
    found = subprocess.run(command, env={}, capture_output=True, text=True, check=False, timeout=60)
    return tuple(folder for folder in found.stdout.splitlines() if Path(folder).is_dir())


class Libraries:
    """A part: `start()` builds the libraries when they are not there. Where that fails, programs run without
    them, and the log says how to mend it."""

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings
        self.folder = folder(settings)

    async def start(self) -> None:
        """Build if need be."""
        try:
            await asyncio.to_thread(ensure, self._settings)
        except LibrariesFailed as error:
            log.error("programs run without libraries", error=str(error))

    async def stop(self) -> None:
        """Nothing to release."""


def main() -> int:
    """Build if need be; print the folder."""
    configure_logging("libraries")  # to stderr: stdout is the folder alone
    try:
        sys.stdout.write(f"{ensure(ExecutorSettings())}\n")
    except LibrariesFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
