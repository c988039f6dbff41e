"""SIGKILL of an executor: its programs die with it, and the next one sweeps its disk."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from goalwright_executor.scratch import Scratch
from support.waiting import eventually

from executor.conftest import make

_EXECUTOR = """
import asyncio, sys
from pathlib import Path
from goalwright_executor.core import Limits
from executor.conftest import make
from goalwright_executor.sandbox.port import Job
from goalwright_executor.scratch import Scratch
from goalwright_shared.messages import ProgramSpec

async def main():
    scratch, sandbox = Scratch(Path(sys.argv[1])), make(sys.argv[3])
    await scratch.start()
    problem = await sandbox.check()
    assert problem is None, problem
    async with scratch.folder() as home:
        (home / "job" / "in").mkdir(parents=True)
        source = (
            "import os, time\\nos.fork()\\nif os.fork() == 0: os.setsid()\\n"
            "print('up', flush=True)\\ntime.sleep(600)"
        )
        (home / "job" / "main.py").write_text(source)
        job = Job(ProgramSpec(source=source, args=[sys.argv[2]]), home / "job", home / "outputs.tar")
        limits = Limits(600, 1 << 28, 16, 1 << 20, 1 << 20)
        await sandbox.run(job, limits, lambda data: (sys.stdout.buffer.write(data), sys.stdout.flush()))

asyncio.run(main())
"""


def carrying(mark: str, *, but: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes() and int(folder.name) != but:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


_BEGUN = """
import fcntl, os, sys, time
path, lock = sys.argv[1], open(sys.argv[1] + "/lock", "wb")
fcntl.flock(lock, fcntl.LOCK_EX)
for name in sys.argv[2:]:
    if os.fork() == 0:
        lock.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv("/bin/sh", [name, "-c", "read wait; :", "sh", path + "/tmp1/job/main.py"])
print("up", flush=True)
time.sleep(600)
"""


async def test_next_executor_ends_a_sandbox_that_had_only_begun(folder: Path) -> None:
    left = folder / "goalwright-executor-crashed"
    left.mkdir()
    command = [sys.executable, "-c", _BEGUN, str(left), "/somewhere/bwrap", "/somewhere/else"]
    waiting, held = os.pipe()
    executor = await asyncio.create_subprocess_exec(
        *command, stdin=waiting, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert executor.stdout is not None
        assert await asyncio.wait_for(executor.stdout.readline(), 20) == b"up\n"
        await eventually(lambda: len(carrying(f"{left}/tmp1", but=0)) == 2)
        executor.kill()
        await executor.wait()
        scratch = Scratch(folder)
        await scratch.start()
        await eventually(
            lambda: [called(pid) for pid in carrying(f"{left}/tmp1", but=0)] == ["/somewhere/else"]
        )
        assert not left.exists()
        await scratch.stop()
    finally:
        os.killpg(executor.pid, signal.SIGKILL)
        os.close(waiting)
        os.close(held)


def called(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]


@pytest.mark.parametrize("name", ["bubblewrap", "docker"])
async def test_sigkill_of_the_executor_leaves_no_process_and_no_folder(folder: Path, name: str) -> None:
    sandbox = make(name)
    problem = await sandbox.check()
    await sandbox.close()
    if problem is not None:
        pytest.skip(f"{name} does not isolate here: {problem}")
    mark = f"crash-{uuid.uuid4().hex}"
    command = [sys.executable, "-c", _EXECUTOR, str(folder), mark, name]
    tests = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    executor = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": tests}
    )
    try:
        assert executor.stdout is not None
        ups = 0
        while ups < 4:
            said = await asyncio.wait_for(executor.stdout.read(100), 20)
            assert said, f"the executor ended with {await executor.wait()}"
            ups += said.count(b"up")
        assert len(carrying(mark, but=executor.pid)) >= 4
    finally:
        if executor.returncode is None:
            executor.send_signal(signal.SIGKILL)
        await executor.wait()
    await eventually(lambda: carrying(mark, but=executor.pid) == [])
    [left] = contents(folder)
    after = Scratch(folder)
    await after.start()
    assert left not in contents(folder)
    await after.stop()
    assert contents(folder) == []


async def test_a_living_executors_folder_is_not_swept(folder: Path) -> None:
    first, second = Scratch(folder), Scratch(folder)
    await first.start()
    async with first.folder() as home:
        await second.start()
        assert home.name in contents(home.parent)
        await second.stop()
    await first.stop()
    assert contents(folder) == []
