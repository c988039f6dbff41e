"""`python -m bench`: run workloads, compare with rivals, profile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench import calls, hotpath, results, sandboxes
from bench.peers import compare
from bench.peers.rivals import ENGINES
from bench.rebuild import rebuild
from bench.runs import Run, measure, warm_up
from bench.stand import Stand
from bench.workloads import WORKLOADS, Workload, find

ONE_GOAL = ("W1", "W2", "W3", "W4", "W5")
ALL = (*ONE_GOAL, "W4x10", "W5x10", "W6a", "W6b", "W6c")
"""What `make bench` measures."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    known = f"{', '.join(WORKLOADS)}, a JSON file or a folder of them"
    run = commands.add_parser("run", help="measure workloads on a stand of real processes")
    run.add_argument("workloads", nargs="*", default=list(ALL), help=known)
    run.add_argument("--runs", type=int, default=3, help="of each workload")
    run.add_argument("--store", action="store_true", help="write bench/results")
    run.set_defaults(work=run_all)
    profile = commands.add_parser("profile", help="say where the time of a task goes")
    profile.add_argument("workloads", nargs="+", help=known)
    profile.set_defaults(work=profile_all)
    peers = commands.add_parser("peers", help="rivals on the same graphs, and what a kill -9 leaves of them")
    peers.add_argument("workloads", nargs="*", default=list(ONE_GOAL), help="of one goal each: " + known)
    peers.add_argument("--engines", default=",".join(ENGINES), help=f"of {','.join(ENGINES)}")
    peers.add_argument("--runs", type=int, default=3, help="of each workload")
    peers.add_argument("--no-kill", action="store_true", help="leave the kills out")
    peers.add_argument("--store", action="store_true", help="write bench/results")
    peers.set_defaults(work=compare_all)
    again = commands.add_parser("rebuild", help="say how long a new leader needs for 100,000 open tasks")
    again.add_argument("--runs", type=int, default=3, help="of the same rebuilding")
    again.set_defaults(work=rebuild_memory)
    tiny = commands.add_parser("sandboxes", help="tiny programs in each sandbox beside the bare interpreter")
    tiny.add_argument("--programs", type=int, default=200, help="in each round (200)")
    tiny.add_argument("--at", type=int, nargs="+", default=list(sandboxes.AT), help="programs at a time")
    tiny.add_argument("--runs", type=int, default=3, help="rounds")
    tiny.add_argument("--store", action="store_true", help="write bench/results")
    tiny.set_defaults(work=run_sandboxes)
    under_way = commands.add_parser(
        "calls", help="calls of ten seconds through four agents, up to a provider's limit"
    )
    under_way.add_argument("in_flight", nargs="*", type=int, default=list(calls.IN_FLIGHT), help="at once")
    under_way.add_argument("--seconds", type=float, default=60, help="measured, after the ramp (60)")
    under_way.add_argument("--store", action="store_true", help="write bench/results")
    under_way.set_defaults(work=measure_calls)
    for command in (run, profile):
        _add_stand_options(command)
    return parser.parse_args(words)


def _add_stand_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--performer", choices=("single", "batch"), help="(those that suit the workload)")
    add("--performers", type=int, default=1, help="processes (1)")
    add("--slots", type=int, help="of each performer process (64; for calls, what the workload says)")
    add("--look-ahead", type=int, help="tasks handed out beyond the waiting pulls (64; for calls 0)")
    add("--home", type=Path, help="where the data goes: a disk, not memory (the folder of temporary files)")


def pairs(given: argparse.Namespace) -> Iterator[tuple[Workload, str]]:
    """The workloads asked for, each with the performers asked for or those that suit it."""
    for workload in [found for name in given.workloads for found in find(name)]:
        for variant in workload.variants if given.performer is None else (given.performer,):
            if variant == "batch" not in workload.variants:
                raise KeyError(f"{workload.name} needs a slot for each call: --performer single")
            yield workload, variant


def stand_for(
    workload: Workload, variant: str, given: argparse.Namespace, postgres_options: Sequence[str] = ()
) -> Stand:
    """The stand of a workload, with the slots and the look-ahead that suit it unless they are given."""
    slots, look_ahead = (-(-workload.in_flight // given.performers), 0) if workload.in_flight else (64, 64)
    return Stand(
        variant=variant,
        performers=given.performers,
        slots=given.slots or slots,
        look_ahead=look_ahead if given.look_ahead is None else given.look_ahead,
        home=given.home,
        postgres_options=postgres_options,
    )


async def run_all(given: argparse.Namespace) -> None:
    """The command `run`."""
    about = about_this(given.runs)
    print(results.table([]), end="", flush=True)
    rows = [await run_workload(workload, variant, given) for workload, variant in pairs(given)]
    if given.runs > 1:
        print("\nmedians\n\n" + results.table(rows))
    if given.store:
        print(f"written: {results.store(rows, about)}")


async def run_workload(workload: Workload, variant: str, given: argparse.Namespace) -> dict[str, Any]:
    """Some runs on a fresh stand, and their median."""
    runs: list[Run] = []
    async with stand_for(workload, variant, given) as stand:
        await warm_up(stand)
        for _ in range(min(given.runs, workload.runs)):
            runs.append(await measure(stand, workload))
            print(results.table([results.row(workload, variant, runs[-1:])]).splitlines()[-1], flush=True)
        settings = {"performers": given.performers, "slots": stand.slots, "look_ahead": stand.look_ahead}
    return results.row(workload, variant, runs) | {"settings": settings}


async def profile_all(given: argparse.Namespace) -> None:
    """The command `profile`."""
    for workload, variant in pairs(given):
        async with stand_for(workload, variant, given, hotpath.POSTGRES_OPTIONS) as stand:
            print(await hotpath.profile(stand, workload), flush=True)


async def rebuild_memory(given: argparse.Namespace) -> None:
    """The command `rebuild`."""
    async with Stand(variant="single") as stand:
        print(await rebuild(stand, given.runs))


async def measure_calls(given: argparse.Namespace) -> None:
    """The command `calls`."""
    about = about_this(1)
    found = [await calls.measure(calls.Load(in_flight, given.seconds)) for in_flight in given.in_flight]
    print(calls.table(found))
    if given.store:
        print(f"written: {calls.store(found, about)}")


async def compare_all(given: argparse.Namespace) -> None:
    """The command `peers`."""
    about = about_this(given.runs)
    workloads = [found for name in given.workloads for found in find(name)]
    if big := [workload.name for workload in workloads if workload.open_goals > 1]:
        raise KeyError(f"{', '.join(big)}: rivals run one graph at a time")
    found = await compare.compare(given.engines.split(","), workloads, given.runs, kills=not given.no_kill)
    print(compare.tables(found))
    if given.store:
        print(f"written: {compare.store(found, about)}")


async def run_sandboxes(given: argparse.Namespace) -> None:
    """The command `sandboxes`."""
    about = about_this(given.runs)
    rows, missing = await sandboxes.compare(given.programs, given.at, given.runs)
    print(sandboxes.table(rows, missing))
    if given.store:
        print(f"written: {sandboxes.store(rows, missing, about)}")


def about_this(runs: int) -> dict[str, Any]:
    """The machine, the code, and how many runs."""
    return {"machine": results.machine(), "code": results.code(), "runs": runs}


def main() -> None:
    """Do what the command line says."""
    given = arguments()
    try:
        uvloop.run(given.work(given))
    except KeyError as error:
        sys.exit(str(error.args[0]))


if __name__ == "__main__":
    main()
