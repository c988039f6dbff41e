"""`python -m bench`: run workloads, compare with rivals, profile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench import results
from bench.runs import Run, measure, warm_up
from bench.stand import Stand
from bench.workloads import IN_FLIGHT, WORKLOADS, Workload, find

ALL = ("W1", "W2", "W3", "W4", "W5", "W6a", "W6b")
"""What `make bench` measures; W6c (a million tasks) takes minutes and is asked for by name."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure workloads on a stand of real processes")
    run.add_argument(
        "workloads", nargs="*", default=list(ALL), help=f"{', '.join(WORKLOADS)}, a JSON file or a folder"
    )
    run.add_argument("--runs", type=int, default=3, help="of each workload")
    run.add_argument("--performer", choices=("single", "batch", "both"), default="both")
    run.add_argument("--performers", type=int, default=1, help="processes")
    run.add_argument("--slots", type=int, default=64, help="of each performer process")
    run.add_argument("--look-ahead", type=int, default=64, help="tasks handed out beyond the waiting pulls")
    run.add_argument(
        "--home", type=Path, help="where the data goes, a disk (default: the folder for temporary files)"
    )
    run.add_argument("--store", action="store_true", help="write bench/results")
    return parser.parse_args(words)


def stand_for(workload: Workload, variant: str, given: argparse.Namespace) -> Stand:
    """The stand of a workload: calls are limited by slots, without look-ahead; others as given."""
    slots, look_ahead = given.slots, given.look_ahead
    if workload.in_flight:
        slots, look_ahead = -(-IN_FLIGHT // given.performers), 0
    return Stand(
        variant=variant, performers=given.performers, slots=slots, look_ahead=look_ahead, home=given.home
    )


async def run_workload(workload: Workload, variant: str, given: argparse.Namespace) -> dict[str, Any]:
    """Some runs on a fresh stand, and their median."""
    runs: list[Run] = []
    async with stand_for(workload, variant, given) as stand:
        await warm_up(stand)
        for _ in range(given.runs):
            runs.append(await measure(stand, workload))
            print(results.table([_row(workload, variant, runs[-1:])]).splitlines()[-1], flush=True)
        settings = {"performers": given.performers, "slots": stand.slots, "look_ahead": stand.look_ahead}
    return _row(workload, variant, runs) | {"settings": settings}


def _row(workload: Workload, variant: str, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "title": workload.title,
        "performer": variant,
        "median": results.median(runs),
        "runs": [run.facts() for run in runs],
    }


async def run_all(given: argparse.Namespace) -> None:
    """The command `run`."""
    about = {"machine": results.machine(), "code": results.code(), "runs": given.runs}
    print(results.table([]), end="", flush=True)
    rows = []
    for workload in [found for name in given.workloads for found in find(name)]:
        variants = ["single", "batch"] if given.performer == "both" else [given.performer]
        for variant in ["single"] if workload.in_flight else variants:
            rows.append(await run_workload(workload, variant, given))
    if given.store:
        print(f"\nwritten: {results.store(rows, about)}")
    elif given.runs > 1:
        print("\nmedians\n" + results.table(rows))


def main() -> None:
    """Do what the command line says."""
    given = arguments()
    try:
        uvloop.run(run_all(given))
    except KeyError as error:
        sys.exit(str(error.args[0]))


if __name__ == "__main__":
    main()
