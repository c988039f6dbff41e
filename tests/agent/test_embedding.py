"""`agent.embed`: texts in, vectors out, one call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from goalwright_agent.handlers import Agent
from goalwright_shared.messages import ArtifactType, Failed, OutputSpec, TaskSpec, Throttled

from agent.model_server import Answer, ModelServer, refuses
from agent.play import Play, output_json, text_ref, work_of


def embed(**fields: Any) -> TaskSpec:
    """A task on agent.embed."""
    output = OutputSpec(name="vectors", type=ArtifactType.JSON)
    return TaskSpec(**{"key": "e", "lane": "agent.embed", "outputs": [output]} | fields)


def vectors(body: dict[str, Any]) -> Answer:
    """One vector per text: its length."""
    data = [{"index": at, "embedding": [float(len(text))]} for at, text in enumerate(body["input"])]
    return Answer(body={"data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}})


async def test_texts_become_vectors_in_their_order(agent: Agent, model: ModelServer) -> None:
    model.next(vectors)
    outcome = await Play(agent).to_end(work_of(embed(params={"texts": ["a", "bbb"]})))
    assert output_json(outcome, "vectors") == [[1.0], [3.0]]
    assert outcome.usage is not None
    assert (outcome.usage.tokens_in, outcome.usage.tokens_out) == (7, 0)
    assert model.requests[0]["_path"] == "/v1/embeddings"


async def test_texts_may_come_as_an_input_and_are_redacted(agent: Agent, model: ModelServer) -> None:
    model.next(vectors)
    given = text_ref("given", json.dumps(["key sk-0123456789abc"]), ArtifactType.JSON)
    await Play(agent).to_end(work_of(embed(inputs=["given"]), inputs={"given": given}))
    assert model.requests[0]["input"] == ["key [redacted]"]


@pytest.mark.parametrize("params", [None, {}, {"texts": []}, {"texts": [1]}, {"texts": "a"}, {"texts": [""]}])
async def test_anything_but_a_list_of_texts_is_a_bad_task(
    agent: Agent, model: ModelServer, params: Any
) -> None:
    outcome = await Play(agent).step(work_of(embed(params=params)))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "bad_task"
    assert model.requests == []


async def test_too_many_texts_are_too_big_without_a_call(agent: Agent, model: ModelServer) -> None:
    outcome = await Play(agent).step(work_of(embed(params={"texts": ["x" * 1000] * 100})))
    assert isinstance(outcome, Failed)
    assert outcome.error.too_big
    assert model.requests == []


async def test_missing_vectors_and_limits_are_told(agent: Agent, model: ModelServer) -> None:
    work = work_of(embed(params={"texts": ["a", "b"]}))
    model.next(Answer(body={"data": [{"embedding": [1.0]}]}))
    short = await Play(agent).step(work)
    assert isinstance(short, Failed)
    assert "1 embeddings for 2 texts" in short.error.message
    model.next(refuses(429, "slow down", retry_after="1"))
    assert isinstance(await Play(agent).step(work), Throttled)


async def test_full_store_fails_but_the_bill_is_sent(agent: Agent, model: ModelServer) -> None:
    model.next(Answer(body={"data": [{"embedding": [0.5] * 5000}], "usage": {"prompt_tokens": 7}}))
    play = Play(agent)
    play.artifacts.full = True
    outcome = await play.step(work_of(embed(params={"texts": ["a"]})))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "artifact_not_stored"
    assert outcome.usage is not None
    assert outcome.usage.tokens_in == 7
