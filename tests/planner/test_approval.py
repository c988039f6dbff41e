"""What a person's words mean, and what a plan is said to cost."""

from __future__ import annotations

import pytest
from goalwright_planner.core.approval import decision, estimated_usd, question_text
from goalwright_shared.messages import Contract, Effort, Expand, TaskSpec

TASKS = [
    TaskSpec(key=f"t{n}", lane="agent.coder", effort=Effort(tokens_in=1000, tokens_out=500))
    for n in range(60)
]


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("approve", "approve"),
        (" Yes! ", "approve"),
        ("OK", "approve"),
        ("reject", "reject"),
        ("No.", "reject"),
        ("  ", "reject"),
        ("yes, but in French", "feedback"),
        ("not yet", "feedback"),
    ],
)
def test_the_words_of_a_person(words: str, meaning: str) -> None:
    assert decision(words) == meaning


def test_the_cost_is_one_try_of_each_task_at_its_lane_s_price() -> None:
    row = {"name": "agent.coder", "input_usd_per_mtok": 3.0, "output_usd_per_mtok": 15.0}
    assert estimated_usd(TASKS[:2], [row]) == pytest.approx(2 * (0.003 + 0.0075))
    assert estimated_usd(TASKS[:2], [{"name": "agent.coder"}]) == 0
    assert estimated_usd(TASKS[:2], []) is None


def test_a_long_plan_is_shown_in_part() -> None:
    plan = Expand(goal_id="g", task_id="1", epoch=1, tasks=TASKS, contract=Contract(objective="Count"))
    text = question_text(plan, 1.5, 2)
    assert text.startswith("Objective: Count\n")
    assert "… and 10 more" in text
    assert "90000 tokens, about 1.5000 USD, of 2.00 USD left" in text
