"""A role task as turns: tool calls become children, their results come back, the transcript only grows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from goalwright_agent.core.prompt import card_in
from goalwright_agent.handlers import Agent
from goalwright_shared.messages import (
    ArtifactType,
    Asked,
    ChildResult,
    Expand,
    Failed,
    Note,
    OutputSpec,
    RegexCheck,
    TaskError,
    TaskSpec,
)

from agent.model_server import ModelServer, calls, completion, names, refuses, says
from agent.play import Play, dead_child, done_child, output_json, output_text, text_ref, work_of

ORDERS = "day,amount\n1,10\n2,12\n"
TOTAL = {"language": "python", "source": "print(22)", "inputs": ["orders"], "outputs": [], "args": []}


def task(role: str = "coder", **fields: Any) -> TaskSpec:
    """A role task with one input and one text output."""
    facts: dict[str, Any] = {
        "key": "total",
        "title": "Total",
        "lane": f"agent.{role}",
        "instruction": "Sum the amounts",
        "inputs": ["orders"],
        "outputs": [OutputSpec(name="report", description="what it comes to")],
    }
    return TaskSpec(**facts | fields)


def finish(summary: str = "did it", **texts: str) -> tuple[str, dict[str, Any]]:
    """A call of finish."""
    return "finish", {"outputs": [{"name": n, "text": t} for n, t in texts.items()], "summary": summary}


def work(spec: TaskSpec | None = None, **fields: Any) -> Any:
    """Work on `task()` with its input."""
    inputs = {"orders": text_ref("orders", ORDERS, ArtifactType.TABLE)}
    return work_of(spec or task(), **{"inputs": inputs} | fields)


async def test_opening_is_role_rules_and_a_card_with_everything_as_data(
    agent: Agent, model: ModelServer
) -> None:
    model.next(calls(finish(report="22")))
    error = TaskError(code="program_failed", message="exit 1", logs="Traceback")
    notes = [Note(text="mind the gap", author="reflector")]
    await Play(agent).to_end(work(attempt_errors=[error], notes=notes))
    system, user = model.sent()
    assert "You are the coder" in system["content"]
    assert user["content"].rstrip().endswith("```")
    card = card_in(user["content"])
    assert card is not None
    assert card["kind"] == "task"
    assert (card["role"], card["key"], card["instruction"]) == ("coder", "total", "Sum the amounts")
    assert card["objective"] == "Learn the total"
    assert card["constraints"] == ["be brief"]
    assert card["inputs"] == [
        {"name": "orders", "type": "table", "media_type": "text/plain", "size": 21, "excerpt": ORDERS}
    ]
    assert card["outputs"][0]["name"] == "report"
    assert card["errors"] == [{"code": "program_failed", "message": "exit 1", "logs": "Traceback"}]
    assert card["notes"] == [{"by": "reflector", "text": "mind the gap"}]
    tools = ["run_program", "ask", "read_artifact", "write_artifact", "post_note", "finish"]
    assert names(model.requests[0]) == tools
    assert "tool_choice" not in model.requests[0]


async def test_finish_delivers_the_declared_outputs(agent: Agent, model: ModelServer) -> None:
    model.next(calls(finish("summed", report="It is 22.")))
    outcome = await Play(agent).to_end(work())
    assert output_text(outcome, "report") == "It is 22."
    assert outcome.kind == "done"
    assert outcome.summary == "summed"
    assert outcome.usage is not None


async def test_program_call_becomes_a_child_and_its_report_comes_back(
    agent: Agent, model: ModelServer
) -> None:
    model.next(calls(("run_program", TOTAL), text="Let me see."), calls(finish(report="22")))
    report = {"exit_code": 0, "stdout": "22\n", "stderr": "", "limit": None}
    play = Play(agent, child=done_child, reports={"t-run-program-0-0": report})
    outcome = await play.to_end(work())
    assert output_text(outcome, "report") == "22"
    [[child]] = play.generations
    assert (child.lane, child.inputs) == ("exec", ["orders"])
    assert child.program is not None
    assert child.program.source == "print(22)"
    assert [message["role"] for message in model.sent()] == ["system", "user", "assistant", "tool", "user"]
    assert model.sent()[2]["tool_calls"][0]["id"] == model.sent()[3]["tool_call_id"]
    assert model.tool_results() == [report | {"status": "succeeded", "outputs": [], "error": None}]


async def test_facts_of_now_come_last_and_only_after_the_first_turn(agent: Agent, model: ModelServer) -> None:
    model.next(calls(("run_program", TOTAL)), calls(finish(report="22")))
    await Play(agent, child=done_child).to_end(work())
    assert "## Now" not in str(model.sent(0))
    assert model.sent(1)[-1]["content"].startswith("## Now\n")
    assert model.sent(1)[:2] == model.sent(0), "the prefix is stable, so that providers cache it"


async def test_note_that_arrives_later_is_told_without_changing_the_prefix(
    agent: Agent, model: ModelServer
) -> None:
    model.next(calls(("run_program", TOTAL)), calls(finish(report="22")))
    play = Play(agent, child=done_child)
    first = work()
    expand = await play.step(first)
    assert isinstance(expand, Expand)
    later = play.resumed(first, expand).model_copy(
        update={"notes": [Note(number=1, text="use days, not months")]}
    )
    await play.step(later)
    assert "use days, not months" in model.sent()[-1]["content"]
    assert model.sent(1)[:2] == model.sent(0)


async def test_failed_try_is_told_to_the_next_one_after_the_transcript(
    agent: Agent, model: ModelServer
) -> None:
    model.next(calls(("run_program", TOTAL)), calls(finish(report="22")))
    play = Play(agent, child=done_child)
    first = work()
    expand = await play.step(first)
    assert isinstance(expand, Expand)
    error = TaskError(code="timeout", message="no answer within 300 s")
    await play.step(play.resumed(first, expand).model_copy(update={"attempt_errors": [error]}))
    assert "no answer within 300 s" in model.sent()[-1]["content"]
    assert model.sent(1)[:2] == model.sent(0)


async def test_programs_output_under_a_declared_name_is_that_output(agent: Agent, model: ModelServer) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"rows": {"type": "integer"}},
        "required": ["rows"],
    }
    spec = task(outputs=[OutputSpec(name="stats", type=ArtifactType.JSON, schema=schema)])
    program = TOTAL | {"outputs": [{"name": "stats", "type": "file"}]}
    model.next(calls(("run_program", program)), calls(finish("profiled")))
    play = Play(agent, child=lambda child: done_child(child, stats='{"rows": 2}'))
    outcome = await play.to_end(work(spec))
    assert output_json(outcome, "stats") == {"rows": 2}
    assert play.generations[0][0].outputs == spec.outputs, "the executor checks it by the task's own schema"


async def test_text_in_finish_wins_over_a_programs_output(agent: Agent, model: ModelServer) -> None:
    program = TOTAL | {"outputs": [{"name": "report", "type": "text"}]}
    model.next(calls(("run_program", program)), calls(finish(report="better")))
    outcome = await Play(agent, child=lambda c: done_child(c, report="draft")).to_end(work())
    assert output_text(outcome, "report") == "better"


async def test_failed_program_comes_back_with_its_logs(agent: Agent, model: ModelServer) -> None:
    model.next(calls(("run_program", TOTAL)), calls(finish(report="gave up")))
    play = Play(agent, child=lambda child: dead_child(child, "exit 1", "ZeroDivisionError"))
    await play.to_end(work())
    [result] = model.tool_results()
    assert (result["status"], result["error"]) == ("dead", "program_failed: exit 1")
    assert result["stderr"] == "ZeroDivisionError"


async def test_parallel_calls_are_parallel_children_of_one_generation(
    agent: Agent, model: ModelServer
) -> None:
    make = TOTAL | {"outputs": [{"name": "tidy", "type": "table"}]}
    use = TOTAL | {"inputs": ["tidy"]}
    ask = {"role": "critic", "instruction": "Look", "inputs": ["orders"]}
    model.next(calls(("run_program", make), ("run_program", use), ("ask", ask)), calls(finish(report="22")))

    def child(spec: TaskSpec) -> ChildResult:
        outputs = {out.name: "a,b\n1,2\n" if out.name == "tidy" else "good" for out in spec.outputs}
        return done_child(spec, **outputs)

    play = Play(agent, child=child)
    await play.to_end(work())
    [generation] = play.generations
    assert [spec.lane for spec in generation] == ["exec", "exec", "agent.critic"]
    assert len({spec.key for spec in generation}) == 3
    results = model.tool_results()
    assert len(results) == 3
    assert results[0]["outputs"][0]["excerpt"] == "a,b\n1,2\n"
    assert results[2]["outputs"][0]["excerpt"] == "good"
    ids = [call["id"] for call in model.sent()[2]["tool_calls"]]
    assert [message["tool_call_id"] for message in model.sent() if message["role"] == "tool"] == ids


async def test_output_of_an_earlier_program_is_brought_along_for_a_later_one(
    agent: Agent, model: ModelServer
) -> None:
    """Names live in one generation: what was made before is handed on by reference, not made again."""
    make = TOTAL | {"source": "make()", "outputs": [{"name": "tidy", "type": "table"}]}
    use = TOTAL | {"source": "use()", "inputs": ["tidy"]}
    model.next(calls(("run_program", make)), calls(("run_program", use)), calls(finish(report="22")))
    play = Play(agent, child=lambda c: done_child(c, **{out.name: "a\n1\n" for out in c.outputs}))
    await play.to_end(work())
    assert [spec.program.source for spec in play.generations[1] if spec.program] == ["use()"]
    first, second, _ = play.outcomes
    assert isinstance(first, Expand)
    assert isinstance(second, Expand)
    assert first.artifacts == {}
    assert second.artifacts["tidy"].inline == "a\n1\n"


async def test_read_artifact_is_another_turn_without_children(agent: Agent, model: ModelServer) -> None:
    read = ("read_artifact", {"name": "orders", "offset": 4, "length": 6})
    model.next(calls(read), calls(("read_artifact", {"name": "nope"})), calls(finish(report="22")))
    play = Play(agent)
    await play.to_end(work())
    first, second = model.tool_results()
    assert first == {
        "status": "succeeded", "name": "orders", "offset": 4, "size": 21, "text": "amount", "next_offset": 10,
    }  # fmt: skip
    assert second["status"] == "error"
    assert "there are orders" in second["error"]
    assert isinstance(play.outcomes[0], Expand)
    assert play.outcomes[0].tasks == []


async def test_question_to_a_person_is_a_child_on_the_human_lane(agent: Agent, model: ModelServer) -> None:
    question = {"text": "Publish?", "options": ["yes", "no"], "default": "no"}
    model.next(calls(("request_approval", question)), calls(finish(report="published")))
    play = Play(agent, child=lambda spec: done_child(spec, **{spec.outputs[0].name: "yes"}))
    await play.to_end(work(task("generalist")))
    [[child]] = play.generations
    assert child.lane == "human"
    assert child.question is not None
    assert (child.question.text, child.question.default) == ("Publish?", "no")
    assert model.tool_results()[0]["outputs"][0]["excerpt"] == "yes"


async def test_question_is_passed_on_twice_at_most(agent: Agent, model: ModelServer) -> None:
    ask = ("ask", {"role": "analyst", "instruction": "Why?", "inputs": []})
    model.next(calls(ask), calls(finish(report="because")))
    play = Play(agent, child=lambda spec: done_child(spec, **{spec.outputs[0].name: "so"}))
    await play.to_end(work(task(asked=Asked(by="report", roles=["writer"]))))
    asked = play.generations[0][0].asked
    assert asked == Asked(by="total", roles=["writer", "coder"])
    assert asked.hops == 2


async def test_third_hop_is_answered_by_an_error_message(agent: Agent, model: ModelServer) -> None:
    ask = ("ask", {"role": "analyst", "instruction": "Why?", "inputs": []})
    model.next(calls(ask), calls(finish(report="because")))
    await Play(agent).to_end(work(task(asked=Asked(by="draft", roles=["writer", "researcher"]))))
    assert "ask" not in names(model.requests[0])
    [result] = model.tool_results()
    assert result["status"] == "error"
    assert "answer it yourself" in result["error"]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (("run_program", '{"source": '), "not JSON"),
        (("run_program", {"inputs": []}), "source: Field required"),
        (("run_program", TOTAL | {"inputs": ["order"]}), "did you mean orders?"),
        (("run_program", TOTAL | {"outputs": [{"name": "../x", "type": "file"}]}), "pattern"),
        (("run_program", TOTAL | {"outputs": [{"name": "orders", "type": "table"}]}), "rename it"),
        (("run_program", TOTAL | {"language": "cobol"}), "language"),
        (("ask", {"role": "wizard", "instruction": "x", "inputs": []}), "there is no role 'wizard'"),
        (("request_approval", {"text": "May I?"}), "there is no tool 'request_approval'"),
    ],
)
async def test_wrong_call_is_answered_by_an_error_message_in_another_turn(
    agent: Agent, model: ModelServer, call: tuple[str, Any], complaint: str
) -> None:
    model.next(calls(call), calls(finish(report="22")))
    outcome = await Play(agent).to_end(work())
    assert output_text(outcome, "report") == "22"
    [result] = model.tool_results()
    assert result["status"] == "error"
    assert complaint in result["error"]
    for message in model.sent():
        for made in message.get("tool_calls", ()):
            json.loads(made["function"]["arguments"])  # servers parse it again


async def test_good_calls_beside_a_wrong_one_go_on(agent: Agent, model: ModelServer) -> None:
    model.next(calls(("run_program", TOTAL), ("run_program", {})), calls(finish(report="22")))
    play = Play(agent, child=done_child)
    await play.to_end(work())
    assert len(play.generations[0]) == 1
    assert sorted(result["status"] for result in model.tool_results()) == ["error", "succeeded"]


async def test_only_wrong_calls_three_times_in_a_row_fail_the_try(agent: Agent, model: ModelServer) -> None:
    model.next(calls(("run_program", {})))
    outcome = await Play(agent).to_end(work())
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "invalid_answer"
    assert len(model.requests) == 3


async def test_finish_beside_other_calls_has_to_wait(agent: Agent, model: ModelServer) -> None:
    model.next(calls(("run_program", TOTAL), finish(report="22")), calls(finish(report="23")))
    outcome = await Play(agent, child=done_child).to_end(work())
    assert output_text(outcome, "report") == "23"
    assert "call finish alone" in model.tool_results()[0]["error"]


async def test_finish_without_a_declared_output_is_sent_back(agent: Agent, model: ModelServer) -> None:
    model.next(calls(finish()), calls(finish(report="22")))
    outcome = await Play(agent).to_end(work())
    assert output_text(outcome, "report") == "22"
    assert "nothing was delivered for report" in model.tool_results()[0]["error"]


async def test_model_that_delivers_nothing_twice_has_given_up_for_its_reason(
    agent: Agent, model: ModelServer
) -> None:
    model.next(calls(finish("the table cannot be read")))
    outcome = await Play(agent).to_end(work())
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("given_up", False)
    assert outcome.error.message == "the table cannot be read"
    assert len(model.requests) == 2


async def test_output_that_fails_its_checks_is_sent_back_with_the_evidence(
    agent: Agent, model: ModelServer
) -> None:
    spec = task(acceptance=[RegexCheck(pattern=r"\d+ EUR")])
    model.next(calls(finish(report="much")), calls(finish(report="22 EUR")))
    outcome = await Play(agent).to_end(work(spec))
    assert output_text(outcome, "report") == "22 EUR"
    assert outcome.kind == "done"
    assert all(check.passed for check in outcome.checks)
    [result] = model.tool_results()
    assert [check["passed"] for check in result["checks"]] == [True, False]


async def test_finish_that_never_fits_fails_the_try(agent: Agent, model: ModelServer) -> None:
    model.next(calls(finish(report="much")))
    outcome = await Play(agent).to_end(work(task(acceptance=[RegexCheck(pattern="EUR")])))
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("invalid_answer", True)
    assert "EUR" in outcome.error.message


async def test_words_without_a_call_are_the_answer_of_a_single_text_output(
    agent: Agent, model: ModelServer
) -> None:
    model.next(says("It is 22."))
    outcome = await Play(agent).to_end(work(task("writer")))
    assert output_text(outcome, "report") == "It is 22."


async def test_words_without_a_call_are_asked_again_where_more_is_declared(
    agent: Agent, model: ModelServer
) -> None:
    spec = task(outputs=[OutputSpec(name="report"), OutputSpec(name="notes")])
    model.next(says("It is 22."), calls(finish(report="22", notes="none")))
    outcome = await Play(agent).to_end(work(spec))
    assert outcome.kind == "done"
    assert set(outcome.outputs) == {"report", "notes"}
    last = model.sent()[-1]
    assert last["role"] == "user"
    assert "still to be delivered: report, notes" in last["content"]
    assert "## Now" in last["content"], "joined to the correction, so that roles alternate"


@pytest.mark.parametrize("form", ['{"name": "finish", "arguments": %s}', "<tool_call>\n%s</tool_call>"])
async def test_tool_call_written_as_text_is_understood(agent: Agent, model: ModelServer, form: str) -> None:
    arguments = json.dumps(finish(report="22")[1])
    inner = arguments if form.startswith("{") else f'{{"name": "finish", "parameters": {arguments}}}'
    model.next(says(form % inner))
    outcome = await Play(agent).to_end(work())
    assert output_text(outcome, "report") == "22"


async def test_arguments_in_near_forms_are_understood(agent: Agent, model: ModelServer) -> None:
    model.next(
        calls(("run_program", {"source": "1", "outputs": ["tidy"]})),
        calls(("finish", {"outputs": {"report": {"total": 22}}})),
    )
    play = Play(agent, child=lambda child: done_child(child, tidy="x"))
    outcome = await play.to_end(work())
    assert json.loads(output_text(outcome, "report")) == {"total": 22}
    assert play.generations[0][0].outputs[0].name == "tidy"


async def test_arguments_that_are_an_object_and_calls_without_ids_are_understood(
    agent: Agent, model: ModelServer
) -> None:
    raw = {"function": {"name": "run_program", "arguments": TOTAL}}
    model.next(
        completion({"content": "", "tool_calls": [raw, raw]}, finish_reason="stop"),
        calls(finish(report="22")),
    )
    await Play(agent, child=done_child).to_end(work())
    assert len({call["id"] for call in model.sent()[2]["tool_calls"]}) == 2


async def test_judge_gives_one_structured_answer_without_tools(agent: Agent, model: ModelServer) -> None:
    schema: dict[str, Any] = {
        "title": "Verdict", "type": "object", "properties": {"passed": {"type": "boolean"}},
        "required": ["passed"], "additionalProperties": False,
    }  # fmt: skip
    spec = task("judge", outputs=[OutputSpec(name="verdict", type=ArtifactType.JSON, schema=schema)])
    model.next(says('{"passed": true}'))
    outcome = await Play(agent).to_end(work(spec))
    assert output_json(outcome, "verdict") == {"passed": True}
    assert "tools" not in model.requests[0]
    assert model.requests[0]["response_format"]["json_schema"]["name"] == "Verdict"
    card = card_in(model.sent()[1]["content"])
    assert card is not None
    assert card["outputs"][0]["schema"] == schema


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings([*value.keys(), *value.values()])
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


async def test_what_a_database_cannot_hold_is_replaced(agent: Agent, model: ModelServer) -> None:
    source = '{"source": "print(1) # \\u0000 \\ud800", "inputs": [], "outputs": [], "args": []}'
    model.next(
        completion(
            {"content": "a\0b", "tool_calls": [{"function": {"name": "run_program", "arguments": source}}]}
        ),
        calls(finish("c\0d", report="e\0f")),
    )
    play = Play(agent, child=done_child)
    outcome = await play.to_end(work())
    assert output_text(outcome, "report") == "e\ufffdf"
    for told in play.outcomes:
        assert not [text for text in strings(json.loads(told.to_json())) if "\0" in text]


async def test_role_that_uses_up_its_turns_fails(agent: Agent, model: ModelServer) -> None:
    model.next(calls(("run_program", TOTAL)))
    outcome = await Play(agent, child=done_child).to_end(work(task(max_turns=3)))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "max_turns"
    assert len(model.requests) == 3
    assert "last turn" in model.sent()[-1]["content"]


async def test_foreign_continuation_fails_clearly(agent: Agent, model: ModelServer) -> None:
    outcome = await Play(agent).step(work(continuation={"step": 1}))
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "bad_continuation"
    assert model.requests == []


async def test_unknown_role_and_missing_grant_fail_clearly(agent: Agent) -> None:
    unknown = await Play(agent).step(work(task("wizard")))
    assert isinstance(unknown, Failed)
    assert unknown.error.code == "unknown_role"
    unpaid = await Play(agent).step(work(llm=None))
    assert isinstance(unpaid, Failed)
    assert unpaid.error.code == "no_grant"


async def test_model_that_takes_no_tools_is_told_of_them_in_words(agent: Agent, model: ModelServer) -> None:
    program = json.dumps({"name": "run_program", "arguments": TOTAL})
    ask = json.dumps({"name": "finish", "arguments": finish(report="22")[1]})
    model.next(
        refuses(400, "registry.ollama.ai/library/tiny does not support tools"),
        says(f"I run it.\n```json\n{program}\n```"),
        says(ask),
    )
    report = {"exit_code": 0, "stdout": "22\n", "stderr": ""}
    play = Play(agent, child=done_child, reports={"t-run-program-0-0": report})
    outcome = await play.to_end(work())
    assert output_text(outcome, "report") == "22"
    assert [("tools" in request) for request in model.requests] == [True, False, False]
    assert [message["role"] for message in model.sent()] == ["system", "user", "assistant", "user"]
    system, _, called, result = (message["content"] for message in model.sent())
    assert '"name": "run_program"' in system
    words, call = called.split("\n", 1)
    assert words == "I run it."
    assert json.loads(call)["name"] == "run_program"
    assert '"stdout": "22\\n"' in result
    assert "## Now" in result, "roles alternate"


async def test_secrets_reach_neither_prompt_nor_continuation_nor_record(
    agent: Agent, model: ModelServer
) -> None:
    key = "sk-verysecret0123456789"
    model.next(
        calls(("run_program", TOTAL | {"source": f"token = '{key}'"}), text=f"using {key}"),
        calls(finish(report="22")),
    )
    report = {"exit_code": 0, "stdout": f"token {key}", "stderr": ""}
    play = Play(agent, child=done_child, reports={"t-run-program-0-0": report})
    inputs = {"orders": text_ref("orders", f"a\n{key}\n", ArtifactType.TABLE)}
    await play.to_end(work(task(instruction=f"use {key}"), inputs=inputs))
    sent = json.dumps([request["messages"] for request in model.requests])
    assert "[redacted]" in sent
    assert key not in sent
    first = play.outcomes[0]
    assert isinstance(first, Expand)
    assert key not in json.dumps(first.continuation)
    assert first.call is not None
    for ref in (first.call.prompt, first.call.reply):
        assert ref is not None
        assert key.encode() not in await play.artifacts.get_bytes(ref)
    assert first.tasks[0].program is not None
    assert key in str(first.tasks[0].program.source), "the program itself runs as it was written"
