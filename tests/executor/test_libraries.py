"""The libraries of programs: built once, complete or absent, read-only to programs."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from goalwright_executor import libraries
from goalwright_executor.libraries import LibrariesFailed
from goalwright_executor.sandbox.bubblewrap import Bubblewrap
from goalwright_executor.settings import ExecutorSettings

from executor.conftest import LIMITS, Bench, left

ROOT = Path(__file__).parents[2]

_DRAW = """
import matplotlib.pyplot as plt, numpy as np, pandas as pd, sys, time
frame = pd.read_csv("in/t.csv")
frame["double"] = np.array(frame["a"]) * 2
frame.to_csv("out/t.csv", index=False)
plt.plot(frame["double"]); plt.title("äöü"); plt.savefig("out/chart.png"); plt.savefig("out/chart.svg")
try:
    open(np.__file__, "a")
except OSError as error:
    print(type(error).__name__)
"""


async def test_programs_compute_and_draw_with_the_built_in_libraries(folder: Path) -> None:
    place = await asyncio.to_thread(libraries.ensure, ExecutorSettings(home=ROOT / ".goalwright"))
    sandbox = Bubblewrap(slots=1, libraries=place)
    problem = await sandbox.check()
    if problem is not None:
        await sandbox.close()
        pytest.skip(f"bubblewrap does not isolate here: {problem}")
    limits = replace(LIMITS, seconds=60, memory_bytes=512 << 20)
    run, job = await Bench(sandbox, folder).run(_DRAW, inputs={"t.csv": b"a\n1\n2\n"}, limits=limits)
    await sandbox.close()
    assert run.exit_code == 0, run.stderr
    found = left(job)
    assert found["t.csv"] == b"a,double\n1,2\n2,4\n"
    assert (found["chart.png"] or b"").startswith(b"\x89PNG")
    assert b"<svg" in (found["chart.svg"] or b"")
    assert run.stdout.strip() in (b"OSError", b"PermissionError")
    assert run.stderr == b""


@pytest.fixture
def nothing_built_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "none.txt"
    empty.write_text("# nothing\n")
    monkeypatch.setattr(libraries, "BUILT_IN", empty)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "elsewhere"))  # not the environment of the tests


@pytest.mark.usefixtures("nothing_built_in")
async def test_many_that_need_the_libraries_at_once_build_them_once(tmp_path: Path) -> None:
    settings = ExecutorSettings(home=tmp_path)
    places = await asyncio.gather(*(asyncio.to_thread(libraries.ensure, settings) for _ in range(4)))
    assert len(set(places)) == 1
    assert libraries.is_complete(places[0])
    before = os.stat(places[0]).st_ino  # a stat
    await asyncio.to_thread(libraries.ensure, settings)
    assert os.stat(places[0]).st_ino == before


@pytest.mark.usefixtures("nothing_built_in")
def test_a_build_that_was_killed_is_done_again(tmp_path: Path) -> None:
    settings = ExecutorSettings(home=tmp_path)
    place = libraries.folder(settings)
    (place / "packages").mkdir(parents=True)  # without the marker
    (place.with_suffix(".building") / "half").mkdir(parents=True)
    assert libraries.ensure(settings) == place
    assert libraries.is_complete(place)
    assert not place.with_suffix(".building").exists()


@pytest.mark.usefixtures("nothing_built_in")
def test_the_users_requirements_make_another_folder(tmp_path: Path) -> None:
    own = tmp_path / "mine.txt"
    own.write_text("# also nothing\n")
    plain = ExecutorSettings(home=tmp_path)
    extended = ExecutorSettings(home=tmp_path, program_requirements=own)
    assert libraries.folder(plain) != libraries.folder(extended)
    first = libraries.folder(extended)
    own.write_text("# changed\n")
    assert libraries.folder(extended) != first


@pytest.mark.usefixtures("nothing_built_in")
def test_what_cannot_be_installed_is_told_with_the_fix_and_leaves_nothing(tmp_path: Path) -> None:
    own = tmp_path / "mine.txt"
    own.write_text("./no-such-package-here\n")
    settings = ExecutorSettings(home=tmp_path, program_requirements=own)
    with pytest.raises(LibrariesFailed, match="no-such-package-here"):
        libraries.ensure(settings)
    assert not libraries.is_complete(libraries.folder(settings))


def test_a_requirements_file_that_is_missing_is_named(tmp_path: Path) -> None:
    settings = ExecutorSettings(home=tmp_path, program_requirements=tmp_path / "gone.txt")
    with pytest.raises(LibrariesFailed, match=r"gone\.txt does not exist"):
        libraries.ensure(settings)


def test_a_prepared_folder_is_used_as_it_is(tmp_path: Path) -> None:
    settings = ExecutorSettings(home=tmp_path, program_libraries=tmp_path / "prepared")
    with pytest.raises(LibrariesFailed, match="is no library folder"):
        libraries.ensure(settings)
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "complete").touch()
    assert libraries.ensure(settings) == tmp_path / "prepared"
    assert stat.S_ISDIR((tmp_path / "prepared").stat().st_mode)
