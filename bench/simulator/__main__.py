"""Compare orders of execution: `python -m bench.simulator [--instances FOLDER] [--graphs N] [--out FOLDER]`.

Writes `rank-random.{md,json}` and, with a folder of WfFormat files, `rank-recorded.{md,json}`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.simulator.graphs import Problem, random_graph, recorded_graph
from bench.simulator.world import POLICIES, World

WORKERS = (4, 64, 580)
HOLDS = (1.0, 2.0)
"""What a task reserves while it runs, in estimates: 1 is a mere stop at the budget, 2 is like caps of calls."""
BUDGETS = (0.25, 0.40, 0.60)
_SEEDS_OF_RECORDED = 8
"""Values and estimates are drawn this often for each recorded graph."""


@dataclass(frozen=True, slots=True)
class Row:
    """One policy with so many workers. `delivered` is the mean share of all value, by share of the cost that
    the budget covers; the others are medians against FIFO, with enough money for everything."""

    hold: float
    workers: int
    policy: str
    delivered: dict[str, float]
    completion: float
    makespan: float


def compare(problems: Sequence[Problem], hold: float) -> list[Row]:
    """Every policy with every number of workers, when tasks reserve `hold` times their estimate."""
    rows = []
    for workers in WORKERS:
        first = [World(problem, POLICIES[0], workers).run() for problem in problems]
        for policy in POLICIES:
            whole = [World(problem, policy, workers).run() for problem in problems]
            delivered = {
                f"{share:.0%}": statistics.mean(
                    World(problem, policy, workers, share * problem.cost, hold).run().delivered
                    for problem in problems
                )
                for share in BUDGETS
            }
            pairs = list(zip(whole, first, strict=True))
            rows.append(
                Row(
                    hold=hold,
                    workers=workers,
                    policy=policy.name,
                    delivered={share: round(value, 3) for share, value in delivered.items()},
                    completion=round(statistics.median(a.completion / b.completion for a, b in pairs), 3),
                    makespan=round(statistics.median(a.makespan / b.makespan for a, b in pairs), 3),
                )
            )
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    shares = list(rows[0].delivered)
    head = ["workers", "order", *(f"value at {share} budget" for share in shares), "completion", "makespan"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [str(row.workers), row.policy, *(f"{row.delivered[share]:.2f}" for share in shares)]
        cells += [f"{row.completion:.2f}", f"{row.makespan:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_EXPLANATION = """Share of all value that is delivered before the budget is spent (mean), then the time at which
a unit of value is delivered, weighted, and the makespan, with enough money, both against FIFO (medians).
Ranks, heaps, admission and calibration are the scheduler's own code. Estimates are wrong by a log-normal factor
(sigma 0.5); what is billed beyond the budget brings nothing. {graphs}
"""


def write(out: Path, name: str, problems: Sequence[Problem], graphs: str) -> None:
    """Compare, and keep the tables and their figures as files."""
    page = f"# Orders of execution: {name} graphs\n\n{_EXPLANATION.format(graphs=graphs)}"
    found = []
    for hold in HOLDS:
        rows = compare(problems, hold)
        found += rows
        page += f"\n## A running task reserves {hold:g} × its estimate\n\n{table(rows)}\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"rank-{name}.md").write_text(page, encoding="utf-8")
    body = {"graphs": graphs, "rows": [asdict(row) for row in found]}
    (out / f"rank-{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(page)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulator", description=__doc__)
    parser.add_argument("--instances", type=Path, help="a folder of recorded workflows (WfFormat JSON)")
    parser.add_argument("--graphs", type=int, default=100, help="how many random graphs")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    chosen = parser.parse_args()
    drawn = [random_graph(seed) for seed in range(chosen.graphs)]
    told = f"{chosen.graphs} random graphs of 150 tasks with 12 deliverables."
    write(chosen.out, "random", drawn, told)
    if chosen.instances is not None:
        files = sorted(chosen.instances.glob("*.json"))
        recorded = [recorded_graph(path, seed) for path in files for seed in range(_SEEDS_OF_RECORDED)]
        names = ", ".join(sorted({problem.name for problem in recorded}))
        told = f"Recorded workflows ({names}), {_SEEDS_OF_RECORDED} draws of values and estimates each."
        write(chosen.out, "recorded", recorded, told)


if __name__ == "__main__":
    main()
