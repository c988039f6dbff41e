"""What the executor decides, pure: how a program is called, what its end means, which files it leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from goalwright_shared.messages import ArtifactType, OutputSpec, ProgramRun, ProgramSpec, TaskError

PRINTED = ("stdout", "stderr")
"""Outputs of these names are what the program printed."""

MAX_ENTRIES = 10_000
"""Files and folders in out/ beyond this are refused."""

MAX_FILES = 50_000
"""Files and folders in each of the two folders a program may write to."""

MAX_ARGUMENT_BYTES = 64 * 1024
"""Of all arguments together; Linux takes 128 KiB for one."""

_NAMED = 20  # entries of out/ told by name

KEPT_CHARACTERS = 4_096
"""Of what was printed, the last so many go into the record of the run."""


class Fault(Exception):
    """A task cannot be done as it is; becomes a `failed` with this error."""

    def __init__(self, error: TaskError) -> None:
        super().__init__(error.message)
        self.error = error

    @classmethod
    def of(cls, code: str, message: str) -> Fault:
        """A fault that another try would only repeat."""
        return cls(TaskError(code=code, message=message))


class Limit(StrEnum):
    """A limit that ended a program; the words are failure codes too."""

    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT = "output_limit"
    DISK = "disk_limit"


@dataclass(frozen=True)
class Limits:
    """What one program may use, over all its processes."""

    seconds: float  # of wall clock, and as many of CPU
    memory_bytes: int
    processes: int
    disk_bytes: int  # of each of its two writable folders
    output_bytes: int  # printed, stdout and stderr each


@dataclass(frozen=True)
class Run:
    """What a sandbox saw of one program. `exit_code` is None when the sandbox killed it."""

    sandbox: str
    exit_code: int | None
    limit: Limit | None
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    stdout: bytes
    stderr: bytes
    lacks: tuple[str, ...] = ()


def file_name(program: ProgramSpec) -> str:
    """The name of the program's source in its folder."""
    return "main.py" if program.language == "python" else "main.sh"


def command(program: ProgramSpec, python: str) -> tuple[str, ...]:
    """The command line of a program, run in its folder; `python` is the sandbox's interpreter."""
    interpreter = python if program.language == "python" else "/bin/sh"
    return (interpreter, file_name(program), *program.args)


def argument_problem(program: ProgramSpec) -> str | None:
    """Why no system would start a program with these arguments."""
    if any("\0" in argument for argument in program.args):
        return "an argument of the program holds NUL"
    if sum(len(argument.encode(errors="replace")) + 1 for argument in program.args) > MAX_ARGUMENT_BYTES:
        return (
            f"the arguments of the program are longer than {MAX_ARGUMENT_BYTES} bytes: use an input or stdin"
        )
    return None


def ended_by(run: Run) -> Limit | None:
    """The limit that ended a program: one the sandbox saw, or one the program itself ran into and told."""
    if run.limit is not None or run.exit_code == 0:
        return run.limit
    last = run.stderr[-2_000:].decode(errors="replace").rstrip().rpartition("\n")[2]
    if re.match(r"(\w+\.)*(_Array)?MemoryError\b", last):
        return Limit.OUT_OF_MEMORY
    if "No space left on device" in last or "database or disk is full" in last:
        return Limit.DISK
    return None


def signal_of(run: Run) -> int | None:
    """The signal that ended a program: 9 when the sandbox killed it, else as shells tell it (128 + n)."""
    if run.exit_code is None:
        return 9
    return run.exit_code - 128 if 128 < run.exit_code <= 128 + 64 else None


def failure(run: Run, limits: Limits) -> TaskError | None:
    """Why the program failed, or None when it exited 0 within its limits. Never retryable: it would do the
    same again; whoever asked for it repairs it."""
    limit = ended_by(run)
    if limit is None and run.exit_code == 0:
        return None
    logs = tail(run.stderr) or tail(run.stdout)
    if limit is not None:
        return TaskError(code=limit.value, message=_limit_message(limit, run, limits), logs=logs)
    number = signal_of(run)
    how = f"ended by signal {number} (exit code {run.exit_code})" if number else f"exit code {run.exit_code}"
    last = logs.rstrip().rpartition("\n")[2][:500]
    return TaskError(code="program_failed", message=f"{how}: {last}" if last else how, logs=logs)


def _limit_message(limit: Limit, run: Run, limits: Limits) -> str:
    match limit:
        case Limit.TIMEOUT:
            return (
                f"killed after {run.wall_seconds:.1f} s; it may take {limits.seconds:g} s of wall clock, "
                "and as many of CPU over all its processes"
            )
        case Limit.OUT_OF_MEMORY:
            return f"it needed more than its {limits.memory_bytes >> 20} MB of memory"
        case Limit.OUTPUT:
            return f"it printed more than {limits.output_bytes >> 20} MB"
        case Limit.DISK:
            return (
                f"it wrote more than its {limits.disk_bytes >> 20} MB of disk, or more than {MAX_FILES} files"
            )


def record(run: Run, stdout: str, stderr: str, dropped: Sequence[str]) -> ProgramRun:
    """The run as the scheduler keeps it; `stdout` and `stderr` are the redacted tails, `dropped` is told by
    `dropped`."""
    return ProgramRun(
        exit_code=run.exit_code,
        signal=signal_of(run),
        limit=ended_by(run),
        wall_seconds=round(run.wall_seconds, 3),
        cpu_seconds=round(run.cpu_seconds, 3),
        peak_memory_bytes=run.peak_memory_bytes,
        stdout=stdout,
        stderr=stderr,
        sandbox=run.sandbox,
        lacks=list(run.lacks),
        dropped=list(dropped),
    )


def dropped(
    run: Run, limits: Limits, kept: Sequence[str], unheard_bytes: int, untaken: Sequence[str]
) -> list[str]:
    """What nobody keeps of a run, in words. `kept` are the declared outputs that are all of what was printed,
    `unheard_bytes` were not shown live, `untaken` are entries of out/ that are no declared output."""
    told = []
    for name, printed in (("stdout", run.stdout), ("stderr", run.stderr)):
        if len(printed) >= limits.output_bytes and run.limit is Limit.OUTPUT:
            told.append(f"{name}: everything after its first {limits.output_bytes} bytes")
        cut = len(printed.decode(errors="replace")) - KEPT_CHARACTERS
        if cut > 0 and name not in kept:
            told.append(f"{name}: the first {cut} characters, all but the last {KEPT_CHARACTERS}")
    if unheard_bytes:
        told.append(f"live output: the last {unheard_bytes} bytes")
    if run.exit_code != 0 or run.limit is not None:
        told.append("out/: everything, because the program did not exit 0")
    told += [f"out/{shown(path)}: no declared output" for path in untaken[:_NAMED]]
    if len(untaken) > _NAMED:
        told.append(f"out/: {len(untaken) - _NAMED} more files and folders that are no declared output")
    return told


def shown(path: str) -> str:
    """A program's file name as text that any store and any terminal takes."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in path[:200])


def tail(printed: bytes) -> str:
    """The end of what was printed, as text that any store takes."""
    text = printed[-4 * KEPT_CHARACTERS :].decode("utf-8", errors="replace").replace("\0", "�")
    return text[-KEPT_CHARACTERS:]


# --- outputs -------------------------------------------------------------------------------------------

Kind = Literal["file", "folder", "other"]
"""What an entry of out/ is; `other` are links, devices, pipes and sockets."""


@dataclass(frozen=True)
class Refusal:
    """Why an output is not taken."""

    code: Literal["missing_output", "refused_output"]
    message: str


def choose(spec: OutputSpec, entries: Mapping[str, Kind]) -> str | Refusal:
    """The entry of out/ that is output `spec.name`: `<name>` itself, else the only `<name>.*`.

    `entries` maps paths relative to out/ to their kinds. Folders are only taken for outputs that are folders
    or data sets; links, devices and the like never.
    """
    top = {path: kind for path, kind in entries.items() if "/" not in path}
    named = [path for path in top if path.startswith(f"{spec.name}.")]
    if spec.type is ArtifactType.DATABASE:  # what SQLite keeps beside a file is no file of its own
        named = [path for path in named if not path.endswith(("-wal", "-shm", "-journal"))]
    if spec.name not in top and len(named) != 1:
        return _unclear(spec.name, named, top)
    path = spec.name if spec.name in top else named[0]
    if top[path] == "other":
        return Refusal("refused_output", f"out/{shown(path)} is a link or a device; write a regular file")
    if top[path] == "folder" and spec.type not in ("folder", "dataset"):
        return Refusal(
            "refused_output", f"out/{shown(path)} is a folder, but output {spec.name} is a {spec.type}"
        )
    inside = [p for p, kind in entries.items() if kind == "other" and p.startswith(f"{path}/")]
    if inside:
        return Refusal(
            "refused_output", f"out/{shown(inside[0])} is a link or a device; write a regular file"
        )
    return path


def _unclear(name: str, named: Sequence[str], top: Mapping[str, Kind]) -> Refusal:
    if named:
        return Refusal(
            "refused_output", f"output {name} is ambiguous: {', '.join(map(shown, sorted(named)[:_NAMED]))}"
        )
    there = ", ".join(f"out/{shown(path)}" for path in sorted(top)[:20]) or "nothing"
    return Refusal("missing_output", f"the program left no out/{name}; it left {there}")


def safe_path(path: str) -> str | None:
    """The path of an archive entry relative to its root, None when it would leave the root or is absurd."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or len(parts) > 32 or "\0" in path:
        return None
    if any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        return None
    return "/".join(parts)
