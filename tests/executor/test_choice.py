"""Which sandbox is taken, and what is said where none isolates."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
from goalwright_executor.app import programs_run_in, sandboxes
from goalwright_executor.core import Limits, Run
from goalwright_executor.libraries import Libraries
from goalwright_executor.sandbox.bubblewrap import Bubblewrap, find_bwrap
from goalwright_executor.sandbox.choose import Choice
from goalwright_executor.sandbox.docker import Docker
from goalwright_executor.sandbox.port import Job, OnOutput
from goalwright_executor.settings import ExecutorSettings

from executor.conftest import LIMITS


def docker(image: str) -> Docker:
    return Docker(slots=1, image=image, ready=0, limits=LIMITS)


@dataclass
class Candidate:
    """A sandbox as the choice sees it: what its check says, what it lacks, whether it was closed."""

    name: str
    lacks: tuple[str, ...] = ()
    problem: str | None = None
    is_closed: bool = False

    async def check(self) -> str | None:
        return self.problem

    async def run(self, job: Job, limits: Limits, on_output: OnOutput) -> Run:
        raise NotImplementedError

    async def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("setting", "names"),
    [("auto", ["docker", "bubblewrap"]), ("bubblewrap", ["bubblewrap"]), ("docker", ["docker"])],
)
def test_auto_tries_all(setting: str, names: list[str], tmp_path: Path) -> None:
    settings = ExecutorSettings.model_validate({"sandbox": setting, "home": tmp_path})
    assert [one.name for one in sandboxes(settings, Libraries(settings))] == names


def test_auto_does_not_try_an_image_without_the_libraries_asked_for(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("humanize")
    given = {"home": tmp_path, "program_requirements": tmp_path / "mine.txt"}
    settings = ExecutorSettings.model_validate(given)
    assert [one.name for one in sandboxes(settings, Libraries(settings))] == ["bubblewrap"]


@pytest.mark.parametrize(
    ("candidates", "taken"),
    [
        ([Candidate("docker", ("swap",)), Candidate("bubblewrap")], "bubblewrap"),
        ([Candidate("docker"), Candidate("bubblewrap", ("kernel memory",))], "docker"),
        ([Candidate("docker"), Candidate("bubblewrap")], "docker"),
        (
            [Candidate("docker", problem="no engine"), Candidate("bubblewrap", ("kernel memory",))],
            "bubblewrap",
        ),
    ],
)
async def test_what_lacks_least_of_those_that_isolate_is_taken_and_the_other_closed(
    candidates: list[Candidate], taken: str
) -> None:
    choice = Choice(candidates)
    await choice.start()
    assert choice.sandbox is not None
    assert choice.sandbox.name == taken
    assert [one.name for one in candidates if not one.is_closed] == [taken]
    assert programs_run_in(choice) == {"sandbox": taken, "lacks": choice.sandbox.lacks}
    await choice.stop()
    assert all(one.is_closed for one in candidates)
    assert programs_run_in(choice) == {"sandbox": None}


async def test_where_none_isolates_every_reason_and_fix_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    choice = Choice([Bubblewrap(slots=1, bwrap=tmp_path / "bwrap"), docker("x")])
    assert choice.problem is not None
    await choice.start()
    assert choice.sandbox is None
    assert choice.problem is not None
    assert "programs are refused" in choice.problem
    assert f"bubblewrap: {tmp_path}/bwrap" in choice.problem
    assert f"docker: no Docker engine answers at unix://{tmp_path}/no.sock" in choice.problem
    await choice.stop()


async def test_a_bubblewrap_that_is_none_is_not_taken_for_one(tmp_path: Path) -> None:
    liar = tmp_path / "bwrap"
    liar.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    liar.chmod(0o755)
    sandbox = Bubblewrap(slots=1, bwrap=liar)
    problem = await sandbox.check()
    await sandbox.close()
    assert problem is not None
    assert str(liar) in problem


async def test_the_first_that_works_is_taken_and_named(tmp_path: Path) -> None:
    if not find_bwrap():
        pytest.skip("bubblewrap is not installed")
    broken, working = Bubblewrap(slots=1, bwrap=tmp_path / "bwrap"), Bubblewrap(slots=1)
    choice = Choice([broken, working])
    await choice.start()
    if choice.sandbox is None:
        pytest.skip(f"bubblewrap does not isolate here: {choice.problem}")
    assert choice.sandbox is working
    assert choice.problem is None
    await choice.stop()
    await choice.stop()


async def test_an_engine_that_does_not_answer_does_not_hold_up_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goalwright_executor.sandbox.engine._CONNECT_SECONDS", 0.2)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/deaf.sock")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{folder}/deaf.sock")
        deaf.listen()
        choice = Choice([docker("x"), Candidate("bubblewrap", ("kernel memory",))])
        await asyncio.wait_for(choice.start(), 10)
        assert choice.sandbox is not None
        assert choice.sandbox.name == "bubblewrap"
        await choice.stop()


async def test_an_engine_without_the_image_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = docker("goalwright-no-such-image:latest")
    problem = await sandbox.check()
    await sandbox.close()
    if problem is None or "no Docker engine answers" in problem:
        pytest.skip("no Docker engine answers here")
    assert "docker build -t goalwright-no-such-image:latest -f deploy/programs.Dockerfile ." in problem
