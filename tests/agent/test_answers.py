"""JSON is taken out of a reply as it stands there, or not at all."""

from __future__ import annotations

import json
import time

import pytest
from goalwright_agent.core.answers import extract_json, storable, unfenced
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)
PROSE = st.text(alphabet="abc .,:!\n", max_size=30)


@given(OBJECTS, PROSE, PROSE, st.booleans())
def test_object_inside_prose_or_a_fence_is_found_whole(
    value: dict[str, object], before: str, after: str, fenced: bool
) -> None:
    body = json.dumps(value)
    body = f"\n```json\n{body}\n```\n" if fenced else body
    found = extract_json(before + body + after, want_object=True)
    assert found is not None
    assert json.loads(found) == value


@given(OBJECTS.filter(bool))
def test_cut_object_is_never_completed(value: dict[str, object]) -> None:
    body = json.dumps(value)
    for cut in range(1, len(body)):
        assert extract_json(body[:cut], want_object=True) is None
        assert extract_json(f"Sure:\n{body[:cut]}", want_object=True) is None
        assert extract_json(f"```json\n{body[:cut]}\n```", want_object=True) is None


@pytest.mark.parametrize("text", ["[" * 50_000, '{"a":' * 50_000, "{" * 1000 + "x" * 100_000, "", "  "])
def test_hopeless_replies_are_given_up_soon(text: str) -> None:
    began = time.process_time()
    assert extract_json(text) is None
    assert time.process_time() - began < 2


@given(st.text())
def test_storable_text_is_utf8_without_nul(text: str) -> None:
    assert b"\0" not in storable({"a": [text + "\0\ud800"]})["a"][0].encode()


def test_fence_around_a_whole_text_goes_and_one_inside_stays() -> None:
    assert unfenced("```markdown\n# Title\n```") == "# Title"
    assert unfenced("See:\n```\ncode\n```\nDone.") == "See:\n```\ncode\n```\nDone."
    assert unfenced("```\na\n```\nand\n```\nb\n```") == "```\na\n```\nand\n```\nb\n```"
