"""What the executor decides: verdicts, limits, which files are outputs, which paths are safe."""

from __future__ import annotations

from dataclasses import replace

import pytest
from goalwright_executor import core
from goalwright_executor.core import Kind, Limit, Limits, Refusal, Run
from goalwright_executor.settings import ExecutorSettings
from goalwright_shared.messages import ArtifactType, OutputSpec, ProgramSpec
from hypothesis import given
from hypothesis import strategies as st

LIMITS = Limits(seconds=5, memory_bytes=64 << 20, processes=8, disk_bytes=8 << 20, output_bytes=1 << 20)
RUN = Run("test", 0, None, 0.1, 0.1, 1, b"", b"")


def spec(name: str = "x", type: ArtifactType = ArtifactType.FILE) -> OutputSpec:
    return OutputSpec(name=name, type=type)


def test_the_command_names_source_and_arguments() -> None:
    python = ProgramSpec(source="", args=["-v", "a b"])
    assert core.command(python, "/usr/bin/python3") == ("/usr/bin/python3", "main.py", "-v", "a b")
    shell = ProgramSpec(language="shell", source="")
    assert core.command(shell, "/usr/bin/python3") == ("/bin/sh", "main.sh")


def test_exit_0_within_the_limits_is_no_failure() -> None:
    assert core.failure(RUN, LIMITS) is None
    assert core.failure(replace(RUN, stderr=b"MemoryError"), LIMITS) is None


@pytest.mark.parametrize(
    ("run", "code", "message"),
    [
        (replace(RUN, exit_code=3), "program_failed", "exit code 3"),
        (replace(RUN, exit_code=1, stderr=b"E: bad\n"), "program_failed", "exit code 1: E: bad"),
        (replace(RUN, exit_code=139), "program_failed", "ended by signal 11 (exit code 139)"),
        (replace(RUN, exit_code=None, limit=Limit.TIMEOUT), "timeout", "killed after 0.1 s"),
        (replace(RUN, exit_code=None, limit=Limit.OUTPUT), "output_limit", "more than 1 MB"),
        (replace(RUN, exit_code=1, stderr=b"x\nMemoryError"), "out_of_memory", "its 64 MB"),
        (
            replace(
                RUN, exit_code=1, stderr=b"numpy._core._exceptions._ArrayMemoryError: Unable to allocate\n"
            ),
            "out_of_memory",
            "its 64 MB",
        ),
        (
            replace(RUN, exit_code=1, stderr=b"OSError: [Errno 28] No space left on device"),
            "disk_limit",
            "8 MB",
        ),
    ],
)
def test_a_failure_names_its_class_and_says_what_was_seen(run: Run, code: str, message: str) -> None:
    error = core.failure(run, LIMITS)
    assert error is not None
    assert (error.code, error.retryable) == (code, False)
    assert message in error.message


@given(
    st.integers(0, 255) | st.none(),
    st.none() | st.sampled_from(Limit),
    st.binary(max_size=50),
    st.binary(max_size=50),
)
def test_a_run_fails_exactly_when_it_did_not_exit_0_or_hit_a_limit(
    exit_code: int | None, limit: Limit | None, stdout: bytes, stderr: bytes
) -> None:
    run = replace(RUN, exit_code=exit_code, limit=limit, stdout=stdout, stderr=stderr)
    error = core.failure(run, LIMITS)
    assert (error is None) == (exit_code == 0 and limit is None)
    record = core.record(run, core.tail(stdout), core.tail(stderr), [])
    assert record.exit_code == exit_code
    record.to_json().decode()
    assert "\0" not in record.stdout + record.stderr


def test_only_the_end_of_a_long_print_is_kept() -> None:
    assert core.tail(b"a" * 10_000 + b"end").endswith("end")
    assert len(core.tail("ä".encode() * 10_000)) == core.KEPT_CHARACTERS


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        ({"x": "file"}, "x"),
        ({"x.csv": "file", "y": "file"}, "x.csv"),
        ({"x": "file", "x.csv": "file"}, "x"),
        ({"x.tar.gz": "file"}, "x.tar.gz"),
    ],
)
def test_an_output_is_its_name_or_the_only_name_with_an_ending(entries: dict[str, Kind], chosen: str) -> None:
    assert core.choose(spec(), entries) == chosen


@pytest.mark.parametrize(
    ("entries", "type", "code", "said"),
    [
        ({}, ArtifactType.FILE, "missing_output", "it left nothing"),
        ({"xy.csv": "file"}, ArtifactType.FILE, "missing_output", "out/xy.csv"),
        ({"d": "folder", "d/x": "file"}, ArtifactType.FILE, "missing_output", "out/d"),
        ({"x.a": "file", "x.b": "file"}, ArtifactType.FILE, "refused_output", "ambiguous: x.a, x.b"),
        ({"x": "other"}, ArtifactType.FILE, "refused_output", "link or a device"),
        ({"x": "folder"}, ArtifactType.TEXT, "refused_output", "is a folder"),
        ({"x": "folder", "x/l": "other"}, ArtifactType.FOLDER, "refused_output", "out/x/l"),
    ],
)
def test_what_is_no_output_is_refused_with_the_reason(
    entries: dict[str, Kind], type: ArtifactType, code: str, said: str
) -> None:
    refusal = core.choose(spec(type=type), entries)
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert said in refusal.message


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@given(st.lists(names | st.sampled_from(["..", ".", "", "/", "a/.."]), max_size=6).map("/".join))
def test_no_archive_path_leads_out_of_its_folder(path: str) -> None:
    safe = core.safe_path(path)
    if safe is not None:
        parts = safe.split("/")
        assert ".." not in parts
        assert not safe.startswith("/")
        assert core.safe_path(safe) == safe


def test_limits_follow_the_task_and_the_goal() -> None:
    settings = ExecutorSettings(program_seconds=60, program_memory_mb=512)
    assert settings.limits(None).seconds == 60
    assert settings.limits(90).seconds == 90
    assert settings.limits(90, left_seconds=10).seconds == 10
    assert settings.limits(1e9).seconds == 3600
    assert settings.limits(None, left_seconds=-5).seconds == 1
    assert settings.limits(None).memory_bytes == 512 << 20
