"""Performs lane `exec`: lay the program out, run it, take what it left, check it, store it."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from goalwright_shared.clock import Clock
from goalwright_shared.errors import ArtifactUnavailable
from goalwright_shared.messages import (
    ArtifactRef,
    CheckResult,
    Done,
    Failed,
    Outcome,
    ProgramRun,
    TaskError,
    Work,
)
from goalwright_shared.tables import Reader
from goalwright_shared.telemetry import redact
from goalwright_shared.worker import Attempt

from goalwright_executor import core
from goalwright_executor.core import Fault, Limits, Run
from goalwright_executor.inputs import Inputs
from goalwright_executor.layout import lay_out
from goalwright_executor.outputs import Produced, check, collect_outputs, untaken
from goalwright_executor.sandbox.choose import Choice
from goalwright_executor.sandbox.port import Job, Sandbox, SandboxLost
from goalwright_executor.scratch import Scratch
from goalwright_executor.settings import ExecutorSettings
from goalwright_executor.values import Values

log = structlog.get_logger(__name__)

_LIVE_BYTES, _LIVE_LINES = 256 * 1024, 2_000
"""Of what a program prints, so much is shown live; all of it (to its limit) is kept for `stdout`."""


class Executor:
    """Keeps nothing between two programs. Where no sandbox isolates, every program is refused and told how to
    get one: a program is never run without."""

    def __init__(
        self, settings: ExecutorSettings, scratch: Scratch, inputs: Inputs, clock: Clock, choice: Choice
    ) -> None:
        self._settings, self._scratch, self._inputs = settings, scratch, inputs
        self._clock, self._choice = clock, choice

    async def perform(self, work: Work, attempt: Attempt) -> Outcome:
        """`done` with the declared outputs, or `failed` with logs, exit code, signal or the limit hit."""
        record: ProgramRun | None = None
        try:
            sandbox = self._choice.sandbox
            if sandbox is None:
                raise Fault.of("no_sandbox", self._choice.problem or "the executor is stopping")
            async with self._scratch.folder() as home:
                limits = self._limits(work, work.spec.timeout_seconds)
                job = await lay_out(work, attempt.artifacts, self._inputs, home)
                run, unheard = await _run_live(sandbox, job, limits, attempt)
                left = await asyncio.to_thread(untaken, work.spec.outputs, job, limits)
                names = [spec.name for spec in work.spec.outputs]
                dropped = [redact(one) for one in core.dropped(run, limits, names, unheard, left)]
                record = core.record(
                    run, redact(core.tail(run.stdout)), redact(core.tail(run.stderr)), dropped
                )
                log.info(
                    "program ended", exit_code=run.exit_code, limit=record.limit, wall=record.wall_seconds
                )
                async with contextlib.aclosing(Values(sandbox, home, lambda: self._limits(work))) as values:
                    produced, checks = await asyncio.to_thread(_judge, work, job, limits, run, values.read)
                refs = await asyncio.gather(*(_store(one, attempt) for one in produced))
                return _done(work, refs, checks, record)
        except Fault as fault:
            said = fault.error.logs or (record and (record.stderr or record.stdout)) or None
            return _failed(work, fault.error.model_copy(update={"logs": said}), record)
        except (ArtifactUnavailable, SandboxLost) as lost:
            return _failed(work, TaskError(code=lost.code, message=str(lost), retryable=True), record)
        except OSError as error:  # our own disk: full, or gone
            message = f"the executor's disk failed: {error}"
            return _failed(work, TaskError(code="sandbox_lost", message=message, retryable=True), record)

    def _limits(self, work: Work, timeout_seconds: float | None = None) -> Limits:
        left = (work.deadline - self._clock.now()).total_seconds() if work.deadline else None
        return self._settings.limits(timeout_seconds, left)


def _judge(
    work: Work, job: Job, limits: Limits, run: Run, read: Reader
) -> tuple[list[Produced], list[CheckResult]]:
    """The checked outputs of a run; raises `Fault` when it failed or left something else than declared."""
    error = core.failure(run, limits)
    if error is not None:
        raise Fault(error)
    produced = collect_outputs(work.spec.outputs, job, limits, run)
    checks = check(work.spec, produced, read)
    wrong = [found.evidence for found in checks if not found.passed]
    if wrong:
        raise Fault.of("check_failed", "; ".join(wrong)[:2_000])
    return produced, checks


async def _run_live(sandbox: Sandbox, job: Job, limits: Limits, attempt: Attempt) -> tuple[Run, int]:
    """Run the program; what it prints goes out on `logs.…` line by line while it runs. Also how many bytes
    were not shown so."""
    loop = asyncio.get_running_loop()
    printed: asyncio.Queue[bytes | None] = asyncio.Queue()

    def hear(data: bytes) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens any more
            loop.call_soon_threadsafe(printed.put_nowait, data)

    telling = asyncio.create_task(_tell(printed, attempt))
    try:
        run = await sandbox.run(job, limits, hear)
    finally:
        printed.put_nowait(None)
        unheard = 0
        with contextlib.suppress(asyncio.CancelledError):
            unheard = await telling
    return run, unheard


async def _tell(printed: asyncio.Queue[bytes | None], attempt: Attempt) -> int:
    """Whole lines, until None; the first 2,000 or 256 KiB. How many bytes came after these."""
    rest, told, lines_told, unheard = b"", 0, 0, 0
    while (data := await printed.get()) is not None:
        if told > _LIVE_BYTES or lines_told > _LIVE_LINES:
            unheard += len(data)
            continue
        told += len(data)
        *lines, rest = (rest + data).split(b"\n")
        lines_told += len(lines)
        for line in lines:
            await attempt.log(line.decode(errors="replace"))
    if rest:
        await attempt.log(rest.decode(errors="replace"))
    return unheard


async def _store(one: Produced, attempt: Attempt) -> ArtifactRef:
    return await attempt.artifacts.put_file(one.spec.name, one.spec.type, one.path, one.media_type)


def _done(work: Work, refs: list[ArtifactRef], checks: list[CheckResult], record: ProgramRun) -> Done:
    names = ", ".join(ref.name for ref in refs) or "no declared output"
    return Done(
        goal_id=work.goal_id,
        task_id=work.task_id,
        epoch=work.epoch,
        outputs={ref.name: ref for ref in refs},
        summary=f"exit 0 after {record.wall_seconds:.1f} s: {names}",
        checks=checks,
        program=record,
    )


def _failed(work: Work, error: TaskError, record: ProgramRun | None) -> Failed:
    safe = error.model_copy(
        update={"message": redact(error.message), "logs": redact(error.logs) if error.logs else None}
    )
    return Failed(goal_id=work.goal_id, task_id=work.task_id, epoch=work.epoch, error=safe, program=record)
