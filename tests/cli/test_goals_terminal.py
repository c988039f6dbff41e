"""Following a goal on a real terminal: the live tree, questions, Ctrl-C, NO_COLOR."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from support.command import Terminal
from support.goal_scripts import BEGIN, REPAIR, WHOLE, finish
from support.scripted import ScriptedScheduler, Step, scripted_scheduler

ASKED: Step = (
    "approval.requested",
    "7",
    {"key": "ask-1", "text": "May it be published?", "options": ["yes", "no"], "default": "no"},
)
ANSWERED: list[Step] = [
    ("wait", None, {"verb": "answer"}),
    ("approval.answered", "7", {"answer": "yes"}),
    finish(),
]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
async def scheduler(nats_server: EmbeddedNats) -> AsyncIterator[ScriptedScheduler]:
    async with scripted_scheduler(nats_server.service_url) as scripted:
        yield scripted


async def test_the_live_tree_is_drawn_and_the_end_stays(
    scheduler: ScriptedScheduler, nats_server: EmbeddedNats
) -> None:
    scheduler.add("g", script=WHOLE)
    terminal = await Terminal.start("watch", "g", url=nats_server.client_url, columns=120)
    assert await terminal.end() == 0
    for said in ("Draw the charts", "coder repairs it", "revision 1 adds Explain the bad dates", "report.md"):
        assert said in terminal.text
    assert COLOUR.search(terminal.text)


async def test_no_color_leaves_no_colour_in_the_live_tree(
    scheduler: ScriptedScheduler, nats_server: EmbeddedNats
) -> None:
    scheduler.add("g", script=WHOLE)
    terminal = await Terminal.start("watch", "g", url=nats_server.client_url, env={"NO_COLOR": "1"})
    assert await terminal.end() == 0
    assert "Draw the charts" in terminal.text
    assert not COLOUR.search(terminal.text)


async def test_a_dumb_terminal_gets_lines_without_escape_codes(
    scheduler: ScriptedScheduler, nats_server: EmbeddedNats
) -> None:
    scheduler.add("g", script=WHOLE)
    terminal = await Terminal.start(
        "watch", "g", url=nats_server.client_url, env={"TERM": "dumb", "NO_COLOR": "1"}
    )
    assert await terminal.end() == 0
    assert "started   Draw the charts (coder)" in terminal.text
    assert "\x1b" not in terminal.text


async def test_a_question_is_asked_on_the_terminal(
    scheduler: ScriptedScheduler, nats_server: EmbeddedNats
) -> None:
    scheduler.add("g", script=[*BEGIN, ASKED, *ANSWERED])
    terminal = await Terminal.start("watch", "g", url=nats_server.client_url)
    await terminal.shows("? May it be published? [yes | no] (Enter: no):")
    terminal.type("yes\n")
    assert await terminal.end() == 0
    assert scheduler.controls == [("answer", {"goal_id": "g", "task_id": "7", "answer": "yes"})]


async def test_enter_takes_the_default_of_a_question(
    scheduler: ScriptedScheduler, nats_server: EmbeddedNats
) -> None:
    scheduler.add("g", script=[*BEGIN, ASKED, *ANSWERED])
    terminal = await Terminal.start("watch", "g", url=nats_server.client_url)
    await terminal.shows("(Enter: no):")
    terminal.type("\n")
    assert await terminal.end() == 0
    assert scheduler.controls[0][1]["answer"] == "no"


async def test_a_question_answered_elsewhere_is_taken_back(
    scheduler: ScriptedScheduler, nats_server: EmbeddedNats
) -> None:
    goal = scheduler.add("g", script=[*BEGIN, ASKED])
    terminal = await Terminal.start("watch", "g", url=nats_server.client_url)
    await terminal.shows("(Enter: no):")
    await scheduler.play(goal.goal_id, [("approval.answered", "7", {"answer": "yes"}), *REPAIR, finish()])
    assert await terminal.end() == 0
    assert scheduler.controls == []


async def test_an_empty_purse_is_filled_on_the_terminal(
    scheduler: ScriptedScheduler, nats_server: EmbeddedNats
) -> None:
    paused: list[Step] = [
        ("budget.exhausted", None, {}),
        ("goal.paused", None, {"reason": "budget"}),
        ("wait", None, {"verb": "budget"}),
        ("goal.resumed", None, {}),
        finish(),
    ]
    scheduler.add("g", script=[*BEGIN, *paused])
    terminal = await Terminal.start("watch", "g", url=nats_server.client_url)
    await terminal.shows("New budget in USD")
    terminal.type("lots\n")
    await terminal.shows("'lots' is no amount")
    terminal.type("+0.25\n")
    assert await terminal.end() == 0
    assert scheduler.controls == [("budget", {"goal_id": "g", "budget_usd": 1.25})]


async def test_interrupting_the_live_tree_detaches(
    scheduler: ScriptedScheduler, nats_server: EmbeddedNats
) -> None:
    scheduler.add("g", script=BEGIN)
    terminal = await Terminal.start("watch", "g", url=nats_server.client_url)
    await terminal.shows("Load the table")
    terminal.type("\x03")
    assert await terminal.end() == 130
    assert terminal.text.rstrip().endswith("goalwright watch g")
    assert "\x1b[?25h" in terminal.text, "the cursor is shown again"


async def test_interrupting_while_a_question_is_open_detaches(
    scheduler: ScriptedScheduler, nats_server: EmbeddedNats
) -> None:
    scheduler.add("g", script=[*BEGIN, ASKED])
    terminal = await Terminal.start("watch", "g", url=nats_server.client_url)
    await terminal.shows("(Enter: no):")
    terminal.interrupt()
    assert await terminal.end() == 130
    assert scheduler.controls == []
