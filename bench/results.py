"""Results: medians, one JSON file a machine and day, and a table for people."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import goalwright_scheduler
import psutil

from bench.runs import Run
from bench.workloads import Workload

FOLDER = Path(__file__).parent / "results"


def row(workload: Workload, variant: str, runs: Sequence[Run]) -> dict[str, Any]:
    """The runs of one workload and the median of every figure."""
    facts = [run.facts() for run in runs]
    return {"title": workload.title, "performer": variant, "median": _median(facts), "runs": facts}


def _median(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(first, dict):
            found[name] = _median(values)
        elif isinstance(first, int | float):
            found[name] = round(statistics.median(values), 3)
        else:
            found[name] = first
    return found


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def code() -> dict[str, str]:
    """Which code was measured."""
    assert goalwright_scheduler.__file__ is not None
    folder = Path(goalwright_scheduler.__file__).parent
    done = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"revision": done.stdout.strip() or "unknown"}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one line a workload."""
    named, figures = ["workload", "performer"], [
        "tasks/s", "s to first", "s from last", "ms a hop", "% of ideal", "% while calling", "CPU µs a task",
        "scheduler", "postgres", "nats", "performers", "client", "peak MiB, all", "peak MiB, scheduler",
    ]  # fmt: skip
    head = f"| {' | '.join(named + figures)} |\n|{'---|' * len(named)}{'---:|' * len(figures)}\n"
    return head + "".join(f"{_line(row)}\n" for row in rows)


def _line(row: Mapping[str, Any]) -> str:
    m = row["median"]
    cpu = m["cpu_us"]
    cells = [
        f"{m['workload']}: {row['title']}",
        row["performer"],
        f"{m['tasks_per_second']:,.0f}",
        f"{m['start_seconds']:.2f}",
        f"{m['finish_seconds']:.2f}",
        "" if m["hop_ms"] is None else f"{m['hop_ms']:.2f}",
        "" if m["ideal_percent"] is None else f"{m['ideal_percent']:.1f}",
        "" if m["calling_percent"] is None else f"{m['calling_percent']:.1f}",
        f"{m['cpu_us_total']:.0f}",
        *(f"{cpu[role]:.0f}" for role in ("scheduler", "postgres", "nats", "performers", "client")),
        f"{m['peak_total_mib']:.0f}",
        f"{m['peak_mib']['scheduler']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def store(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> Path:
    """Write the JSON of this day and machine, and `latest.md`."""
    file = path("ours", about)
    file.write_text(json.dumps({**about, "workloads": list(rows)}, indent=1) + "\n")
    (FOLDER / "latest.md").write_text("# Results\n\n" + said(about, file) + table(rows) + growth(rows))
    return file


def growth(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a task costs more when there are more of them: one line for each size of W6 beyond the first."""
    sizes = {row["median"]["workload"]: row["median"] for row in rows}
    first, lines = sizes.get("W6a"), []
    for name in ("W6b", "W6c"):
        if first and (this := sizes.get(name)):
            time = 100 * (first["tasks_per_second"] / this["tasks_per_second"] - 1)
            cpu = 100 * (this["cpu_us_total"] / first["cpu_us_total"] - 1)
            lines.append(
                f"From {first['tasks']:,} to {this['tasks']:,} tasks the time of a task grows by {time:.0f} %, its "
                f"CPU by {cpu:.0f} %; the scheduler takes {this['peak_mib']['scheduler']:.0f} MiB at most.\n"
            )
    return "\n" + "".join(lines) if lines else ""


def path(what: str, about: Mapping[str, Any]) -> Path:
    """Where the JSON goes."""
    FOLDER.mkdir(exist_ok=True)
    where = about["machine"]
    return (
        FOLDER / f"{datetime.now(UTC):%Y-%m-%d}-{where['cores']}-cores-{where['memory_gib']}-gib-{what}.json"
    )


def said(about: Mapping[str, Any], file: Path) -> str:
    """What was measured where, in one paragraph."""
    where = about["machine"]
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {where['cores']} cores, {where['memory_gib']} GiB, "
        f"Python {where['python']}, revision {about['code']['revision']}, load before {where['load_before']:.1f}; "
        f"every figure is the median of {about['runs']} runs ([all of them]({file.name})). "
        f"What and how: [README](../README.md).\n\n"
    )
