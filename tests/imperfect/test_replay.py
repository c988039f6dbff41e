"""Imperfect replies of models, replayed through the agent over HTTP and through the planner: each is understood, or
sent back with what is wrong, as its file says. None of them is an exception, and none is completed by a guess."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent.model_server import Answer, ModelServer, completion
from agent.play import Play, done_child, output_text, work_of
from agent.test_asking import ask
from goalwright_agent import continuation
from goalwright_agent.core.turns import State
from goalwright_agent.handlers import Agent
from goalwright_agent.provider import Provider
from goalwright_agent.roles import load_roles
from goalwright_agent.settings import AgentSettings
from goalwright_planner import texts
from goalwright_planner.handlers import Planner
from goalwright_planner.settings import PlannerSettings
from goalwright_shared.messages import (
    ChildResult,
    Contract,
    Deliverable,
    Expand,
    Failed,
    LaneInfo,
    Outcome,
    OutputSpec,
    TaskSpec,
    Work,
)
from goalwright_shared.worker import Attempt
from planner.plans import LANES, answer, task
from support.artifacts import MemoryArtifacts

HERE = Path(__file__).parent
LEAST = 60
"""Replies that are kept at least."""


def cases(name: str) -> list[Any]:
    """The cases of a file, each under its sentence."""
    found = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    return [pytest.param(one, id=one["case"].replace(" ", "_")) for one in found]


def test_there_are_enough_of_them_and_each_has_its_own_sentence() -> None:
    names = [param.id for name in ("plans", "answers", "turns") for param in cases(name)]
    assert len(names) == len(set(names)) >= LEAST


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    """A server that says what the file says."""
    server = ModelServer(Answer())
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def agent(model: ModelServer) -> AsyncIterator[Agent]:
    """The agent on it."""
    provider = Provider(
        AgentSettings(openai_api_key="sk-imperfect-0", openai_base_url=model.url, connections=8)
    )
    await provider.start()
    yield Agent(provider, load_roles())
    await provider.stop()


def said(case: Any) -> Answer:
    """The reply of a case, as a server sends it."""
    message: dict[str, Any] = {"content": case.get("reply")}
    raw = case.get("calls") or ([case["call"]] if "call" in case else [])
    if raw:
        message["tool_calls"] = [
            {
                "id": "",
                "type": "function",
                "function": {"name": call.get("name"), "arguments": _arguments(call)},
            }
            for call in raw
        ]
    if "refusal" in case:
        message["refusal"] = case["refusal"]
    return completion(message, finish_reason=case.get("finish", "tool_calls" if raw else "stop"))


def _arguments(call: Any) -> Any:
    return call["raw"] if "raw" in call else json.dumps(call.get("arguments"))


async def remembered(outcome: Outcome, artifacts: MemoryArtifacts) -> State:
    """What the task remembers for its next turn."""
    assert isinstance(outcome, Expand), outcome
    assert outcome.tasks == []
    state = await continuation.loaded(artifacts, outcome.continuation)
    assert state is not None
    return state


async def told(outcome: Outcome, artifacts: MemoryArtifacts) -> str:
    """What the model hears next: the end of the transcript."""
    return str((await remembered(outcome, artifacts)).messages[-1]["content"])


# --- one call ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("answers"))
async def test_an_answer(case: Any, agent: Agent, model: ModelServer) -> None:
    model.next(said(case))
    play = Play(agent)
    outcome = await play.step(work_of(ask(None) if case.get("text") else ask()))
    assert outcome.usage is not None, "it is paid for, whatever it says"
    if "takes" in case:
        text = output_text(outcome, "verdict")
        assert (text if case.get("text") else json.loads(text)) == case["takes"]
    elif "failed" in case:
        assert isinstance(outcome, Failed)
        assert outcome.error.code == case["failed"]
    elif case["corrected"]:
        assert case["corrected"] in await told(outcome, play.artifacts)
    else:
        assert (await remembered(outcome, play.artifacts)).whole_cap, "once more, with all that is held"


# --- a turn with tools ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("turns"))
async def test_a_turn(case: Any, agent: Agent, model: ModelServer) -> None:
    model.next(said(case))
    spec = TaskSpec(key="t", lane="agent.coder", instruction="Look.", outputs=[OutputSpec(name="report")])
    play = Play(agent, child=done_child)
    outcome = await play.step(work_of(spec))
    if "takes" in case:
        assert output_text(outcome, "report") == case["takes"]
    elif "child" in case:
        assert isinstance(outcome, Expand)
        kinds = ["run_program" if child.lane == "exec" else child.lane for child in outcome.tasks]
        assert kinds == case["child"]
    else:
        assert case["told"] in await told(outcome, play.artifacts)


# --- a plan -----------------------------------------------------------------------------------------------


def planned(case: Any) -> Work:
    """The plan task of the goal that the case is about."""
    wants = case.get("wants", [])
    contract = Contract(objective="Report on sales", deliverables=wants)
    spec = TaskSpec(
        key="plan", lane="plan", instruction="Report on sales", inputs=["orders", "customers"],
        outputs=[OutputSpec(name=name) for name in wants],
    )  # fmt: skip
    lanes = [LaneInfo(name=name) for name in LANES]
    params = {
        "goal": "Report on sales",
        "deliverables": [Deliverable(name=name).model_dump(mode="json") for name in wants],
    }
    return Work(goal_id="g", task_id="1", epoch=1, lane="plan", spec=spec.model_copy(update={"params": params}),
                contract=contract, lanes=lanes)  # fmt: skip


@pytest.mark.parametrize("case", cases("plans"))
async def test_a_plan(case: Any, agent: Agent, model: ModelServer) -> None:
    if "many" in case:
        tasks = [task(f"t{n}", [f"o{n - 1}"] if n else [], [f"o{n}"]) for n in range(case["many"])]
        case["reply"] = json.dumps(answer(tasks, [f"o{case['many'] - 1}"]))
    model.next(said(case))
    world = MemoryArtifacts()
    planner = Planner(PlannerSettings(plan_max_repairs=1), texts.load())
    work = planned(case)

    async def perform(work: Work) -> Outcome:
        return await planner.perform(work, Attempt(work, None, world, None))  # type: ignore[arg-type]

    asked = await perform(work)
    assert isinstance(asked, Expand)
    reply = await Play(agent, artifacts=world).step(work_of(asked.tasks[0]))
    if "corrected" in case:
        assert case["corrected"] in await told(reply, world)
        return
    outcome = await perform(_resumed(work, asked, reply))
    if "cannot" in case:
        assert isinstance(outcome, Failed)
        assert (outcome.error.code, outcome.error.message) == ("cannot_plan", case["cannot"])
    elif "repair" in case:
        assert isinstance(outcome, Expand)
        again = outcome.tasks[0]
        assert again.lane == "agent.ask", "it is sent back"
        assert again.prompt is not None
        assert case["repair"] in (again.prompt.messages[-1].content or "")
        if "fallback" in case:  # the model says the same again
            reply = await Play(agent, artifacts=world).step(work_of(again))
            last = await perform(_resumed(work, outcome, reply))
            assert isinstance(last, Expand)
            assert _shape(last.tasks) == case["fallback"]
            assert "one after the other" in " ".join(last.warnings)
    else:
        assert isinstance(outcome, Expand)
        assert _shape(outcome.tasks) == case["tasks"]
        assert case.get("says", "") in " ".join(outcome.warnings)
        types = {out.name: out.type.value for one in outcome.tasks for out in one.outputs}
        assert types | case.get("types", {}) == types
        after = {one.key: one.after for one in outcome.tasks}
        assert after | case.get("after", {}) == after


def _resumed(work: Work, asked: Expand, reply: Outcome) -> Work:
    assert reply.kind == "done", reply
    child = ChildResult(key=asked.tasks[0].key, task_id="2", status="succeeded", outputs=reply.outputs)
    return work.model_copy(
        update={"epoch": 2, "turn": 1, "children": [child], "continuation": asked.continuation}
    )


def _shape(tasks: list[TaskSpec]) -> dict[str, list[Any]]:
    return {one.key: [one.lane, one.inputs, [out.name for out in one.outputs]] for one in tasks}
