"""What roles tell each other and keep for each other: questions, notes, written artifacts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from goalwright_agent.core import notes
from goalwright_agent.handlers import Agent
from goalwright_shared.messages import (
    ArtifactType,
    Asked,
    ChildResult,
    Expand,
    Note,
    OutputSpec,
    TaskSpec,
)

from agent.model_server import ModelServer, calls, names
from agent.play import Play, done_child, output_text
from agent.test_role_turns import TOTAL, finish, task, work

LOOK = {"role": "critic", "instruction": "Look at it", "inputs": ["orders"]}


def answers(spec: TaskSpec) -> ChildResult:
    """A child that leaves `so` in each output."""
    return done_child(spec, **{out.name: "so" for out in spec.outputs})


# --- questions -----------------------------------------------------------------------------------------


async def test_question_names_who_asks_and_is_answered_in_the_transcript(
    agent: Agent, model: ModelServer
) -> None:
    model.next(calls(("ask", LOOK)), calls(finish(report="22")))
    play = Play(agent, child=answers)
    await play.to_end(work())
    [[question]] = play.generations
    assert (question.lane, question.instruction, question.inputs) == (
        "agent.critic",
        "Look at it",
        ["orders"],
    )
    assert question.asked == Asked(by="total", roles=["coder"])
    [result] = model.tool_results()
    assert result["outputs"][0]["excerpt"] == "so"


@pytest.mark.parametrize(
    ("asker", "roles", "asked", "complaint"),
    [
        ("coder", [], "coder", "you are the coder yourself"),
        ("coder", ["analyst"], "analyst", "came from the analyst"),
        ("coder", ["analyst"], "coder", "you are the coder yourself"),
    ],
)
async def test_question_is_never_asked_back(
    agent: Agent, model: ModelServer, asker: str, roles: list[str], asked: str, complaint: str
) -> None:
    spec = task(asker, asked=Asked(by="start", roles=roles) if roles else None)
    model.next(calls(("ask", LOOK | {"role": asked})), calls(finish(report="22")))
    play = Play(agent)
    await play.to_end(work(spec))
    [result] = model.tool_results()
    assert complaint in result["error"]
    [tool] = [t["function"] for t in model.requests[0]["tools"] if t["function"]["name"] == "ask"]
    offered = tool["parameters"]["properties"]["role"]["enum"]
    assert asked not in offered
    assert "writer" in offered


async def test_same_question_is_put_once(agent: Agent, model: ModelServer) -> None:
    again = LOOK | {"instruction": "look  AT it"}
    model.next(calls(("ask", LOOK)), calls(("ask", again)), calls(finish(report="22")))
    play = Play(agent, child=answers)
    await play.to_end(work())
    assert len(play.generations) == 1
    assert "the same was asked before, its result is that of call_0_0" in model.tool_results()[1]["error"]


async def test_same_question_twice_in_one_reply_is_put_once(agent: Agent, model: ModelServer) -> None:
    model.next(calls(("ask", LOOK), ("ask", LOOK)), calls(finish(report="22")))
    play = Play(agent, child=answers)
    await play.to_end(work())
    assert [len(generation) for generation in play.generations] == [1]


async def test_same_words_about_another_draft_are_another_question(agent: Agent, model: ModelServer) -> None:
    ask = ("ask", LOOK | {"inputs": ["draft"]})
    model.next(
        calls(("write_artifact", {"name": "draft", "type": "text", "text": "one"})), calls(ask),
        calls(("write_artifact", {"name": "draft", "type": "text", "text": "two"})), calls(ask),
        calls(finish(report="22")),
    )  # fmt: skip
    play = Play(agent, child=answers)
    await play.to_end(work())
    asked = [expand for expand in play.outcomes if isinstance(expand, Expand) and expand.tasks]
    assert [expand.artifacts["draft"].inline for expand in asked] == ["one", "two"]


# --- artifacts -----------------------------------------------------------------------------------------


async def test_written_artifact_is_read_by_a_later_program(agent: Agent, model: ModelServer) -> None:
    model.next(
        calls(("write_artifact", {"name": "rules", "type": "json", "text": '{"a": 1}'})),
        calls(("run_program", TOTAL | {"inputs": ["orders", "rules"]})),
        calls(finish(report="22")),
    )
    play = Play(agent, child=done_child)
    await play.to_end(work())
    first, second, _ = play.outcomes
    assert isinstance(first, Expand)
    assert first.tasks == []
    assert isinstance(second, Expand)
    assert list(second.artifacts) == ["rules"]
    assert second.artifacts["rules"].type is ArtifactType.JSON
    assert model.tool_results()[0] == {"status": "succeeded", "name": "rules", "type": "json", "size": 8}


async def test_written_artifact_under_a_declared_name_is_that_output(
    agent: Agent, model: ModelServer
) -> None:
    """Writing and finishing may come in one reply: nobody has to see the result of a write."""
    written = ("write_artifact", {"name": "report", "type": "text", "text": "It is 22."})
    model.next(calls(written, ("finish", {"outputs": [], "summary": "written"})))
    outcome = await Play(agent).to_end(work())
    assert output_text(outcome, "report") == "It is 22."
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"name": "orders", "type": "text", "text": "x"}, "orders is an input of the task"),
        ({"name": "rows", "type": "json", "text": "[1"}, "no complete JSON"),
        ({"name": "files", "type": "text", "text": "x"}, "let a program write it"),
        ({"name": "../etc", "type": "text", "text": "x"}, "name: String should match pattern"),
        ({"name": "report", "type": "text"}, "text: Field required"),
    ],
)
async def test_artifact_that_cannot_be_is_refused_with_the_reason(
    agent: Agent, model: ModelServer, given: dict[str, Any], complaint: str
) -> None:
    outputs = [
        OutputSpec(name="report"),
        OutputSpec(name="rows", type=ArtifactType.JSON, schema={"type": "array"}),
        OutputSpec(name="files", type=ArtifactType.FOLDER),
    ]
    model.next(calls(("write_artifact", given)), calls(finish(report="22", rows="[]", files="x")))
    play, begun = Play(agent), work(task(outputs=outputs))
    outcome = await play.step(begun)
    assert isinstance(outcome, Expand)
    await play.step(play.resumed(begun, outcome))
    [result] = model.tool_results()
    assert result["status"] == "error"
    assert complaint in result["error"]


# --- notes ---------------------------------------------------------------------------------------------


async def test_note_goes_out_with_the_turn_and_with_the_answer(agent: Agent, model: ModelServer) -> None:
    first, last = ("post_note", {"text": "Prices are net."}), ("post_note", {"text": "Total is 22."})
    model.next(calls(first), calls(last, finish(report="22")))
    play = Play(agent)
    outcome = await play.to_end(work())
    assert play.outcomes[0].notes == ["Prices are net."]
    assert (outcome.kind, outcome.notes) == ("done", ["Total is 22."])
    assert len(model.requests) == 2


async def test_more_notes_than_fit_are_refused(agent: Agent, model: ModelServer) -> None:
    many = [("post_note", {"text": f"note {at}"}) for at in range(4)]
    model.next(calls(*many), calls(("post_note", {"text": "n" * 1001})), calls(finish(report="22")))
    play = Play(agent)
    await play.to_end(work())
    assert play.outcomes[0].notes == ["note 0", "note 1", "note 2"]
    assert play.outcomes[1].notes == []
    faults = [result["error"] for result in model.tool_results() if result["status"] == "error"]
    assert "at most 3 notes" in faults[0]
    assert "at most 1000 characters" in faults[1]


async def test_secret_in_a_note_is_masked(agent: Agent, model: ModelServer) -> None:
    key = "sk-verysecret0123456789"
    model.next(calls(("post_note", {"text": f"use {key}"}), finish(report="22")))
    outcome = await Play(agent).to_end(work())
    assert outcome.notes == ["use [redacted]"]


async def test_note_that_comes_later_is_shown_now_and_an_own_one_is_not(
    agent: Agent, model: ModelServer
) -> None:
    """Work lists notes newest first, so what is new is told by their numbers."""
    old = Note(number=1, text="prices are net", author="agent.analyst", key="look")
    model.next(calls(("read_artifact", {"name": "orders"})), calls(finish(report="22")))
    play = Play(agent)
    begun = work(notes=[old])
    outcome = await play.step(begun)
    assert isinstance(outcome, Expand)
    new = Note(number=2, text="two days are missing", author="agent.critic", key="check")
    own = Note(number=3, text="I began", author="agent.coder", key="total")
    await play.step(play.resumed(begun, outcome).model_copy(update={"notes": [own, new, old]}))
    now = json.loads(model.sent()[-1]["content"].split("## Now\n")[1].split("\n")[0])
    assert now["notes"] == [{"by": "critic, task check", "text": "two days are missing"}]


def test_notes_of_a_card_are_pinned_then_relevant_then_newest_and_bounded() -> None:
    spec = TaskSpec(key="t", lane="agent.coder", instruction="Sum the amounts of the orders")
    board = [
        Note(number=4, text="nothing in common", author="agent.writer"),
        Note(number=3, text="ORDERS lack a day", author="agent.analyst"),
        Note(number=2, text="amounts are net", author="agent.analyst"),
        Note(number=1, text="stay on topic", author="reflector", pinned=True),
    ]
    assert [note.number for note in notes.relevant(board, spec)] == [1, 3, 2, 4]
    many = [Note(number=at, text="x" * 900, author="agent.coder") for at in range(40)]
    shown = notes.relevant(many, spec)
    assert [note.number for note in shown] == [39, 38, 37, 36, 35, 34]
    assert sum(len(note.text) for note in shown) <= notes.SHOWN_CHARS


async def test_critic_reads_and_notes_and_runs_nothing(agent: Agent, model: ModelServer) -> None:
    model.next(calls(finish(report="fine")))
    await Play(agent).to_end(work(task("critic")))
    assert names(model.requests[0]) == ["read_artifact", "post_note", "finish"]
