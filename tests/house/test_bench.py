"""The bench measures what it says, and refuses to count a run in which something went wrong."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from goalwright_shared.messages import GoalSubmission, parse_strict

from bench.calls import Found, Load, table
from bench.meter import Meter
from bench.peers.compare import Journal, build
from bench.peers.rivals import kill
from bench.runs import measure, warm_up
from bench.stand import Stand
from bench.validate import Wrong, check_calls, check_events
from bench.workloads import WORKLOADS, Graph, Workload, chain, fan, layered, read_graph, submission

DIAMOND = Graph([[], [0], [0], [1, 2]])
CALLS = [(0, 1, 10, 20), (2, 1, 21, 30), (1, 1, 22, 40), (3, 1, 40, 50)]


def events(graph: Graph, status: str = "done") -> list[dict[str, Any]]:
    """What the stream holds after a run in which all went well."""
    kinds: list[tuple[str, dict[str, str]]] = [("goal.accepted", {})]
    for i in range(len(graph)):
        kinds += [("task.dispatched", {"key": f"t{i}"}), ("task.succeeded", {"key": f"t{i}"})]
    kinds.append(("goal.finished", {"status": status}))
    return [{"seq": i + 1, "kind": kind, "data": data} for i, (kind, data) in enumerate(kinds)]


@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W5", "K"])
def test_a_workload_is_the_same_graph_each_time_in_topological_order(name: str) -> None:
    first, again = next(WORKLOADS[name].graphs()), next(WORKLOADS[name].graphs())
    assert first == again
    assert all(need < i for i, needs in enumerate(first.deps) for need in needs)


def test_a_layered_graph_has_two_needs_a_task_and_about_the_width_it_names() -> None:
    graph = layered(2_000, 100, seed=1)
    depth = [0] * len(graph)
    for i, needs in enumerate(graph.deps):
        depth[i] = 1 + max((depth[need] for need in needs), default=0)
    assert sum(len(needs) == 2 for needs in graph.deps) > 0.9 * len(graph)
    assert max(len(needs) for needs in graph.deps) == 2
    assert 2_000 / 120 <= max(depth) <= 2_000 / 80 + 1


def test_a_recorded_workflow_keeps_its_edges() -> None:
    tasks = [
        {"id": "join", "parents": ["a", "b"]}, {"id": "a", "parents": ["split"]}, {"id": "b", "parents": ["split"]},
        {"id": "split", "parents": []},
    ]  # fmt: skip
    graph = read_graph({"workflow": {"specification": {"tasks": tasks}}})
    assert sorted(map(list, graph.deps)) == [[], [0], [0], [1, 2]]


def test_a_goal_of_the_bench_is_a_goal_that_clients_may_submit() -> None:
    parsed = parse_strict(GoalSubmission, submission(Graph(fan(3).deps, seconds=0.5), "g-1", "text"))
    assert parsed.plan is not None
    assert [task.inputs for task in parsed.plan.tasks] == [[], ["o0"], ["o0"], ["o0"], ["o1", "o2", "o3"]]
    assert parsed.plan.tasks[0].params == {"seconds": 0.5}


def test_a_right_run_counts() -> None:
    check_calls(DIAMOND, CALLS)
    assert check_events(DIAMOND, events(DIAMOND)) == 10


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        (CALLS[:3], "1 tasks not performed"),
        ([*CALLS, (1, 1, 60, 70)], "1 more than once"),
        ([*CALLS[:3], (3, 2, 40, 50)], "dispatched more than once"),
        ([*CALLS[:3], (3, 1, 39, 50)], "began before what they need had ended"),
    ],
)
def test_a_task_that_is_lost_repeated_or_early_spoils_the_run(calls: Any, why: str) -> None:
    with pytest.raises(Wrong, match=why):
        check_calls(DIAMOND, calls)


def test_events_that_are_missing_twice_or_say_otherwise_spoil_the_run() -> None:
    good = events(DIAMOND)
    with pytest.raises(Wrong, match="event 5 follows event 3"):
        check_events(DIAMOND, good[:3] + good[4:])
    with pytest.raises(Wrong, match="ended as None"):
        check_events(DIAMOND, good[:-1])
    with pytest.raises(Wrong, match="ended as partial"):
        check_events(DIAMOND, events(DIAMOND, "partial"))
    twice = [*good[:-1], {**good[2], "seq": 10}, {**good[-1], "seq": 11}]
    with pytest.raises(Wrong, match=r"not one task\.succeeded"):
        check_events(DIAMOND, twice)


def test_a_load_of_calls_is_what_its_limit_allows_and_some_to_spare() -> None:
    load = Load(583, seconds=60)
    assert load.per_minute == 3_498
    assert load.tasks == round(58.3 * 80)
    cpu = dict.fromkeys(("agents", "scheduler", "postgres", "nats"), 1.5)
    found = Found(
        in_flight=583, limit_per_minute=3_498, seconds=60, calls=3_490, used_percent=99.8, refused=1,
        refused_percent=0.029, most_in_flight=590, cpu_seconds=cpu, cpu_seconds_ours=3.0, kib_per_call=80,
        agents_idle_mib=300, agents_peak_mib=345,
    )  # fmt: skip
    cells = [cell.strip() for cell in table([found]).splitlines()[2].strip("|").split("|")]
    assert cells[:5] == ["583", "3,498", "3,490", "99.8", "0.029"]
    assert cells[5:8] == ["1.50", "1.50", "3.00"]


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[str]]:
    """A process whose child uses 0.3 s of CPU and ends before it says `done`."""
    child = "import time\nwhile time.process_time() < 0.3: pass\n"
    parent = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
        "print('done', flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.communicate("\n")


async def test_the_meter_counts_children_that_have_ended(burner: subprocess.Popen[str]) -> None:
    assert burner.stdout is not None
    async with Meter({"burner": [burner.pid], "client": [os.getpid()]}) as reading:
        assert burner.stdout.readline() == "done\n"
    assert 0.25 < reading.cpu_seconds["burner"] < 2
    assert reading.peak_mib["burner"] > 1
    assert reading.peak_total_mib > 1


async def test_our_own_share_leaves_our_children_out() -> None:
    began = time.process_time()
    async with Meter({"client": [os.getpid()]}) as reading:
        subprocess.run(  # noqa: ASYNC221 - its end is waited for, as nothing else goes on
            [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True
        )
    assert reading.cpu_seconds["client"] < time.process_time() - began + 0.1


async def test_a_rival_notes_what_it_did_and_starts_anew_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    journal = Journal(tmp_path / "journal")
    floor = build("floor")
    try:
        await floor.start(Workload("small", "small", lambda: iter((layered(60, 10, seed=1),))), journal.path)
        await floor.run()
        assert journal.read() == {"b": Counter(range(60)), "e": Counter(range(60))}
        kill(floor.roots())
        await floor.restart()
        await floor.run()
        assert set(journal.read()["e"].values()) == {2}
    finally:
        await floor.stop()


def test_a_note_that_a_kill_cut_short_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("b 1\nb 12\ne 1\ne 1")
    assert Journal(tmp_path / "journal").read() == {"b": Counter([1, 12]), "e": Counter([1])}


@pytest.mark.parametrize("variant", ["single", "batch"])
async def test_a_stand_of_real_processes_performs_and_is_measured(variant: str) -> None:
    graph = layered(60, 10, seed=1)
    async with Stand(variant=variant, slots=8, look_ahead=8) as stand:
        await warm_up(stand)
        run = await measure(stand, Workload("small", "small", lambda: iter((graph, chain(5))), open_goals=2))
    assert run.tasks == 65
    assert run.events > 2 * run.tasks
    assert set(run.cpu_us) == {"scheduler", "postgres", "nats", "performers", "client"}
    assert run.tasks_per_second > 0
