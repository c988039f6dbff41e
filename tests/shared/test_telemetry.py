"""Redaction keeps secrets out of everything that is written, and logs say which try they are about."""

from __future__ import annotations

import json
from typing import Any

import pytest
from goalwright_shared import telemetry
from goalwright_shared.telemetry import MASK, redact, redact_value, remember_secrets
from hypothesis import example, given
from hypothesis import strategies as st

from shared.conftest import SmallService
from shared.small_service import SECRET

_SECRETS = st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="[]"), min_size=6)
_PLAIN = st.text("abcdefgh XYZ,.:\n0123-_", max_size=80)


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test remembers is forgotten after it."""
    monkeypatch.setattr(telemetry, "_known", set())


def remembered(*secrets: str) -> None:
    """Remember these and nothing else."""
    telemetry._known.clear()
    remember_secrets(secrets)


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """JSON of any depth around `leaf`, which also occurs as a name."""
    names = st.one_of(_PLAIN, leaf)
    return st.recursive(
        leaf, lambda inner: st.one_of(st.lists(inner, min_size=1), st.dictionaries(names, inner, min_size=1)),
        max_leaves=6,
    )  # fmt: skip


@given(_SECRETS, _PLAIN, _PLAIN)
@example("redacted-", "", "")
def test_a_known_secret_never_survives_in_text(secret: str, before: str, after: str) -> None:
    remembered(secret)
    assert secret not in redact(f"{before}{secret}{after}{secret}").replace(MASK, "")


@given(st.data(), _SECRETS)
def test_a_known_secret_never_survives_in_json_at_any_depth(data: st.DataObject, secret: str) -> None:
    remembered(secret)
    value = data.draw(nested(st.builds(lambda a, b: f"{a}{secret}{b}", _PLAIN, _PLAIN)))
    written = json.dumps(redact_value(value), ensure_ascii=False).replace(MASK, "")
    assert secret not in written
    assert json.dumps(secret, ensure_ascii=False)[1:-1] not in written


@given(_SECRETS)
def test_a_known_secret_never_survives_as_it_stands_in_json_text(secret: str) -> None:
    remembered(secret)
    for text in (json.dumps({"a": secret}), json.dumps({"a": secret}, ensure_ascii=False)):
        assert json.loads(redact(text)) == {"a": MASK}


@given(_SECRETS, st.text("xyz", min_size=1, max_size=5))
def test_a_secret_that_begins_with_another_leaves_no_rest(secret: str, rest: str) -> None:
    remembered(secret, secret + rest)
    assert redact(secret + rest) == MASK


@given(_PLAIN)
def test_ordinary_text_is_untouched(text: str) -> None:
    remembered("a secret that is nowhere")
    assert redact(text) == text


@given(nested(st.one_of(_PLAIN, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())))
def test_ordinary_json_is_untouched(value: Any) -> None:
    remembered("a secret that is nowhere")
    assert redact_value(value) == value


@given(st.recursive(_PLAIN, lambda inner: st.lists(inner) | st.dictionaries(_PLAIN, inner)))
def test_redacting_twice_is_redacting_once(value: Any) -> None:
    remembered("abcdef")
    assert redact_value(redact_value(value)) == redact_value(value)


_JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("key sk-proj-abcdefghijkl1234 refused", f"key {MASK} refused"),
        ("Authorization: Bearer abc.def-ghi_jkl", f"Authorization: {MASK}"),
        ("postgresql://goal:pa55word@db:5432/x", f"postgresql://{MASK}@db:5432/x"),
        ("nats://service:t0ken_-x@127.0.0.1:4222", f"nats://{MASK}@127.0.0.1:4222"),
        ("ghp_abcdefghij0123456789", MASK),
        ("AKIAABCDEFGHIJKLMNOP", MASK),
        (r'{"a": "x\nsk-abcdefghijkl"}', rf'{{"a": "x\n{MASK}"}}'),
        ("-----BEGIN RSA PRIVATE KEY-----\nab\ncd\n-----END RSA PRIVATE KEY-----.", f"{MASK}."),
        ("see\n-----BEGIN PRIVATE KEY-----\nMIIEow\nabc", f"see\n{MASK}"),
        (r'{"a": "-----BEGIN PRIVATE KEY-----\nMIIE\"b"}', rf'{{"a": "{MASK}\"b"}}'),
        ("was:\nMIIEow==\n-----END EC PRIVATE KEY----- so", f"was:{MASK} so"),
        (_JWT, MASK),
        ("eyJust words.eyJ.x and a.b.c", "eyJust words.eyJ.x and a.b.c"),
        ("task-force and risk-averse desk-bound people", "task-force and risk-averse desk-bound people"),
        ("see https://example.org/a:b@c", "see https://example.org/a:b@c"),
        ("at 12:30 mail ann@example.org", "at 12:30 mail ann@example.org"),
    ],
)
def test_what_is_shaped_like_a_secret_is_masked_and_nothing_else(text: str, kept: str) -> None:
    assert redact(text) == kept


@pytest.mark.parametrize(
    "name",
    ["token", "api_key", "apiKey", "API-KEY", "password", "client_secret", "Authorization", "access_token"],
)
def test_a_field_named_like_a_secret_is_masked_whole(name: str) -> None:
    assert redact_value({"a": [{name: "plain", "b": 1}]}) == {"a": [{name: MASK, "b": 1}]}


@pytest.mark.parametrize(
    "name", ["tokens_in", "tokens_out", "tokens_cached", "max_tokens", "max_output_tokens"]
)
def test_counts_of_tokens_are_no_secrets(name: str) -> None:
    assert redact_value({name: 12}) == {name: 12}


def test_an_object_in_a_log_line_is_masked_in_its_repr() -> None:
    remembered("hunter2hunter2")
    error = ValueError("it was hunter2hunter2")
    assert redact_value({"error": error}) == {"error": f"ValueError('it was {MASK}')"}
    harmless = ValueError("nothing")
    assert redact_value({"error": harmless}) == {"error": harmless}


def test_short_values_are_not_remembered() -> None:
    """Else an empty or trivial password would mask every other word."""
    remembered("", "abc")
    assert redact("abc") == "abc"


async def test_log_lines_are_json_and_carry_goal_task_and_epoch(small_service: SmallService) -> None:
    ready = await small_service.said("ready")
    assert ready["service"] == "small"
    assert "goal" not in ready
    await small_service.hand_out("log")
    line = await small_service.said("performing")
    assert {name: line[name] for name in ("goal", "task", "epoch", "lane", "service", "level")} == {
        "goal": "g-1", "task": "7", "epoch": 3, "lane": "exec", "service": "small", "level": "info"
    }  # fmt: skip
    assert line["timestamp"].endswith("Z")
    assert line["password"] == MASK
    assert line["note"] == {MASK: [MASK]}


async def test_no_log_line_holds_a_known_secret_not_even_a_traceback(small_service: SmallService) -> None:
    await small_service.said("ready")
    await small_service.hand_out("log")
    library = await small_service.said(f"it says {MASK}")
    assert (library["goal"], library["epoch"], library["logger"]) == ("g-1", 3, "a.library")
    await small_service.hand_out("raise")
    failed = await small_service.said("performer failed")
    assert failed["exception"].endswith(f"ValueError: {MASK}")
    assert (failed["goal"], failed["task"], failed["epoch"]) == ("g-1", "7", 3)
    small_service.signal()
    await small_service.end()
    assert SECRET not in small_service.text
    assert json.dumps(SECRET)[1:-1] not in small_service.text


_ascii = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
_shaped = st.sampled_from(
    [
        "sk-" + "a1" * 8,
        "Bearer abcdefgh12",
        "ghp_" + "x" * 20,
        "AKIA" + "B" * 16,
        "https://u:p4ss@host/",
        "token",
    ]
)
_names = st.one_of(
    _ascii, st.sampled_from(["api_key", "Token", "tokens_in", "max_tokens", "PASSWORD", "key"])
)
_json = st.recursive(
    st.one_of(_ascii, _shaped, st.integers(-5, 5), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_names, inner, max_size=3)),
    max_leaves=8,
)


@given(_json)
def test_what_may_hold_no_secret_is_left_as_it_is_by_redaction(value: Any) -> None:
    if not telemetry.may_hold_secret(json.dumps(value).encode()):
        assert telemetry.redact_value(value) == value


def test_plain_events_hold_no_secret() -> None:
    event = {
        "kind": "task.succeeded",
        "data": {"tokens_in": 1, "tokens_out": 2, "key": "t1", "summary": "did it"},
    }
    assert not telemetry.may_hold_secret(json.dumps(event).encode())
