"""What providers really say: refusals, limits and bills in the words and headers that differ between them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from goalwright_agent.core.answers import without_thoughts
from goalwright_agent.core.dialect import Dialect, after_refusal
from goalwright_agent.core.wire import in_order, rate_of, retry_after, usage_of
from goalwright_agent.handlers import Agent
from goalwright_shared.messages import Failed, RateSeen, Throttled

from agent.model_server import Answer, ModelServer, completion, refuses, says
from agent.play import Play, output_text, work_of
from agent.test_asking import ask

TEXT = ask(None)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        # a rate, whatever it sounds like: it names a time
        (
            refuses(429, "You exceeded your current quota, please check your plan. Please retry in 17.5s."),
            17.5,
        ),
        (refuses(429, "You exceeded your current quota", retry_after="3"), 3),
        (refuses(429, "Rate limit reached for gpt-5 on requests per min. Please try again in 1m2.5s."), 62.5),
        (refuses(429, "Rate limit reached: Limit 60, Used 60. Please try again in 120ms."), 0.12),
        (refuses(429, "Requests have exceeded call rate limit. Please retry after 20 seconds."), 20),
        (Answer(body={"error": {"message": "Slow down, try again in 4s", "code": 429}}), 4),
    ],
)
async def test_a_rate_is_waited_for_as_long_as_it_says(
    agent: Agent, model: ModelServer, answer: Answer, seconds: float
) -> None:
    model.next(answer)
    outcome = await Play(agent).step(work_of(TEXT))
    assert isinstance(outcome, Throttled)
    assert outcome.reason is not None
    assert "pool_blocked" not in outcome.reason
    assert seconds < outcome.retry_after_seconds <= seconds * 1.25 + 0.02


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        (
            refuses(429, "You exceeded your current quota, please check your plan and billing details"),
            "add credit",
        ),
        (refuses(429, "no", "billing_hard_limit_reached"), "add credit"),
        (refuses(400, "Your credit balance is too low to access the API"), "add credit"),
        (
            refuses(400, "Budget has been exceeded! Current cost: 5, Max budget: 5", "budget_exceeded"),
            "add credit",
        ),
        (refuses(403, "insufficient_quota"), "add credit"),
        (refuses(402, "Insufficient Balance"), "wants payment"),
        (
            refuses(400, "API key not valid. Please pass a valid API key."),
            "set OPENAI_API_KEY to a valid key",
        ),
        (
            Answer(body={"error": {"message": "insufficient_quota", "code": "insufficient_quota"}}),
            "add credit",
        ),
    ],
)
async def test_a_used_up_quota_or_a_bad_key_blocks_the_pool_under_any_status(
    agent: Agent, model: ModelServer, answer: Answer, fix: str
) -> None:
    model.next(answer)
    outcome = await Play(agent).step(work_of(TEXT))
    assert isinstance(outcome, Throttled)
    assert outcome.reason is not None
    assert outcome.reason.startswith("pool_blocked: ")
    assert fix in outcome.reason


@pytest.mark.parametrize(
    "answer",
    [
        refuses(429, "Request too large for gpt-5 on tokens per min (TPM): Limit 30000, Requested 48000. The input "
                "or output tokens must be reduced in order to run successfully.", "rate_limit_exceeded"),
        refuses(413, "payload too large"),
        refuses(400, "Please reduce the length of the messages or completion."),
        refuses(400, "This model's maximum prompt length is 8192; maximum context is 8192"),
    ],
)  # fmt: skip
async def test_a_request_that_no_waiting_lets_through_is_too_big(
    agent: Agent, model: ModelServer, answer: Answer
) -> None:
    model.next(answer)
    outcome = await Play(agent).step(work_of(TEXT))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.too_big, outcome.error.retryable) == ("too_big", True, False)
    assert outcome.usage is not None, "nothing was billed"


@pytest.mark.parametrize(
    "answer",
    [
        refuses(403, "Your chosen model requires moderation and your input was flagged for violence"),
        refuses(
            400,
            "The response was filtered due to the prompt triggering content management policy",
            "content_filter",
        ),
        completion({"content": None, "refusal": "I cannot help with that."}),
        says("half an ans", finish_reason="content_filter"),
    ],
)
async def test_a_refusal_fails_the_task_and_leaves_the_pool_alone(
    agent: Agent, model: ModelServer, answer: Answer
) -> None:
    model.next(answer)
    outcome = await Play(agent).step(work_of(TEXT))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("refused", False)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>\nThe user wants {braces} and\n```json\n[1]\n```\n</think>\n\nForty-two.", "Forty-two."),
        ("first I consider this\n</think>\nForty-two.", "Forty-two."),
        ("<thinking>so</thinking>Forty-two.", "Forty-two."),
        ("Forty-two. Some models write <think> first.", "Forty-two. Some models write <think> first."),
    ],
)
async def test_thinking_that_a_server_leaves_in_the_reply_is_no_part_of_the_answer(
    agent: Agent, model: ModelServer, reply: str, answer: str
) -> None:
    model.next(says(reply))
    assert output_text(await Play(agent).step(work_of(TEXT)), "verdict") == answer


def test_thinking_that_never_ended_is_no_answer() -> None:
    assert without_thoughts("<think> and so on and on") == ""


@pytest.mark.parametrize(
    ("usage", "tokens_out"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 25, "total_tokens": 35,
          "completion_tokens_details": {"reasoning_tokens": 20}}, 25),  # OpenAI: thinking is inside
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35}, 25),  # Gemini, xAI: it is not
        ({"prompt_tokens": 10, "completion_tokens": 5}, 5),
        ({"prompt_tokens": 10, "total_tokens": 10}, 0),  # embeddings
        ({"prompt_tokens": 10, "completion_tokens": None, "total_tokens": None}, 0),
    ],
)  # fmt: skip
def test_thinking_is_billed_as_output_wherever_it_is_counted(
    usage: dict[str, object], tokens_out: int
) -> None:
    found = usage_of({"usage": usage}, "m", 1.0)
    assert found is not None
    assert (found.tokens_in, found.tokens_out) == (10, tokens_out)


TOOLS: dict[str, object] = {"max_tokens": 5, "tools": []}
FORMAT: dict[str, object] = {"max_tokens": 5, "response_format": {}}


@pytest.mark.parametrize("tokens", [10**30, 2**53])
def test_a_count_that_cannot_be_is_no_bill(tokens: int) -> None:
    assert usage_of({"usage": {"prompt_tokens": 3, "completion_tokens": tokens}}, "m", 1.0) is None


@pytest.mark.parametrize(
    ("said", "parameters", "learned"),
    [
        ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', TOOLS,
         Dialect(tools=False)),  # vLLM
        ("tools param requires --jinja flag", TOOLS, Dialect(tools=False)),  # llama.cpp
        ("registry.ollama.ai/library/gemma:2b does not support tools", TOOLS, Dialect(tools=False)),
        ('Either "json_schema" or "grammar" can be specified, but not both', FORMAT, Dialect(rung="json_object")),
        ("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model", FORMAT,
         Dialect(rung="json_object")),
        ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
         FORMAT, Dialect(cap_field="max_completion_tokens")),
        ("Unrecognized request argument supplied: reasoning_effort", {"reasoning_effort": "low", **FORMAT},
         Dialect(effort=False)),
    ],
)  # fmt: skip
def test_refusals_in_servers_own_words_teach_how_to_ask(
    said: str, parameters: dict[str, object], learned: Dialect
) -> None:
    assert after_refusal(Dialect(), said, parameters) == learned


def limits(limit: int, left: int, back: str) -> dict[str, str]:
    """The headers of one limit."""
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(left),
        "x-ratelimit-reset-requests": back,
    }


@pytest.mark.parametrize(
    ("headers", "per_minute"),
    [
        (limits(500, 499, "120ms"), 500),
        (limits(3500, 3499, "17ms"), 3500),
        (limits(60, 60, "0s"), 60),
        (limits(60, 0, "1m0s"), 60),
        (limits(14_400, 14_370, "2m59.56s"), None),  # a day's, as Groq states them
        ({"x-ratelimit-limit-requests": "60"}, 60),
        ({"x-ratelimit-limit-requests": "many"}, None),
    ],
)
def test_a_limit_in_headers_counts_if_it_is_one_of_a_minute(
    headers: dict[str, str], per_minute: int | None
) -> None:
    expected = RateSeen(requests_per_minute=per_minute) if per_minute else None
    assert rate_of(headers) == expected


def test_a_provider_that_says_nothing_of_a_time_says_none() -> None:
    assert retry_after({}, datetime.now(UTC), "slow down") is None
    assert retry_after({"x-ratelimit-reset-tokens": "1h2m"}, datetime.now(UTC)) == 3720


def test_vectors_come_in_the_order_of_their_texts() -> None:
    items = [
        {"index": 1, "embedding": [1.0]},
        {"index": 0, "embedding": [0.0]},
        {"index": 2, "embedding": "AA="},
    ]
    assert in_order(items) == [[0.0], [1.0]]
    assert in_order([{"embedding": [3.0]}, "x", {"embedding": [2.0]}]) == [[3.0], [2.0]]
    assert in_order(None) == []
