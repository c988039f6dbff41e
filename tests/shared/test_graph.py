"""What a graph means: properties over random graphs, and the messages people read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from goalwright_shared.graph import (
    Compiled,
    GraphError,
    ancestors,
    canonical_hash,
    compile_generation,
    descendants,
    near_names,
    problems,
)
from goalwright_shared.messages import OutputSpec, ProgramSpec, TaskSpec
from hypothesis import given
from hypothesis import strategies as st

SCOPE = ("orders", "prices")


def task(
    key: str, inputs: Iterable[str] = (), outputs: Iterable[str] = (), after: Iterable[str] = ()
) -> TaskSpec:
    return TaskSpec(
        key=key,
        lane="agent.writer",
        inputs=list(inputs),
        outputs=[OutputSpec(name=name) for name in outputs],
        after=list(after),
    )


def refused(tasks: Sequence[TaskSpec], scope: Iterable[str] = (), exports: Iterable[str] = ()) -> GraphError:
    with pytest.raises(GraphError) as caught:
        compile_generation(tasks, set(scope), list(exports))
    return caught.value


@st.composite
def dags(draw: st.DrawFn, min_size: int = 1) -> list[TaskSpec]:
    """Tasks that form a graph without cycles, in any order of emission."""
    size = draw(st.integers(min_size, 12))
    made: list[str] = []
    tasks: list[TaskSpec] = []
    for number in range(size):
        inputs = draw(st.lists(st.sampled_from([*SCOPE, *made]), max_size=4))
        after = draw(st.lists(st.sampled_from([t.key for t in tasks]), max_size=2)) if tasks else []
        outputs = [f"a{number}.{each}" for each in range(draw(st.integers(0, 2)))]
        tasks.append(task(f"t{number}", inputs, outputs, after))
        made += outputs
    return draw(st.permutations(tasks))


def reachable(compiled: Compiled, key: str) -> set[str]:
    """All that `key` waits for, the slow and obvious way."""
    found = set(compiled.needs[key])
    while True:
        more = {need for one in found for need in compiled.needs[one]} - found
        if not more:
            return found
        found |= more


@given(dags())
def test_a_graph_without_cycles_compiles_and_its_order_respects_needs(tasks: list[TaskSpec]) -> None:
    compiled = compile_generation(tasks, SCOPE)
    assert sorted(compiled.order) == sorted(t.key for t in tasks)
    place = {key: at for at, key in enumerate(compiled.order)}
    assert all(place[need] < place[key] for key, needs in compiled.needs.items() for need in needs)


@given(dags())
def test_edges_are_exactly_what_names_and_after_say(tasks: list[TaskSpec]) -> None:
    compiled = compile_generation(tasks, SCOPE)
    for one in tasks:
        wanted = {other.key for other in tasks for out in other.outputs if out.name in one.inputs}
        assert set(compiled.needs[one.key]) == wanted | set(one.after)
        assert len(set(compiled.needs[one.key])) == len(compiled.needs[one.key])


@given(dags(), st.randoms())
def test_the_graph_does_not_depend_on_the_order_of_emission(tasks: list[TaskSpec], random: object) -> None:
    shuffled = list(tasks)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' own Random
    one, other = compile_generation(tasks, SCOPE), compile_generation(shuffled, SCOPE)
    assert one.producers == other.producers
    assert set(one.unconsumed) == set(other.unconsumed)
    assert {k: set(v) for k, v in one.needs.items()} == {k: set(v) for k, v in other.needs.items()}


@given(dags())
def test_among_equals_the_earliest_emitted_comes_first(tasks: list[TaskSpec]) -> None:
    compiled = compile_generation(tasks, SCOPE)
    done: set[str] = set()
    for key in compiled.order:
        ready = [t.key for t in tasks if t.key not in done and set(compiled.needs[t.key]) <= done]
        assert key == ready[0]
        done.add(key)


@given(dags(min_size=2), st.data())
def test_a_back_edge_is_a_cycle_that_is_printed(tasks: list[TaskSpec], data: st.DataObject) -> None:
    compiled = compile_generation(tasks, SCOPE)
    behind = [(key, need) for key in compiled.needs for need in reachable(compiled, key)]
    if not behind:
        return
    late, early = data.draw(st.sampled_from(sorted(behind)))
    looped = [t.model_copy(update={"after": [*t.after, late]}) if t.key == early else t for t in tasks]
    error = refused(looped, SCOPE)
    assert (error.code, error.field) == ("cycle", "tasks")
    path = error.message.removeprefix("the tasks ").removesuffix(" wait for one another").split(" → ")
    assert path[0] == path[-1]
    assert {late, early} <= set(path) or len(path) > 9  # the only cycles there are go through the new edge
    by_key = {t.key: t for t in looped}
    for before, key in pairwise(path):
        if "…" not in before + key:
            made = {out.name for out in by_key[before].outputs}
            assert before in by_key[key].after or made & set(by_key[key].inputs)


@given(dags(min_size=2), st.data())
def test_a_missing_output_is_told_with_exactly_its_consumers(
    tasks: list[TaskSpec], data: st.DataObject
) -> None:
    names = [out.name for t in tasks for out in t.outputs]
    if not names:
        return
    lost = data.draw(st.sampled_from(names))
    consumers = {t.key for t in tasks if lost in t.inputs}
    without = [
        t.model_copy(update={"outputs": [out for out in t.outputs if out.name != lost]}) for t in tasks
    ]
    found = list(problems(without, SCOPE))
    assert [p.code for p in found] == (["unknown_input"] if consumers else [])
    if consumers:
        told = found[0].message.split(" is produced")[0].split(" ", 4)[-1]
        assert set(told.split(", ")) == consumers


@given(dags(), st.data())
def test_descendants_and_ancestors_are_the_closure(tasks: list[TaskSpec], data: st.DataObject) -> None:
    compiled = compile_generation(tasks, SCOPE)
    key = data.draw(st.sampled_from([t.key for t in tasks]))
    assert ancestors(compiled.needs, [key]) == reachable(compiled, key)
    assert descendants(compiled.needs, [key]) == {k for k in compiled.needs if key in reachable(compiled, k)}


def test_exports_and_unconsumed_names_are_told() -> None:
    compiled = compile_generation(
        [task("clean", ["orders"], ["tidy", "log"]), task("sum", ["tidy"], ["total"])], SCOPE, ["total"]
    )
    assert compiled.exports == {"total": "sum"}
    assert compiled.unconsumed == ("log", "total")
    assert compiled.needs == {"clean": (), "sum": ("clean",)}


def test_an_empty_plan_is_refused() -> None:
    assert refused([]).code == "empty_plan"


def test_an_unknown_input_names_its_consumers_and_what_was_meant() -> None:
    error = refused([task("report", ["salse"], ["text"])], ["sales"])
    assert error.code == "unknown_input"
    assert error.message == "input salse of task report is produced by nobody; did you mean sales?"
    assert error.field == "tasks.0.inputs.0"
    both = refused([task("report", ["sales", "x"]), task("chart", ["x"])], ["sales"])
    assert both.message == "input x of tasks report, chart is produced by nobody"
    assert both.field == "tasks.0.inputs.1"


def test_both_producers_are_named() -> None:
    error = refused([task("a", [], ["sums"]), task("b", [], ["other", "sums"])])
    assert (error.code, error.field) == ("two_producers", "tasks.1.outputs.1.name")
    assert error.message == "sums is produced twice: by the tasks a and b"


def test_an_output_named_like_an_input_of_the_goal_has_two_producers() -> None:
    error = refused([task("clean", ["orders"], ["orders"])], ["orders"])
    assert error.code == "two_producers"
    assert "task clean produces it too" in error.message


def test_a_cycle_names_its_tasks_and_the_inputs_that_make_it() -> None:
    error = refused([task("a", ["y"], ["x"]), task("b", ["x"], ["y"]), task("c", ["y"], ["z"])])
    assert (error.code, error.field) == ("cycle", "tasks")
    assert error.message == "the tasks a → b → a wait for one another"
    assert error.hint == "remove one of the inputs a.y, b.x"


def test_a_cycle_through_after_names_the_entry() -> None:
    error = refused([task("a", ["y"], [], ["b"]), task("b", [], ["y"], ["a"])])
    assert error.hint == "remove one of the inputs a.y or the after entries b.a"


def test_a_task_that_needs_itself_is_refused() -> None:
    assert refused([task("a", ["x"], ["x"])]).message == "task a needs its own output x"
    error = refused([task("a", after=["a"])])
    assert (error.code, error.field) == ("self_dependency", "tasks.0.after.0")


def test_a_key_used_twice_is_refused() -> None:
    error = refused([task("a"), task("b"), task("a")])
    assert (error.code, error.field) == ("duplicate_key", "tasks.2.key")


def test_an_unknown_after_suggests_the_key() -> None:
    error = refused([task("clean-up"), task("b", after=["cleanup"])])
    assert error.code == "unknown_after"
    assert error.message == "task b waits for cleanup, which is no task; did you mean clean-up?"


def test_an_export_that_nobody_makes_is_refused() -> None:
    error = refused([task("a", [], ["reports"])], exports=["report"])
    assert error.code == "missing_output"
    assert error.message == "no task produces report; did you mean reports?"


def test_all_problems_are_told_at_once() -> None:
    tasks = [task("a", ["no"], ["x"]), task("a", ["nope"], ["x"], ["ghost"])]
    codes = [p.code for p in problems(tasks, (), ["y"])]
    assert codes == [
        "duplicate_key", "two_producers", "unknown_input", "unknown_input", "unknown_after", "missing_output",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def chain() -> list[TaskSpec]:
    """100,000 tasks, each needing the one before it (built without validation, to save time)."""
    return [
        TaskSpec.model_construct(
            key=f"t{i}",
            lane="exec",
            inputs=[f"o{i - 1}"] if i else [],
            outputs=[OutputSpec.model_construct(name=f"o{i}")],
            after=[],
        )
        for i in range(100_000)
    ]


@pytest.mark.parametrize("step", [1, -1])
def test_a_chain_of_a_hundred_thousand_compiles_in_seconds(chain: list[TaskSpec], step: int) -> None:
    started = time.process_time()
    compiled = compile_generation(chain[::step], ())
    assert time.process_time() - started < 8  # 0.5-1.2 s here; the limit is for a slow machine
    assert compiled.order == tuple(one.key for one in chain)
    assert len(descendants(compiled.needs, ["t0"])) == len(chain) - 1


def test_a_cycle_of_a_hundred_thousand_is_told_shortly(chain: list[TaskSpec]) -> None:
    looped = [chain[0].model_copy(update={"inputs": ["o99999"]}), *chain[1:]]
    started = time.process_time()
    error = refused(looped)
    assert time.process_time() - started < 8
    assert error.message.startswith("the tasks t0 → t1 → ")
    assert len(error.message) < 300 > len(error.hint or "")


def test_near_names_ignore_case_and_separators() -> None:
    assert near_names("Monthly-Totals", ["monthly_totals", "orders"]) == ["monthly_totals"]
    assert near_names("salse", ["orders", "sales"]) == ["sales"]
    assert near_names("q", ["orders", "sales"]) == []


def test_near_names_stay_fast_among_many() -> None:
    started = time.process_time()
    assert near_names("monthly_total_7x", [f"monthly_total_{i}" for i in range(100_000)])
    assert time.process_time() - started < 8


def base() -> TaskSpec:
    return TaskSpec(
        key="sum",
        lane="exec",
        instruction="Sum  the\n amounts",
        inputs=["tidy"],
        outputs=[OutputSpec(name="total")],
        program=ProgramSpec(source="print(1)"),
        params={"a": 1, "b": [2]},
    )


def test_the_canonical_hash_ignores_what_does_not_change_the_result() -> None:
    same = base().model_copy(
        update={
            "key": "other",
            "title": "Another title",
            "value": 50.0,
            "instruction": "Sum the amounts ",
            "params": {"b": [2], "a": 1},
        }
    )
    assert canonical_hash(base(), {"tidy": "aa"}) == canonical_hash(same, {"tidy": "aa", "unused": "bb"})
    assert len(canonical_hash(base(), {})) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"lane": "agent.coder"},
        {"instruction": "sum the Amounts"},
        {"outputs": [OutputSpec(name="sum")]},
        {"outputs": [OutputSpec(name="total", schema={"type": "number"})]},
        {"program": ProgramSpec(source="print(2)")},
        {"params": {"a": 1, "b": [3]}},
    ],
)
def test_the_canonical_hash_changes_with_what_decides_the_result(change: dict[str, object]) -> None:
    changed = base().model_copy(update=change)
    assert canonical_hash(base(), {"tidy": "aa"}) != canonical_hash(changed, {"tidy": "aa"})


def test_the_canonical_hash_follows_the_content_of_inputs() -> None:
    assert canonical_hash(base(), {"tidy": "aa"}) != canonical_hash(base(), {"tidy": "ab"})
