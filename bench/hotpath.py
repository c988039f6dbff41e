"""Where the microseconds of a task go: the scheduler's functions (sampled by py-spy) and Postgres' statements.

Both disturb what they watch a little: take rates from `run`, shares from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import asyncpg
import psutil
from goalwright_cli import processes

from bench.runs import Run, measure, warm_up
from bench.stand import Stand
from bench.workloads import Workload

POSTGRES_OPTIONS = ("shared_preload_libraries=pg_stat_statements", "track_wal_io_timing=on")
_RATE = 250
_LINES = 30
_PACKAGE = re.compile(r"(?:site-packages|services/\w+|shared|lib/python3\.\d+)/(?!site-packages)(\w+)")

_WAL = """
    SELECT coalesce(sum(fsyncs), 0)::int8 AS n, coalesce(sum(fsync_time), 0)::float8 * 1000 AS us
    FROM pg_stat_io WHERE object = 'wal'"""
_STATEMENTS = """
    SELECT calls, rows, total_exec_time * 1000 AS exec_us, total_plan_time * 1000 AS plan_us,
           shared_blks_hit + shared_blks_read AS blocks, wal_bytes::int8 AS wal, query
    FROM pg_stat_statements WHERE query !~ 'pg_stat_statements' ORDER BY total_exec_time DESC LIMIT 25"""


async def profile(stand: Stand, workload: Workload) -> str:
    """One run under observation, as text."""
    await warm_up(stand)
    db = await asyncpg.connect(stand.postgres.dsn())
    try:
        await db.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        await db.execute("SELECT pg_stat_statements_reset(), pg_stat_reset_shared('io')")
        roles = stand.roles()
        async with (
            _sampled(roles["scheduler"][0], stand.home / "scheduler.stacks") as scheduler,
            _sampled(roles["performers"][0], stand.home / "performer.stacks") as performer,
        ):
            before = _switches(roles)
            run = await measure(stand, workload)
            switches = _switches(roles)
        rows, wal = await db.fetch(_STATEMENTS), (await db.fetch(_WAL))[0]
    finally:
        await db.close()
    return "\n".join(
        [
            _costs(run),
            _calls_of_the_system(before, switches, run),
            _functions("scheduler", scheduler, run),
            _functions("performers", performer, run),
            _statements(rows, wal, run),
        ]
    )


@contextlib.asynccontextmanager
async def _sampled(pid: int, path: Path) -> AsyncIterator[Counter[tuple[str, ...]]]:
    """The stacks of a process with the number of samples each, complete afterwards."""
    stacks: Counter[tuple[str, ...]] = Counter()
    beside = Path(sys.executable).with_name("py-spy")
    spy = str(beside) if beside.exists() else shutil.which("py-spy")
    if spy is None:
        sys.exit("py-spy is missing: uv pip install --group bench")
    log = path.with_suffix(".log")
    process = processes.spawn(
        [spy, "record", "--pid", str(pid), "--rate", str(_RATE), "--format", "raw", "--output", path,
         "--duration", "3600", "--full-filenames", "--gil"],
        log=log,
    )  # fmt: skip
    await asyncio.sleep(1.0)  # it says nothing when it has attached
    if process.poll() is not None:
        sys.exit(f"py-spy could not watch the scheduler: {processes.tail(log, 3)} (are you root?)")
    yield stacks
    await processes.stop(process, number=signal.SIGINT)
    for line in (await asyncio.to_thread(path.read_text)).splitlines():
        stack, _, count = line.rpartition(" ")
        stacks[tuple(stack.split(";"))] += int(count)


def _costs(run: Run) -> str:
    parts = ", ".join(f"{role} {us:.0f}" for role, us in run.cpu_us.items())
    return (
        f"{run.workload}: {run.tasks_per_second:,.0f} tasks/s under observation; "
        f"CPU µs a task: {run.cpu_us_total:.0f} ({parts})\n"
    )


_Switches = dict[str, tuple[int, int, int, int]]


def _switches(roles: Mapping[str, Sequence[int]]) -> _Switches:
    """By role: reads, writes, times it gave up the core and times it was put off it, so far."""
    found = {}
    for role, pids in roles.items():
        process = psutil.Process(pids[0])
        moved, switched = process.io_counters(), process.num_ctx_switches()
        found[role] = (moved.read_count, moved.write_count, switched.voluntary, switched.involuntary)
    return found


def _calls_of_the_system(before: _Switches, after: _Switches, run: Run) -> str:
    """Many writes a task mean that messages leave one by one."""
    said = ["a task · reads · writes · waits · put off the core (the first process of each role)"]
    for role in ("scheduler", "nats", "performers"):
        each = ((new - old) / run.tasks for old, new in zip(before[role], after[role], strict=True))
        said.append(f"  {role:<12}" + " · ".join(f"{value:6.2f}" for value in each))
    return "\n".join(said) + "\n"


def _functions(role: str, stacks: Counter[tuple[str, ...]], run: Run) -> str:
    """The CPU of one process by package and by function (the time spent there itself), and by function of
    ours (with what it calls). What C code without frames does (uvloop, asyncpg) counts for its caller; what
    goes on without the interpreter's lock (the kernel, most of uvloop) is the rest."""
    total, cpu = sum(stacks.values()) or 1, run.cpu_us[role]
    us = min(1e6 / _RATE / run.tasks, cpu / total)
    own = ("goalwright_s", "performer.py")  # the scheduler, what is shared, the performer
    parts = [
        ("by package, itself", _by(stacks, lambda stack: [_package(stack[-1])]), 15),
        ("by function of ours, with what it calls",
         _by(stacks, lambda stack: {_name(frame) for frame in stack if any(part in frame for part in own)}), _LINES),
        ("by function, itself", _by(stacks, lambda stack: [_name(stack[-1])]), _LINES),
    ]  # fmt: skip
    said = [f"{role}: {cpu:.0f} µs a task, of it {total * us:.0f} in the interpreter ({total} samples)"]
    for title, counts, most in parts:
        said.append(f"\n  {title}")
        said += [
            f"  {count * us:8.1f} µs {100 * count / total:5.1f} %  {name}"
            for name, count in counts.most_common(most)
        ]
    return "\n".join(said) + "\n"


def _by(
    stacks: Counter[tuple[str, ...]], keys: Callable[[tuple[str, ...]], Sequence[str] | set[str]]
) -> Counter[str]:
    found: Counter[str] = Counter()
    for stack, count in stacks.items():
        for key in keys(stack):
            found[key] += count
    return found


def _package(frame: str) -> str:
    found = _PACKAGE.findall(frame)
    return found[-1] if found else frame


def _name(frame: str) -> str:
    """`fetch (/…/asyncpg/connection.py:7)` as `asyncpg/connection.py fetch`."""
    function, _, rest = frame.partition(" (")
    path = rest.rstrip(")").rpartition(":")[0] or rest.rstrip(")")
    return f"{'/'.join(Path(path).parts[-2:])} {function}" if path else function


def _statements(rows: Sequence[asyncpg.Record], wal: asyncpg.Record, run: Run) -> str:
    """Postgres by statement, in the time they took there; a commit's wait for the disk stands by itself."""
    said = ["postgres, by statement: µs a task · µs a call · calls · rows · blocks a call · WAL bytes a task"]
    for row in rows:
        text = " ".join(re.sub(r"(?m)--.*$", "", row["query"]).split())
        us = row["exec_us"] + row["plan_us"]
        said.append(
            f"  {us / run.tasks:8.1f} · {us / row['calls']:8.0f} · {row['calls']:6} · {row['rows']:7} · "
            f"{row['blocks'] / row['calls']:7.0f} · {(row['wal'] or 0) / run.tasks:6.0f}  {text[:100]}"
        )
    said.append(
        f"  {wal['us'] / run.tasks:8.1f} · {wal['us'] / max(1, wal['n']):8.0f} · {wal['n']:6}  fsync of the WAL"
    )
    return "\n".join(said)
