"""The values of Parquet files that programs left, for their checks: parsed by a program of ours in the sandbox, because
that takes native code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import structlog
from goalwright_shared.messages import ProgramSpec
from goalwright_shared.tables import Unread
from goalwright_shared.telemetry import redact

from goalwright_executor import collect, core
from goalwright_executor.core import Limits, Run
from goalwright_executor.layout import open_to_read
from goalwright_executor.sandbox.port import Cancelled, Job, Sandbox

log = structlog.get_logger(__name__)

_PROGRAM = Path(__file__).with_name("values_program.py")


class Values:
    """Reads for the checks of one task. `read` is for the thread that checks; all else, and the making, for the event
    loop. Close it, also when the task is cancelled: then nothing of it runs any more."""

    def __init__(self, sandbox: Sandbox, home: Path, limits: Callable[[], Limits]) -> None:
        """Works in folders below `home`; `limits` are asked for each file."""
        self._sandbox, self._home, self._limits = sandbox, home, limits
        self._loop = asyncio.get_running_loop()
        self._running: asyncio.Task[Run] | None = None
        self._is_closed = False

    def read(self, file: BinaryIO, columns: Sequence[str]) -> BinaryIO:
        """A `Reader` of tables. Raises `Unread`, `SandboxLost`, and `Cancelled` once it is closed."""
        home = Path(tempfile.mkdtemp(prefix="values-", dir=self._home))
        try:
            job, limits = _lay_out(home, file, columns), self._limits()
            run = asyncio.run_coroutine_threadsafe(self._run(job, limits), self._loop).result()
            log.info(
                "values read", exit_code=run.exit_code, wall=run.wall_seconds, peak=run.peak_memory_bytes
            )
            error = core.failure(run, limits)
            if error is not None:
                raise Unread(f"its values could not be read: {redact(core.shown(error.message))}")
            return _taken(job, limits, home / "values.csv")
        finally:
            shutil.rmtree(home, ignore_errors=True)

    async def aclose(self) -> None:
        """End what is being read."""
        self._is_closed = True
        while self._running is not None and not self._running.done():
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # who cancels twice waits as well
                await asyncio.wait({self._running})

    async def _run(self, job: Job, limits: Limits) -> Run:
        if self._is_closed:
            raise Cancelled
        self._running = asyncio.current_task()
        return await self._sandbox.run(job, limits, lambda _: None)


def _lay_out(home: Path, file: BinaryIO, columns: Sequence[str]) -> Job:
    program = ProgramSpec(source=_PROGRAM.read_text(encoding="utf-8"), stdin=json.dumps(columns))
    folder = home / "job"
    (folder / "in").mkdir(parents=True)
    shutil.copyfile(_PROGRAM, folder / core.file_name(program))
    (folder / "stdin").write_text(program.stdin or "")
    with (folder / "in" / "table").open("wb") as copy:
        file.seek(0)
        shutil.copyfileobj(file, copy, 1 << 20)
    open_to_read(folder)
    return Job(program=program, folder=folder, outputs=home / "outputs.tar")


def _taken(job: Job, limits: Limits, target: Path) -> BinaryIO:
    """What the program wrote, open; it was fed by a stranger, so that its folder is one's too."""
    try:
        with tarfile.open(job.outputs, "r:") as archive:
            entries = collect.read_entries(archive, max_bytes=limits.disk_bytes)
            if entries.kinds.get(target.name) != "file":
                raise Unread("its values could not be read: there is nothing")
            collect.write_file(archive, entries.members[target.name], target)
    except (collect.Refused, tarfile.TarError, EOFError, FileNotFoundError) as error:
        raise Unread(f"its values could not be read: {error}") from error
    return target.open("rb")
