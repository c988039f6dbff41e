"""The same suite as a plain user, where bubblewrap works by user namespaces: what a laptop has."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_UID = 12_345

_TESTS = "bubblewrap and (bomb or reach or leak or gained or daemon or sleepers or memory or reads or rare)"
"""What rests on who runs it; the whole suite passes as a plain user too."""


def as_user(command: list[str], home: str) -> subprocess.CompletedProcess[str]:
    """`command` as a user that owns nothing but `home`."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        command, user=_UID, group=_UID, extra_groups=[], env=environment, cwd=HERE.parents[1],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="this is a plain user already")
def test_a_plain_user_gets_the_same_isolation() -> None:
    with tempfile.TemporaryDirectory(prefix="goalwright-user-") as home:
        os.chown(home, _UID, _UID)
        probe = "import pytest, pydantic_core, goalwright_executor, executor.conftest"
        pythons = (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
        usable = []
        for python in pythons:
            try:
                usable += [python] if as_user([python, "-c", probe], home).returncode == 0 else []
            except OSError:  # not there, or in a folder that is closed to others
                continue
        if not usable:
            pytest.skip("no interpreter and checkout that another user could read")
        suite = [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            _TESTS,
            "--basetemp",
            f"{home}/pytest",
        ]
        done = as_user([usable[0], *suite, str(HERE / "test_sandbox_conformance.py")], home)
        assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-1_000:]
        assert " passed" in done.stdout
        assert "skipped" not in done.stdout, done.stdout[-2_000:]
