"""What `goalwright check-model` asks of a model, and what it reads in the events of a goal."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from goalwright_cli.check_model import chosen
from goalwright_cli.model_report import measured, table
from goalwright_shared.messages import Event, GoalSubmission, parse_lenient_value

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def told(*kinds: tuple[str, dict[str, Any]]) -> list[Event]:
    """Events, a second apart."""
    return [
        Event(
            event_id=f"e{seq}",
            seq=seq + 1,
            goal_id="g",
            owner="public",
            kind=kind,
            at=BEGIN + timedelta(seconds=seq),
            data=data,
        )
        for seq, (kind, data) in enumerate(kinds)
    ]


ACCEPTED = ("goal.accepted", {"text": "x"})
ASKED = ("task.expanded", {"lane": "plan", "tasks": [{"lane": "agent.ask"}]})
SENT_BACK = ("task.expanded", {"lane": "agent.ask", "tasks": [], "tokens_in": 90})
STEP_DOWN = ("task.expanded", {"lane": "agent.ask", "tasks": [], "tokens_in": 0})
ADOPTED = ("plan.adopted", {"task_count": 2, "warnings": []})
WORKS = ("task.dispatched", {"lane": "agent.writer"})
PLANS = ("task.dispatched", {"lane": "plan"})
FAILS = ("task.failed", {"lane": "agent.writer", "final": False, "error": {"message": "no table"}})
DONE = ("goal.finished", {"status": "done", "missing": [], "spent_usd": 0.01})


def test_there_are_twelve_goals_of_different_kinds_that_may_be_submitted() -> None:
    cases = chosen([])
    assert len({case["name"] for case in cases}) == len({case["kind"] for case in cases}) == 12
    for case in cases:
        goal, warnings = parse_lenient_value(GoalSubmission, case["goal"])
        assert warnings == [], case["name"]
        names = {deliverable.name for deliverable in goal.deliverables}
        assert names >= set(case["expect"])
        for pattern in case["expect"].values():
            re.compile(pattern)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("arithmetic", "234168", "233168"),
        ("extract", '{"number": "RX-2041", "date": "2026-03-03", "total": 1249.5}', '{"number": "RX-2041"}'),
        ("join", "name,total\nBo,80\nAda,55\nCem,5\n", "name,total\nAda,55\nBo,80\nCem,5\n"),
        (
            "summary",
            "For three weeks from Monday visitors use the south entrance in Mill Lane.",
            "south entrance " * 30,
        ),
    ],
)
def test_a_right_result_is_told_from_a_wrong_one(name: str, right: str, wrong: str) -> None:
    [pattern] = chosen([name])[0]["expect"].values()
    assert re.search(pattern, right)
    assert not re.search(pattern, wrong)


def test_a_name_that_is_none_of_them_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="poetry: none of arithmetic, extract"):
        chosen(["poetry"])


def test_a_goal_that_went_well_is_a_row_of_what_it_took() -> None:
    row = measured("one", told(ACCEPTED, PLANS, ASKED, STEP_DOWN, ADOPTED, WORKS, DONE))
    assert (row.plan, row.tasks, row.repairs, row.accepted) == ("first try", 2, 0, True)
    assert (row.first_task_seconds, row.seconds, row.cost_usd) == (5, 6, 0.01)


def test_repairs_of_plans_and_answers_and_failed_tries_are_counted() -> None:
    row = measured("one", told(ACCEPTED, ASKED, ASKED, SENT_BACK, ADOPTED, WORKS, FAILS, ASKED, DONE))
    assert (row.plan, row.repairs) == ("repaired 1x", 3), "a replan later on is no repair of this plan"


def test_a_plan_that_fell_back_is_not_called_valid() -> None:
    warned = ("plan.adopted", {"task_count": 1, "warnings": ["its tasks run one after the other as written"]})
    assert measured("one", told(ACCEPTED, ASKED, ASKED, warned, DONE)).plan == "in sequence"


def test_an_honest_refusal_is_right_where_nobody_could_do_it_and_wrong_elsewhere() -> None:
    failed = ("goal.finished", {"status": "failed", "reason": "there is no thermometer", "missing": ["t"]})
    events = told(ACCEPTED, ASKED, failed)
    assert measured("one", events, refusal=True).accepted
    row = measured("one", events)
    assert (row.plan, row.accepted, row.why) == ("refused", False, "there is no thermometer")
    assert not measured("one", told(ACCEPTED, ASKED, ADOPTED, DONE), refusal=True).accepted


def test_what_is_delivered_only_in_part_is_not_accepted() -> None:
    partial = ("goal.finished", {"status": "partial", "reason": "budget", "missing": ["t"], "spent_usd": 0.2})
    assert not measured("one", told(ACCEPTED, ASKED, ADOPTED, WORKS, partial)).accepted


def test_the_table_sums_up_and_says_what_went_wrong() -> None:
    good = measured("one", told(ACCEPTED, ASKED, ADOPTED, WORKS, DONE))
    bad = measured(
        "two",
        told(ACCEPTED, ASKED, ("goal.finished", {"status": "failed", "reason": "cannot", "missing": []})),
    )
    lines = table([good, bad]).splitlines()
    assert lines[2].split() == ["one", "first", "try", "2", "0", "done", "yes", "-", "0.0100", "3.0", "4.0"]
    assert lines[-1] == "  two: cannot"
    assert next(line for line in lines if line.startswith("2 goals")).split()[2:4] == ["1", "at"]
