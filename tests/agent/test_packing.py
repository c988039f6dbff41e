"""Prompts fit what was paid for, and what matters least goes first."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from goalwright_agent.core.clipping import clip
from goalwright_agent.core.packing import Packed, Packing, TooBig, estimate_tokens, pack
from goalwright_agent.core.prompt import card_in, correction, opening
from goalwright_agent.core.recap import Recap
from goalwright_agent.core.turns import State
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
    assert pack(messages, [], 10_000) == Packed(messages, Packing(), Recap())


def test_old_results_are_shortened_before_the_latest_and_before_the_card() -> None:
    messages = transcript(3, 6_000)
    packed = pack(messages, [], estimate_tokens(messages) - 1_000).messages
    assert "left out" in packed[3]["content"]
    assert packed[-1] == messages[-1]
    assert packed[1] == messages[1]


def test_excerpts_are_shortened_but_never_the_instruction() -> None:
    messages = transcript(0, 0)
    [_, user] = pack(messages, [], 1_600).messages
    card = card_in(user["content"])
    assert card is not None
    assert card["instruction"] == CARD["instruction"]
    assert "left out" in card["inputs"][0]["excerpt"]


def test_oldest_turns_are_condensed_to_a_recap_when_shortening_is_not_enough() -> None:
    messages = transcript(60, 200)
    found = pack(messages, [], 5_000)
    packed = found.messages
    assert packed[:2] == messages[:2]
    assert packed[4:] == messages[2 + found.told :]
    assert [message["role"] for message in packed[:5]] == ["system", "user", "assistant", "user", "assistant"]
    recap = json.loads(packed[3]["content"].split("```json\n")[1].split("\n```")[0])
    turns = found.told // 2
    assert turns > 30
    assert recap["turns_counted"] + len(recap["turns"]) == turns
    assert recap["calls_counted"] == {"run_program succeeded": recap["turns_counted"]}
    last = recap["turns"][-1]
    assert last["turn"] == turns
    assert last["calls"][0]["tool"] == "run_program"
    assert last["calls"][0]["result"] == "o" * 200


def test_recap_tells_what_failed_and_what_was_made() -> None:
    turns = [*turn(0, "a"), *turn(1, "b")]
    turns[1]["content"] = json.dumps({"status": "dead", "stderr": "", "error": "no such column"})
    turns[3]["content"] = json.dumps({"status": "succeeded", "outputs": [{"name": "table_2"}]})
    [_, told] = Recap().extended(turns, 2_000).messages()
    assert "no such column" in told["content"]
    assert "table_2" in told["content"]


def test_three_hundred_turns_fit_in_steps_and_between_steps_only_grow() -> None:
    state, steps = State(messages=transcript(0, 0)), 0
    messages = state.messages
    sent: list[dict[str, Any]] = []
    for number in range(300):
        messages = [*messages, *turn(number, "o" * 600)]
        state = state.said(*turn(number, "o" * 600))
        found = pack(state.messages, [], 12_000, state.packing, state.recap)
        packed, before, state = found.messages, state.packing, state.packed(found)
        assert estimate_tokens(packed) <= 12_000
        assert packed[-2:] == messages[-2:], "the latest turn is whole"
        assert packed[:2] == messages[:2], "the opening never changes"
        assert state.turns == number + 1
        if (found.packing, found.told) == (before, 0):
            assert packed[: len(sent)] == sent
        else:
            steps += 1
        sent = packed
    assert 0 < steps <= 30


def test_what_cannot_fit_says_how_much_it_would_need() -> None:
    with pytest.raises(TooBig) as too_big:
        pack(transcript(1, 10), [], 100)
    assert too_big.value.tokens > 100


def test_tables_of_numbers_are_estimated_higher_than_words_of_the_same_length() -> None:
    words, numbers = [{"content": "wort " * 400}], [{"content": "12,7\n" * 400}]
    assert estimate_tokens(numbers) >= 3 * 400 > 2 * estimate_tokens(words)


CHARACTERS = st.sampled_from(["o", "é", "漢", "7,", '"\n'])
TURNS = st.lists(st.tuples(CHARACTERS, st.integers(0, 6_000)), max_size=14)


@given(turns=TURNS, excerpt=st.integers(0, 20_000), cap=st.integers(200, 20_000))
def test_prompt_fits_or_is_too_big_and_only_grows_until_a_step(
    turns: list[tuple[str, int]], excerpt: int, cap: int
) -> None:
    card = {"kind": "task", "instruction": "do", "inputs": [{"name": "a", "excerpt": "é" * excerpt}]}
    messages = opening("coder", "You code.", card, has_tools=True)
    state = State(messages=messages)
    sent: list[dict[str, Any]] = []
    for number, (character, size) in enumerate(turns):
        said = turn(number, character * size)
        if number % 5 == 4:
            said += [{"role": "assistant", "content": "so"}, correction([character * 50])]
        state = state.said(*said)
        try:
            found = pack(state.messages, [], cap, state.packing, state.recap)
        except TooBig:
            assert estimate_tokens([*state.messages, *state.recap.messages()]) > cap
            return
        packed, before, state = found.messages, state.packing, state.packed(found)
        assert estimate_tokens(packed) <= cap
        called = [call["id"] for m in packed for call in m.get("tool_calls", ())]
        assert called == [m["tool_call_id"] for m in packed if m["role"] == "tool"]
        assert packed[0] == messages[0]
        roles = [m["role"] for m in packed if m["role"] != "tool"]
        assert all(one != other for one, other in itertools.pairwise(roles) if "user" in (one, other))
        if (found.packing, found.told) == (before, 0):
            assert packed[: len(sent)] == sent
        sent = packed


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
    assert ref.object not in play.artifacts.reads, "it was never read whole"


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


async def test_long_task_stays_below_its_cap_and_remembers_how_it_was_packed(
    agent: Agent, model: ModelServer
) -> None:
    read = ("read_artifact", {"name": "orders", "offset": 0, "length": 1_000})
    model.next(*[calls(read) for _ in range(50)], calls(finish(report="read")))
    inputs = {"orders": text_ref("orders", "day,amount\n" + "1,10\n" * 1_600)}
    outcome = await Play(agent).to_end(work_of(task(max_turns=60), inputs=inputs), limit=60)
    assert outcome.kind == "done"
    sent = [model.sent(at) for at in range(51)]
    assert all(estimate_tokens(messages) <= 20_000 for messages in sent)
    assert any("## Recap" in str(message["content"]) for message in sent[-1])
    grew = [after[: len(before) - 1] == before[:-1] for before, after in itertools.pairwise(sent)]
    assert grew.count(False) <= 12, "most prompts begin with the one before them, but for the facts of now"
