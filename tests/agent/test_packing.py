"""Prompts fit what was paid for, and what matters least goes first."""

from __future__ import annotations

import json
from typing import Any

import pytest
from goalwright_agent.core.packing import TooBig, clip, estimate_tokens, pack
from goalwright_agent.core.prompt import card_in, opening
from goalwright_agent.handlers import Agent
from goalwright_agent.material import describe, read_part
from goalwright_shared.messages import ArtifactType, Failed
from hypothesis import given
from hypothesis import strategies as st
from support.artifacts import MemoryArtifacts

from agent.model_server import ModelServer, calls
from agent.play import Play, text_ref, work_of
from agent.test_role_turns import finish, task

CARD = {"kind": "task", "instruction": "i" * 500, "inputs": [{"name": "orders", "excerpt": "e" * 5_000}]}


def turn(number: int, stdout: str) -> list[dict[str, Any]]:
    """An assistant message with a call, and its result."""
    call = {"id": f"c{number}", "type": "function", "function": {"name": "run_program", "arguments": "{}"}}
    result = json.dumps({"status": "succeeded", "stdout": stdout})
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": result},
    ]


def transcript(turns: int, stdout: int) -> list[dict[str, Any]]:
    """An opening and some turns."""
    messages = opening("coder", "You code.", CARD, has_tools=True)
    for number in range(turns):
        messages += turn(number, "o" * stdout)
    return messages


def test_prompt_that_fits_is_sent_as_it_is() -> None:
    messages = transcript(2, 100)
    assert pack(messages, [], 10_000) == messages


def test_old_results_are_shortened_before_the_latest_and_before_the_card() -> None:
    messages = transcript(3, 6_000)
    packed = pack(messages, [], estimate_tokens(messages) - 2_000)
    assert "left out" in packed[3]["content"]
    assert packed[-1] == messages[-1]
    assert packed[1] == messages[1]


def test_excerpts_are_shortened_but_never_the_instruction() -> None:
    messages = transcript(0, 0)
    [_, user] = pack(messages, [], 1_400)
    card = card_in(user["content"])
    assert card is not None
    assert card["instruction"] == CARD["instruction"]
    assert "left out" in card["inputs"][0]["excerpt"]


def test_oldest_turns_go_whole_when_shortening_is_not_enough() -> None:
    messages = transcript(60, 200)
    packed = pack(messages, [], 2_500)
    assert packed[0] == messages[0]
    assert packed[2]["role"] == "assistant"
    assert packed[-2] == messages[-2]
    assert len(packed) < len(messages)


def test_what_cannot_fit_says_how_much_it_would_need() -> None:
    with pytest.raises(TooBig) as too_big:
        pack(transcript(1, 10), [], 100)
    assert too_big.value.tokens > 100


@given(
    outputs=st.lists(st.integers(0, 8_000), max_size=12),
    excerpt=st.integers(0, 20_000),
    cap=st.integers(200, 20_000),
)
def test_packed_prompt_fits_and_every_tool_result_answers_a_call(
    outputs: list[int], excerpt: int, cap: int
) -> None:
    card = {"kind": "task", "instruction": "do", "inputs": [{"name": "a", "excerpt": "é" * excerpt}]}
    messages = opening("coder", "You code.", card, has_tools=True)
    for number, size in enumerate(outputs):
        messages += turn(number, "o" * size)
    try:
        packed = pack(messages, [], cap)
    except TooBig:
        assert estimate_tokens(messages) > cap
        return
    assert estimate_tokens(packed) <= cap
    called = [call["id"] for m in packed for call in m.get("tool_calls", ())]
    answered = [m["tool_call_id"] for m in packed if m["role"] == "tool"]
    assert called == answered
    assert packed[0] == messages[0]
    assert [m["role"] for m in packed[:2]] == ["system", "user"]


@given(st.text(max_size=400), st.integers(1, 300))
def test_clipped_text_keeps_head_and_tail(text: str, limit: int) -> None:
    clipped = clip(text, limit)
    if len(text) <= limit:
        assert clipped == text
    else:
        assert clipped.startswith(text[: limit * 2 // 3])
        assert clipped.endswith(text[len(text) - (limit - limit * 2 // 3) :])


async def test_task_that_cannot_fit_is_too_big_without_a_call(agent: Agent, model: ModelServer) -> None:
    outcome = await Play(agent).step(work_of(task(instruction="x" * 200_000, inputs=[])))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.too_big, outcome.error.retryable) == ("too_big", True, False)
    assert outcome.usage is not None
    assert outcome.usage.tokens_in == 0
    assert model.requests == []


async def test_large_input_is_an_excerpt_in_the_card_and_read_in_parts(
    agent: Agent, model: ModelServer
) -> None:
    play = Play(agent)
    big = "".join(f"{row},{row * 2}\n" for row in range(200_000))
    ref = await play.artifacts.put_bytes("orders", ArtifactType.TABLE, big.encode())
    read = ("read_artifact", {"name": "orders", "offset": 1_000_000, "length": 30_000})
    allowed = ("read_artifact", {"name": "orders", "offset": 1_000_000, "length": 10_000})
    model.next(calls(read), calls(allowed), calls(finish(report="long")))
    await play.to_end(work_of(task(), inputs={"orders": ref}))
    card = card_in(model.sent(0)[1]["content"])
    assert card is not None
    assert card["inputs"][0]["excerpt"] == big[:2000]
    too_much, part = model.tool_results()
    assert "less than or equal to 20000" in too_much["error"]
    assert part["text"] == big[1_000_000:1_010_000]
    assert part["next_offset"] == 1_010_000
    assert play.artifacts.reads == [], "nothing was read whole"


@given(text=st.text(max_size=300), length=st.integers(4, 50))
async def test_parts_of_a_text_put_together_are_the_text(text: str, length: int) -> None:
    store = MemoryArtifacts()
    refs = {"it": await store.put_bytes("it", ArtifactType.TEXT, text.encode())}
    found, offset = "", 0
    while True:
        part = await read_part(store, refs, "it", offset, length)
        found += part["text"]
        if part["next_offset"] is None:
            break
        assert part["next_offset"] > offset
        offset = part["next_offset"]
    assert found == text


async def test_part_that_begins_inside_a_character_begins_with_the_next_one() -> None:
    refs = {"it": text_ref("it", "grüß dich")}
    part = await read_part(MemoryArtifacts(), refs, "it", 3, 4)
    assert (part["offset"], part["text"], part["next_offset"]) == (4, "ß ", 7)


async def test_half_a_secret_at_the_end_of_an_excerpt_is_masked() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow\n" * 30 + "-----END RSA PRIVATE KEY-----"
    refs = {"it": text_ref("it", "x" * 80 + key)}
    [shown] = await describe(MemoryArtifacts(), refs, 150)
    assert shown["excerpt"] == "x" * 80 + "[redacted]"


async def test_binary_input_is_named_without_an_excerpt(agent: Agent, model: ModelServer) -> None:
    play = Play(agent)
    ref = await play.artifacts.put_bytes("orders", ArtifactType.TABLE, b"PAR1\x00\xff\xfePAR1")
    read = ("read_artifact", {"name": "orders", "offset": 0, "length": 10})
    model.next(calls(read), calls(finish(report="parquet")))
    await play.to_end(work_of(task(), inputs={"orders": ref, "gone": text_ref("gone", "x")}))
    assert "read it with a program" in model.tool_results()[0]["error"]
