"""`agent.ask`: one prompt, one answer, every way a server can answer it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from goalwright_agent.handlers import Agent
from goalwright_agent.provider import Provider
from goalwright_agent.settings import AgentSettings
from goalwright_shared.messages import ArtifactType, ChatMessage, Expand, OutputSpec, PromptSpec, TaskSpec

from agent.model_server import ModelServer, completion, refuses, says
from agent.play import Play, output_json, output_text, work_of

SCHEMA: dict[str, Any] = {
    "title": "Verdict",
    "type": "object",
    "properties": {"passed": {"type": "boolean"}, "mood": {"type": "string", "enum": ["high", "low"]}},
    "required": ["passed", "mood"],
    "additionalProperties": False,
}
GOOD = '{"passed": true, "mood": "high"}'
VALUE = {"passed": True, "mood": "high"}


def ask(schema: dict[str, Any] | None = SCHEMA, **prompt: Any) -> TaskSpec:
    """A task on agent.ask."""
    messages = [ChatMessage(role="system", content="You judge."), ChatMessage(role="user", content="Judge!")]
    kind = ArtifactType.JSON if schema else ArtifactType.TEXT
    return TaskSpec(
        key="ask",
        lane="agent.ask",
        outputs=[OutputSpec(name="verdict", type=kind)],
        prompt=PromptSpec(**{"messages": messages, "schema": schema} | prompt),
    )


async def test_answer_goes_to_the_one_output_with_its_bill(agent: Agent, model: ModelServer) -> None:
    limits = {"x-ratelimit-limit-requests": "500", "x-ratelimit-limit-tokens": "30000"}
    model.next(says(GOOD, headers=limits))
    outcome = await Play(agent).to_end(work_of(ask()))
    assert output_json(outcome, "verdict") == VALUE
    assert outcome.usage is not None
    assert (outcome.usage.tokens_in, outcome.usage.tokens_cached, outcome.usage.tokens_out) == (100, 40, 20)
    assert outcome.rate is not None
    assert (outcome.rate.requests_per_minute, outcome.rate.tokens_per_minute) == (500, 30000)
    assert outcome.call is not None
    assert (outcome.call.finish_reason, outcome.call.request_id) == ("stop", "req-1")


@pytest.mark.parametrize(
    ("answer", "summary"),
    [
        ('{"score": 1, "summary": "all is well"}', "all is well"),
        ('{"score": 1}', '{"score": 1}'),
        ('{"text": "' + "long " * 100 + '"}', '{"text": "' + "long " * 58 + "…"),
    ],
)
async def test_summary_is_what_the_answer_says_of_itself(
    agent: Agent, model: ModelServer, answer: str, summary: str
) -> None:
    model.next(says(answer))
    outcome = await Play(agent).to_end(work_of(ask({"type": "object"})))
    assert outcome.kind == "done"
    assert outcome.summary == summary


async def test_answer_by_a_schema_keeps_the_declared_type_of_its_output(
    agent: Agent, model: ModelServer
) -> None:
    model.next(says("no"), says(GOOD))
    spec = ask().model_copy(update={"outputs": [OutputSpec(name="verdict", type=ArtifactType.TEXT)]})
    outcome = await Play(agent).to_end(work_of(spec))
    assert output_json(outcome, "verdict") == VALUE
    assert outcome.kind == "done"
    assert outcome.outputs["verdict"].type is ArtifactType.TEXT
    assert len(model.requests) == 2, "it is checked as JSON"


async def test_schema_is_sent_by_its_title_and_also_written_in_the_prompt(
    agent: Agent, model: ModelServer
) -> None:
    model.next(says(GOOD))
    await Play(agent).to_end(work_of(ask()))
    sent = model.requests[0]["response_format"]["json_schema"]
    assert (sent["name"], sent["strict"], sent["schema"]) == ("Verdict", True, SCHEMA)
    assert json.dumps(SCHEMA) in model.sent()[0]["content"]
    assert "temperature" not in model.requests[0]


async def test_schema_that_the_prompt_names_already_is_not_written_twice(
    agent: Agent, model: ModelServer
) -> None:
    model.next(says(GOOD))
    given = [ChatMessage(role="user", content='Reply {"passed": …, "mood": …}')]
    await Play(agent).to_end(work_of(ask(messages=given)))
    assert model.sent() == [{"role": "user", "content": 'Reply {"passed": …, "mood": …}'}]


async def test_free_schema_is_not_called_strict(agent: Agent, model: ModelServer) -> None:
    model.next(says('{"any": 1}'))
    await Play(agent).to_end(work_of(ask({"type": "object", "properties": {"any": {"type": "number"}}})))
    sent = model.requests[0]["response_format"]["json_schema"]
    assert (sent["name"], sent["strict"]) == ("verdict", False)


@pytest.mark.parametrize(
    "reply",
    [
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\nHope this helps!",
        f"Sure, here it is:\n\n{GOOD}",
        f"{GOOD}\n\nLet me know if you need more.",
        f"I looked at {{this}} and [that]. {GOOD}",
    ],
)
async def test_fences_and_prose_around_json_are_stripped(
    agent: Agent, model: ModelServer, reply: str
) -> None:
    model.next(says(reply))
    outcome = await Play(agent).to_end(work_of(ask()))
    assert output_json(outcome, "verdict") == VALUE
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        ('{"passed": true, "mood": "splendid"}', "'splendid' is not one of"),
        ('{"passed": true}', "'mood' is a required property"),
        ('{"passed": true, "mood": "hi', "no complete JSON object"),
        ("I would say yes.", "no complete JSON object"),
        ('{"passed": NaN, "mood": "high"}', "NaN"),
        ('{"passed": true, "mood": "high\\u0000"}', "NUL"),
        ("", "empty"),
    ],
)
async def test_wrong_answer_is_sent_back_as_another_turn_with_the_errors(
    agent: Agent, model: ModelServer, reply: str, complaint: str
) -> None:
    model.next(says(reply), says(GOOD))
    play = Play(agent)
    outcome = await play.to_end(work_of(ask()))
    assert output_json(outcome, "verdict") == VALUE
    assert len(model.requests) == len(play.outcomes) == 2
    assert isinstance(play.outcomes[0], Expand)
    assert play.outcomes[0].tasks == []
    assert play.outcomes[0].usage is not None
    assert complaint in model.sent()[-1]["content"]
    assert model.sent()[-1]["role"] == "user"
    assert [message["role"] for message in model.sent()] == ["system", "user", "assistant", "user"]


async def test_third_wrong_answer_fails_as_invalid_answer(agent: Agent, model: ModelServer) -> None:
    model.next(says("no"))
    outcome = await Play(agent).to_end(work_of(ask()))
    assert outcome.kind == "failed"
    assert (outcome.error.code, outcome.error.retryable) == ("invalid_answer", True)
    assert len(model.requests) == 3
    assert outcome.usage is not None


async def test_refusal_fails_the_task_with_the_models_words(agent: Agent, model: ModelServer) -> None:
    model.next(completion({"content": None, "refusal": "I cannot help with that."}))
    outcome = await Play(agent).to_end(work_of(ask()))
    assert outcome.kind == "failed"
    assert (outcome.error.code, outcome.error.retryable) == ("refused", False)
    assert "I cannot help with that." in outcome.error.message
    assert outcome.usage is not None


async def test_content_filter_fails_the_task(agent: Agent, model: ModelServer) -> None:
    model.next(says("", finish_reason="content_filter"))
    outcome = await Play(agent).to_end(work_of(ask()))
    assert outcome.kind == "failed"
    assert outcome.error.code == "refused"


@pytest.mark.parametrize("cut", ["", '{"passed": true, "mood": "hi', GOOD])
async def test_answer_cut_by_length_is_asked_for_once_more_with_the_whole_cap(
    agent: Agent, model: ModelServer, cut: str
) -> None:
    model.next(says(cut, finish_reason="length"), says(GOOD))
    outcome = await Play(agent).to_end(work_of(ask()))
    assert output_json(outcome, "verdict") == VALUE
    assert [request["max_tokens"] for request in model.requests] == [2_000, 4_000]
    assert model.sent(0) == model.sent(1)


async def test_answer_cut_twice_is_too_big(agent: Agent, model: ModelServer) -> None:
    model.next(says("", finish_reason="length"))
    outcome = await Play(agent).to_end(work_of(ask()))
    assert outcome.kind == "failed"
    assert (outcome.error.code, outcome.error.too_big) == ("answer_cut", True)
    assert len(model.requests) == 2


async def test_prompts_own_output_cap_is_asked_for_first(agent: Agent, model: ModelServer) -> None:
    model.next(says(GOOD))
    await Play(agent).to_end(work_of(ask(max_output_tokens=300)))
    assert model.requests[0]["max_tokens"] == 300


async def test_reply_without_finish_reason_is_not_trusted(agent: Agent, model: ModelServer) -> None:
    model.next(says(GOOD, finish_reason=None))
    outcome = await Play(agent).to_end(work_of(ask()))
    assert outcome.kind == "failed"
    assert (outcome.error.code, outcome.error.retryable) == ("invalid_answer", True)


async def test_each_refused_form_of_structure_is_a_turn_down_the_ladder(
    agent: Agent, model: ModelServer
) -> None:
    model.next(
        refuses(400, "response_format json_schema is not supported"),
        refuses(400, "'response_format.type' must be 'text'"),
        refuses(422, "tool_choice is not supported by this server"),
        says(GOOD),
    )
    play = Play(agent)
    outcome = await play.to_end(work_of(ask()))
    assert output_json(outcome, "verdict") == VALUE
    assert len(play.outcomes) == len(model.requests) == 4
    forms = [request.get("response_format", {}).get("type") for request in model.requests]
    assert forms == ["json_schema", "json_object", None, None]
    assert model.requests[2]["tool_choice"]["function"]["name"] == "Verdict"
    assert "tools" not in model.requests[3]
    refused = play.outcomes[0]
    assert refused.usage is not None
    assert (refused.usage.tokens_in, refused.usage.tokens_out) == (0, 0)


async def test_what_a_server_refused_is_not_asked_for_again(agent: Agent, model: ModelServer) -> None:
    model.next(refuses(400, "json_schema is not supported"), says(GOOD))
    await Play(agent).to_end(work_of(ask()))
    await Play(agent).to_end(work_of(ask()))
    forms = [request["response_format"]["type"] for request in model.requests]
    assert forms == ["json_schema", "json_object", "json_object"]


async def test_refused_free_schema_says_nothing_about_the_server(agent: Agent, model: ModelServer) -> None:
    free = {"type": "object", "properties": {"passed": {}, "mood": {}}}
    model.next(refuses(400, "Invalid schema for response_format 'verdict'"), says(GOOD))
    await Play(agent).to_end(work_of(ask(free)))
    await Play(agent).to_end(work_of(ask()))
    forms = [request["response_format"]["type"] for request in model.requests]
    assert forms == ["json_schema", "json_object", "json_schema"]


async def test_forced_tools_arguments_are_the_answer(agent: Agent, model: ModelServer) -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "Verdict", "arguments": GOOD},
    }
    model.next(
        refuses(400, "response_format is not supported"),
        refuses(400, "response_format is not supported"),
        completion({"content": None, "tool_calls": [call]}, finish_reason="tool_calls"),
    )
    outcome = await Play(agent).to_end(work_of(ask()))
    assert output_json(outcome, "verdict") == VALUE


async def test_server_that_refuses_the_name_of_the_cap_gets_the_other(
    agent: Agent, model: ModelServer
) -> None:
    model.next(
        refuses(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."), says(GOOD)
    )
    await Play(agent).to_end(work_of(ask()))
    assert "max_tokens" in model.requests[0]
    assert "max_completion_tokens" in model.requests[1]
    assert "max_tokens" not in model.requests[1]


async def test_reasoning_effort_is_sent_until_a_model_refuses_it(
    settings: AgentSettings, model: ModelServer
) -> None:
    provider = Provider(settings.model_copy(update={"reasoning_effort": "low"}))
    await provider.start()
    model.next(refuses(400, "Unrecognized request argument supplied: reasoning_effort"), says(GOOD))
    outcome = await Play(Agent(provider, {})).to_end(work_of(ask()))
    await provider.stop()
    assert output_json(outcome, "verdict") == VALUE
    assert [request.get("reasoning_effort") for request in model.requests] == ["low", None]


async def test_text_answer_is_taken_as_it_is(agent: Agent, model: ModelServer) -> None:
    model.next(says("Forty-two.\n"))
    outcome = await Play(agent).to_end(work_of(ask(None)))
    assert output_text(outcome, "verdict") == "Forty-two.\n"
    assert "response_format" not in model.requests[0]


async def test_tools_of_a_prompt_are_offered_and_their_calls_are_the_answer(
    agent: Agent, model: ModelServer
) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    model.next(completion({"content": None, "tool_calls": [call]}, finish_reason="tool_calls"))
    outcome = await Play(agent).to_end(work_of(ask(None, tools=[tool])))
    assert json.loads(output_text(outcome, "verdict"))["tool_calls"] == [
        {"name": "look", "arguments": '{"at": 1}'}
    ]
    assert model.requests[0]["tools"] == [tool]


async def test_ask_without_a_prompt_or_with_two_outputs_is_a_bad_task(agent: Agent) -> None:
    outcome = await Play(agent).to_end(work_of(ask().model_copy(update={"prompt": None})))
    assert outcome.kind == "failed"
    assert (outcome.error.code, outcome.error.retryable) == ("bad_task", False)


async def test_full_store_loses_the_record_of_a_call_but_not_its_answer(
    agent: Agent, model: ModelServer
) -> None:
    model.next(says(GOOD))
    play = Play(agent)
    play.artifacts.full = True
    long = [ChatMessage(role="user", content="judge " * 3000)]
    outcome = await play.to_end(work_of(ask(messages=long)))
    assert output_json(outcome, "verdict") == VALUE
    assert outcome.call is not None
    assert outcome.call.prompt is None
    assert outcome.call.reply is not None


async def test_full_store_fails_a_large_answer_but_its_bill_is_sent(agent: Agent, model: ModelServer) -> None:
    model.next(says("word " * 3000))
    play = Play(agent)
    play.artifacts.full = True
    outcome = await play.to_end(work_of(ask(None)))
    assert outcome.kind == "failed"
    assert (outcome.error.code, outcome.error.retryable) == ("artifact_not_stored", True)
    assert outcome.usage is not None
    assert outcome.usage.tokens_out == 20
