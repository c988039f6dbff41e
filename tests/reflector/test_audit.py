"""What the audit finds in the events of a goal, and which rung of the ladder follows."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from goalwright_reflector.core.audit import observe
from goalwright_reflector.core.model import Audit
from hypothesis import given, settings
from hypothesis import strategies as st

from reflector.story import ROOT, RULES, Story, audited, planned, said, task


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8), st.integers(0, 5))
@settings(max_examples=60)
def test_a_task_that_goes_in_circles_is_nudged_then_replanned_then_stopped(
    cycle: list[str], lead: int
) -> None:
    story = Story()
    story.begin()
    for step in range(lead):
        story.turn("7", f"lead {step}")
    for action in cycle * 9:
        story.turn("7", action)
    _, signals = audited(story.events)
    assert said(signals)[:3] == [
        ("repetition", "note"),
        ("repetition", "replan"),
        ("repetition", "stop_loop"),
    ]
    assert said(signals)[3:] == []
    assert signals[2].severity == "critical"
    assert all(signal.task_id == "7" for signal in signals)


def test_the_evidence_of_a_loop_is_its_three_repetitions() -> None:
    story = Story()
    story.begin()
    turns = [story.turn("7", action) for action in "abab" + "ab"]
    _, [signal] = audited(story.events)
    assert signal.evidence == tuple(event.event_id for event in turns)
    assert "the same 2 steps" in signal.message


def test_asking_the_same_again_is_no_loop_while_the_answers_differ() -> None:
    story = Story()
    story.begin()
    for n in range(20):
        story.turn("7", "poll")
        story.tool(str(100 + n), "7", "poll", f"answer {n}")
    assert audited(story.events)[1] == []


def test_asking_the_same_again_is_a_loop_when_the_answers_are_the_same_too() -> None:
    story = Story()
    story.begin()
    for n in range(4):
        story.turn("7", "poll")
        story.tool(str(100 + n), "7", "poll", "nothing")
    assert said(audited(story.events)[1]) == [("repetition", "note")]


def test_reading_on_or_waiting_is_no_loop() -> None:
    story = Story()
    story.begin()
    for _ in range(24):
        story.turn("7")
    assert audited(story.events)[1] == []


def test_programs_that_fail_alike_again_and_again_are_a_loop_of_their_parent() -> None:
    story = Story()
    story.begin()
    for n in range(4):
        story.turn("7", "run it")
        story.tell("task.dispatched", str(n), key="c0", lane="exec", epoch=1, action="run it", parent="7")
        error = {"code": "exit", "message": "1"}
        story.tell(
            "task.failed", str(n), key="c0", lane="exec", epoch=1, error=error, final=True, result="e",
            parent="7",
        )  # fmt: skip
    assert said(audited(story.events)[1]) == [("repetition", "note")]


def test_a_refined_task_adds_its_tasks_to_the_plan() -> None:
    story = Story()
    story.begin([task("part", lane="plan"), task("end")])
    story.tell(
        "task.expanded", "7", key="part", lane="plan", continued=False, parent=ROOT, task_count=2,
        tasks=[{**task("x"), "action": "x"}, {**task("y"), "action": "y"}],
    )  # fmt: skip
    story.tell("task.succeeded", "8", key="x", lane="agent.coder", epoch=1, parent="7")
    audit, _ = audited(story.events)
    assert audit.plan is not None
    assert (audit.plan.total, audit.done, audit.completions) == (4, 1, 1)


def test_three_thousand_equal_tasks_of_a_client_are_no_loop() -> None:
    story = Story()
    story.begin(planned(*(f"k{n}" for n in range(3000)), lane="custom.etl"), source="client")
    for n in range(3000):
        story.tell(
            "task.dispatched", str(n), key=f"k{n}", lane="custom.etl", action="a", epoch=1, parent=ROOT
        )
        story.success(str(n), f"k{n}", "custom.etl", result="same")
    audit, signals = audited(story.events)
    assert signals == []
    assert (audit.done, audit.left) == (3000, 0)


def test_a_client_plan_that_loops_is_noted_twice_and_stopped_without_any_paid_help() -> None:
    story = Story()
    story.begin(source="client")
    for _ in range(9):
        story.turn("7", "again")
    actions = [action for _, action in said(audited(story.events)[1])]
    assert actions == ["note", "note", "stop_loop"]


def test_results_that_were_all_seen_before_climb_the_whole_ladder() -> None:
    story = Story()
    story.begin()
    for n in range(60):
        story.tool(str(100 + n), f"p{n}", f"look {n % 2}", "nothing")
    actions = [action for signal, action in said(audited(story.events)[1]) if signal == "no_new_evidence"]
    assert actions == ["note", "retry", "replan", "pause"]


@given(st.lists(st.integers(0, 10_000), unique=True, max_size=60))
def test_tools_that_find_something_new_each_time_raise_nothing(results: list[int]) -> None:
    story = Story()
    story.begin()
    for result in results:
        story.turn("7", f"look at {result}")
        story.tool(str(result), "7", f"look {result}", str(result))
    assert audited(story.events)[1] == []


def test_two_roles_that_hand_the_same_questions_to_each_other_are_noticed() -> None:
    story = Story()
    story.begin()
    for n in range(6):
        lane = ("agent.critic", "agent.writer")[n % 2]
        story.tool(str(100 + n), f"p{n}", f"question to {lane}", f"words {n}", lane=lane)
    _, [signal] = audited(story.events)
    assert (signal.signal, signal.action) == ("ping_pong", "note")
    assert "critic and writer" in signal.message


def test_two_roles_that_talk_about_new_things_are_left_alone() -> None:
    story = Story()
    story.begin()
    for n in range(12):
        story.success(
            str(100 + n), "ask", ("agent.critic", "agent.writer")[n % 2], action=str(n), result=str(n)
        )
    assert audited(story.events)[1] == []


ANSWER = "The figures of November are right, and the total of the orders is 22 as expected, see row"


def test_answers_that_say_almost_the_same_are_noticed() -> None:
    story = Story()
    story.begin()
    for n in range(3):
        story.tool(str(100 + n), "7", f"ask {n}", f"r{n}", lane="agent.critic", summary=f"{ANSWER} {n}")
    _, [signal] = audited(story.events)
    assert (signal.signal, signal.action, signal.task_id) == ("near_duplicate", "note", "7")


def test_programs_and_checks_may_say_the_same_as_often_as_they_like() -> None:
    story = Story()
    story.begin()
    for n in range(12):
        lane = ("exec", "agent.judge")[n % 2]
        story.tool(str(100 + n), "7", f"look {n}", f"r{n}", lane=lane, summary=ANSWER)
    assert audited(story.events)[1] == []


def test_the_same_failure_class_three_times_asks_for_a_replan_with_its_evidence() -> None:
    story = Story()
    story.begin()
    for epoch in (1, 2, 3):
        story.failure("7", epoch, "rate_of_change", final=epoch == 3)
    _, [signal] = audited(story.events)
    assert (signal.signal, signal.action, signal.task_id) == ("same_failure", "replan", "7")
    assert len(signal.evidence) == 3
    assert "rate_of_change" in signal.message


def test_one_failed_try_counts_once_though_two_events_tell_of_it() -> None:
    story = Story()
    story.begin()
    story.failure("7", 1, "no_network")
    story.failure("7", 2, "no_network")
    assert audited(story.events)[1] == []


def test_different_failures_are_not_the_same_failure() -> None:
    story = Story()
    story.begin()
    for epoch, code in enumerate(["a", "b", "a", "b", "a", "b"], 1):
        story.failure("7", epoch, code)
    assert audited(story.events)[1] == []


def test_a_work_message_that_was_delivered_twice_is_no_failure() -> None:
    story = Story()
    story.begin()
    for epoch in range(1, 6):
        story.failure("7", epoch, "redelivered")
    assert audited(story.events)[1] == []


def test_a_class_of_failure_that_outlives_its_replan_pauses_the_goal() -> None:
    story = Story()
    story.begin()
    for task_id in ("7", "8"):
        for epoch in (1, 2, 3):
            story.failure(task_id, epoch, "no_network")
    assert [action for _, action in said(audited(story.events)[1])] == ["replan", "pause"]


def test_replanning_in_vain_ends_with_a_person() -> None:
    story = Story()
    story.begin()
    for _ in range(RULES.max_replans):
        story.tell("replan.requested", "1", reason="again")
    for _ in range(6):
        story.turn("7", "again")
    assert [action for _, action in said(audited(story.events)[1])] == ["note", "pause"]


def test_a_plan_that_comes_back_is_an_oscillation() -> None:
    story = Story()
    story.begin(planned("a", "b"))
    story.tell("plan.revised", "1", added=planned("c"), dropped=[{"key": "b"}])
    story.tell("plan.revised", "1", added=planned("b"), dropped=[{"key": "c"}])
    _, [signal] = audited(story.events)
    assert (signal.signal, signal.action) == ("revision_oscillation", "pause")


def test_a_plan_that_moves_on_is_no_oscillation() -> None:
    story = Story()
    story.begin(planned("a"))
    for key in "bcdefgh":
        story.tell("plan.revised", "1", added=planned(key), dropped=[])
    audit, signals = audited(story.events)
    assert signals == []
    assert audit.plan is not None
    assert audit.plan.total == 8


def test_tasks_that_serve_no_deliverable_are_named() -> None:
    story = Story()
    rows = [
        task("load", outputs=["raw"]),
        task("clean", inputs=["raw"], outputs=["tidy"]),
        task("report", inputs=["tidy"], outputs=["report"]),
        task("poem", inputs=["raw"], outputs=["poem"]),
        task("mail", needs=["report"]),
    ]
    story.begin(rows, deliverables=["report"])
    audit, [signal] = audited(story.events)
    assert (signal.signal, signal.action) == ("useless_artifact", "note")
    assert audit.plan is not None
    assert audit.plan.useless == {"poem"}


def test_money_spent_on_what_serves_nothing_is_noticed() -> None:
    story = Story()
    rows = [task("report", outputs=["report"]), task("poem", outputs=["poem"])]
    story.begin(rows, deliverables=["report"])
    story.success("1", "report", cost_usd=0.3)
    story.success("2", "poem", cost_usd=0.1)
    assert ("cost_without_value", "note") in said(audited(story.events)[1])


@pytest.mark.parametrize(("cost", "risky"), [(0.3, True), (0.2, False)])
def test_a_budget_that_will_not_do_is_told_once(cost: float, risky: bool) -> None:
    story = Story()
    story.begin(planned("a", "b", "c", "d"), budget_usd=1.0)
    for key in "abc":
        story.success(key, key, cost_usd=cost)
    names = [signal for signal, _ in said(audited(story.events)[1])]
    assert names == (["budget_risk"] if risky else [])


def test_a_replayed_event_changes_nothing() -> None:
    story = Story()
    story.begin()
    for _ in range(3):
        story.turn("7", "again")
    audit, signals = audited(story.events)
    for event in story.events:
        again, raised = observe(audit, event, event.at, RULES)
        assert again == audit
        assert raised == []
    assert len(signals) == 1


def test_the_same_story_gives_the_same_signal_ids() -> None:
    story = Story()
    story.begin()
    for _ in range(9):
        story.turn("7", "again")
    first, second = audited(story.events)[1], audited(story.events)[1]
    assert [signal.signal_id for signal in first] == [signal.signal_id for signal in second]
    assert len({signal.signal_id for signal in first}) == 3


def test_a_finished_goal_is_left_in_peace() -> None:
    story = Story()
    story.begin()
    story.tell("goal.finished", status="done")
    for _ in range(9):
        story.turn("7", "again")
    assert audited(story.events)[1] == []


def test_after_a_person_resumed_the_goal_the_ladder_starts_anew() -> None:
    story = Story()
    story.begin()
    for _ in range(3):
        story.turn("7", "again")
    story.tell("goal.paused", reason="user")
    story.tell("goal.resumed")
    for _ in range(3):
        story.turn("7", "again")
    assert [action for _, action in said(audited(story.events)[1])] == ["note", "note"]


def test_two_reviews_in_a_row_off_topic_pause_the_goal() -> None:
    story = Story()
    story.begin()
    for n in (1, 2):
        story.review(f"r{n}")
        story.tell("reflection.signalled", None, signal="off_topic", evidence=[f"review r{n}"], action="note")
        story.success(f"r{n}", "review", "reflect")
    _, [signal] = audited(story.events)
    assert (signal.signal, signal.action) == ("off_topic", "pause")


def test_a_review_on_topic_between_two_others_breaks_the_row() -> None:
    story = Story()
    story.begin()
    for n, off in ((1, True), (2, False), (3, True)):
        story.review(f"r{n}")
        if off:
            story.tell("reflection.signalled", None, signal="off_topic", evidence=[f"r{n}"], action="note")
        story.success(f"r{n}", "review", "reflect")
    assert audited(story.events)[1] == []


def test_an_audit_stays_small_however_long_the_goal() -> None:
    salt = "0123456789abcdef"
    story = Story()
    story.begin(planned("a"))
    for n in range(3000):
        story.turn(f"t{n}", f"{salt} {n}")
        story.failure(f"f{n}", 1, f"code {n}", key=f"f{n}")
        story.tool(f"s{n}", f"t{n}", f"{n}", f"{salt} {n}", lane="agent.critic")
    audit, _ = audited(story.events)
    assert size(audit) < 1_000_000


def size(audit: Audit) -> int:
    """Bytes of the audit's own containers and strings, roughly."""
    return sum(sys.getsizeof(repr(getattr(audit, field.name))) for field in dataclasses.fields(audit))


@given(st.data())
@settings(max_examples=40)
def test_deliveries_that_come_again_change_nothing(data: st.DataObject) -> None:
    story = Story()
    story.begin()
    for n in range(data.draw(st.integers(0, 12))):
        story.turn("7", data.draw(st.sampled_from("ab")))
        story.tool(str(100 + n), "7", "look", data.draw(st.sampled_from("xy")))
    seen = data.draw(st.lists(st.integers(0, len(story.events) - 1), max_size=20))
    again = list(story.events)
    for at in sorted(seen, reverse=True):
        again.insert(data.draw(st.integers(at + 1, len(again))), story.events[at])
    assert audited(again) == audited(story.events)
