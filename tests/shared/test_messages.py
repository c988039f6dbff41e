"""Messages as outsiders write them and as services read them: strict, lenient, and never an odd exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from goalwright_shared.messages import (
    INLINE_BYTES,
    OUTCOME,
    Alive,
    ArtifactRef,
    ArtifactType,
    BadMessage,
    Done,
    Expand,
    Failed,
    GoalSubmission,
    Lane,
    Revise,
    TaskSpec,
    Throttled,
    Work,
    parse_lenient,
    parse_outcomes,
    parse_strict,
    read_json,
)
from hypothesis import given
from hypothesis import strategies as st

GOAL: dict[str, Any] = {
    "id": "stock-7",
    "text": "Count the stock",
    "budget_usd": 0.25,
    "deadline_seconds": 300,
    "inputs": [{"name": "stock", "type": "table", "media_type": "text/csv", "inline": "item,n\nnut,4\n"}],
    "plan": {
        "tasks": [
            {
                "key": "tidy",
                "lane": "custom.etl",
                "inputs": ["stock"],
                "outputs": [{"name": "rows", "type": "json"}],
            },
            {
                "key": "count",
                "lane": "exec",
                "inputs": ["rows"],
                "outputs": [{"name": "total", "type": "text"}],
                "value": 10,
                "effort": {"tokens_in": 0, "tokens_out": 0, "seconds": 1},
                "acceptance": [{"kind": "regex", "pattern": "^[0-9]+$", "output": "total"}],
                "program": {"language": "python", "source": "print(4)", "args": []},
            },
        ]
    },
}

WORK: dict[str, Any] = {
    "goal_id": "stock-7",
    "task_id": "12",
    "epoch": 2,
    "turn": 1,
    "lane": "custom.etl",
    "spec": {"key": "tidy", "lane": "custom.etl"},
    "deadline": "2026-11-22T09:10:00Z",
    "continuation": {"step": "wait"},
    "children": [{"key": "run", "task_id": "13", "status": "succeeded", "outputs": {}, "error": None}],
}

OUTCOMES: list[tuple[type, dict[str, Any]]] = [
    (Done, {"kind": "done", "summary": "2 rows"}),
    (Expand, {"kind": "expand", "continuation": {"step": 1}}),
    (
        Revise,
        {
            "kind": "revise",
            "target_task_id": "1",
            "generation": 1,
            "base_revision": 0,
            "operations": [
                {"op": "drop", "key": "a"},
                {"op": "add", "task": {"key": "b", "lane": "agent.coder"}},
            ],
        },
    ),
    (Failed, {"kind": "failed", "error": {"code": "bad_input", "message": "no column n"}}),
    (Throttled, {"kind": "throttled", "retry_after_seconds": 2.5}),
]


def outcome(**fields: Any) -> dict[str, Any]:
    return {"goal_id": "g", "task_id": "7", "epoch": 3, **fields}


def lenient(data: object) -> tuple[GoalSubmission, list[str]]:
    return parse_lenient(GoalSubmission, json.dumps(data))


def refusal(data: object) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        lenient(data)
    return caught.value


def test_a_goal_with_a_plan_parses() -> None:
    goal, ignored = lenient(GOAL)
    assert ignored == []
    assert goal.plan is not None
    assert [task.key for task in goal.plan.tasks] == ["tidy", "count"]
    assert goal.inputs[0].type is ArtifactType.TABLE


def test_unknown_fields_of_clients_are_dropped_and_told_with_their_path() -> None:
    data = json.loads(json.dumps(GOAL))
    data["colour"] = "red"
    data["plan"]["tasks"][1]["outputs"][0]["units"] = "kg"
    goal, ignored = lenient(data)
    assert sorted(ignored) == ["colour", "plan.tasks.1.outputs.0.units"]
    assert goal.id == "stock-7"


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (["text"], 7, "text"),
        (["budget_usd"], "much", "budget_usd"),
        (["budget_usd"], -1, "budget_usd"),
        (["id"], "a b", "id"),
        (["deadline_seconds"], 0, "deadline_seconds"),
        (["inputs", 0, "type"], "picture", "inputs.0.type"),
        (["plan", "tasks", 0, "key"], "-bad", "plan.tasks.0.key"),
        (["plan", "tasks", 1, "outputs", 0, "name"], "to tal", "plan.tasks.1.outputs.0.name"),
        (["plan", "tasks", 1, "value"], 101, "plan.tasks.1.value"),
        (["plan", "tasks", 1, "acceptance", 0, "pattern"], 5, "plan.tasks.1.acceptance.0.pattern"),
        (["plan", "tasks"], [], "plan.tasks"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field(path: list[Any], value: object, field: str) -> None:
    data = json.loads(json.dumps(GOAL))
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    error = refusal(data)
    assert (error.code, error.field) == ("bad_field", field)
    assert field in error.message


def test_a_missing_field_is_named() -> None:
    data = json.loads(json.dumps(GOAL))
    del data["plan"]["tasks"][0]["lane"]
    assert refusal(data).field == "plan.tasks.0.lane"


def test_an_input_has_exactly_one_body() -> None:
    both = {"text": "x", "inputs": [{"name": "a", "inline": "x", "object": "y"}]}
    assert "exactly one of inline and object" in refusal(both).message
    assert "exactly one" in refusal({"text": "x", "inputs": [{"name": "a"}]}).message


@pytest.mark.parametrize(
    ("payload", "code"), [(b"\xff\xfe", "not_utf8"), (b"{", "not_json"), (b"[" * 200_000, "not_json")]
)
def test_what_is_no_json_is_refused_as_such(payload: bytes, code: str) -> None:
    with pytest.raises(BadMessage) as caught:
        parse_lenient(GoalSubmission, payload)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("payload", "code", "field"),
    [
        (b'{"text": "\\ud800"}', "not_utf8", "text"),
        (b'{"text": "a\\uDBFFb"}', "not_utf8", "text"),
        (b'{"text": "a\\u0000b"}', "bad_text", "text"),
        (b'{"text": "x", "plan": {"tasks": [{"key": "a", "params": [1, {"p": "\\u0000"}]}]}}', "bad_text",
         "plan.tasks.0.params.1.p"),
        (b'{"text": "x", "labels": {"a\\u0000": "b"}}', "bad_text", "labels"),
    ],
)  # fmt: skip
def test_a_text_that_cannot_be_stored_is_refused_by_its_place(payload: bytes, code: str, field: str) -> None:
    for read in (lambda: parse_lenient(GoalSubmission, payload), lambda: read_json(payload)):
        with pytest.raises(BadMessage) as caught:
            read()
        assert (caught.value.code, caught.value.field) == (code, field)
        assert field in caught.value.message


def test_a_default_answer_that_does_not_fit_inline_is_refused() -> None:
    task = {
        "key": "a",
        "lane": "human",
        "question": {"text": "?", "default": "ü" * 5_000, "timeout_seconds": 1},
    }
    with pytest.raises(BadMessage) as caught:
        parse_lenient(GoalSubmission, json.dumps({"text": "x", "plan": {"tasks": [task]}}))
    assert caught.value.field == "plan.tasks.0.question.default"
    assert "8192 bytes" in caught.value.message


@pytest.mark.parametrize("text", [r"a pair \ud83d\ude00", r"a backslash \\u0000", r"half of one \\ud800"])
def test_a_text_that_only_looks_so_is_taken(text: str) -> None:
    parsed, _ = parse_lenient(GoalSubmission, f'{{"text": "{text}"}}')
    assert parsed.text == json.loads(f'"{text}"')


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["text", "plan", "inputs", "tasks", "key", "other"]), inner)
        ),
        max_leaves=12,
    )
)
def test_any_json_either_parses_or_is_a_bad_message(data: object) -> None:
    try:
        goal, ignored = lenient(data)
    except BadMessage:
        return
    assert parse_strict(GoalSubmission, goal.to_json()) == goal
    assert all(isinstance(path, str) for path in ignored)


def test_services_refuse_unknown_fields_of_one_another() -> None:
    with pytest.raises(BadMessage, match="colour"):
        parse_strict(Work, json.dumps({**WORK, "colour": "red"}))


def test_work_comes_back_as_it_was_sent() -> None:
    work = parse_strict(Work, json.dumps(WORK))
    assert parse_strict(Work, work.to_json()) == work
    assert work.deadline is not None
    assert work.deadline.utcoffset() is not None
    assert work.children[0].status == "succeeded"


@pytest.mark.parametrize(("kind", "fields"), OUTCOMES)
def test_every_kind_of_outcome_parses_to_its_own_model(kind: type, fields: dict[str, Any]) -> None:
    [parsed], _ = parse_outcomes(json.dumps(outcome(**fields)).encode(), trusted=True)
    assert type(parsed) is kind
    assert OUTCOME.validate_json(parsed.to_json()) == parsed


def test_several_outcomes_come_in_one_message() -> None:
    payload = json.dumps([outcome(**fields) for _, fields in OUTCOMES]).encode()
    parsed, _ = parse_outcomes(payload, trusted=False)
    assert [type(one) for one in parsed] == [kind for kind, _ in OUTCOMES]


def test_custom_performers_may_send_unknown_fields_and_services_may_not() -> None:
    payload = json.dumps(outcome(kind="done", mood="fine")).encode()
    [parsed], ignored = parse_outcomes(payload, trusted=False)
    assert ignored == ["mood"]
    assert isinstance(parsed, Done)
    with pytest.raises(BadMessage, match="mood"):
        parse_outcomes(payload, trusted=True)


def test_an_expand_without_tasks_and_continuation_is_refused() -> None:
    with pytest.raises(BadMessage, match="tasks, a continuation, or both"):
        parse_outcomes(json.dumps(outcome(kind="expand")).encode(), trusted=False)


def test_a_program_has_exactly_one_source() -> None:
    with pytest.raises(BadMessage, match="exactly one of source and artifact"):
        parse_strict(TaskSpec, b'{"key": "a", "lane": "exec", "program": {"language": "python"}}')


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_an_inline_artifact_counts_bytes_not_characters(text: str) -> None:
    ref = ArtifactRef.of_text("note", text)
    assert ref.size == len(text.encode())
    assert parse_strict(ArtifactRef, ref.to_json()) == ref


def test_too_much_text_is_no_inline_artifact() -> None:
    with pytest.raises(ValueError, match="do not fit inline"):
        ArtifactRef.of_text("note", "x" * (INLINE_BYTES + 1))


def test_presence_lists_tasks_as_pairs() -> None:
    alive = parse_strict(Alive, b'{"worker": "w", "slots": 2, "tasks": [["7", 1]]}')
    assert alive.tasks == [("7", 1)]


def test_a_lane_name_has_a_place_for_a_prefix() -> None:
    assert Lane(name="custom.etl-2").name == "custom.etl-2"
    with pytest.raises(ValueError, match="pattern"):
        Lane(name="Custom etl")
