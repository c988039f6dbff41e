"""The view of a goal: folded from events, whatever order and number of times they come in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from goalwright_cli import exits, order, tree, view
from goalwright_cli.order import Inbox
from goalwright_cli.view import GoalView, TaskView
from goalwright_shared.messages import Event
from hypothesis import given, settings
from hypothesis import strategies as st
from support.goal_scripts import BEGIN, REPAIR, WHOLE, dispatched, finish, row, succeeded
from support.scripted import Step, make_event

STATES = ["blocked", "ready", "dispatched", "expanded", "retry_wait", "parked", *sorted(view.FINAL)]


def events(script: list[Step]) -> list[Event]:
    return [make_event("g", seq, kind, task, **data) for seq, (kind, task, data) in enumerate(script, 1)]


def fold(found: list[Event]) -> GoalView:
    inbox, seen = Inbox(), GoalView("g")
    for event in found:
        inbox, due = order.receive(inbox, event)
        for each in due:
            seen = view.apply(seen, each)
    return seen


IN_ORDER = fold(events(WHOLE))


def test_a_whole_goal_ends_with_its_money_its_repair_and_its_replan() -> None:
    assert (IN_ORDER.status, IN_ORDER.spent_usd, IN_ORDER.finished) == ("done", 0.067, True)
    assert list(IN_ORDER.deliverables) == ["report"]
    assert IN_ORDER.repairs == (
        "“Load the table”: its program failed (exit code 1: KeyError: 'amount') and was repaired",
    )
    assert [(found.revision, found.added) for found in IN_ORDER.replans] == [(1, ("Explain the bad dates",))]
    assert IN_ORDER.counts() == {"succeeded": 5}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_repeated_and_shuffled_events_give_the_same_view(data: st.DataObject) -> None:
    once = events(WHOLE)
    again = data.draw(st.lists(st.sampled_from(once), max_size=20))
    assert fold(data.draw(st.permutations([*once, *again]))) == IN_ORDER


def test_an_event_that_was_applied_changes_nothing() -> None:
    for event in events(WHOLE):
        assert view.apply(IN_ORDER, event) is IN_ORDER


def test_events_after_a_gap_wait_until_it_is_given_up() -> None:
    found = events(WHOLE)
    inbox, due = order.receive(Inbox(), found[4])
    assert due == []
    inbox, due = order.receive(inbox, found[5])
    assert due == []
    inbox, due = order.skip_gap(inbox)
    assert [event.seq for event in due] == [5, 6]
    assert order.receive(inbox, found[0])[1] == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(view._FOLDS)),
            st.sampled_from([None, "1", "2", "3"]),
            st.dictionaries(
                st.sampled_from(
                    ["key", "lane", "parent", "tasks", "error", "text", "generation", "dropped", "status"]
                ),
                st.recursive(
                    st.none() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
                    max_leaves=4,
                ),
                max_size=4,
            ),
        ),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_event_of_a_stranger_breaks_the_view_or_the_tree(script: list[Step]) -> None:
    seen = fold(events([*BEGIN, *script]))
    assert 1 <= len(tree.rows(seen, 10)) <= 10


def test_a_final_task_stays_final() -> None:
    seen = fold(
        events([*BEGIN, succeeded("2", "load", "agent.coder"), dispatched("2", "load", "agent.coder")])
    )
    assert seen.tasks["2"].state == "succeeded"


def test_a_task_is_ready_when_all_it_needs_has_succeeded() -> None:
    seen = fold(events([*BEGIN, *REPAIR]))
    assert (seen.tasks["3"].state, seen.tasks["4"].state) == ("ready", "blocked")


def test_turns_add_up_to_what_a_task_cost() -> None:
    turn: Step = ("task.expanded", "2", {"tasks": [], "continued": True, "cost_usd": 0.02, "tokens_in": 100})
    seen = fold(events([*BEGIN, turn, succeeded("2", "load", "agent.coder", cost=0.01)]))
    assert seen.tasks["2"].cost_usd == pytest.approx(0.03)
    assert seen.tasks["2"].tokens_in == 1000


def test_a_retried_task_tells_its_repair() -> None:
    failed: Step = ("task.failed", "2", {"final": False, "failures": 1, "error": {"message": "no answer"}})
    seen = fold(events([*BEGIN, failed, succeeded("2", "load", "agent.coder")]))
    assert seen.repairs == ("“Load the table” failed (no answer); succeeded on try 2",)


def test_dropped_tasks_are_cancelled_and_counted() -> None:
    dropped: Step = (
        "plan.revised",
        "1",
        {"revision": 1, "added": [], "dropped": [{"key": "chart", "reason": "no figures"}]},
    )
    seen = fold(events([*BEGIN, dropped]))
    assert (seen.tasks["3"].state, seen.tasks["3"].error) == ("cancelled", "dropped: no figures")
    assert seen.replans[0].dropped == ("Draw the charts",)


def test_a_plan_too_large_to_be_told_is_counted_and_filled_in_as_it_runs() -> None:
    adopted: Step = (
        "plan.adopted",
        "1",
        {"contract": {}, "task_count": 700, "tasks": [row("2", "a", "", "exec"), row("3", "b", "", "exec")]},
    )
    seen = fold(events([adopted]))
    assert seen.counts() == {"blocked": 698, "ready": 2}
    seen = fold(events([adopted, dispatched("99", "x", "exec")]))
    assert seen.counts() == {"blocked": 697, "ready": 2, "dispatched": 1}


def test_a_parked_task_says_what_it_is_parked_for_until_it_goes_on() -> None:
    parked: Step = ("task.parked", "4", {"key": "write", "lane": "agent.writer", "reason": "over budget"})
    assert fold(events([*BEGIN, parked])).tasks["4"].note == "over budget"
    assert fold(events([*BEGIN, parked, dispatched("4", "write", "agent.writer")])).tasks["4"].note == ""


def test_a_question_is_open_until_it_is_answered() -> None:
    asked: Step = ("approval.requested", "7", {"text": "Go?", "options": ["yes"], "default": "yes"})
    seen = fold(events([*BEGIN, asked]))
    assert seen.questions["7"].options == ("yes",)
    assert fold(events([*BEGIN, asked, ("approval.answered", "7", {"answer": "yes"})])).questions == {}
    assert fold(events([*BEGIN, asked, finish("cancelled")])).questions == {}


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        ("done", None, 0),
        ("failed", "task load failed", 1),
        ("cancelled", "cancelled by request", 1),
        ("stopped_loop", "the same program three times", 1),
        ("partial", "deadline passed", 1),
        ("partial", "budget exhausted, and nobody answered in time", 6),
    ],
)
def test_a_goal_ends_with_its_code(status: str, reason: str | None, code: int) -> None:
    assert exits.of_goal(status, reason) == code


# --- which rows are shown ------------------------------------------------------------------------------


def a_view(states: list[str], parents: list[int]) -> GoalView:
    """A view of tasks in the given states; task n hangs under `parents[n]` when that came before it."""
    tasks = {}
    for number, (state, parent) in enumerate(zip(states, parents, strict=True)):
        above = str(parent) if parent < number else None
        tasks[str(number)] = TaskView(str(number), f"t{number}", number, parent=above, state=state)
    return GoalView("g", tasks=tasks)


views = st.integers(1, 60).flatmap(
    lambda count: st.builds(
        a_view,
        st.lists(st.sampled_from(STATES), min_size=count, max_size=count),
        st.lists(st.integers(0, count), min_size=count, max_size=count),
    )
)


@given(views, st.integers(-1, 70))
@settings(max_examples=150, deadline=None)
def test_rows_never_exceed_the_height(seen: GoalView, height: int) -> None:
    assert len(tree.rows(seen, height)) <= max(1, height)


@given(views)
@settings(max_examples=100, deadline=None)
def test_every_task_has_a_row_when_nothing_is_folded(seen: GoalView) -> None:
    shown = [found.task.task_id for found in tree.whole(seen) if found.task]
    assert sorted(shown) == sorted(seen.tasks)


def test_a_thousand_tasks_keep_the_running_frontier_in_sight() -> None:
    states = ["succeeded"] * 600 + ["dispatched"] * 4 + ["retry_wait"] + ["blocked"] * 395
    seen = a_view(states, [10**6] * 1000)
    shown = tree.rows(seen, 20)
    assert len(shown) <= 20
    assert {found.task.task_id for found in shown if found.task} >= {"600", "601", "602", "603", "604"}
    folds = [found.text for found in shown if found.task is None]
    assert len(folds) == 2
    assert folds[0].endswith("succeeded")
    assert folds[1].endswith("more waiting")
    hidden = sum(int(text.split()[1].replace(",", "")) for text in folds)
    assert hidden + len(shown) - 2 == 1000


def test_dead_tasks_are_the_last_to_be_folded() -> None:
    seen = a_view(["dead", *["succeeded"] * 30], [10**6] * 31)
    assert "0" in {found.task.task_id for found in tree.rows(seen, 6) if found.task}


def test_what_is_under_a_settled_task_is_hidden_but_its_cost_is_not() -> None:
    seen = a_view(["succeeded", "dead", "succeeded"], [9, 0, 0])
    tasks = {task_id: replace(task, cost_usd=0.25) for task_id, task in seen.tasks.items()}
    (only,) = tree.rows(replace(seen, tasks=tasks), 10)
    assert (only.task and only.task.task_id, only.cost_usd) == ("0", 0.75)
