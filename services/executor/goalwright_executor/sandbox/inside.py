"""The part of a sandbox that runs inside it: a shell around the program, and the report it sends out.

The shell starts the program, kills whatever the program left running, then writes a report to descriptor 0,
which is open for writing and which the program never sees: a marker where there is one, a few lines, an empty
line, and the tar of out/ when the program exited 0. It exits as the program did.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SHELL = """
[ "$1" = unlimited ] || ulimit -p "$1" 2>/dev/null || ulimit -u "$1"
ulimit -c 0
ulimit -n 1024 2>/dev/null
{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null
stdin=$2
shift 2
"$@" <"$stdin"
code=$?
kill -9 -1 2>/dev/null
if [ -L out ] || [ ! -d out ]; then out=replaced; else out=folder; fi
{
  printf %s "$marker"
  echo "exit $code"
  echo "out $out"
  times
  for peak in /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes; do
    { read -r bytes <$peak && echo "$bytes"; } 2>/dev/null
  done
  echo
  if [ $code = 0 ] && [ $out = folder ]; then tar -c -f - -C out . 2>/dev/null; fi
} >&0
exit $code
"""

ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108  # inside the sandbox this is a tmpfs of its own
    "LANG": "C.UTF-8",
    "LOGNAME": "program",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108
    "OMP_NUM_THREADS": "1",  # threads count as processes, and a slot is about one core
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
    "TMPDIR": "/tmp",  # noqa: S108
    "TZ": "UTC",
}
"""What programs find in their environment, beside PATH (and PYTHONPATH)."""

REPORT_SLACK_BYTES = 32 << 20
"""What headers and padding of the tar may take beside the bytes of the files."""

_HEAD_BYTES = 4_096


@dataclass(frozen=True)
class Report:
    """What the shell inside told at the end."""

    exit_code: int
    out_is_folder: bool
    cpu_seconds: float
    peak_memory_bytes: int  # 0 when the sandbox has no control group of its own
    body_at: int  # where the tar begins


def read_report(file: BinaryIO) -> Report | None:
    """The report at the start of `file`; None when there is no whole one (the shell was killed)."""
    head, end, _ = file.read(_HEAD_BYTES).partition(b"\n\n")
    found = re.match(rb"exit (\d{1,3})\nout (\w+)\n", head)
    if not end or found is None:
        return None
    minutes = re.findall(rb"(\d+)m([\d.]+)s", head)
    peaks = re.findall(rb"^(\d+)$", head, re.M)
    return Report(
        exit_code=int(found[1]),
        out_is_folder=found[2] == b"folder",
        cpu_seconds=sum(int(m) * 60 + float(s) for m, s in minutes),
        peak_memory_bytes=max(map(int, peaks), default=0),
        body_at=len(head) + len(end),
    )


def keep_outputs(report: Path, outputs: Path) -> Report | None:
    """Split the report from the tar behind it, which is written to `outputs` when there is one."""
    with report.open("rb") as file:
        found = read_report(file)
        if found is None or found.exit_code != 0 or not found.out_is_folder:
            return found
        file.seek(found.body_at)
        with outputs.open("wb") as target:
            while block := file.read(1 << 20):
                target.write(block)
    return found
