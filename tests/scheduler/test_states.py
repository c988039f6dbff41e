"""The page that draws the state machine is the code's table."""

from __future__ import annotations

import re
from pathlib import Path

from goalwright_scheduler.core.states import FINAL, OPEN, TRANSITIONS, State

PAGE = Path(__file__).parents[2] / "docs" / "state_machine.md"


def drawn() -> set[tuple[str, str]]:
    """Edges of the first diagram, and the two that leave from every open state."""
    diagram = PAGE.read_text(encoding="utf-8").split("```mermaid")[1].split("```")[0]
    edges = set(re.findall(r"^\s+(\w+) --> (\w+) :", diagram, re.MULTILINE))
    return edges | {(state, end) for state in OPEN for end in ("cancelled", "skipped")}


def test_page_draws_exactly_the_legal_transitions() -> None:
    assert drawn() == {(old, new) for old, after in TRANSITIONS.items() for new in after}


def test_final_is_final() -> None:
    assert all(not TRANSITIONS[state] for state in FINAL)
    assert set(TRANSITIONS) == set(State)
