"""What a task remembers grows by what is said: a turn stores that, and reads what its prompt needs."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from goalwright_agent.continuation import SEGMENT_BYTES, loaded, saved
from goalwright_agent.core.packing import pack
from goalwright_agent.core.turns import State
from goalwright_agent.handlers import Agent
from goalwright_shared.messages import ArtifactRef, ArtifactType, Expand, Failed
from hypothesis import given
from hypothesis import strategies as st
from support.artifacts import MemoryArtifacts

from agent.model_server import ModelServer, calls
from agent.play import Play, done_child, text_ref, work_of
from agent.test_packing import transcript, turn
from agent.test_role_turns import TOTAL, finish, task


def reordered(value: Any) -> Any:
    """JSON as Postgres gives it back: the keys of objects by length, then by letter."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in sorted(value, key=lambda key: (len(key), key))}
    return [reordered(part) for part in value] if isinstance(value, list) else value


async def through_the_store(state: State, store: MemoryArtifacts) -> tuple[State, Any]:
    """The state as the next turn finds it, and its continuation."""
    kept = reordered(json.loads(json.dumps(await saved(store, state))))
    found = await loaded(store, kept)
    assert found is not None
    return found, kept


async def test_hundred_turns_store_little_more_than_what_they_say() -> None:
    store, state, said, inline = MemoryArtifacts(), State(messages=transcript(0, 0)), 0, []
    for number in range(100):
        new = turn(number, f"{number} " * 800)
        said += len(json.dumps(new))
        refs = state.artifacts | {f"a{number}": text_ref("a", f"{number}" * 500)}
        state, kept = await through_the_store(state.said(*new, artifacts=refs), store)
        state = state.packed(pack(state.messages, [], 20_000, state.packing, state.recap))
        inline.append(len(json.dumps(kept)))
    assert max(inline) < 3 * SEGMENT_BYTES
    assert said / 2 < sum(map(len, store.objects.values())) < 1.5 * said


async def test_task_goes_on_from_a_transcript_in_segments(agent: Agent, model: ModelServer) -> None:
    noise = {"exit_code": 0, "stdout": "n" * 6000, "stderr": ""}
    model.next(*[calls(("run_program", TOTAL))] * 6, calls(finish(report="22")))
    play = Play(agent, child=done_child, reports={f"t-run-program-{turn}-0": noise for turn in range(6)})
    assert (await play.to_end(work_of(task(), inputs={"orders": text_ref("o", "1")}))).kind == "done"
    assert len(model.tool_results()) == 6
    expanded = [json.dumps(one.continuation) for one in play.outcomes if isinstance(one, Expand)]
    assert ['"segments"' in one for one in expanded][-1]


async def test_prompts_are_the_same_as_if_nothing_had_been_stored() -> None:
    store, state, plain = (
        MemoryArtifacts(),
        State(messages=transcript(0, 0)),
        State(messages=transcript(0, 0)),
    )
    for number in range(120):
        said = turn(number, f"{number} " * 400)
        state, _ = await through_the_store(state.said(*said), store)
        plain = plain.said(*said)
        one = pack(state.messages, [], 9_000, state.packing, state.recap)
        other = pack(plain.messages, [], 9_000, plain.packing, plain.recap)
        assert one.messages == other.messages
        state, plain = state.packed(one), plain.packed(other)
    assert state.recap.total > 50
    assert len(state.segments) < 6, "what the recap tells is named no more"


async def test_segments_that_the_recap_tells_are_not_read_again() -> None:
    store, state, first = MemoryArtifacts(), State(messages=transcript(0, 0)), set[str]()
    for number in range(120):
        store.reads.clear()
        state, _ = await through_the_store(state.said(*turn(number, "o" * 900)), store)
        first = first or set(store.reads)
        state = state.packed(pack(state.messages, [], 9_000, state.packing, state.recap))
    assert 1 <= len(set(store.reads)) <= 6
    assert first <= set(store.reads), "the first one holds the opening"
    assert sum(len(store.objects[one]) for one in store.reads) < sum(map(len, store.objects.values())) / 2


MADE = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 7_000)), max_size=3)


@given(turns=st.lists(st.tuples(st.integers(0, 12_000), MADE, st.booleans()), max_size=12))
async def test_what_is_remembered_comes_back_whole_whatever_was_lost_between(
    turns: list[tuple[int, list[tuple[str, int]], bool]],
) -> None:
    store, state = MemoryArtifacts(), State(messages=transcript(0, 0))
    for number, (size, made, lost) in enumerate(turns):
        refs = {name: text_ref(name, "x" * length) for name, length in made}
        after = state.said(*turn(number, "o" * size), artifacts=state.artifacts | refs)
        if lost:  # the try that had said this died: the one before it counts
            await saved(store, after)
            continue
        state, _ = await through_the_store(after, store)
        assert state.messages == after.messages
        assert state.artifacts == after.artifacts


async def test_objects_of_artifacts_that_were_put_away_are_still_named_in_the_continuation() -> None:
    store = MemoryArtifacts()
    big = await store.put_bytes("big", ArtifactType.TEXT, b"b" * 20_000)
    small: dict[str, ArtifactRef] = {f"s{at}": text_ref(f"s{at}", "x" * 6_000) for at in range(4)}
    state, kept = await through_the_store(State(artifacts={"big": big, **small}), store)
    assert state.artifacts == {"big": big, **small}
    assert len(json.dumps(kept)) < 2_000, "small texts are put away"
    assert str(big.object) in json.dumps(kept), "unnamed objects are forgotten after a day"
    newer = {"s1": text_ref("s1", "newer")}
    state, _ = await through_the_store(state.model_copy(update={"artifacts": state.artifacts | newer}), store)
    assert state.artifacts["s1"] == newer["s1"], "the latest counts"


async def test_continuation_of_another_version_is_refused_with_what_to_do(agent: Agent) -> None:
    outcome = await Play(agent).step(work_of(task(), continuation={"transcript": {"messages": []}}))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "bad_continuation"
    assert "publish the goal again" in outcome.error.message


@pytest.mark.parametrize("lost", ["a segment", "artifacts"])
async def test_continuation_whose_object_is_gone_says_so(agent: Agent, lost: str) -> None:
    play, state = Play(agent), State(messages=transcript(20, 2_000))
    if lost == "artifacts":
        state = State(artifacts={name: text_ref(name, "x" * 8_000) for name in "abc"})
    kept = await saved(play.artifacts, state)
    play.artifacts.objects.clear()
    with pytest.raises(Exception, match="is not there"):
        await play.step(work_of(task(), continuation=kept))


def test_recap_grows_turn_by_turn_and_counts_what_no_longer_fits() -> None:
    messages = list(itertools.chain.from_iterable(turn(number, "o" * 100) for number in range(30)))
    at_once = State().recap.extended(messages, 2_000)
    bit_by_bit = State().recap
    for begin in range(0, 60, 6):
        bit_by_bit = bit_by_bit.extended(messages[begin : begin + 6], 2_000)
    assert at_once == bit_by_bit
    assert at_once.total == 30
    assert at_once.calls_counted == {"run_program succeeded": at_once.turns_counted}
