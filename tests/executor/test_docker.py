"""What only the docker adapter promises, on a real engine: containers that wait, and engines far away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from goalwright_executor.sandbox.docker import Docker
from goalwright_executor.sandbox.engine import Bounds
from support.waiting import eventually

from executor.conftest import LIMITS, Bench, left, make

_EXECUTOR = """
import asyncio
from executor.conftest import make

async def main():
    sandbox = make("docker")
    problem = await sandbox.check()
    assert problem is None, problem
    while len(sandbox.reserve.waiting()) < 2:
        await asyncio.sleep(0.02)
    print("instance", sandbox.engine.instance, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def docker(*arguments: str) -> list[str]:
    """The words that a docker command prints."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.split()


def ours(instance: str, *options: str) -> list[str]:
    """Containers of one adapter."""
    return docker("ps", "-q", "--no-trunc", "--filter", f"label=goalwright.program.of={instance}", *options)


@pytest.fixture
async def sandbox() -> AsyncIterator[Docker]:
    """An adapter of its own, with two containers waiting."""
    sandbox = make("docker")
    assert isinstance(sandbox, Docker)
    assert await sandbox.check() is None
    await filled(sandbox)
    yield sandbox
    await sandbox.close()


async def filled(sandbox: Docker) -> list[str]:
    await eventually(lambda: len(sandbox.reserve.waiting()) == 2)
    return sandbox.reserve.waiting()


async def test_a_waiting_container_sees_one_program_and_is_gone_when_it_has_ended(
    sandbox: Docker, folder: Path
) -> None:
    first, second = await filled(sandbox)
    sandbox.lacks = ("as the engine told",)
    run, _ = await Bench(sandbox, folder).run("open('/tmp/mine', 'x')")
    assert (run.exit_code, run.lacks) == (0, sandbox.lacks), run.stderr
    assert first not in ours(sandbox.engine.instance, "-a")
    assert (await filled(sandbox))[0] == second
    await sandbox.close()
    assert ours(sandbox.engine.instance, "-a") == []


async def test_close_removes_what_the_engine_could_not_remove_before(sandbox: Docker) -> None:
    await asyncio.to_thread(sandbox.engine.start, Bounds(64 << 20, 8, 1 << 20, 1 << 20), 60)
    await sandbox.close()
    assert ours(sandbox.engine.instance, "-a") == []


async def test_a_program_with_more_files_than_a_waiting_container_has_room_for_starts_its_own(
    sandbox: Docker, folder: Path
) -> None:
    waiting = await filled(sandbox)
    source = "import os\nprint(os.statvfs('.').f_blocks * os.statvfs('.').f_frsize >> 20)"
    run, _ = await Bench(sandbox, folder).run(source, inputs={"big": bytes(9 << 20)})
    assert run.stdout.split() == [b"26"], run.stderr  # its 16, 9 of input, 1 for the rest
    assert sandbox.reserve.waiting() == waiting


async def test_arguments_arrive_as_they_are(sandbox: Docker, folder: Path) -> None:
    arguments = ["", "a b", "it's", '"$HOME" `id` \\', "-n\nline", "\x01\x81é\u20ac\U0001f600", "*"]
    source = "import sys, json\njson.dump(sys.argv[1:], open('out/x', 'w'))"
    run, job = await Bench(sandbox, folder).run(source, args=arguments)
    assert run.exit_code == 0, run.stderr
    told = left(job)["x"]
    assert told is not None
    assert json.loads(told) == arguments


async def test_a_waiting_container_that_the_engine_lost_is_not_handed_out(
    sandbox: Docker, folder: Path
) -> None:
    lost = await filled(sandbox)
    await asyncio.to_thread(docker, "kill", *lost)
    run, _ = await Bench(sandbox, folder).run("print(6 * 7)")
    assert (run.exit_code, run.stdout) == (0, b"42\n"), run.stderr
    await eventually(
        lambda: len(sandbox.reserve.waiting()) == 2 and not set(lost) & set(sandbox.reserve.waiting())
    )


async def test_waiting_containers_end_with_an_executor_that_was_killed() -> None:
    make("docker")  # skips where there is no engine
    tests = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    executor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _EXECUTOR),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": tests},
    )
    assert executor.stdout is not None
    try:
        await asyncio.wait_for(executor.stdout.readuntil(b"instance "), 20)
        instance = (await executor.stdout.readline()).decode().strip()
        assert len(await asyncio.to_thread(ours, instance)) == 2
    finally:
        executor.send_signal(signal.SIGKILL)
        await executor.wait()
    await eventually(lambda: asyncio.to_thread(lambda: ours(instance) == []))
    await asyncio.to_thread(lambda: docker("rm", *ours(instance, "-a")))


# --- an engine on another machine ------------------------------------------------------------------------


@pytest.fixture
def far_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """DOCKER_HOST names a port behind which the engine of this machine answers."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not Path(host.removeprefix("unix://")).is_socket():
        pytest.skip("no Docker engine answers here at a socket")
    with socket.create_server(("127.0.0.1", 0)) as server:
        forwarder = threading.Thread(
            target=_forward, args=(server, host.removeprefix("unix://")), daemon=True
        )
        forwarder.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.getsockname()[1]}")
        yield


def _forward(server: socket.socket, path: str) -> None:
    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    while True:
        try:
            near, _ = server.accept()
        except OSError:
            return
        far = socket.socket(socket.AF_UNIX)
        far.connect(path)
        for pair in ((near, far), (far, near)):
            threading.Thread(target=copy, args=pair, daemon=True).start()


async def test_files_go_to_a_far_engine_and_back_without_a_mount(
    far_engine: None, sandbox: Docker, folder: Path
) -> None:
    for waiting in await filled(sandbox):
        template = "{{json .Mounts}} {{json .HostConfig.Binds}} {{json .HostConfig.Mounts}}"
        assert docker("inspect", "--format", template, waiting) == ["[]", "null", "null"]
    bench = Bench(sandbox, folder)
    run, job = await bench.run("open('out/x', 'wb').write(open('in/a', 'rb').read())", inputs={"a": b"far"})
    assert (run.exit_code, left(job)) == (0, {"x": b"far"}), run.stderr
    slow, _ = await bench.run("import time; time.sleep(60)", limits=replace(LIMITS, seconds=0.5))
    assert slow.limit == "timeout"


async def test_a_library_that_the_image_does_not_have_is_lacking() -> None:
    complete = make("docker")
    assert isinstance(complete, Docker)
    image = complete.engine.image
    poor = Docker(slots=1, image=image, ready=0, limits=LIMITS, libraries=("json", "no_such_library"))
    try:
        assert await complete.check() is None
        assert await poor.check() is None
        assert poor.lacks == (*complete.lacks, "the library no_such_library")
    finally:
        await complete.close()
        await poor.close()


async def test_the_image_is_looked_up_once_and_used_by_its_id(folder: Path) -> None:
    sandbox = make("docker")
    assert isinstance(sandbox, Docker)
    tag = f"goalwright-test-moving:{os.getpid()}"
    await asyncio.to_thread(docker, "tag", sandbox.engine.image, tag)
    moving = Docker(slots=1, image=tag, ready=0, limits=LIMITS)
    try:
        assert await moving.check() is None
        await asyncio.to_thread(docker, "rmi", tag)
        run, _ = await Bench(moving, folder).run("print(6 * 7)")
        assert run.stdout == b"42\n"
        [id] = await asyncio.to_thread(docker, "inspect", "--format", "{{.Id}}", sandbox.engine.image)
        assert moving.engine.image_id == id
    finally:
        await moving.close()
        await sandbox.close()
