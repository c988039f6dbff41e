"""Kill -9 of the agent at any moment of a task of ten turns: at most one call is repeated, counted by the server."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from agent.model_server import Answer, ModelServer, calls
from goalwright_agent.settings import AgentSettings, lanes
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_scheduler.settings import HUMAN_LANE
from goalwright_shared.messages import Lane
from support import forked
from support.system import System, echo, opened

TURNS = 10
LEASE = 2.0
"""Seconds after which the scheduler knows that an agent is gone."""

Moment = Literal["before the answer", "after the answer", "while a program runs"]


def program_runs(turn: int) -> bool:
    """Every third turn runs a program; those between write, post and read."""
    return turn % 3 == 0


def said(turn: int) -> Answer:
    """What the model answers in a turn: ten different things to do, which fill a segment of the transcript by the
    sixth."""
    if turn == TURNS - 1:
        return calls(("finish", {"outputs": [{"name": "report", "text": "It is done."}], "summary": "done"}))
    if program_runs(turn):
        output = {"name": f"part-{turn}", "type": "text"}
        return calls(("run_program", {"language": "python", "source": f"print({turn})", "outputs": [output]}))
    if turn % 3 == 1:
        return calls(("write_artifact", {"name": "draft", "type": "text", "text": f"draft {turn}\n" * 600}))
    return calls(("post_note", {"text": f"note {turn}"}), ("read_artifact", {"name": "draft"}))


@dataclass
class Stage:
    """A system with one agent process that dies at the moment that the test names, once, and comes back."""

    system: System
    model: ModelServer
    agent: forked.Process | None = None
    at: tuple[int, Moment] | None = None  # turn and moment of the next kill
    asked: Counter[int] = field(default_factory=Counter)  # calls that the server counted, by turn
    fatal: asyncio.Event = field(default_factory=asyncio.Event)
    back: asyncio.Event = field(default_factory=asyncio.Event)

    def start_agent(self) -> None:
        """An agent as `goalwright serve agent --roles coder` runs it."""
        self.agent = forked.start(
            "agent",
            {
                "GOALWRIGHT_NATS_URL": self.system.server.service_url, "OPENAI_BASE_URL": self.model.url,
                "OPENAI_API_KEY": "sk-test-0123456789", "GOALWRIGHT_MODEL": "test-model",
                "GOALWRIGHT_ROLES_SERVED": "coder", "GOALWRIGHT_LOG_LEVEL": "error",
            },
        )  # fmt: skip
        self.system.processes.append(self.agent)

    def reply(self, body: dict[str, Any]) -> Answer:
        """The model's answer by the transcript: the model too keeps nothing."""
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        self.asked[turn] += 1
        if self._is_now(turn, "before the answer"):
            self.fatal.set()
            return Answer(hang=True)
        if self._is_now(turn, "after the answer"):
            asyncio.get_running_loop().call_later(random.uniform(0, 0.05), self.fatal.set)
        return said(turn)

    async def program(self, work: Any) -> dict[str, Any]:
        """The sandbox's part; the agent may die meanwhile."""
        turn = int(work["spec"]["key"].split("-")[2])
        if self._is_now(turn, "while a program runs"):
            self.fatal.set()
            await self.back.wait()
        return echo(work)

    def _is_now(self, turn: int, moment: Moment) -> bool:
        if self.at != (turn, moment):
            return False
        self.at = None
        return True

    async def play(self, *at: tuple[int, Moment]) -> int:
        """A goal of one task, worked on while the agent dies at these moments; how often its model was asked."""
        self.asked.clear()
        task = {
            "key": "long", "lane": "agent.coder", "instruction": "Work in ten turns", "max_failures": 50,
            "outputs": [{"name": "report"}],
        }  # fmt: skip
        self.at = at[0]
        goal = await self.system.submit(plan={"tasks": [task]})
        for number in range(len(at)):
            await self.fatal.wait()
            assert self.agent is not None
            await self.system.kill(self.agent)
            self.fatal.clear()
            self.at = at[number + 1] if number + 1 < len(at) else None
            self.start_agent()
            self.back.set()
        ended = await self.system.finished(goal, 60)
        self.back.clear()
        assert ended["status"] == "done"
        assert ended["deliverables"]["report"]["inline"] == "It is done."
        assert sorted(self.asked) == list(range(TURNS))
        succeeded = [
            e["data"]["key"] for e in await self.system.events(goal) if e["kind"] == "task.succeeded"
        ]
        assert succeeded.count("long") == 1
        return sum(self.asked.values())


@pytest.fixture
async def stage(nats_server: EmbeddedNats, postgres_dsn: str) -> AsyncIterator[Stage]:
    """Real NATS, Postgres, scheduler and agent; a model and a sandbox by script."""
    model = ModelServer()
    await model.start()
    settings = AgentSettings(
        openai_base_url=model.url, model="test-model", openai_api_key="sk-test-0123456789"
    )
    rows = [lane.model_copy(update={"lease_seconds": LEASE}) for lane in lanes(settings)]
    async with opened(
        nats_server, postgres_dsn, [HUMAN_LANE, Lane(name="exec", lease_seconds=60), *rows]
    ) as system:
        made = Stage(system, model)
        model.next(made.reply)
        await system.start_scheduler()
        system.perform("exec", made.program, client="service")
        made.start_agent()
        yield made
    await model.stop()


async def test_agent_that_dies_in_a_call_repeats_it_and_one_that_dies_while_it_waits_repeats_nothing(
    stage: Stage,
) -> None:
    asked = await stage.play((6, "while a program runs"), (7, "before the answer"))
    assert stage.asked[7] == 2
    assert asked == TURNS + 1
    drafts = [
        message["content"] for message in stage.model.sent() if '"text": "draft' in str(message["content"])
    ]
    assert len(drafts) == 3, "what was read before the deaths is still told after them"


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_kill_at_every_moment_of_ten_turns_repeats_one_call_at_most(stage: Stage) -> None:
    moments: list[tuple[int, Moment]] = [(turn, "before the answer") for turn in range(TURNS)]
    moments += [(turn, "after the answer") for turn in range(TURNS)]
    moments += [(turn, "while a program runs") for turn in range(TURNS - 1) if program_runs(turn)]
    for at in moments:
        asked = await stage.play(at)
        assert asked <= TURNS + (at[1] != "while a program runs"), at
