"""Imperfect plans: what is mended, what is an error, what is left out, and the last resort."""

from __future__ import annotations

import json
from typing import Any

import pytest
from goalwright_planner.core.compiler import (
    Limits,
    Plan,
    Rejected,
    atomic,
    compile_plan,
    compile_sequence,
    refusal,
)
from goalwright_shared.graph import canonical_hash, compile_generation
from goalwright_shared.messages import (
    ArtifactType,
    Deliverable,
    Effort,
    OutputSpec,
    RegexCheck,
    TaskSpec,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.plans import LANES, answer, brief, compiled, errors, few, task

CLEAN = task("clean", ["orders"], ["clean_orders:table"])
REPORT = task("report", ["clean_orders"], ["report"], "agent.writer")


def inputs_of(plan: Plan, key: str) -> list[str]:
    return next(one.inputs for one in plan.tasks if one.key == key)


def test_a_good_plan_is_kept_as_it_is() -> None:
    plan = compiled([CLEAN, REPORT], ["report"])
    assert [one.key for one in plan.tasks] == ["clean", "report"]
    assert (plan.warnings, plan.pruned) == ([], [])
    assert plan.contract.deliverables == ["report"]
    assert plan.tasks[0].effort.tokens_in == 1000
    assert plan.tasks[0].outputs[0].type is ArtifactType.TABLE


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "cleaned_orders",
        "Clean Orders",
        "clean_order",
        "orders_clean.csv",
        "clean-orders",
        "tidy_orders",
        "clean",
    ],
    ids=["inflection", "case and space", "plural drift", "order and extension", "dash", "synonym", "key"],
)
def test_an_input_written_otherwise_is_read_as_the_output_it_means(written: str) -> None:
    plan = compiled([CLEAN, task("report", [written], ["report"])], ["report"])
    assert inputs_of(plan, "report") == ["clean_orders"]
    assert any(written in warning and "clean_orders" in warning for warning in plan.warnings)


def test_an_input_of_the_goal_written_otherwise_is_found() -> None:
    plan = compiled([task("report", ["Orders.csv"], ["report"])], ["report"])
    assert inputs_of(plan, "report") == ["orders"]


def test_names_that_are_no_names_become_slugs() -> None:
    plan = compiled(
        [task("Clean it!", ["orders"], ["Größe & Zahl"]), task("b", ["Größe & Zahl"], ["report"])], ["report"]
    )
    assert plan.tasks[0].key == "Clean_it"
    assert plan.tasks[0].outputs[0].name == "Groe_Zahl"
    assert inputs_of(plan, "b") == ["Groe_Zahl"]


def test_an_invented_input_is_an_error_with_near_names() -> None:
    [error] = errors([task("report", ["orders", "customer_survey"], ["report"])], ["report"])
    assert error.startswith("unknown_input: input customer_survey of task report is produced by nobody")


def test_an_input_that_could_mean_two_things_is_an_error() -> None:
    [error] = errors(
        [
            task("a", ["orders"], ["north_sales"]),
            task("b", ["orders"], ["south_sales"]),
            task("c", ["north_sales", "south_sales", "sales"], ["report"]),
        ],
        ["report"],
    )
    assert "input sales of task c" in error
    assert "north_sales" in error


def test_an_input_that_names_a_task_means_all_it_makes() -> None:
    plan = compiled(
        [task("split", ["orders"], ["north", "south"]), task("report", ["split"], ["report"])], ["report"]
    )
    assert inputs_of(plan, "report") == ["north", "south"]


def test_a_task_that_names_its_own_output_does_not_wait_for_itself() -> None:
    plan = compiled([task("report", ["orders", "report"], ["report"])], ["report"])
    assert inputs_of(plan, "report") == ["orders"]
    assert any("its own output report" in warning for warning in plan.warnings)


def test_an_input_listed_twice_counts_once() -> None:
    plan = compiled([task("report", ["orders", "orders", "Orders"], ["report", "report"])], ["report"])
    assert inputs_of(plan, "report") == ["orders"]
    assert len(plan.tasks[0].outputs) == 1


# --- producers, keys, cycles --------------------------------------------------------------------------


def test_two_producers_are_an_error_that_names_both() -> None:
    [error] = errors([task("a", ["orders"], ["report"]), task("b", ["orders"], ["report"])], ["report"])
    assert error == "two_producers: report is produced twice: by the tasks a and b"


def test_an_output_named_like_an_input_of_the_goal_is_an_error() -> None:
    found = errors(
        [task("a", ["orders"], ["orders"]), task("b", ["orders"], ["report"], after=["a"])], ["report"]
    )
    assert any(error.startswith("two_producers: orders") for error in found)


def test_a_cycle_is_an_error_that_prints_it() -> None:
    [error] = errors([task("a", ["y"], ["x"]), task("b", ["x"], ["y", "report"])], ["report"])
    assert error == "cycle: the tasks a → b → a wait for one another"


def test_duplicate_keys_get_keys_of_their_own() -> None:
    plan = compiled(
        [
            task("step", ["orders"], ["clean_orders"]),
            task("step", ["clean_orders"], ["totals"]),
            task("end", ["totals"], ["report"], after=["step"]),
        ],
        ["report"],
    )
    assert [one.key for one in plan.tasks] == ["step", "step-2", "end"]
    assert plan.tasks[2].after == ["step", "step-2"]


def test_a_task_written_twice_is_kept_once() -> None:
    plan = compiled([CLEAN, CLEAN, REPORT], ["report"])
    assert [one.key for one in plan.tasks] == ["clean", "report"]
    assert [(one.key, "twice" in one.reason) for one in plan.pruned] == [("clean", True)]


def test_tasks_without_keys_get_some() -> None:
    plan = compiled([{**CLEAN, "key": ""}, {**REPORT, "key": "", "title": ""}], ["report"])
    assert [one.key for one in plan.tasks] == ["Clean", "report"]


def test_after_may_name_an_artifact() -> None:
    plan = compiled([CLEAN, task("report", ["orders"], ["report"], after=["clean_orders"])], ["report"])
    assert plan.tasks[1].after == ["clean"]


def test_after_that_names_nobody_is_an_error() -> None:
    [error] = errors([CLEAN, {**REPORT, "after": ["deploy"]}], ["report"])
    assert error.startswith("unknown_after: task report waits for deploy")


# --- lanes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "lane"),
    [
        ("agent.writer", "agent.writer"),
        ("writer", "agent.writer"),
        ("agent.coders", "agent.coder"),
        ("Programmer", "agent.coder"),
        ("data scientist", "agent.analyst"),
        ("agent.reviewer", "agent.critic"),
        ("etl", "custom.etl"),
        ("exec", "agent.coder"),
        ("wizard", "agent.generalist"),
        ("", "agent.generalist"),
    ],
)
def test_an_unknown_lane_becomes_the_one_meant_with_a_warning(written: str, lane: str) -> None:
    plan = compiled([{**REPORT, "lane": written, "inputs": ["orders"]}], ["report"])
    assert plan.tasks[0].lane == lane
    assert (plan.warnings == []) == (written == lane)


def test_without_a_generalist_some_role_does_it() -> None:
    of = brief(lanes=("custom.etl", "agent.writer"))
    assert (
        compiled([task("report", ["orders"], ["report"], "wizard")], ["report"], of).tasks[0].lane
        == "agent.writer"
    )


def test_a_human_task_asks_its_instruction() -> None:
    ask = task("ask", ["orders"], [], "human", instruction="Which region?")
    plan = compiled([ask, task("report", ["orders"], ["report"], after=["ask"])], ["report"])
    assert plan.tasks[0].question is not None
    assert plan.tasks[0].question.text == "Which region?"
    assert [out.name for out in plan.tasks[0].outputs] == ["ask_answer"]


# --- deliverables and pruning -------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["the_report", "Reports", "report.md", "final report"])
def test_an_output_written_otherwise_is_read_as_the_deliverable(written: str) -> None:
    plan = compiled([CLEAN, {**REPORT, "outputs": [{"name": written, "type": "text"}]}], ["report"])
    assert [out.name for out in plan.tasks[-1].outputs] == ["report"]


def test_the_only_sink_is_the_only_deliverable_that_nobody_makes() -> None:
    plan = compiled([CLEAN, task("write", ["clean_orders"], ["prose"])], ["report"])
    assert [out.name for out in plan.tasks[-1].outputs] == ["report"]
    assert "the output prose was read as the deliverable report" in plan.warnings


def test_a_deliverable_that_nobody_makes_is_an_error() -> None:
    found = errors([CLEAN, REPORT], ["report", "forecast:table"])
    assert found == ["missing_output: no task produces forecast"]


def test_what_the_client_asked_for_is_what_is_delivered() -> None:
    asked = Deliverable(
        name="summary.json",
        type=ArtifactType.JSON,
        schema={"type": "object"},
        acceptance=[RegexCheck(pattern="rows")],
        value=7,
    )
    plan = compiled(
        [CLEAN, task("sum", ["clean_orders"], ["summary"])], ["summary", "poem"], brief(deliverables=(asked,))
    )
    assert plan.deliverables == [asked]
    made = plan.tasks[-1].outputs[0]
    assert (made.name, made.type, made.schema_) == ("summary.json", ArtifactType.JSON, {"type": "object"})
    assert "the deliverable poem was not asked for" in plan.warnings


def test_without_deliverables_what_nobody_consumes_is_delivered() -> None:
    plan = compiled([CLEAN, {**REPORT, "value": 9}])
    assert [(one.name, one.value) for one in plan.deliverables] == [("report", 9)]
    assert any("names no deliverables" in warning for warning in plan.warnings)


def test_an_input_is_no_deliverable() -> None:
    plan = compiled([CLEAN, REPORT], ["orders", "report"])
    assert plan.contract.deliverables == ["report"]


def test_what_serves_no_deliverable_is_left_out_with_the_reason() -> None:
    plan = compiled(
        [CLEAN, REPORT, task("news", [], ["newsletter"]), task("post", ["newsletter", "report"], ["tweet"])],
        ["report"],
    )
    assert [one.key for one in plan.tasks] == ["clean", "report"]
    assert {one.key: one.reason for one in plan.pruned} == {
        "news": "serves none of the deliverables (report)",
        "post": "serves none of the deliverables (report)",
    }


def test_mistakes_in_what_is_left_out_do_not_matter() -> None:
    plan = compiled([CLEAN, REPORT, task("x", ["nowhere"], ["y"]), task("z", ["z2"], ["z1"])], ["report"])
    assert [one.key for one in plan.pruned] == ["x", "z"]


def test_a_task_without_outputs_is_kept_when_another_waits_for_it() -> None:
    plan = compiled(
        [task("warm", [], []), task("report", ["orders"], ["report"], after=["warm"]), task("idle")],
        ["report"],
    )
    assert [one.key for one in plan.tasks] == ["warm", "report"]


# --- size, numbers, shapes ----------------------------------------------------------------------------


def test_a_plan_that_hands_nothing_back_is_an_error_and_the_last_resort_adds_a_result() -> None:
    [error] = errors([task("do", ["orders"], [])])
    assert error.startswith("no_deliverables: ")
    plan = compile_sequence(answer([task("do", ["orders"], [])]), brief())
    assert isinstance(plan, Plan)
    assert plan.contract.deliverables == ["result"]


def test_an_over_split_plan_is_an_error() -> None:
    steps = [task(f"s{i}", [f"x{i - 1}"] if i else ["orders"], [f"x{i}"]) for i in range(12)]
    [error] = errors(steps, ["x11"], few(10))
    assert error.startswith("too_many_tasks: 12 tasks, at most 10 are allowed")


def test_a_plan_far_over_the_limit_is_refused_before_it_is_mended() -> None:
    steps = [task(f"s{i}", ["orders"], [f"x{i}"]) for i in range(21)]
    for make in (compile_plan, compile_sequence):
        assert make(answer(steps, ["x1"]), few(10)) == Rejected(
            (
                "too_many_tasks: 21 tasks, at most 10 are allowed; "
                "merge steps that one performer can do in one go",
            )
        )


def test_a_long_list_of_errors_is_cut() -> None:
    found = errors(
        [task(f"t{i}", [f"ghost{i}x"], [f"o{i}"]) for i in range(30)], [f"o{i}" for i in range(30)]
    )
    assert len(found) == 13
    assert found[-1] == "… and more"


def test_estimates_out_of_range_are_brought_back() -> None:
    odd = task("report", ["orders"], ["report"], value=900, confidence=80, max_failures=0, seconds=-3)
    one = compiled([{**odd, "tokens_in": "1200", "tokens_out": None, "on_dead": "panic"}], ["report"]).tasks[
        0
    ]
    assert (one.value, one.confidence, one.max_failures) == (100, 0.8, 3)
    assert (one.effort.seconds, one.effort.tokens_in, one.effort.tokens_out) == (0, 1200, 0)
    assert one.on_dead == "skip"


def test_types_are_read_with_good_will() -> None:
    made = [f"a:{word}" for word in ("csv",)] + ["b:markdown", "c:sqlite", "d:png", "e.csv:thing", "f:dict"]
    plan = compiled([task("all", ["orders"], made)], ["a:csv", "b", "c:db", "d:png", "e.csv:csv", "f:json"])
    types = [out.type.value for out in plan.tasks[0].outputs]
    assert types == ["table", "text", "database", "file", "table", "json"]


def test_a_deliverable_decides_the_type() -> None:
    plan = compiled([CLEAN, {**REPORT, "outputs": [{"name": "report", "type": "json"}]}], ["report:text"])
    assert plan.tasks[-1].outputs[0].type is ArtifactType.TEXT
    assert "report is delivered as text, not as json" in plan.warnings


NAMED_INPUT = {**REPORT, "inputs": [{"name": "clean_orders"}]}


@pytest.mark.parametrize(
    "wrapped",
    [
        {"plan": answer([CLEAN, REPORT], ["report"])},
        {"Plan": answer([CLEAN, REPORT], ["report"])},
        answer([CLEAN, REPORT], deliverables=None) | {"deliverables": "report"},
        answer([CLEAN, REPORT]) | {"deliverables": {"report": {"type": "text"}}},
        answer([]) | {"tasks": {"clean": CLEAN, "report": REPORT}, "deliverables": ["report"]},
        answer([{**CLEAN, "inputs": "orders", "outputs": ["clean_orders"]}, NAMED_INPUT], ["report"]),
    ],
    ids=["wrapped", "wrapped by title", "text for list", "object for list", "tasks by key", "bare names"],
)
def test_a_wrong_shape_is_read_as_the_right_one(wrapped: Any) -> None:
    plan = compile_plan(wrapped, brief())
    assert isinstance(plan, Plan), plan
    assert [one.key for one in plan.tasks] == ["clean", "report"]
    assert plan.contract.deliverables == ["report"]


@pytest.mark.parametrize("nonsense", [None, "I cannot do JSON", 7, [], {"stages": 1}])
def test_what_is_no_plan_is_unreadable(nonsense: Any) -> None:
    for result in (compile_plan(nonsense, brief()), compile_sequence(nonsense, brief())):
        assert isinstance(result, Rejected)
        assert result.errors[0].startswith("unreadable: ")


def test_questions_are_at_most_three_and_have_defaults() -> None:
    asked = [{"text": f"q{i}?", "options": [], "default": "yes"} for i in range(5)]
    plan = compile_plan(answer([CLEAN, REPORT], ["report"], questions=asked), brief())
    assert isinstance(plan, Plan)
    assert [(one.text, one.default) for one in plan.contract.questions] == [
        (f"q{i}?", "yes") for i in range(3)
    ]


# --- refinement ---------------------------------------------------------------------------------------

PARENT = TaskSpec(
    key="part", lane="plan", instruction="Do the part", inputs=["orders"], outputs=[OutputSpec(name="report")]
)
PART = brief(deliverables=(Deliverable(name="report", type=ArtifactType.TEXT),), parent=PARENT)


def test_the_children_of_a_part_must_make_its_outputs() -> None:
    of = brief(deliverables=(Deliverable(name="a"), Deliverable(name="b")), parent=PARENT)
    found = errors([task("x", ["orders"], ["a"])], ["a"], of)
    assert found == ["missing_output: no task produces b"]


def test_a_single_child_is_never_planned_again() -> None:
    plan = compiled([task("again", ["orders"], ["report"], "plan")], ["report"], PART)
    assert plan.tasks[0].lane == "agent.generalist"
    assert any("planned again" in warning for warning in plan.warnings)


def test_a_child_that_repeats_its_parent_or_an_ancestor_is_done_in_one_piece() -> None:
    same = task("b", ["orders"], ["report"], "plan", instruction="Do  the part")
    plan = compiled([CLEAN, {**same, "inputs": ["clean_orders"]}], ["report"], PART)
    assert plan.tasks[1].lane == "agent.generalist"
    other = task("b", ["clean_orders"], ["report"], "plan", instruction="Deeper")
    free = compiled([CLEAN, other], ["report"], PART)
    assert free.tasks[1].lane == "plan"
    above = frozenset({canonical_hash(free.tasks[1], {})})
    of = brief(deliverables=PART.deliverables, parent=PARENT, ancestors=above)
    assert compiled([CLEAN, other], ["report"], of).tasks[1].lane == "agent.generalist"


def test_a_part_that_is_not_split_is_one_task_with_the_same_contract() -> None:
    plan = atomic(PART, PARENT, "it is small")
    [one] = plan.tasks
    assert (one.lane, one.inputs, one.outputs) == ("agent.generalist", PARENT.inputs, PARENT.outputs)
    compile_generation(plan.tasks, PARENT.inputs, ["report"])


def test_a_split_that_costs_far_more_than_the_part_is_flagged() -> None:
    parent = PARENT.model_copy(update={"effort": Effort(tokens_in=1000, tokens_out=500)})
    of = brief(deliverables=PART.deliverables, parent=parent)
    assert compiled([CLEAN, REPORT], ["report"], of).warnings == [
        "split into 3000 tokens of work, estimated at 1500"
    ]
    assert compiled([CLEAN, REPORT], ["report"], PART).warnings == []


# --- the last resort ----------------------------------------------------------------------------------


def sequence(tasks: list[Any], deliverables: list[str]) -> Plan:
    plan = compile_sequence(answer(tasks, deliverables), brief())
    assert isinstance(plan, Plan), plan
    assert any("could not be repaired" in warning for warning in plan.warnings)
    compile_generation(plan.tasks, ("orders",), [one.name for one in plan.deliverables])
    return plan


def test_the_last_resort_breaks_a_cycle_in_order_of_emission() -> None:
    plan = sequence([task("a", ["y", "orders"], ["x"]), task("b", ["x"], ["y", "report"])], ["report"])
    assert [(one.key, one.inputs, one.after) for one in plan.tasks] == [
        ("a", ["orders"], []),
        ("b", ["x"], ["a"]),
    ]


def test_the_last_resort_lets_the_last_producer_deliver() -> None:
    plan = sequence(
        [
            task("draft", ["orders"], ["report"]),
            task("review", ["report"], ["report"]),
            task("polish", ["report"], ["report"]),
        ],
        ["report"],
    )
    made = [one.outputs[0].name for one in plan.tasks]
    assert made == ["report-2", "report-3", "report"]
    assert [one.inputs for one in plan.tasks] == [["orders"], ["report-2"], ["report-3"]]


def test_the_last_resort_gives_a_missing_deliverable_to_the_last_task() -> None:
    plan = sequence([CLEAN, task("think", ["ghost"], ["idea"])], ["report", "forecast:table"])
    assert [out.name for out in plan.tasks[-1].outputs] == ["idea", "report", "forecast"]
    assert plan.tasks[-1].inputs == []


def test_the_last_resort_does_not_help_too_many_tasks() -> None:
    steps = [task(f"s{i}", ["orders"], [f"x{i}"]) for i in range(12)]
    assert isinstance(compile_sequence(answer(steps, ["x11"]), few(10)), Rejected)


# --- properties ---------------------------------------------------------------------------------------

WORDS = ["orders", "tidy", "totals", "report", "Report", "totals.csv", "clean", "a", "b", ""]


def named(name: str) -> dict[str, str]:
    return {"name": name, "type": "text"}


TASKS = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["a", "b", "c", "", "a b"]),
            "lane": st.sampled_from([*LANES, "exec", "robot", ""]),
            "inputs": st.lists(st.sampled_from(WORDS), max_size=3),
            "outputs": st.lists(st.sampled_from(WORDS).map(named), max_size=2),
            "after": st.lists(st.sampled_from(WORDS), max_size=1),
        }
    ),
    max_size=6,
)


@settings(max_examples=200)
@given(TASKS, st.lists(st.sampled_from(["report", "totals", "x"]), max_size=2))
def test_whatever_compiles_is_a_graph_with_its_deliverables(tasks: list[Any], wanted: list[str]) -> None:
    for make in (compile_plan, compile_sequence):
        plan = make(answer(tasks, wanted), brief())
        if isinstance(plan, Rejected):
            assert plan.errors
            continue
        graph = compile_generation(plan.tasks, ("orders",), [one.name for one in plan.deliverables])
        assert set(plan.contract.deliverables) == set(graph.exports)
        serving = set(graph.exports.values())
        for key in reversed(graph.order):
            serving |= set(graph.needs[key]) if key in serving else set()
        assert serving == set(graph.needs)  # nothing that serves no deliverable is left


@settings(max_examples=100)
@given(TASKS.filter(bool), st.lists(st.sampled_from(["report", "totals"]), min_size=1, max_size=2))
def test_the_last_resort_always_makes_a_plan_of_few_tasks(tasks: list[Any], wanted: list[str]) -> None:
    plan = compile_sequence(answer(tasks, wanted), brief())
    assert isinstance(plan, Plan), plan


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(list(answer([])) + list(task("a"))), inner, max_size=6)
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(JSON)
def test_any_answer_is_a_plan_or_a_list_of_errors(nonsense: Any) -> None:
    for make in (compile_plan, compile_sequence):
        result = make(nonsense, brief(limits=Limits(max_tasks=5)))
        if isinstance(result, Plan):
            json.loads(json.dumps([one.model_dump(mode="json") for one in result.tasks]))
            assert len(result.tasks) <= 5
    refusal(nonsense)


def test_an_empty_plan_that_says_why_is_a_refusal() -> None:
    assert refusal(answer([], assumptions=["I know only CSV files."])) == "I know only CSV files."
    assert refusal(answer([])) is None
    assert refusal(answer([CLEAN], assumptions=["x"])) is None
    assert refusal("no") is None
