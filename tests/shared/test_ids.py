"""Identifiers of goals."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from goalwright_shared import ids

AT = datetime(2026, 11, 22, 9, 0, 0, 123_000, tzinfo=UTC)


def test_goal_ids_are_uuids_of_version_7_in_the_order_of_their_time() -> None:
    made = [ids.stored_goal_id(AT + timedelta(milliseconds=n), 1) for n in range(5)] + [ids.new_goal_id()]
    assert made == sorted(made)
    assert {uuid.UUID(goal).version for goal in made} == {7}
    assert {uuid.UUID(goal).variant for goal in made} == {uuid.RFC_4122}


def test_redelivered_goal_has_the_same_id_and_another_goal_another() -> None:
    assert ids.stored_goal_id(AT, 7) == ids.stored_goal_id(AT, 7)
    assert ids.stored_goal_id(AT, 7) != ids.stored_goal_id(AT, 8)
    assert ids.stored_goal_id(AT, 7) != ids.stored_goal_id(AT + timedelta(microseconds=1), 7)
