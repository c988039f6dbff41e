"""A coder that asks a critic, with the real agent and scheduler: what the critic sees, says and costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from agent.model_server import Answer, ModelServer, calls
from goalwright_agent.app import build
from goalwright_agent.core.prompt import card_in
from goalwright_agent.prices import Price
from goalwright_agent.settings import AgentSettings, lanes
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_scheduler.settings import HUMAN_LANE
from goalwright_shared.lifecycle import Stopper
from goalwright_shared.messages import Lane
from support.system import System, opened

CALL_USD = 100 / 1e6 + 20 * 4 / 1e6
"""What the server bills for a call, at the price of the test."""

DRAFT = {"name": "draft", "type": "text", "text": "It is 22."}
LOOK = {"role": "critic", "instruction": "Is the draft right?", "inputs": ["draft"]}
CHECK = {"role": "analyst", "instruction": "What is the total?", "inputs": []}


def model_says(body: dict[str, Any]) -> Answer:
    """By role and turn: the coder drafts, asks two at once, and delivers; the others answer."""
    messages = body["messages"]
    turn = sum(message["role"] == "assistant" for message in messages)
    card = card_in(messages[1]["content"])
    assert card is not None
    match card["role"], turn:
        case "coder", 0:
            return calls(("write_artifact", DRAFT), ("post_note", {"text": "The draft leaves out refunds."}))
        case "coder", 1:
            return calls(("ask", LOOK), ("ask", CHECK))
        case "coder", _:
            return calls(finish("It is 22, checked."))
        case "critic", _:
            (draft,) = card["inputs"]
            return calls(finish(f"Right: {draft['excerpt']} {card['notes']}", card))
        case _:
            return calls(finish("22", card))


def finish(text: str, card: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """A call of finish that gives the one declared output."""
    name = card["outputs"][0]["name"] if card else "report"
    return "finish", {"outputs": [{"name": name, "text": text}], "summary": "done"}


@pytest.fixture
async def talking(nats_server: EmbeddedNats, postgres_dsn: str) -> AsyncIterator[System]:
    """Real NATS, Postgres, scheduler and agent; a model by script whose calls cost money."""
    model = ModelServer(model_says)
    await model.start()
    settings = AgentSettings(
        nats_url=nats_server.service_url, openai_base_url=model.url, model="m", openai_api_key="sk-test-0123456789",
        prices={"m": Price(input_usd_per_mtok=1, output_usd_per_mtok=4)},
        model_embed="m", roles_served="coder,critic,analyst",
    )  # fmt: skip
    async with opened(nats_server, postgres_dsn, [HUMAN_LANE, Lane(name="exec"), *lanes(settings)]) as system:
        await system.start_scheduler()
        for part in build(settings, Stopper()):
            await part.start()
            system.parts.append(part)
        yield system
    await model.stop()


async def test_questions_run_side_by_side_and_are_shown_on_the_asker_with_their_cost(talking: System) -> None:
    task = {"key": "total", "lane": "agent.coder", "instruction": "Sum", "outputs": [{"name": "report"}]}
    goal = await talking.submit(plan={"tasks": [task]})
    ended = await talking.finished(goal)
    assert ended["deliverables"]["report"]["inline"] == "It is 22, checked."
    asker = await talking.task(goal, "total")
    by_role = {ask["lane"].removeprefix("agent."): ask for ask in asker["asks"]}
    assert by_role["critic"]["question"] == "Is the draft right?"
    note = "[{'by': 'coder, task total', 'text': 'The draft leaves out refunds.'}]"
    assert by_role["critic"]["answer"] == f"Right: It is 22. {note}"
    assert by_role["analyst"]["answer"] == "22"
    assert asker["asked_usd"] == pytest.approx(2 * CALL_USD)
    assert asker["cost_usd"] == pytest.approx(3 * CALL_USD)
    assert ended["spent_usd"] == pytest.approx(5 * CALL_USD)
    events = await talking.events(goal)
    kinds = [event["kind"] for event in events]
    assert kinds.count("ask.requested") == kinds.count("ask.answered") == 2
    last_asked = max(at for at, kind in enumerate(kinds) if kind == "ask.requested")
    assert last_asked < kinds.index("ask.answered"), "both are put before one is answered"
    assert [e["data"]["text"] for e in events if e["kind"] == "note.posted"] == [
        "The draft leaves out refunds."
    ]
