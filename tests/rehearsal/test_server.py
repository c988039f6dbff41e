"""The server over HTTP, through the OpenAI SDK and by hand: shapes, errors, limits and faults of a provider."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import httpx2
import openai
import pytest
from goalwright_rehearsal.provider import Provider
from goalwright_rehearsal.settings import RehearsalSettings
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from rehearsal.conftest import Serve

HELLO = {"model": "rehearsal", "messages": [{"role": "user", "content": "hello"}]}


def post(url: str, body: object, path: str = "/chat/completions", **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(url + path, content=content, headers=headers, timeout=10)


def error_of(response: httpx2.Response) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    assert error["message"]
    return response.status_code, error["code"], error["param"]


def test_server_says_where_it_listens_and_stops_on_a_signal() -> None:
    command = [sys.executable, "-m", "goalwright_rehearsal", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert line["pid"] == process.pid and line["url"].startswith("http://127.0.0.1:")
        assert httpx2.get(line["url"] + "/models").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_models_are_listed_and_named(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["rehearsal"]
    assert client.models.retrieve("gpt-x").id == "gpt-x"


def test_completion_is_labelled_and_counts_tokens(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="any-name", messages=[{"role": "user", "content": "x" * 4000}]
    )
    assert (reply.model, reply.system_fingerprint) == ("rehearsal", "rehearsal-without-intelligence")
    assert reply.choices[0].finish_reason == "stop"
    assert "no intelligence" in (reply.choices[0].message.content or "")
    assert reply.usage is not None
    assert 1000 <= reply.usage.prompt_tokens < 1020
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_answer_beyond_the_cap_is_cut_by_length(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "x" * 400}]
    reply = client.chat.completions.create(model="r", messages=messages, max_completion_tokens=5)  # type: ignore[arg-type]
    assert reply.choices[0].finish_reason == "length"
    assert len(reply.choices[0].message.content or "") == 20
    assert reply.usage is not None and reply.usage.completion_tokens == 5


def test_embeddings_are_deterministic_and_alike_for_alike_texts(client: OpenAI) -> None:
    texts = ["the cat sat on the mat", "the cat sat on a mat", "quarterly revenue by region", ""]
    found = client.embeddings.create(model="r", input=texts, dimensions=128)
    again = client.embeddings.create(model="r", input=texts[0], dimensions=128, encoding_format="float")
    cat, other_cat, revenue, _ = (item.embedding for item in found.data)
    assert len(cat) == 128
    assert cat == pytest.approx(again.data[0].embedding, abs=1e-6)
    assert dot(cat, cat) == pytest.approx(1, abs=1e-5)
    assert dot(cat, other_cat) > 0.6 > abs(dot(cat, revenue))


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{not json", (400, "invalid_json", None)),
        (b"\xff\xfe", (400, "invalid_json", None)),
        ([1], (400, "invalid_json", None)),
        (HELLO | {"stream": True}, (400, "unsupported_value", "stream")),
        (HELLO | {"n": 3}, (400, "unsupported_value", "n")),
        ({"model": "r"}, (400, "missing_required_parameter", "messages")),
        ({"model": "r", "messages": []}, (400, "invalid_value", "messages")),
        ({"model": "r", "messages": ["hi"]}, (400, "invalid_value", "messages.0")),
        (HELLO | {"tools": [{"type": "function"}]}, (400, "missing_required_parameter", "tools.0.function")),
        ({"messages": HELLO["messages"]}, (400, "missing_required_parameter", "model")),
    ],
)
def test_bad_request_is_refused_by_the_name_of_the_parameter(
    url: str, body: object, expected: tuple[int, str, str | None]
) -> None:
    assert error_of(post(url, body)) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"response_format": "json"},
        {"response_format": {"type": "json_schema", "json_schema": None}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}},
        {"tools": [None], "tool_choice": {"type": "function"}},
        {"tools": {"a": 1}},
        {"messages": [{"role": "tool", "tool_call_id": ["x"], "content": "{}"}]},
        {"messages": [{"role": "assistant", "tool_calls": [None]}]},
        {"messages": [{"role": "user", "content": '\n## Card\n{"kind": "plan", "inputs": 3, "goal": 4}'}]},
        {"messages": [{"role": "user", "content": '\n## Card\n{"kind": "revise", "tasks": {"a": 1}}'}]},
    ],
)
def test_malformed_detail_never_breaks_the_server(url: str, changes: dict[str, object]) -> None:
    response = post(url, HELLO | changes)
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        error_of(response)


def test_unknown_path_and_empty_input_get_openai_errors(url: str) -> None:
    assert error_of(httpx2.get(url + "/nothing")) == (404, "not_found", None)
    assert error_of(post(url, {"model": "r", "input": ""}, "/embeddings"))[:2] == (
        400,
        "missing_required_parameter",
    )


def test_wrong_key_is_refused(serve: Serve) -> None:
    url = serve("--api-key", "right", "--latency-seconds", "0")
    with (
        OpenAI(base_url=url, api_key="wrong", max_retries=0) as wrong,
        pytest.raises(openai.AuthenticationError),
    ):
        wrong.chat.completions.create(model="r", messages=[{"role": "user", "content": "hi"}])
    with OpenAI(base_url=url, api_key="right", max_retries=0) as right:
        assert right.chat.completions.create(model="r", messages=[{"role": "user", "content": "hi"}]).choices


def test_requests_above_the_limit_get_429_with_the_time_to_wait(serve: Serve) -> None:
    url = serve("--requests-per-minute", "3", "--latency-seconds", "0")
    allowed = [post(url, HELLO) for _ in range(3)]
    assert [reply.status_code for reply in allowed] == [200] * 3
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in allowed] == ["2", "1", "0"]
    refused = post(url, HELLO)
    assert error_of(refused)[:2] == (429, "rate_limit_exceeded")
    assert refused.json()["error"]["type"] == "requests"
    assert 18_000 <= int(refused.headers["retry-after-ms"]) <= 20_000
    assert int(refused.headers["retry-after"]) in (18, 19, 20)
    counts = counts_of(url)
    assert (counts["requests"], counts["answered"], counts["refused"]) == (4, 3, 1)


def test_tokens_are_limited_by_prompt_and_cap(serve: Serve) -> None:
    url = serve("--tokens-per-minute", "1000", "--latency-seconds", "0")
    assert post(url, HELLO | {"max_tokens": 900}).status_code == 200
    refused = post(url, HELLO | {"max_tokens": 900})
    assert refused.status_code == 429 and refused.json()["error"]["type"] == "tokens"
    assert refused.headers["x-ratelimit-limit-tokens"] == "1000"


def test_faults_can_be_asked_for_by_header(url: str) -> None:
    assert error_of(post(url, HELLO, **{"x-rehearsal-fault": "500"}))[:2] == (500, "server_error")
    assert error_of(post(url, HELLO, **{"x-rehearsal-fault": "429"}))[:2] == (429, "rate_limit_exceeded")
    long = HELLO | {"messages": [{"role": "user", "content": "x" * 400}]}
    cut = post(url, long, **{"x-rehearsal-fault": "cut"}).json()["choices"][0]
    assert cut["finish_reason"] == "length"
    form = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    }
    ignored = post(url, HELLO | form, **{"x-rehearsal-fault": "ignore_schema"}).json()["choices"][0]
    assert not ignored["message"]["content"].startswith("{")


def test_hanging_request_gets_no_answer_and_the_server_goes_on(url: str) -> None:
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(url + "/chat/completions", json=HELLO, headers={"x-rehearsal-fault": "hang"}, timeout=0.3)
    assert post(url, HELLO).status_code == 200
    deadline = time.monotonic() + 5
    while counts_of(url)["in_flight"]:  # the server notices that the client has gone
        assert time.monotonic() < deadline


def counts_of(url: str) -> dict[str, Any]:
    counts: dict[str, Any] = httpx2.get(url.removesuffix("/v1") + "/rehearsal/counts").json()
    return counts


def test_latency_is_taken_beside_other_requests(url: str) -> None:
    replies = []

    def slow() -> None:
        replies.append(post(url, HELLO, **{"x-rehearsal-latency-seconds": "0.4"}).elapsed.total_seconds())

    threads = [threading.Thread(target=slow) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 8 and min(replies) >= 0.4
    assert counts_of(url)["most_in_flight"] >= 4


def test_server_without_json_schema_refuses_or_ignores_it(serve: Serve) -> None:
    form = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    }
    refusing = serve("--json-schema", "refuse", "--latency-seconds", "0")
    assert error_of(post(refusing, HELLO | form)) == (400, "unsupported_value", "response_format")
    loose = HELLO | {"response_format": {"type": "json_object"}}
    assert json.loads(post(refusing, loose).json()["choices"][0]["message"]["content"])


def test_settings_come_from_the_environment_and_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOALWRIGHT_REHEARSAL_LATENCY_SECONDS", "2.5")
    monkeypatch.setenv("GOALWRIGHT_REHEARSAL_REQUESTS_PER_MINUTE", "60")
    assert RehearsalSettings().requests_per_minute == 60
    assert RehearsalSettings(latency_seconds=1).latency_seconds == 1


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 40)), max_size=80), st.integers(1, 200))
def test_bucket_never_grants_more_than_a_full_minute_and_its_refill(
    arrivals: list[tuple[float, int]], limit: int
) -> None:
    now = 0.0
    provider = Provider(RehearsalSettings(tokens_per_minute=limit), clock=lambda: now)
    granted = 0
    for pause, tokens in arrivals:
        now += pause
        granted += tokens if provider.admit(tokens) is None else 0
        assert granted <= limit * (1 + now / 60) + 40 + 1e-6


@given(st.floats(0, 1), st.integers(0, 300))
def test_share_of_faults_is_exact(share: float, chats: int) -> None:
    provider = Provider(RehearsalSettings(error_share=share))
    faults = sum(provider.fault({}) == "500" for _ in range(chats))
    assert abs(faults - share * chats) <= 1 + 1e-6
