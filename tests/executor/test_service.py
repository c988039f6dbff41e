"""The executor as it is deployed: work in over a real NATS server, outcomes and live lines out."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import pytest
from goalwright_executor import app
from goalwright_executor.settings import ExecutorSettings, lanes
from goalwright_shared import subjects, topology
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.health import Health
from goalwright_shared.lifecycle import Part, Stopper
from goalwright_shared.messages import (
    ArtifactRef,
    ArtifactType,
    Done,
    Failed,
    Outcome,
    TaskSpec,
    Throttled,
    Work,
    parse_outcomes,
)
from nats.aio.client import Client
from support.waiting import eventually


class House:
    """A running executor and the scheduler's side of the wire."""

    def __init__(self, client: Client, settings: ExecutorSettings, parts: list[Part]) -> None:
        self.client, self.settings, self.parts = client, settings, parts
        self.js = client.jetstream()
        self.artifacts = ObjectArtifacts(lambda: self.js)
        self._tasks = 0

    async def hand_out(self, source: str | None = None, **fields: Any) -> Work:
        """Publish work on lane exec; `fields` of the task spec, or `work` fields under `_work`."""
        self._tasks += 1
        extra: dict[str, Any] = fields.pop("_work", {})
        program = fields.pop("program", {"source": source} if source is not None else None)
        spec = {
            "key": "t",
            "lane": "exec",
            "program": program,
            "inputs": list(extra.get("inputs", {})),
            **fields,
        }
        work = Work(
            goal_id="g",
            task_id=str(self._tasks),
            epoch=1,
            lane="exec",
            spec=TaskSpec.model_validate(spec),
            **extra,
        )
        await self.js.publish(subjects.work("exec"), work.to_json())
        return work

    async def outcome(self) -> Outcome:
        """The next outcome."""
        pull = await self.js.pull_subscribe_bind(durable=subjects.DURABLE_OUTCOMES, stream=subjects.OUTCOMES)
        [message] = await pull.fetch(1, timeout=30)
        await message.ack()
        [outcome], ignored = parse_outcomes(message.data, trusted=True)
        assert ignored == []
        return outcome

    async def run(self, source: str | None = None, **fields: Any) -> Outcome:
        """Hand out one task and take its outcome."""
        await self.hand_out(source, **fields)
        return await self.outcome()

    async def failure(self, source: str | None = None, **fields: Any) -> Failed:
        outcome = await self.run(source, **fields)
        assert isinstance(outcome, Failed), outcome
        return outcome

    async def done(self, source: str | None = None, **fields: Any) -> Done:
        outcome = await self.run(source, **fields)
        assert isinstance(outcome, Done), outcome
        return outcome


@asynccontextmanager
async def opened(nats_url: str, home: Path, **said: Any) -> AsyncIterator[House]:
    """A house on this server; `said` of its settings."""
    settings = ExecutorSettings(
        nats_url=nats_url, home=home, sandbox="bubblewrap", executor_slots=2, program_seconds=10,
        program_disk_mb=8, program_output_mb=1, **said,
    )  # fmt: skip
    client = await nats.connect(nats_url, inbox_prefix=b"_INBOX_SERVICE")
    await topology.apply(client.jetstream(), [lane.name for lane in lanes(settings)])
    parts = list(app.build(settings, Stopper()))
    for part in parts:
        await part.start()
    yield House(client, settings, parts)
    for part in reversed(parts):
        await part.stop()
    await client.close()


@pytest.fixture
async def house(nats_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """Without any libraries."""
    libraries = tmp_path / "libraries"
    (libraries / "packages").mkdir(parents=True)
    (libraries / "complete").touch()
    async with opened(nats_url, tmp_path, program_libraries=libraries, program_memory_mb=128) as house:
        yield house


@pytest.fixture
async def stocked_house(nats_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """With the libraries that programs have."""
    async with opened(nats_url, tmp_path) as house:
        yield house


async def test_what_nobody_keeps_of_a_program_is_told(house: House) -> None:
    source = (
        "open('out/wanted', 'w').write('x')\nopen('out/more.csv', 'w').write('a')\n"
        "open(b'out/\\xff\\x1b[2J', 'w').close()\nfor _ in range(4_000): print('x' * 79)\nprint('end')"
    )
    done = await house.done(source, outputs=[{"name": "wanted", "type": "text"}])
    assert done.program is not None
    assert [one for one in done.program.dropped if one.startswith("out/")] == [
        "out/more.csv: no declared output",
        r"out/\xdcff\x1b[2J: no declared output",
    ]
    assert any(one.startswith("stdout: the first 315908 characters") for one in done.program.dropped)
    assert any(one.startswith("live output: the last ") for one in done.program.dropped)
    kept = await house.done("print('x' * 9_000)", outputs=[{"name": "stdout"}])
    assert kept.program is not None
    assert kept.program.dropped == []


async def test_what_a_failed_program_left_is_told_as_dropped(house: House) -> None:
    failed = await house.failure("import sys\nopen('out/x', 'w').close()\nsys.exit(3)")
    assert failed.program is not None
    assert failed.program.dropped == ["out/: everything, because the program did not exit 0"]


async def test_a_file_name_that_is_no_text_cannot_hide_a_failure(house: House) -> None:
    source = "open(b'out/\\xff', 'w').close()"
    failed = await house.failure(source, outputs=[{"name": "wanted", "type": "text"}])
    assert failed.error.code == "missing_output"
    assert r"out/\xdcff" in failed.error.message


async def test_a_program_reads_inputs_and_its_outputs_become_artifacts(house: House) -> None:
    big = ("x" * 79 + "\n") * 1000
    inputs = {
        "orders": ArtifactRef.of_text("orders", "day,amount\n1,10\n", ArtifactType.TABLE, "text/csv"),
        "big": await house.artifacts.put_bytes("big", ArtifactType.TEXT, big.encode()),
    }
    source = (
        "import json\nbig = open('in/big').read()\nprint('working')\n"
        "open('out/report.md', 'w').write('# Report\\n' + open('in/orders').read())\n"
        "json.dump({'size': len(big)}, open('out/facts.json', 'w'))\n"
        "open('out/copy', 'w').write(big)\n"
    )
    outputs = [
        {"name": "report", "type": "text"},
        {"name": "facts", "type": "json", "schema": {"type": "object", "required": ["size"]}},
        {"name": "copy", "type": "file"},
        {"name": "stdout"},
    ]
    done = await house.done(source, outputs=outputs, _work={"inputs": inputs})
    assert {name: ref.media_type for name, ref in done.outputs.items()} == {
        "report": "text/markdown", "facts": "application/json", "copy": "application/octet-stream",
        "stdout": "text/plain",
    }  # fmt: skip
    assert done.outputs["report"].inline == "# Report\nday,amount\n1,10\n"
    assert await house.artifacts.get_bytes(done.outputs["copy"]) == big.encode()
    assert done.outputs["stdout"].inline == "working\n"
    assert done.program is not None
    assert (done.program.exit_code, done.program.sandbox, done.program.stdout) == (
        0,
        "bubblewrap",
        "working\n",
    )
    assert [check.check for check in done.checks] == ["type", "type", "schema", "type", "type"]
    assert all(check.passed for check in done.checks)


async def test_the_status_and_every_result_name_the_sandbox_and_what_it_lacks(house: House) -> None:
    [health] = [part for part in house.parts if isinstance(part, Health)]
    answer = await asyncio.to_thread(urllib.request.urlopen, f"{health.url}/ready")
    told = json.load(answer)
    done = await house.done("pass")
    assert done.program is not None
    assert told["ready"] is True
    assert (told["sandbox"], told["lacks"]) == ("bubblewrap", done.program.lacks)


async def test_what_a_program_prints_goes_out_live(house: House) -> None:
    lines: list[bytes] = []

    async def hear(message: Any) -> None:
        lines.append(message.data)

    await house.client.subscribe("logs.public.g.*", cb=hear)
    await house.client.flush()
    done = await house.done("print('one')\nprint('key sk-abcdefgh12345678')")
    await eventually(lambda: len(lines) == 2)
    assert lines == [b"one", b"key [redacted]"]
    assert done.program is not None
    assert "sk-abc" not in done.program.stdout


async def test_a_failing_program_is_told_with_logs_and_is_not_tried_again(house: House) -> None:
    failed = await house.failure("print('so far')\nraise ValueError('no column amount')")
    assert (failed.error.code, failed.error.retryable) == ("program_failed", False)
    assert failed.error.message == "exit code 1: ValueError: no column amount"
    assert failed.error.logs is not None
    assert "Traceback" in failed.error.logs
    assert failed.program is not None
    assert (failed.program.exit_code, failed.program.limit, failed.program.stdout) == (1, None, "so far\n")


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import time\nwhile True: time.sleep(1)", "timeout"),
        ("x = []\nwhile True: x.append(bytearray(1 << 22))", "out_of_memory"),
        ("while True: print('x' * 1000)", "output_limit"),
        ("open('out/x', 'wb').write(bytes(20 << 20))", "disk_limit"),
        ("import os; os.symlink('/etc/passwd', 'out/x')", "refused_output"),
        ("import os; os.mkdir('out/x')", "refused_output"),
        ("import os; os.rmdir('out'); os.symlink('/usr', 'out')", "refused_output"),
        ("open('out/x.csv', 'w'); open('out/x.json', 'w')", "refused_output"),
        ("open('out/y', 'w').write('y')", "missing_output"),
        ("import os\nfor i in range(10001): open(f'out/{i}', 'w')", "refused_output"),
    ],
)
async def test_every_way_to_break_the_contract_has_its_own_code(house: House, source: str, code: str) -> None:
    failed = await house.failure(source, outputs=[{"name": "x", "type": "file"}], timeout_seconds=5)
    assert (failed.error.code, failed.error.retryable) == (code, False)
    assert failed.program is not None
    limits = ("timeout", "out_of_memory", "output_limit", "disk_limit")
    assert failed.program.limit == (code if code in limits else None)


async def test_programs_see_nothing_of_what_is_installed_into_the_interpreter(house: House) -> None:
    source = (
        "import os, site\n"
        "for folder in filter(os.path.isdir, site.getsitepackages()):\n"
        "    assert os.listdir(folder) == [], os.listdir(folder)\n"
        "    try: open(f'{folder}/x', 'w')\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    done = await house.done(source, outputs=[{"name": "stdout"}])
    assert set((done.outputs["stdout"].inline or "").splitlines()) <= {
        "Read-only file system",
        "Permission denied",
    }


async def test_the_next_program_works_after_a_hostile_one(house: House) -> None:
    await house.failure("while True: print('x' * 1000)")
    done = await house.done("print('fine')", outputs=[{"name": "stdout"}])
    assert done.outputs["stdout"].inline == "fine\n"


async def test_outputs_are_checked_before_they_are_stored(house: House) -> None:
    outputs = [{"name": "x", "type": "json"}]
    failed = await house.failure("open('out/x', 'w').write('[NaN]')", outputs=outputs)
    assert failed.error.code == "check_failed"
    assert "NaN is no JSON number" in failed.error.message
    table = [{"name": "t", "type": "table"}]
    failed = await house.failure(
        "open('out/t.csv', 'w').write('a\\n1\\n')", outputs=table, acceptance=[{"kind": "rows", "min": 2}]
    )
    assert failed.error.message == "t: 1 rows, wanted 2 to any"


_SHOP = """
import os, pandas
os.mkdir("out/shop")
orders = pandas.DataFrame({"id": [1, 2, 2], "customer": [7.0, None, 9.0], "kind": ["a", "b", None]})
orders["at"] = pandas.date_range("2026-01-01", periods=3, tz="Europe/Berlin")
orders.astype({"kind": "category"}).to_parquet("out/shop/orders.parquet")
open("out/shop/customers.csv", "w").write("id\\n7\\n8\\n")
open("out/shop/visits.csv", "w").write("order\\n2.0\\n3\\n")
"""


async def test_a_data_set_is_held_to_its_rules_by_the_values_of_parquet_too(stocked_house: House) -> None:
    tables = [
        {"name": "orders", "columns": [
            {"name": "id", "unique": True}, {"name": "customer", "references": "customers.id"},
            {"name": "kind", "unique": True}, {"name": "at", "type": "datetime", "unique": True}]},
        {"name": "customers", "columns": ["id"]},
        {"name": "visits", "columns": [{"name": "order", "references": "orders.id"}]},
    ]  # fmt: skip
    outputs = [{"name": "shop", "type": "dataset", "schema": {"tables": tables}}]
    failed = await stocked_house.failure(_SHOP, outputs=outputs)
    assert failed.error.code == "check_failed"
    assert failed.error.message.split("; ") == [
        "shop: table orders: row 3, column id: not unique: '2' is in row 2 too",
        "table orders, row 3, column customer: '9.0' is not in customers.id",
        "table visits, row 2, column order: '3' is not in orders.id",
    ]


async def test_without_libraries_a_rule_about_values_of_parquet_is_said_to_be_unchecked(house: House) -> None:
    data = (Path(__file__).parent / "tables/by_pyarrow.parquet").read_bytes()
    inputs = {"given": await house.artifacts.put_bytes("given", ArtifactType.TABLE, data)}
    schema = {"columns": [{"name": "id", "unique": True}]}
    done = await house.done(
        "import shutil; shutil.copy('in/given', 'out/t.parquet')",
        outputs=[{"name": "t", "type": "table", "schema": schema}], _work={"inputs": inputs},
    )  # fmt: skip
    assert done.checks[-1].evidence == (
        "t: matches; not checked: column id: unique, as its values could not be read: "
        "exit code 1: ModuleNotFoundError: No module named 'numpy'"
    )


async def test_folders_travel_as_tars_in_both_directions(house: House) -> None:
    source = (
        "import os\nos.makedirs('out/site/img')\nopen('out/site/index.html', 'w').write('<p>')\n"
        "open('out/site/img/a.svg', 'w').write('<svg/>')"
    )
    made = await house.done(source, outputs=[{"name": "site", "type": "folder"}])
    with tarfile.open(fileobj=io.BytesIO(await house.artifacts.get_bytes(made.outputs["site"]))) as archive:
        assert archive.getnames() == ["img", "img/a.svg", "index.html"]
    done = await house.done(
        "print(open('in/site/img/a.svg').read())", outputs=[{"name": "stdout"}],
        _work={"inputs": {"site": made.outputs["site"]}},
    )  # fmt: skip
    assert done.outputs["stdout"].inline == "<svg/>\n"


async def test_an_input_folder_that_escapes_is_refused(house: House) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("../../escaped")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    ref = await house.artifacts.put_bytes("site", ArtifactType.FOLDER, buffer.getvalue())
    failed = await house.failure("", _work={"inputs": {"site": ref}})
    assert failed.error.code == "bad_input"
    assert "leaves its folder" in failed.error.message


async def test_an_artifact_can_be_the_program_and_stdin_and_args_reach_it(house: House) -> None:
    code = ArtifactRef.of_text("code", "import sys\nprint(sys.argv[1:], sys.stdin.read())")
    done = await house.done(
        program={"artifact": "code", "args": ["a b", "$HOME"], "stdin": "typed"},
        outputs=[{"name": "stdout"}], _work={"inputs": {"code": code}},
    )  # fmt: skip
    assert done.outputs["stdout"].inline == "['a b', '$HOME'] typed\n"
    failed = await house.failure(program={"artifact": "other"})
    assert failed.error.code == "bad_task"


@pytest.mark.parametrize("argument", ["a\0b", "x" * 70_000])
async def test_arguments_that_no_system_takes_are_refused(house: House, argument: str) -> None:
    failed = await house.failure(program={"source": "pass", "args": [argument]})
    assert (failed.error.code, failed.error.retryable) == ("bad_task", False)


async def test_a_task_without_a_program_is_refused(house: House) -> None:
    failed = await house.failure()
    assert (failed.error.code, failed.error.retryable) == ("bad_task", False)


async def test_a_missing_input_is_worth_another_try(house: House) -> None:
    gone = ArtifactRef(name="x", type=ArtifactType.FILE, size=1, sha256="0" * 64, object="0" * 64)
    failed = await house.failure("pass", _work={"inputs": {"x": gone}})
    assert (failed.error.code, failed.error.retryable) == ("artifact_missing", True)


async def test_a_program_may_not_outlast_its_goal(house: House) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=2)
    failed = await house.failure("import time; time.sleep(60)", _work={"deadline": soon})
    assert failed.error.code == "timeout"
    assert failed.program is not None
    assert failed.program.wall_seconds < 20


async def test_a_cancelled_task_stops_its_program_and_answers_nothing(house: House) -> None:
    up = asyncio.Event()

    async def hear(_: Any) -> None:
        up.set()

    await house.client.subscribe("logs.public.g.*", cb=hear)
    work = await house.hand_out("print('up')\nimport time; time.sleep(60)")
    await asyncio.wait_for(up.wait(), 10)
    await house.client.publish(subjects.cancel(work.task_id), b"")
    done = await house.done("print('next')", outputs=[{"name": "stdout"}])
    assert done.task_id != work.task_id

    async def acked() -> bool:
        info = await house.js.consumer_info(subjects.WORK, subjects.work_durable("exec"))
        return bool(info.num_ack_pending == 0)

    await eventually(acked)


async def test_a_stopping_executor_hands_its_programs_back(house: House) -> None:
    up = asyncio.Event()

    async def hear(_: Any) -> None:
        up.set()

    await house.client.subscribe("logs.public.g.*", cb=hear)
    await house.hand_out("print('up')\nimport time; time.sleep(60)", timeout_seconds=60)
    await asyncio.wait_for(up.wait(), 10)
    worker: Any = house.parts[-1]
    worker._drain_seconds = 0.1
    await worker.stop()
    assert isinstance(await house.outcome(), Throttled)


async def test_programs_run_in_parallel(house: House) -> None:
    source = "import time\nbegun = time.time()\ntime.sleep(2)\nprint(begun, time.time())"
    await house.hand_out(source, outputs=[{"name": "stdout"}])
    await house.hand_out(source, outputs=[{"name": "stdout"}])
    spans = []
    for outcome in (await house.outcome(), await house.outcome()):
        assert isinstance(outcome, Done)
        spans.append([float(word) for word in (outcome.outputs["stdout"].inline or "").split()])
    (begun, ended), (begun_too, ended_too) = spans
    assert begun < ended_too
    assert begun_too < ended


async def test_nothing_is_left_on_the_disk(house: House) -> None:
    scratch: Any = house.parts[2]
    await house.done("open('out/x', 'w').write('x')")
    await house.failure("import os; os.kill(os.getpid(), 9)")
    assert [path.name for path in scratch._root.iterdir()] == ["lock"]


async def test_without_isolation_programs_are_refused_and_the_fix_is_told(house: House) -> None:
    choice: Any = house.parts[5]
    choice.sandbox, choice.problem = None, "no sandbox isolates here: install bubblewrap"
    failed = await house.failure("print('never')")
    assert (failed.error.code, failed.error.retryable) == ("no_sandbox", False)
    assert "install bubblewrap" in failed.error.message


def test_the_lane_may_not_expand() -> None:
    [lane] = lanes(ExecutorSettings())
    assert lane.name == "exec"
    assert "expand" not in lane.may
    assert json.loads(lane.to_json())["libraries"] == ["numpy", "pandas", "matplotlib", "fastparquet"]
