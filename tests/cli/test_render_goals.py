"""What a goal looks like on a terminal: fits its size, needs no colour, cannot be taken over."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path

import pytest
from goalwright_cli import render, report, tree, view, words
from goalwright_cli.files import Delivered
from goalwright_cli.render import Bill
from goalwright_cli.view import GoalView, TaskView
from goalwright_shared.messages import Event
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from support.goal_scripts import BEGIN, REPAIR, WHOLE
from support.scripted import START, Step, make_event

NOW = START + timedelta(minutes=2)


def play(script: list[Step]) -> tuple[GoalView, list[tuple[GoalView, Event]]]:
    """The last view, and each event with the view after it."""
    seen, steps = GoalView("g"), []
    for seq, (kind, task, data) in enumerate(script, 1):
        event = make_event("g", seq, kind, task, **data)
        seen = view.apply(seen, event)
        steps.append((seen, event))
    return seen, steps


def thousand() -> GoalView:
    """Half of a thousand tasks done, six at work."""
    states = ["succeeded"] * 500 + ["dispatched"] * 5 + ["expanded"] + ["blocked"] * 494
    tasks = {
        str(n): TaskView(str(n), f"k{n}", n, title=f"Read file number {n}", lane="agent.analyst", state=state,
                         since=START, parent="root", needs=(str(n - 400),) if n > 500 else (), summary="read")
        for n, state in enumerate(states)
    }  # fmt: skip
    tasks["child"] = TaskView("child", "program-1", 2000, lane="exec", parent="505", state="dispatched")
    return GoalView("g", status="running", root="root", tasks=tasks, budget_usd=1.0, started=START)


def plain(lines: list[Text]) -> list[str]:
    return [line.plain for line in lines]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("height", [3, 10, 24, 40])
@pytest.mark.parametrize("seen", [play(WHOLE)[0], play([*BEGIN, *REPAIR[:5]])[0], thousand()])
def test_the_screen_fits_the_terminal(seen: GoalView, width: int, height: int) -> None:
    lines = render.screen(seen, NOW, width, height).split("\n")
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width


def test_a_thousand_tasks_stay_readable() -> None:
    shown = render.screen(thousand(), NOW, 80, 20).plain
    for n in range(500, 506):
        assert f"Read file number {n}" in shown
    assert "└─ ● program-1" in shown
    assert "succeeded" in shown
    assert "more waiting" in shown
    assert "500 done  6 running  494 waiting" in shown


def test_every_open_task_says_what_it_waits_for() -> None:
    seen, _ = play([*BEGIN, *REPAIR[:3]])
    seen = view.with_note(seen, "nobody", "x")
    told = {task.key: render.detail(task, seen, NOW) for task in seen.tasks.values()}
    assert told["load"] == "waits for program-1"
    assert told["chart"] == "waits for load"
    assert told["write"] == "waits for load, chart"
    assert told["program-1"] == "running"


def test_the_answer_of_why_is_shown_at_a_ready_task() -> None:
    seen, _ = play([*BEGIN, *REPAIR])
    seen = view.with_note(seen, "3", "3 ahead on agent.coder")
    assert render.detail(seen.tasks["3"], seen, NOW) == "3 ahead on agent.coder"


def test_headlines_tell_plan_failure_repair_and_replan_but_not_every_step() -> None:
    _, steps = play(WHOLE)
    told = "\n".join(line.plain for seen, event in steps for line in render.story(seen, event, every=False))
    for said in ("Contract", "amounts are in euros", "estimated $0.11 of $1.00", "coder repairs it",
                 "reflector no_evidence", "asks for another plan", "replan    revision 1"):  # fmt: skip
        assert said in told
    assert "started" not in told


def test_long_headlines_hang_and_end() -> None:
    event = make_event("g", 1, "replan.requested", "9", reason="because " * 200)
    lines = render.story(view.apply(GoalView("g"), event), event, every=False, width=80)
    assert len(lines) == 4
    assert all(line.cell_len <= 80 for line in lines)
    assert lines[1].plain.startswith(" " * 17)


HOSTILE = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["\x1b[2J\x1b[H", "\x9b31m", "a\r\nb", "\x07", "\u202e", "日本語の題名" * 5]
)


@given(HOSTILE)
@settings(max_examples=120, deadline=None)
def test_words_of_a_model_cannot_move_the_cursor(words: str) -> None:
    adopted: Step = (
        "plan.adopted",
        "1",
        {
            "contract": {"objective": words, "assumptions": [words]},
            "tasks": [{"task_id": "2", "key": words, "title": words, "lane": words, "needs": []}],
            "warnings": [words],
            "source": words,
        },
    )
    failed: Step = ("task.failed", "2", {"error": {"message": words}, "final": True})
    asked: Step = ("approval.requested", "3", {"text": words, "options": [words]})
    seen, steps = play([adopted, failed, asked, ("goal.finished", None, {"status": "done", "reason": words})])
    lines = [line for each, event in steps for line in render.story(each, event, every=True)]
    lines += [render.screen(seen, NOW, 80, 20)]
    lines += render.closing(seen, Bill(0), [Delivered(words, Path("x"), 1)], [], 80)
    for line in lines:
        for part in line.plain.split("\n"):
            assert not [c for c in part if ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e"]


def test_the_ending_says_what_there_is_what_it_cost_and_what_went_wrong() -> None:
    seen, _ = play(WHOLE)
    bill = Bill(0.067, 1.0, 0.0, 14, 28_000, 3_204, ("rehearsal",))
    told = plain(
        render.closing(seen, bill, [Delivered("report", Path("report.md"), 4100)], ["do this"], None)
    )
    assert told[1].startswith("done  g  00:")
    assert "  delivered     report.md (4.1 kB)" in told
    assert (
        "  cost          $0.0670 of $1.00, 14 calls, 31,204 tokens (28,000 in, 3,204 out), rehearsal" in told
    )
    assert any(line.startswith("  repair        “Load the table”") for line in told)
    assert any(line.startswith("  replan        revision 1 adds Explain the bad dates") for line in told)
    assert any("rehearsal model, no intelligence" in line for line in told)
    assert told[-1] == "  next          do this"


def test_a_real_model_gets_no_rehearsal_label() -> None:
    assert render.notes(Bill(1.0, models=("gpt-5-mini",))) == []


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0, "$0"), (0.0000004, "$0.0000"), (0.0021, "$0.0021"), (0.11, "$0.11"), (12.5, "$12.50")],
)
def test_money_has_as_many_decimals_as_say_something(usd: float, text: str) -> None:
    assert words.money(usd) == text


@pytest.mark.parametrize(("seconds", "text"), [(-1, "00:00"), (58.9, "00:58"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert words.clock(seconds) == text


@given(st.floats(0, 10**7))
def test_brief_durations_fit_their_column(seconds: float) -> None:
    assert len(words.brief(min(seconds, 99 * 3600))) <= 6


def test_no_colour_means_no_escape_codes() -> None:
    target = io.StringIO()
    console = Console(file=target, color_system=None, width=80)
    console.print(render.screen(thousand(), NOW, 80, 20))
    assert "\x1b" not in target.getvalue()


def test_drawing_a_thousand_tasks_is_fast_enough_for_eight_frames_a_second() -> None:
    seen = thousand()
    import time

    began = time.process_time()
    for _ in range(5):
        tree.rows(seen, 30)
    assert (time.process_time() - began) / 5 < 0.1


def test_the_story_tells_who_asks_whom_what_and_what_is_noted() -> None:
    ask = {"key": "ask-0-0", "lane": "agent.critic", "by": "total", "parent": "3"}
    talk: list[Step] = [
        ("note.posted", "3", {"author": "agent.coder", "key": "total", "text": "Prices are net."}),
        ("ask.requested", "9", ask | {"question": "Is it right?", "hops": 1}),
        ("ask.answered", "9", ask | {"status": "succeeded", "answer": "Yes.", "cost_usd": 0.002}),
        ("ask.answered", "9", ask | {"status": "dead", "answer": "", "cost_usd": 0}),
    ]
    _, steps = play([*BEGIN, *talk])
    told = [render.story(seen, event, every=True)[0].plain.split("  ", 1)[1] for seen, event in steps[-4:]]
    assert [" ".join(line.split()) for line in told] == [
        "note coder: Prices are net.",
        "asks total asks critic: Is it right?",
        "answers critic to total: Yes. ($0.0020)",
        "answers critic to total: no answer, dead",
    ]


def test_a_task_shows_what_it_asked_with_the_cost_and_a_goal_its_newest_notes() -> None:
    ask = {"task_id": "9", "key": "ask-0-0", "lane": "agent.critic", "by": "total", "state": "succeeded",
           "question": "Is it right?", "answer": "Yes.", "error": None, "cost_usd": 0.002}  # fmt: skip
    lost = ask | {"state": "dead", "answer": "", "error": {"code": "no", "message": "nobody knows"}}
    answer = {"key": "total", "state": "succeeded", "task_id": "3", "lane": "agent.coder", "cost_usd": 0.001,
              "asks": [ask, lost], "asked_usd": 0.004, "spec": {"asked": None}}  # fmt: skip
    lines = [" ".join(line.split()) for line in plain(report.task(answer, [], {}))]
    assert "cost $0.0010" in lines
    assert "asked 2 questions to other roles, $0.0040" in lines
    assert lines[lines.index("asked critic succeeded") :][:5] == [
        "asked critic succeeded", "id 9", "question Is it right?", "answer Yes.", "cost $0.0020",
    ]  # fmt: skip
    assert "error nobody knows" in lines
    other = {
        "key": "ask-0-0",
        "state": "ready",
        "task_id": "9",
        "lane": "agent.critic",
        "spec": {"asked": {"by": "total"}},
    }
    assert "asked by total" in [" ".join(line.split()) for line in plain(report.task(other, [], {}))]
    notes = [{"author": "agent.coder", "key": "total", "text": f"note {at}"} for at in range(30, 0, -1)]
    found = {
        "goal_id": "g",
        "status": "running",
        "notes": [{"author": "person", "key": None, "text": "go"}, *notes],
    }
    shown = [line for line in plain(report.goal(found, Bill(0.0))) if "note" in line or "person" in line]
    assert len(shown) == 10
    assert "person: go" in shown[0]
    assert "coder (total): note 30" in shown[1]
