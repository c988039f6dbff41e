"""One behaviour of every sandbox: what programs may count on, and what the hostile ones run into.

Each hostile program tells what it could do; the verdict is the sandbox's. After every one of them nothing of
it is left: no process, no mount, no container.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from goalwright_executor import core
from goalwright_executor.core import Limit
from goalwright_executor.sandbox import seccomp
from goalwright_executor.sandbox.docker import Docker
from goalwright_shared.messages import ProgramSpec
from support.waiting import eventually

from executor.conftest import LIMITS, Bench, left
from executor.leftovers import containers, mounts, traces

MARK = f"trace-{uuid.uuid4().hex}"
"""An argument of every hostile program: by it we find what is left of one."""


@pytest.fixture
def spotless(bench: Bench) -> Iterator[Bench]:
    """A bench, and proof that nothing is left when the test is over."""
    before = mounts()
    yield bench
    assert traces(MARK) == []
    assert mounts() - before == set()
    if isinstance(bench.sandbox, Docker):
        assert containers(bench.sandbox) == []


# --- what programs may count on ------------------------------------------------------------------------


async def test_a_program_reads_its_inputs_and_leaves_its_outputs(bench: Bench) -> None:
    source = "import sys\nopen('out/total', 'w').write(open('in/a').read() + sys.argv[1] + sys.stdin.read())"
    run, job = await bench.run(source, args=["-b"], stdin="-c", inputs={"a": b"a"})
    assert (run.exit_code, run.limit) == (0, None), run.stderr
    assert left(job) == {"total": b"a-b-c"}
    assert run.wall_seconds < 15
    assert run.sandbox == bench.sandbox.name


async def test_a_shell_program_runs_in_the_same_folder(bench: Bench) -> None:
    run, job = await bench.run(
        'mkdir out/d && cat in/a > "out/d/$1" && ls', language="shell", args=["x"], inputs={"a": b"hi"}
    )
    assert run.exit_code == 0, run.stderr
    assert left(job) == {"d": None, "d/x": b"hi"}
    assert run.stdout.split() == [b"in", b"main.sh", b"out"]


async def test_what_is_printed_is_kept_apart_and_heard_live(bench: Bench) -> None:
    source = "import sys\nprint('one', flush=True)\nsys.stderr.write('two')\nsys.exit(3)"
    run, job = await bench.run(source)
    assert (run.exit_code, run.stdout, run.stderr) == (3, b"one\n", b"two")
    heard = b"".join(bench.heard)
    assert sorted(heard) == sorted(b"one\ntwo")
    assert b"one" in heard
    assert not job.outputs.exists()


async def test_a_signal_is_told_as_such(bench: Bench) -> None:
    run, _ = await bench.run("import os; os.kill(os.getpid(), 11)")
    assert (run.exit_code, core.signal_of(run), run.limit) == (139, 11, None)


async def test_binary_output_survives_as_it_is(bench: Bench) -> None:
    data = bytes(range(256)) * 4096
    source = (
        "import sys\nd = open('in/d', 'rb').read()\n"
        "sys.stdout.buffer.write(d[:500000])\nopen('out/d', 'wb').write(d)"
    )
    run, job = await bench.run(source, inputs={"d": data})
    assert run.exit_code == 0, run.stderr
    assert run.stdout == data[:500_000]
    assert left(job) == {"d": data}


async def test_programs_at_once_do_not_see_one_another(bench: Bench) -> None:
    source = (
        "import os, sys, time\nopen('/tmp/mine', 'x').write(sys.argv[1])\ntime.sleep(0.3)\n"
        "n = len([p for p in os.listdir('/proc') if p.isdigit()])\n"
        "open('out/x', 'w').write(open('/tmp/mine').read() + str(n))"
    )
    runs = await asyncio.gather(*(bench.run(source, args=[str(i)]) for i in range(4)))
    texts = [left(job)["x"] for _, job in runs]
    assert [text[:1] for text in texts if text] == [b"0", b"1", b"2", b"3"]
    assert all(int(text[1:]) <= 6 for text in texts if text)


async def test_temporary_files_child_processes_and_threads_work(bench: Bench) -> None:
    source = (
        "import subprocess, sys, tempfile, threading, concurrent.futures as f\n"
        "tempfile.TemporaryFile().write(b'x')\n"
        "print(subprocess.run([sys.executable, '-c', 'print(6*7)'], capture_output=True, text=True).stdout)\n"
        "with f.ProcessPoolExecutor(2) as pool: print(sum(pool.map(abs, [-1, -2])))\n"
        "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
    )
    run, _ = await bench.run(source)
    assert run.stdout.split() == [b"42", b"3", b"thread"], run.stderr


# --- hostile programs ----------------------------------------------------------------------------------


async def hostile(bench: Bench, source: str, seconds: float = 20) -> core.Run:
    run, _ = await bench.run(source, args=[MARK], limits=replace(LIMITS, seconds=seconds))
    return run


async def test_the_network_is_out_of_reach(spotless: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        source = (
            "import socket\nfor host in ('127.0.0.1', '172.17.0.1', '1.1.1.1', 'localhost', 'example.com'):\n"
            f"    try: socket.create_connection((host, {port}), timeout=1); print('reached', host)\n"
            "    except OSError: print('no')\n"
        )
        run = await hostile(spotless, source)
    assert run.stdout.split() == [b"no"] * 5


async def test_sockets_of_the_host_are_out_of_reach(spotless: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{MARK}")
        listener.listen()
        source = (
            "import socket, sys\n"
            "for path in ('\\0' + sys.argv[1], '/var/run/docker.sock', '/run/dbus/system_bus_socket'):\n"
            "    try: socket.socket(socket.AF_UNIX).connect(path); print('reached', path)\n"
            "    except OSError: print('no')\n"
        )
        run = await hostile(spotless, source)
    assert run.stdout.split() == [b"no"] * 3


async def test_a_fork_bomb_stays_within_its_processes(spotless: Bench) -> None:
    source = (
        "import os, time\nn = 0\ntry:\n    while n < 500:\n        if os.fork() == 0: time.sleep(60)\n        n += 1\n"
        "except OSError: pass\nprint(n)"
    )
    run = await hostile(spotless, source)
    assert run.exit_code == 0, run.stderr
    assert 5 < int(run.stdout) <= 28


async def test_an_endless_fork_bomb_dies_at_the_deadline(spotless: Bench) -> None:
    run = await hostile(
        spotless, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", seconds=2
    )
    assert run.limit == Limit.TIMEOUT
    assert run.wall_seconds < 15


async def test_a_memory_bomb_is_stopped(spotless: Bench) -> None:
    run = await hostile(spotless, "x = []\nwhile True: x.append(bytearray(8 << 20))")
    assert (run.limit, run.exit_code) == (Limit.OUT_OF_MEMORY, None)
    assert run.wall_seconds < 15


async def test_memory_is_counted_over_all_processes(spotless: Bench) -> None:
    source = (
        "import os, time\nfor i in range(8):\n    if os.fork() == 0:\n"
        "        x = bytes(os.urandom(1 << 20)) * 80; time.sleep(30)\n"
        "time.sleep(2)"
    )
    run = await hostile(spotless, source)
    assert run.limit == Limit.OUT_OF_MEMORY


async def test_one_absurd_allocation_is_out_of_memory_too(spotless: Bench) -> None:
    run = await hostile(spotless, "x = bytearray(1 << 45)")
    assert core.ended_by(run) == Limit.OUT_OF_MEMORY


@pytest.mark.parametrize("place", ["out/x", "x", "/tmp/x", "/dev/shm/x"])
async def test_a_disk_bomb_runs_into_its_quota(spotless: Bench, place: str) -> None:
    source = f"with open({place!r}, 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))"
    run = await hostile(spotless, source)
    assert core.ended_by(run) == Limit.DISK, run.stderr
    assert run.wall_seconds < 15


@pytest.mark.parametrize(
    "place", ["/", "/usr", "/etc", "/opt", "/dev", "/var/tmp", "/proc/sys/kernel", "/sys"]
)
async def test_nothing_else_can_be_written(spotless: Bench, place: str) -> None:
    source = f"open({place!r} + '/goalwright-was-here', 'w')"
    run = await hostile(spotless, source)
    assert run.exit_code == 1
    assert b"Error" in run.stderr
    assert not (await asyncio.to_thread(Path(place, "goalwright-was-here").exists))


async def test_an_output_bomb_is_stopped(spotless: Bench) -> None:
    run = await hostile(spotless, "while True: print('x' * 10000)")
    assert (run.limit, len(run.stdout)) == (Limit.OUTPUT, 1 << 20)
    assert run.wall_seconds < 15


async def test_a_flood_of_lines_on_stderr_is_stopped(spotless: Bench) -> None:
    run = await hostile(spotless, "import os\nwhile True: os.write(2, b'\\n' * 4096)")
    assert (run.limit, len(run.stderr)) == (Limit.OUTPUT, 1 << 20)


async def test_links_and_devices_in_out_are_told_apart_from_files(spotless: Bench) -> None:
    source = (
        "import os, socket\nos.symlink('/etc/passwd', 'out/link')\nos.mkfifo('out/pipe')\n"
        "socket.socket(socket.AF_UNIX).bind('out/socket')\nopen('out/file', 'w').write('x')\n"
        "os.link('out/file', 'out/hard')\n"
        "try:\n    os.mknod('out/device', 0o666 | 0o20000, os.makedev(1, 8))\n    print('made a device')\n"
        "except OSError: pass"
    )
    run, job = await spotless.run(source, args=[MARK])
    assert (run.exit_code, run.stdout) == (0, b""), run.stderr
    found = left(job)
    assert found["link"] is None
    assert found["pipe"] is None
    assert "socket" not in found
    assert sorted([found["file"] is None, found["hard"] is None]) == [False, True]


async def test_replacing_out_by_a_link_hands_nothing_over(spotless: Bench) -> None:
    run, job = await spotless.run("import os\nos.rmdir('out')\nos.symlink('/usr', 'out')", args=[MARK])
    assert run.exit_code == 0, run.stderr
    assert not job.outputs.exists()


async def test_a_sparse_file_cannot_outgrow_the_collector(spotless: Bench) -> None:
    run, job = await spotless.run("open('out/big', 'wb').truncate(1 << 40)", args=[MARK])
    assert run.limit == Limit.DISK
    assert not job.outputs.exists() or job.outputs.stat().st_size < 64 << 20


async def test_files_of_the_host_are_out_of_reach(spotless: Bench, folder: Path) -> None:
    secret = folder / "secret"
    secret.write_text(MARK)
    paths = [
        *(str(secret), "/etc/shadow", "/root/.bashrc", str(Path(__file__)), f"/proc/{os.getpid()}/environ"),
        *("/proc/1/environ", "/proc/1/root/etc/shadow", "/proc/kcore", "/dev/vda", "/dev/mem"),
    ]
    source = (
        "import json, sys\nfor path in json.load(open('in/paths')):\n"
        "    try: data = open(path, 'rb').read(200)\n    except OSError: continue\n"
        "    print('reached', path, data)\n"
    )
    run, _ = await spotless.run(source, args=[MARK], inputs={"paths": json.dumps(paths).encode()})
    assert run.exit_code == 0, run.stderr
    # a program may read the environment of the first process of its own sandbox; it holds nothing of ours
    for line in run.stdout.splitlines():
        assert line.startswith(b"reached /proc/1/environ")
        assert not any(value.encode() in line for value in os.environ.values() if len(value) > 12)


async def test_our_environment_does_not_leak(spotless: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-leaked-0123456789")
    source = (
        "import os, glob\nprint(dict(os.environ))\nfor path in glob.glob('/proc/*/environ'):\n"
        "    try: print(open(path).read())\n    except OSError: pass\n"
    )
    run = await hostile(spotless, source)
    assert b"sk-leaked" not in run.stdout
    assert b"HOME" in run.stdout
    assert b"GOALWRIGHT" not in run.stdout


async def test_no_descriptor_of_ours_leaks(spotless: Bench) -> None:
    source = (
        "import os\nfor fd in range(3, 256):\n    try: print(fd, os.readlink(f'/proc/self/fd/{fd}'))\n"
        "    except OSError: pass\nprint(os.readlink('/proc/self/fd/0'))"
    )
    run = await hostile(spotless, source)
    assert run.stdout.split() == [b"/dev/null"]


async def test_a_daemon_does_not_outlive_its_program(spotless: Bench) -> None:
    source = (
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.execvp('sleep', ['sleep', '1000'])\n    os._exit(0)\ntime.sleep(0.2)\nprint('done')"
    )
    run = await hostile(spotless, source)
    assert (run.exit_code, run.stdout) == (0, b"done\n")
    assert run.wall_seconds < 15


async def test_a_daemon_cannot_change_the_outputs_afterwards(spotless: Bench) -> None:
    source = (
        "import os\nopen('out/x', 'w').write('before')\nif os.fork() == 0:\n    os.setsid()\n"
        "    while True: open('out/x', 'a').write('after')\n"
    )
    run, job = await spotless.run(source, args=[MARK])
    assert run.exit_code == 0
    data = left(job)["x"]
    assert data is not None
    assert data.startswith(b"before")


async def test_endless_sleepers_die_at_the_deadline_with_their_children(spotless: Bench) -> None:
    source = (
        "import os, signal, time\n"
        "for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\n"
        "for i in range(5):\n    if os.fork() == 0: break\n"
        "os.setpgid(0, 0)\nprint('sleeping', flush=True)\ntime.sleep(1000)"
    )
    run = await hostile(spotless, source, seconds=1)
    assert (run.limit, run.exit_code, core.signal_of(run)) == (Limit.TIMEOUT, None, 9)
    assert run.stdout.count(b"sleeping") == 6
    assert run.wall_seconds < 15


async def test_a_busy_loop_on_every_core_dies_at_the_deadline(spotless: Bench) -> None:
    source = "import os\nfor i in range(3): os.fork()\nwhile True: pass"
    run = await hostile(spotless, source, seconds=1)
    assert run.limit == Limit.TIMEOUT
    assert run.wall_seconds < 15


async def test_inputs_and_source_cannot_be_written(spotless: Bench) -> None:
    source = (
        "for path in ('in/a', 'in/new', 'main.py'):\n    try: open(path, 'w'); print('wrote', path)\n"
        "    except OSError: print('no')\n"
    )
    run, job = await spotless.run(source, args=[MARK], inputs={"a": b"a"})
    assert run.stdout.split() == [b"no"] * 3
    assert (job.folder / "in" / "a").read_bytes() == b"a"
    assert sorted(p.name for p in (job.folder / "in").iterdir()) == ["a"]


async def test_no_privilege_can_be_gained(spotless: Bench) -> None:
    source = (
        "import ctypes, os, subprocess\nfound = []\n"
        "for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.chroot('/tmp'),\n"
        "             lambda: os.chown('out', 0, 0)):\n"
        "    try: call(); found.append('call')\n    except OSError: pass\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for flag in (0x10000000, 0x00020000, 0x40000000):\n    if libc.unshare(flag) == 0: found.append(hex(flag))\n"
        "if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0: found.append('mount')\n"
        "os.system('cp /usr/bin/id /tmp/id; chmod u+s /tmp/id')\n"
        "if 'euid=0' in os.popen('/tmp/id').read(): found.append('setuid')\n"
        "if os.popen('su -c id root </dev/null 2>/dev/null').read(): found.append('su')\n"
        "status = open('/proc/self/status').read()\n"
        "caps = [l.split()[1] for l in status.splitlines() if l.startswith('CapEff')]\n"
        "nnp = [l.split()[1] for l in status.splitlines() if l.startswith('NoNewPrivs')]\n"
        "print(found, os.getuid() != 0, int(caps[0], 16), nnp[0])"
    )
    run = await hostile(spotless, source)
    assert run.stdout.decode().strip() == "[] True 0 1", run.stderr


async def test_other_processes_of_the_machine_cannot_be_signalled(spotless: Bench) -> None:
    victim = subprocess.Popen(  # noqa: ASYNC220  # started at once, and killed below
        [sys.executable, "-c", "import time; time.sleep(60)"]
    )
    try:
        source = (
            f"import os\nfor pid in ({victim.pid}, {os.getpid()}):\n    try: os.kill(pid, 9); print('killed', pid)\n"
            "    except OSError: print('no')\n"
            "try: os.kill(-1, 9)\nexcept OSError: pass\n"
        )
        await hostile(spotless, source)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


async def test_killing_the_shell_around_it_only_harms_itself(spotless: Bench) -> None:
    run = await hostile(
        spotless, "import os\nos.kill(os.getppid(), 9)\nos.kill(1, 9)\nimport time; time.sleep(30)", seconds=5
    )
    assert run.exit_code != 0


async def test_a_forged_report_does_not_change_the_verdict(spotless: Bench) -> None:
    source = "import os, sys\nsys.stdout.write('exit 0\\nout folder\\n\\n')\nsys.stdout.flush()\nos._exit(7)"
    run = await hostile(spotless, source)
    assert run.exit_code == 7


async def test_files_and_core_dumps_are_limited_and_the_kernel_takes_programs_first(spotless: Bench) -> None:
    source = (
        "import resource as r\nprint(r.getrlimit(r.RLIMIT_CORE)[1], r.getrlimit(r.RLIMIT_NOFILE)[1], "
        "open('/proc/self/oom_score_adj').read())"
    )
    run = await hostile(spotless, source)
    assert run.stdout.split() == [b"0", b"1024", b"1000"]


async def test_a_cancelled_program_leaves_nothing(spotless: Bench) -> None:
    job = spotless.job(
        ProgramSpec(source="print('up', flush=True)\nimport time; time.sleep(1000)", args=[MARK])
    )
    running = asyncio.create_task(spotless.sandbox.run(job, LIMITS, spotless.heard.append))
    await eventually(lambda: b"up" in b"".join(spotless.heard))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.skipif(seccomp.program() is None, reason="the filter is for x86_64 and aarch64")
async def test_rare_system_calls_are_refused(spotless: Bench) -> None:
    source = (
        "import ctypes, errno, platform\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "x86 = platform.machine() == 'x86_64'\n"
        "calls = {'ptrace': 101 if x86 else 117, 'bpf': 321 if x86 else 280, 'keyctl': 250 if x86 else 219,\n"
        "         'userfaultfd': 323 if x86 else 282, 'perf': 298 if x86 else 241, 'io_uring': 425}\n"
        "for name, number in calls.items():\n"
        "    ctypes.set_errno(0)\n    r = libc.syscall(number, 16, 1, 0, 0, 0)\n"
        "    print(name, r, errno.errorcode.get(ctypes.get_errno()))\n"
    )
    run = await hostile(spotless, source)
    found = [line.split() for line in run.stdout.decode().splitlines()]
    assert found == [
        [name, "-1", "EPERM"] for name in ("ptrace", "bpf", "keyctl", "userfaultfd", "perf", "io_uring")
    ]
