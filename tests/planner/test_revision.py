"""Replans: what may change, what must hold afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from goalwright_planner.core.compiler import Limits, Rejected
from goalwright_planner.core.revision import (
    Revision,
    Situation,
    Standing,
    affordable,
    compile_revision,
    read_situation,
)
from goalwright_shared.graph import compile_generation
from goalwright_shared.messages import AddTask, DropTask, OutputSpec, TaskSpec, ValueTask
from hypothesis import given
from hypothesis import strategies as st

from planner.plans import LANES, task

LIMITS = Limits(max_tasks=10)


def now(**states: str) -> Situation:
    """fetch → clean → {chart, report}; report is owed."""
    tasks = (
        Standing("fetch", "succeeded", outputs=("raw",)),
        Standing("clean", "blocked", inputs=("raw",), outputs=("tidy",)),
        Standing("chart", "blocked", inputs=("tidy",), outputs=("picture",)),
        Standing("report", "blocked", inputs=("tidy", "picture"), outputs=("report",)),
    )
    placed = tuple(
        Standing(t.key, states.get(t.key, t.state), inputs=t.inputs, outputs=t.outputs) for t in tasks
    )
    return Situation(placed, ("orders",), ("report",), LANES, LIMITS, ("replan-1",))


def change(*, drop: Any = (), add: Any = (), values: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "reason": "it is better",
        "drop": [{"key": key, "reason": "too slow"} for key in drop],
        "add": list(add),
        "values": [{"key": key, "value": value} for key, value in values],
        "summary": "another way",
        **more,
    }


def revised(answer: Any, at: Situation | None = None) -> Revision:
    revision = compile_revision(answer, at or now())
    assert isinstance(revision, Revision), revision
    return revision


def refused(answer: Any, at: Situation | None = None) -> tuple[str, ...]:
    revision = compile_revision(answer, at or now())
    assert isinstance(revision, Rejected), revision
    return revision.errors


def test_an_empty_revision_changes_nothing() -> None:
    assert revised(change()).operations == []


def test_a_task_is_replaced_by_another_that_makes_the_same() -> None:
    other = task("clean-better", ["raw"], ["tidy"])
    operations = revised(change(drop=["clean"], add=[other])).operations
    assert isinstance(operations[0], DropTask)
    assert (operations[0].key, operations[0].reason) == ("clean", "too slow")
    assert isinstance(operations[1], AddTask)
    assert operations[1].task.key == "clean-better"


def test_a_replacement_under_the_same_key_gets_one_of_its_own() -> None:
    revision = revised(change(drop=["clean"], add=[task("clean", ["raw"], ["tidy"])]))
    added = [op.task for op in revision.operations if isinstance(op, AddTask)]
    assert [one.key for one in added] == ["clean-2"]


def test_a_replacement_that_spells_the_output_otherwise_is_understood() -> None:
    revision = revised(change(drop=["clean"], add=[task("wash", ["raw"], ["tidied.csv"])]))
    added = [op.task for op in revision.operations if isinstance(op, AddTask)]
    assert [out.name for out in added[0].outputs] == ["tidy"]


def test_dropping_what_others_need_without_a_replacement_is_an_error() -> None:
    errors = refused(change(drop=["clean"]))
    assert errors == ("unknown_input: input tidy of tasks chart, report is produced by nobody",)


def test_dropping_a_deliverable_is_an_error() -> None:
    assert refused(change(drop=["report"])) == ("missing_output: no task produces report",)


def test_finished_work_cannot_be_dropped() -> None:
    [error] = refused(change(drop=["fetch"]))
    assert error.startswith("finished: task fetch has succeeded and stays")


def test_an_unknown_key_suggests_the_one_meant_or_is_read_as_it() -> None:
    assert refused(change(drop=["deploy"])) == ("unknown_key: there is no task deploy to drop",)
    revision = revised(change(drop=["Clean"], add=[task("wash", ["raw"], ["tidy"])]))
    assert revision.operations[0] == DropTask(key="clean", reason="too slow")


def test_a_dead_task_is_replaced_without_dropping_it() -> None:
    for drop in (["clean"], []):
        revision = revised(change(drop=drop, add=[task("wash", ["raw"], ["tidy"])]), now(clean="dead"))
        assert [type(op) for op in revision.operations] == [AddTask]


def test_a_revision_that_leaves_a_dead_producer_unreplaced_is_an_error() -> None:
    errors = refused(change(values=[("report", 5)]), now(clean="dead"))
    assert any("input tidy of tasks chart, report is produced by nobody" in error for error in errors)


def test_dropping_what_another_waits_for_by_key_is_an_error() -> None:
    at = now()
    waits = Standing("tell", "blocked", inputs=("report",), after=("chart",))
    at = Situation((*at.tasks, waits), at.inputs, at.exports, LANES, LIMITS)
    errors = refused(change(drop=["chart"], add=[task("draw", ["tidy"], ["picture"])]), at)
    assert errors == ("unknown_after: task tell waits for chart, which is no task",)


def test_two_producers_are_an_error() -> None:
    errors = refused(change(add=[task("wash", ["raw"], ["tidy"])]))
    assert errors[0].startswith("two_producers: tidy is produced twice")


def test_a_cycle_with_what_stands_is_an_error() -> None:
    errors = refused(change(drop=["clean"], add=[task("wash", ["raw", "picture"], ["tidy"])]))
    assert errors[0].startswith("cycle: the tasks ")


def test_an_added_task_that_serves_nobody_is_left_out() -> None:
    revision = revised(change(add=[task("poem", ["tidy"], ["verses"])]))
    assert revision.operations == []
    assert revision.warnings == ["the new task poem serves nobody; left out"]


def test_a_chain_that_ends_in_what_is_owed_is_kept() -> None:
    revision = revised(
        change(
            drop=["report"],
            add=[
                task("outline", ["tidy"], ["structure"]),
                task("write", ["outline", "picture"], ["report"], "author"),
            ],
        )
    )
    added = [op.task for op in revision.operations if isinstance(op, AddTask)]
    assert [(one.key, one.lane, one.inputs) for one in added] == [
        ("outline", "agent.coder", ["tidy"]),
        ("write", "agent.writer", ["structure", "picture"]),
    ]


def test_values_are_set_on_open_tasks_only() -> None:
    revision = revised(change(values=[("report", 500), ("fetch", 1), ("ghost", 1)]))
    assert revision.operations == [ValueTask(key="report", value=100)]
    assert len(revision.warnings) == 2


def test_too_many_new_tasks_are_an_error() -> None:
    steps = [task(f"s{i}", [f"x{i - 1}"] if i else ["raw"], [f"x{i}"]) for i in range(11)]
    steps.append(task("last", ["x10"], ["tidy"]))
    errors = refused(change(drop=["clean"], add=steps))
    assert errors[-1].startswith("too_many_tasks: 12 new tasks")


def test_a_revision_dearer_than_what_is_left_is_an_error() -> None:
    revision = revised(change(drop=["clean"], add=[task("wash", ["raw"], ["tidy"])]))
    price = {"name": "agent.coder", "input_usd_per_mtok": 2.0, "output_usd_per_mtok": 8.0}  # 0.006 USD
    assert affordable(revision, [price], 0.006) is revision
    assert affordable(revision, [], 0.0) is revision
    assert affordable(revision, [price], 0.005) == Rejected(
        ("over_budget: the new tasks are estimated at 0.0060 USD, and 0.0050 USD are left",)
    )


@pytest.mark.parametrize("nonsense", [None, "no", [], {"plan": 1}])
def test_what_is_no_revision_is_unreadable(nonsense: Any) -> None:
    assert refused(nonsense)[0].startswith("unreadable: ")


ROWS: list[dict[str, Any]] = [
    {"task_id": "1", "key": "goal", "parent": None, "generation": 0, "lane": "plan", "state": "expanded",
     "needs": [], "inputs": ["orders"], "outputs": ["report"]},
    {"task_id": "2", "key": "plan", "parent": "1", "generation": 1, "lane": "agent.ask", "state": "succeeded",
     "needs": [], "inputs": [], "outputs": ["plan"]},
    {"task_id": "3", "key": "a", "parent": "1", "generation": 2, "lane": "agent.coder", "state": "succeeded",
     "needs": [], "inputs": ["orders"], "outputs": [{"name": "tidy", "type": "table"}], "summary": "12 rows"},
    {"task_id": "4", "key": "b", "parent": "1", "generation": 2, "lane": "agent.writer", "state": "ready",
     "needs": ["3", "5"], "after": ["c"], "inputs": ["tidy"], "outputs": ["report"], "title": "Write"},
    {"task_id": "5", "key": "c", "parent": "1", "generation": 2, "lane": "agent.coder", "state": "succeeded",
     "needs": [], "inputs": [], "outputs": []},
    {"task_id": "6", "key": "replan-1", "parent": "1", "generation": 2, "lane": "plan", "state": "dispatched",
     "needs": [], "inputs": [], "outputs": []},
    {"task_id": "7", "key": "run", "parent": "4", "generation": 1, "lane": "exec", "state": "ready",
     "needs": [], "inputs": [], "outputs": ["stdout"]},
]  # fmt: skip


def test_the_situation_is_the_generation_without_its_replans() -> None:
    at = read_situation(ROWS, "1", 2, lanes=LANES, limits=LIMITS)
    assert at is not None
    assert [t.key for t in at.tasks] == ["a", "b", "c"]
    assert (at.inputs, at.exports, at.reserved) == (("orders",), ("report",), ("replan-1",))
    assert at.tasks[0].outputs == ("tidy",)
    assert at.tasks[0].summary == "12 rows"
    assert at.tasks[1].after == ("c",)


def test_a_generation_that_is_not_there_is_no_situation() -> None:
    assert read_situation(ROWS, "1", 3, lanes=LANES, limits=LIMITS) is None
    assert read_situation(ROWS, "99", 2, lanes=LANES, limits=LIMITS) is None


NAMES = st.sampled_from(["raw", "tidy", "picture", "report", "orders", "extra"])
SOME = st.lists(NAMES, max_size=2)


@given(
    st.lists(st.sampled_from(["fetch", "clean", "chart", "report", "ghost"]), max_size=2),
    st.lists(
        st.builds(task, st.sampled_from(["new", "clean", "x"]), SOME, SOME),
        max_size=3,
    ),
    st.sampled_from(["blocked", "dispatched", "dead"]),
)
def test_what_a_revision_leaves_is_a_graph_that_delivers(drop: Any, add: Any, state: str) -> None:
    at = now(clean=state)
    revision = compile_revision(change(drop=drop, add=add), at)
    if isinstance(revision, Rejected):
        assert revision.errors
        return
    dropped = {op.key for op in revision.operations if isinstance(op, DropTask)}
    added = [op.task for op in revision.operations if isinstance(op, AddTask)]
    assert "fetch" not in dropped
    assert not {one.key for one in added} & {t.key for t in at.tasks}
    left = [
        TaskSpec(key=t.key, lane="exec", inputs=list(t.inputs), outputs=[OutputSpec(name=n) for n in t.outputs])
        for t in at.tasks
        if t.key not in dropped and t.state != "dead"
    ]  # fmt: skip
    compile_generation([*left, *added], at.inputs, at.exports)
