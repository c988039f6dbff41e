"""The values of Parquet files: what comes out of the sandbox as text, and how the rules of tables are held to it."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import re
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from goalwright_executor import libraries
from goalwright_executor.core import Limit, Limits, Run
from goalwright_executor.handlers import Executor
from goalwright_executor.inputs import Inputs
from goalwright_executor.sandbox.bubblewrap import Bubblewrap
from goalwright_executor.sandbox.choose import Choice
from goalwright_executor.sandbox.port import Cancelled, Job, OnOutput, SandboxLost
from goalwright_executor.scratch import Scratch
from goalwright_executor.settings import ExecutorSettings
from goalwright_executor.values import Values
from goalwright_shared.checks import check_output
from goalwright_shared.clock import SystemClock
from goalwright_shared.messages import CheckResult, OutputSpec, TaskSpec, Work
from goalwright_shared.tables import Reader, Unread, meant
from goalwright_shared.worker import Attempt
from support.artifacts import MemoryArtifacts

from executor.conftest import LIMITS, make
from executor.test_typed_outputs import table, tar

TABLES = Path(__file__).parent / "tables"

EVERY_TYPE = TABLES / "every_type.parquet"
"""Three rows of each type, written by pyarrow without statistics: no footer says how many cells are empty."""

MANY_ROWS, ROWS = TABLES / "many_rows.parquet", 200_000
"""`id` from 0 up, in three row groups."""


# --- out of the sandbox --------------------------------------------------------------------------------


@pytest.fixture(params=["bubblewrap", "docker"])
async def values(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Values]:
    """A reader in each sandbox that has the libraries of programs."""
    sandbox = make(request.param)
    if request.param == "bubblewrap":
        await sandbox.close()
        place = await asyncio.to_thread(libraries.ensure, ExecutorSettings())
        sandbox = Bubblewrap(slots=1, libraries=place)
    problem = await sandbox.check()
    if problem is not None:
        await sandbox.close()
        pytest.skip(f"{request.param} does not isolate here: {problem}")
    async with aclosing(Values(sandbox, folder, lambda: LIMITS)) as reader:
        yield reader
    assert os.listdir(folder) == []
    await sandbox.close()


EXPECTED = {
    "i": ["=1", "", "=3"],
    "u64": ["=1", "", "=18446744073709551615"],
    "big": ["=9007199254740992", "=9007199254740993", ""],
    "f": ["=1.0", "", "=0.1"],
    "f32": ["=1.0", "", "=0.1"],
    "nan": ["=1.0", "", ""],
    "s": ["=", '=a\n"b",c', ""],
    "b": ["=True", "", "=False"],
    "ts": ["=2024-01-01T00:00:00", "", "=2024-01-03T10:00:00.0005"],
    "tsns": ["=2024-01-01T00:00:00", "", "=2024-01-03T10:00:00.0005"],
    "tz": ["=2024-01-01T00:00:00", "", "=9024-01-03T10:00:00.0005"],
    "d": ["=2024-01-01", "", "=1024-02-29"],
    "dec": ["=1.50", "", "=-2.25"],
    "decbig": ["=12345678901234567890123456789012345.67", "", "=12345678901234567890123456789012345.68"],
    "dec0": ["=256", "", "=0"],
    "by": ["=", "=\\xffa", ""],
    "cat": ["=x", "", "=y"],
    "uid": ["=00000000-0000-0000-0000-000000000001", "", "=80000000-0000-0000-0000-000000000000"],
}
"""Cells by column: integers of all 64 bits, decimals of all digits, times in UTC."""


async def test_every_type_of_parquet_is_told_as_text_without_loss(values: Values) -> None:
    with EVERY_TYPE.open("rb") as file:
        found = await asyncio.to_thread(values.read, file, list(EXPECTED))
    with found:
        text = io.TextIOWrapper(found, encoding="utf-8", newline="")
        header, *body = csv.reader(text)
    assert len(header) == len(EXPECTED)
    assert dict(zip(EXPECTED, map(list, zip(*body, strict=True)), strict=True)) == EXPECTED


async def test_a_damage_behind_a_sound_footer_is_told_and_fails_nothing(
    values: Values, tmp_path: Path
) -> None:
    """What fastparquet cannot decode may be damaged, or only newer than it: no reason to reject it."""
    whole, path = EVERY_TYPE.read_bytes(), tmp_path / "x.parquet"
    path.write_bytes(whole[:4] + bytes(1_000) + whole[1_004:])
    result = await asyncio.to_thread(checked, path, [table("t", i={"unique": True})], values.read)
    assert result.passed
    assert "matches; not checked: column i: unique, as its values could not be read: " in result.evidence


def most_memory() -> int:
    """Bytes that this process had in memory at most since the last `forget_memory`."""
    [kilobytes] = re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(kilobytes) << 10


def forget_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


async def test_many_rows_are_read_in_little_memory(values: Values) -> None:
    forget_memory()
    before = most_memory()
    result = await asyncio.to_thread(checked, MANY_ROWS, [table("t", id={"unique": True})], values.read)
    assert result.evidence == "x: matches"
    assert most_memory() - before < 16 << 20


# --- what may go wrong ---------------------------------------------------------------------------------


@dataclass
class Scripted:
    """A sandbox that answers the same to every program that reads values, or never ends it; other programs leave a
    file."""

    answer: Run | SandboxLost | None
    leaves: Path | None = None
    lacks: tuple[str, ...] = ()
    name: str = "scripted"
    started: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    limits: Limits | None = None

    async def check(self) -> str | None:
        return None

    async def close(self) -> None:
        pass

    async def run(self, job: Job, limits: Limits, on_output: OnOutput) -> Run:
        if job.program.stdin is None and self.leaves is not None:
            with tarfile.open(job.outputs, "w") as archive:
                archive.add(self.leaves, "t.parquet")
            return FINE
        self.limits = limits
        self.started.set()
        if isinstance(self.answer, SandboxLost):
            raise self.answer
        if self.answer is not None:
            return self.answer
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended = True
        raise AssertionError


FINE = Run("scripted", 0, None, 0.1, 0.1, 1, b"", b"")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            replace(FINE, exit_code=1, stderr=b"ModuleNotFoundError: No module named 'fastparquet'"),
            "No module",
        ),
        (
            replace(FINE, exit_code=None, limit=Limit.OUT_OF_MEMORY),
            "it needed more than its 256 MB of memory",
        ),
        (replace(FINE, exit_code=None, limit=Limit.TIMEOUT), "killed after 0.1 s; it may take 20 s"),
        (FINE, "No such file"),
    ],
)
async def test_values_that_cannot_be_read_leave_a_rule_unchecked_and_say_why(
    answer: Run, says: str, folder: Path
) -> None:
    async with aclosing(Values(Scripted(answer), folder, lambda: LIMITS)) as values:
        result = await asyncio.to_thread(checked, EVERY_TYPE, [table("t", i={"unique": True})], values.read)
    assert result.passed
    assert "not checked: column i: unique, as its values could not be read: " in result.evidence
    assert says in result.evidence
    assert os.listdir(folder) == []


async def test_a_sandbox_that_is_lost_is_no_finding_but_worth_another_try(folder: Path) -> None:
    async with aclosing(Values(Scripted(SandboxLost("gone")), folder, lambda: LIMITS)) as values:
        with pytest.raises(SandboxLost):
            await asyncio.to_thread(checked, EVERY_TYPE, [table("t", i={"unique": True})], values.read)


async def test_closing_ends_what_is_being_read_before_it_returns(folder: Path) -> None:
    sandbox = Scripted(None)
    values = Values(sandbox, folder, lambda: LIMITS)
    declared = [table("t", i={"unique": True})]
    checking = asyncio.create_task(asyncio.to_thread(checked, EVERY_TYPE, declared, values.read))
    await asyncio.wait_for(sandbox.started.wait(), 10)
    await values.aclose()
    assert sandbox.ended
    with pytest.raises(asyncio.CancelledError):
        await checking
    with pytest.raises(Cancelled):
        await asyncio.to_thread(checked, EVERY_TYPE, declared, values.read)
    assert os.listdir(folder) == []


@pytest.fixture
async def disk(folder: Path) -> AsyncIterator[Scratch]:
    scratch = Scratch(folder)
    await scratch.start()
    yield scratch
    await scratch.stop()


async def test_a_cancelled_task_ends_the_reading_of_values_too(disk: Scratch, folder: Path) -> None:
    sandbox = Scripted(None, leaves=EVERY_TYPE)
    choice = Choice([sandbox])
    await choice.start()
    settings = ExecutorSettings(home=folder, program_seconds=40)
    executor = Executor(settings, disk, Inputs(folder / "inputs", 0), SystemClock(), choice)
    schema = {"columns": [{"name": "i", "unique": True}]}
    spec = {
        "key": "t", "lane": "exec", "program": {"source": ""}, "timeout_seconds": 5,
        "outputs": [{"name": "t", "type": "table", "schema": schema}],
    }  # fmt: skip
    soon = datetime.now(UTC) + timedelta(seconds=30)
    work = Work(
        goal_id="g", task_id="1", epoch=1, lane="exec", spec=TaskSpec.model_validate(spec), deadline=soon
    )
    attempt = Attempt(work, None, MemoryArtifacts(), None)  # type: ignore[arg-type]  # nothing is asked or logged
    performing = asyncio.create_task(executor.perform(work, attempt))
    await asyncio.wait_for(sandbox.started.wait(), 10)
    assert sandbox.limits is not None
    assert 5 < sandbox.limits.seconds <= 30  # not what its program may take, but what is left of its time
    performing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await performing
    assert sandbox.ended


# --- the rules, with values as a test says them --------------------------------------------------------


def checked(
    data: bytes | Path, tables: Sequence[Mapping[str, Any]], read: Reader, type: str = "table"
) -> CheckResult:
    """The result of a schema."""
    spec = OutputSpec.model_validate({"name": "x", "type": type, "schema": {"tables": list(tables)}})
    return check_output(spec, data, read)[-1]


def telling(**columns: list[str]) -> Callable[[BinaryIO, Sequence[str]], BinaryIO]:
    """A reader that says these cells whatever the file holds."""

    def read(file: BinaryIO, names: Sequence[str]) -> BinaryIO:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(names)
        writer.writerows(zip(*(columns[name] for name in names), strict=True))
        return io.BytesIO(text.getvalue().encode())

    return read


def never(file: BinaryIO, names: Sequence[str]) -> BinaryIO:
    raise AssertionError(f"nobody needs the values of {names}")


@pytest.mark.parametrize(
    ("rules", "cells", "says"),
    [
        ({"unique": True}, ["=7", "=8", "=7"], "row 3, column s: not unique: '7' is in row 1 too"),
        ({"unique": True}, ["=7", "", ""], "matches"),
        ({"unique": True}, ["=7", "=", "="], "row 3, column s: not unique: '' is in row 2 too"),
        ({"nullable": False}, ["=7", "=", "=8"], "matches"),
        ({"nullable": False}, ["=7", "=", ""], "row 3, column s: it is empty"),
        ({"references": "t.s"}, ["=7", "", "=8"], "matches"),
    ],
)
def test_values_of_parquet_are_held_to_their_rules(
    rules: dict[str, Any], cells: list[str], says: str
) -> None:
    assert checked(EVERY_TYPE, [table("t", s=rules)], telling(s=cells)).evidence == f"x: {says}"


def test_a_type_that_the_footer_does_not_tell_is_looked_for_in_the_values() -> None:
    declared, cells = [table("t", by="date")], ["=2024-01-01", "", "=\\xffa"]
    assert (
        "row 3, column by: '\\\\xffa' is no date" in checked(EVERY_TYPE, declared, telling(by=cells)).evidence
    )


def test_nobody_reads_values_when_the_footer_answers_every_rule() -> None:
    declared = table("t", id={"type": "integer", "nullable": False}, day="date", name="text", price={})
    assert checked(TABLES / "by_pyarrow.parquet", [declared], never).evidence == "x: matches"
    missing = checked(TABLES / "by_pyarrow.parquet", [table("t", colour={"unique": True})], never)
    assert "no column colour" in missing.evidence


def dataset(csv_: bytes) -> bytes:
    """A data set with one table of each form."""
    return tar(visits_csv=csv_, people_parquet=EVERY_TYPE.read_bytes())


@pytest.mark.parametrize(
    ("cells", "body", "lost"),
    [
        (["=1", "", "=3"], b"n,p\na,3\nb,1\n", ""),
        (["=1", "", "=3"], b"n,p\na,3.0\nb,\n", ""),
        (["=1.0", "", "=3.50"], b"n,p\na,1\nb,3.5\n", ""),
        (["=2024-01-01T00:00:00", "", "="], b"n,p\na,2024-01-01\nb,2024-01-01 00:00:00+00:00\n", ""),
        (["=True", "=False", ""], b"n,p\na,true\nb,False\n", ""),
        (["=1", "", "=3"], b"n,p\na,3\nb,2\n", "row 2, column p: '2'"),
        (["=1", "", "=3"], b"n,p\na,01\n", "row 1, column p: '01'"),
        (["=1", "", "=3"], b"n,p\na,1e999999999999999999999\n", "row 1, column p"),
    ],
)
def test_a_csv_table_refers_to_a_parquet_table_by_value(cells: list[str], body: bytes, lost: str) -> None:
    declared = [table("visits", p={"references": "people.i"}), table("people", i={})]
    result = checked(dataset(body), declared, telling(i=cells), "dataset")
    assert result.passed == (lost == ""), result.evidence
    assert lost in result.evidence


def test_a_parquet_table_refers_to_a_csv_table_by_value() -> None:
    declared = [table("visits", n={"unique": True}), table("people", i={"references": "visits.n"})]
    fine, lost = telling(i=["=1", "", "=3"]), telling(i=["=1", "", "=4"])
    assert checked(dataset(b"n\n1.0\n3\n"), declared, fine, "dataset").passed
    assert (
        "table people, row 3, column i: '4' is not in visits.n"
        in checked(dataset(b"n\n1\n3\n"), declared, lost, "dataset").evidence
    )


def test_texts_refer_to_the_same_text_and_not_to_the_same_number() -> None:
    declared = [table("visits", p={"type": "text", "references": "people.i"}), table("people", i={})]
    result = checked(dataset(b"p\n1.0\n"), declared, telling(i=["=1", "", "=3"]), "dataset")
    assert "row 1, column p: '1.0' is not in people.i" in result.evidence


def test_who_refers_to_values_that_are_not_read_says_so() -> None:
    declared = [table("visits", p={"references": "people.i"}), table("people", i={})]
    result = checked(dataset(b"p\n1\n"), declared, telling(i=["=1", "=2"]), "dataset")
    assert result.passed
    assert result.evidence == (
        "x: matches; not checked: table visits: column p: references, as the values of people.i are not read"
    )
    own = checked(EVERY_TYPE, [table("t", i={"unique": True})], telling(i=["=1", "=2"]))
    assert "column i: unique, as 2 of its 3 rows could be read" in own.evidence


def test_what_is_not_checked_never_hides_an_error() -> None:
    def unread(file: BinaryIO, names: Sequence[str]) -> BinaryIO:
        raise Unread("there are no libraries")

    declared = [
        table("people", **{name: {"unique": True} for name in EXPECTED}),
        table("visits", n="integer"),
    ]
    result = checked(dataset(b"n\nx\n"), declared, unread, "dataset")
    assert not result.passed
    assert result.evidence.startswith("x: table visits: row 1, column n: 'x' is no integer; not checked: ")
    assert result.evidence.endswith("as there are no libraries; not checked: 13 more")


def test_forms_of_one_value_mean_the_same() -> None:
    assert meant("100") == meant("1e2") == meant("100.00")
    assert meant("2024-01-01T01:00:00+01:00") == meant("2024-01-01 00:00:00")
    assert meant("0001-01-01T00:00:00+14:00") == "0001-01-01T00:00:00+14:00"
    assert len({meant(text) for text in ("007", "7", "", "seven", "NaN")}) == 5
