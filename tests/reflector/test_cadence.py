"""When a review is due, what the clock finds, and what people are told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from goalwright_reflector.core.cadence import progress, review_asked, review_due, tick
from goalwright_reflector.core.model import Rules

from reflector.story import RULES, Story, audited, planned, said


def story_of(done: int, *, source: str = "planner", lane: str = "agent.analyst", cost: float = 0.0) -> Story:
    """A plan of ten tasks of which `done` are done."""
    story = Story()
    story.begin(planned(*"abcdefghij", lane=lane), source=source)
    for key in "abcdefghij"[:done]:
        story.success(key, key, lane, cost_usd=cost)
    return story


@pytest.mark.parametrize(("done", "due"), [(0, False), (2, False), (3, True), (5, True), (10, False)])
def test_a_review_is_due_every_three_completions_while_something_is_left(done: int, due: bool) -> None:
    story = story_of(done)
    audit, _ = audited(story.events)
    assert (review_due(audit, story.time(60), RULES) is not None) == due


def test_a_clients_own_plan_is_never_reviewed() -> None:
    story = story_of(5, source="client")
    assert review_due(audited(story.events)[0], story.time(9999), RULES) is None


def test_programs_and_tools_do_not_count_as_completions() -> None:
    story = story_of(5, lane="exec")
    for n in range(5):
        story.tool(f"t{n}", "9", str(n), str(n), lane="agent.coder")
    assert review_due(audited(story.events)[0], story.time(60), RULES) is None


def test_a_quarter_of_the_budget_is_a_reason_to_look() -> None:
    story = story_of(1, cost=0.26)
    assert "0.26 USD" in str(review_due(audited(story.events)[0], story.time(60), RULES))


def test_time_is_a_reason_to_look_once_something_is_done() -> None:
    assert review_due(audited(story_of(0).events)[0], Story().time(400), RULES) is None
    assert "s have passed" in str(review_due(audited(story_of(1).events)[0], Story().time(400), RULES))


def test_a_dead_planned_task_is_a_reason_to_look() -> None:
    story = story_of(1)
    story.failure("b", 1, "no_data", final=True, key="b")
    assert review_due(audited(story.events)[0], story.time(60), RULES) == "a planned task has died"


def test_the_last_task_of_a_plan_is_the_last_chance_to_look() -> None:
    story = story_of(3)
    story.review("r")
    story.success("r", "review", "reflect")
    story.success("d", "d")
    assert review_due(audited(story.events)[0], story.time(60), RULES) is None
    for key in "efghi":
        story.failure(key, 1, "no_data", final=True, key=key)
    audit, _ = audited(story.events)
    alive = replace(audit, reviews=replace(audit.reviews, a_task_died=False))
    assert "last chance" in str(review_due(alive, story.time(60), RULES))


def test_a_small_plan_is_not_reviewed_for_its_own_sake() -> None:
    story = Story()
    story.begin(planned("a", "b"))
    story.success("a", "a")
    assert review_due(audited(story.events)[0], story.time(60), RULES) is None


def test_two_reviews_are_never_open_at_a_time() -> None:
    story = story_of(3)
    story.review("r")
    for key in "def":
        story.success(key, key)
    audit, _ = audited(story.events)
    assert review_due(audit, story.time(60), RULES) is None
    story.success("r", "review", "reflect")
    assert review_due(audited(story.events)[0], story.time(60), RULES) is not None


def test_a_review_that_never_ends_does_not_bar_the_next_for_ever() -> None:
    story = story_of(3)
    story.review("r")
    for key in "def":
        story.success(key, key)
    audit, _ = audited(story.events)
    assert review_due(audit, story.time(RULES.review_seconds + 60), RULES) is not None


def test_a_goal_gets_at_most_so_many_reviews() -> None:
    story = story_of(0)
    for n, keys in enumerate(["abc", "def", "ghi"]):
        for key in keys:
            story.success(key, key)
        story.review(f"r{n}")
        story.success(f"r{n}", "review", "reflect")
    audit, _ = audited(story.events)
    assert audit.reviews.count == 3
    story.failure("j", 1, "no_data", final=False, key="j")
    died = replace(audit, reviews=replace(audit.reviews, a_task_died=True))
    assert review_due(died, story.time(60), RULES) is None
    assert review_due(died, story.time(60), Rules(max_reviews=4)) is not None


def test_an_asked_review_waits_for_the_next_occasion_whether_granted_or_not() -> None:
    story = story_of(3)
    audit, _ = audited(story.events)
    for granted in (True, False):
        after = review_asked(audit, story.time(60), granted=granted)
        assert review_due(after, story.time(61), RULES) is None
        assert after.reviews.count == (1 if granted else 0)


def test_a_review_that_was_asked_for_and_then_seen_counts_once() -> None:
    story = story_of(3)
    audit, _ = audited(story.events)
    audit = review_asked(audit, story.time(60), granted=True)
    seen = replace(audit, reviews=replace(audit.reviews, seen=frozenset({"r"})))
    assert seen.reviews.count == 1


def test_a_paused_goal_is_neither_reviewed_nor_called_stalled() -> None:
    story = story_of(3)
    story.tell("goal.paused", reason="user")
    audit, _ = audited(story.events)
    assert review_due(audit, story.time(60), RULES) is None
    assert tick(audit, story.time(9999), RULES)[1] == []


def test_silence_is_a_stall_once() -> None:
    audit, _ = audited(story_of(1).events)
    now = Story().time(RULES.stall_seconds + 60)
    audit, signals = tick(audit, now, RULES)
    assert said(signals) == [("stalled", "note")]
    assert tick(audit, now + timedelta(seconds=60), RULES)[1] == []


def test_waiting_for_a_person_is_no_stall() -> None:
    story = story_of(1)
    story.tell("approval.requested", "9", key="ok", lane="human", text="go on?")
    audit, _ = audited(story.events)
    assert tick(audit, story.time(9999), Rules(deadline_risk_share=9))[1] == []
    story.tell("approval.answered", "9", key="ok", lane="human")
    assert said(tick(audited(story.events)[0], story.time(3000), RULES)[1]) != []


def test_a_task_parked_for_money_waits_for_nobody() -> None:
    story = story_of(1)
    story.tell(
        "task.parked", "9", key="dear", lane="agent.ask", reason="over budget", needs_usd=2, left_usd=1
    )
    assert ("stalled", "note") in said(tick(audited(story.events)[0], story.time(3000), RULES)[1])


def test_a_deadline_that_will_be_missed_is_told() -> None:
    story = Story()
    story.begin(planned(*"abcdefghij"), deadline_seconds=100)
    story.success("a", "a")
    audit, _ = audited(story.events)
    assert tick(audit, story.time(20), RULES)[1] == []
    _, signals = tick(audit, story.time(30), RULES)
    assert said(signals) == [("deadline_risk", "note")]


def test_progress_is_reported_at_an_interval_with_what_people_ask() -> None:
    story = story_of(4, cost=0.01)
    audit, _ = audited(story.events)
    assert progress(audit, story.time(29), RULES)[1] is None
    audit, report = progress(audit, story.time(40), RULES)
    assert report is not None
    assert (report.signal, report.action) == ("progress", "none")
    assert dict(report.data) == {
        "done": 4, "total": 10, "spent_usd": 0.04, "next": ["Do e", "Do f", "Do g"], "eta_seconds": 60.0,
        "risks": [],
    }  # fmt: skip
    assert "4 of 10 tasks done" in report.message
    assert progress(audit, story.time(69), RULES)[1] is None
    assert progress(audit, story.time(70), RULES)[1] is not None


def test_two_reflectors_report_the_same_interval_under_one_id() -> None:
    audit, _ = audited(story_of(4).events)
    _, one = progress(audit, Story().time(40), RULES)
    _, other = progress(audit, Story().time(42), RULES)
    _, later = progress(audit, Story().time(70), RULES)
    assert one is not None
    assert other is not None
    assert later is not None
    assert one.signal_id == other.signal_id != later.signal_id


def test_progress_of_another_process_counts_as_told() -> None:
    story = story_of(4)
    story.tell("progress.reported", None, done=4)
    audit, _ = audited(story.events)
    assert progress(audit, story.time(30), RULES)[1] is None
