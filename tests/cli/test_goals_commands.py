"""The commands for goals against a scripted scheduler on a real NATS: what they send, show and end with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from support.command import Command, goalwright, invoke
from support.goal_scripts import BEGIN, PLAN, WHOLE, finish
from support.scripted import ScriptedScheduler, Step, scripted_scheduler, text_ref

ASKED: Step = (
    "approval.requested",
    "7",
    {"key": "ask-1", "text": "May it be published?", "options": ["yes", "no"], "default": None},
)


@pytest.fixture
async def scheduler(nats_server: EmbeddedNats) -> AsyncIterator[ScriptedScheduler]:
    """A scheduler that plays a whole goal for everything it is given."""
    async with scripted_scheduler(nats_server.service_url, WHOLE) as scripted:
        yield scripted


@pytest.fixture
def url(nats_server: EmbeddedNats) -> str:
    """The address with no more than a client's rights."""
    return nats_server.client_url


async def test_run_shows_the_whole_story_and_ends_with_the_folder(
    scheduler: ScriptedScheduler, url: str, tmp_path: Path
) -> None:
    ran = await goalwright("run", "Report on sales", "--out", str(tmp_path / "out"), url=url)
    assert ran.code == 0, ran.err
    assert ran.lines[-1] == str(tmp_path / "out")
    assert (tmp_path / "out" / "report.md").read_text() == "# Sales\n\nThey grew.\n"
    for said in (
        "objective     Report on the sales",
        "assumption    amounts are in euros",
        "Plan  3 tasks, estimated $0.11 of $1.00",
        "program-1 (exec): exit code 1: KeyError: 'amount'; coder repairs it",
        "replan    revision 1 adds Explain the bad dates: 3 bad dates are not explained",
        "delivered     report.md (20 B)",
        "cost          $0.0670 of $1.00, 1 call, 999 tokens (900 in, 99 out), m",
        "repair        “Load the table”: its program failed (exit code 1: KeyError: 'amount') and was repaired",
        "next          goalwright graph goal-1",
    ):
        assert said in ran.out
    assert "\x1b" not in ran.out


async def test_run_sends_files_inline_or_as_objects(
    scheduler: ScriptedScheduler, url: str, tmp_path: Path
) -> None:
    small, large = tmp_path / "my notes.txt", tmp_path / "sales.csv"
    small.write_text("short")
    large.write_text("day,amount\n" + "1,10\n" * 4000)
    ran = await goalwright(
        "run", "Look", "--file", str(small), "--file", str(large), "--budget", "0.5", "--deadline", "600",
        "--out", str(tmp_path / "out"), url=url,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    sent = scheduler.submissions[0]
    assert (sent["text"], sent["budget_usd"], sent["deadline_seconds"]) == ("Look", 0.5, 600)
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    assert sent["inputs"] == [
        {"name": "my_notes", "type": "text", "media_type": "text/plain", "inline": "short"},
        {"name": "sales", "type": "table", "media_type": "text/csv", "object": digest},
    ]


async def test_run_without_a_goal_submits_the_example(
    scheduler: ScriptedScheduler, url: str, tmp_path: Path
) -> None:
    ran = await goalwright("run", "--out", str(tmp_path), url=url)
    assert ran.code == 0, ran.err
    sent = scheduler.submissions[0]
    assert {item["name"] for item in sent["deliverables"]} >= {"report", "summary"}
    assert [item["name"] for item in sent["inputs"]] == ["clock_changes"]


async def test_run_with_a_file_alone_profiles_that_file(
    scheduler: ScriptedScheduler, url: str, tmp_path: Path
) -> None:
    own = tmp_path / "own.csv"
    own.write_text("a,b\n1,2\n")
    await goalwright("run", "--file", str(own), "--out", str(tmp_path), url=url)
    sent = scheduler.submissions[0]
    assert [item["name"] for item in sent["inputs"]] == ["own"]
    assert "clock" not in sent["text"]


async def test_run_prints_one_json_document(scheduler: ScriptedScheduler, url: str, tmp_path: Path) -> None:
    ran = await goalwright("run", "Report", "--json", "--out", str(tmp_path / "o"), url=url)
    told = json.loads(ran.out)
    assert (ran.code, told["exit_code"], told["status"]) == (0, 0, "done")
    assert told["files"][0]["path"] == str(tmp_path / "o" / "report.md")
    assert told["cost"]["tokens_in"] == 900
    assert [replan["revision"] for replan in told["replans"]] == [1]


@pytest.mark.parametrize(
    ("script", "options", "code"),
    [
        ([*BEGIN, finish("failed", "task load failed: no column amount")], [], 1),
        ([*BEGIN, finish("partial", "budget exhausted, and nobody answered in time")], [], 6),
        ([*BEGIN, ASKED], ["--no-wait"], 5),
        ([*BEGIN, ("goal.paused", None, {"reason": "budget"})], ["--no-wait"], 6),
        (BEGIN, ["--timeout", "0.3"], 7),
    ],
)  # fmt: skip
async def test_watch_ends_with_the_code_of_what_happened(
    scheduler: ScriptedScheduler, url: str, script: list[Step], options: list[str], code: int
) -> None:
    scheduler.add("g", script=script)
    ran = await goalwright("watch", "g", *options, url=url)
    assert ran.code == code, ran.out + ran.err


async def test_watch_replays_a_goal_that_has_ended(scheduler: ScriptedScheduler, url: str) -> None:
    await scheduler.play(scheduler.add("g", script=[]).goal_id, WHOLE)
    ran = await goalwright("watch", "g", url=url)
    assert ran.code == 0
    assert ran.lines[0].endswith("goal g")
    assert "replan    revision 1" in ran.out


async def test_watch_of_a_goal_whose_events_are_gone_tells_its_end(
    scheduler: ScriptedScheduler, url: str
) -> None:
    goal = scheduler.add("old", script=[])
    goal.status, goal.deliverables = "done", {"report": text_ref("report", "# Old")}
    ran = await goalwright("watch", "old", url=url)
    assert ran.code == 0
    assert "delivered     report.md (" in ran.out


async def test_interrupting_detaches_and_says_how_to_come_back(
    scheduler: ScriptedScheduler, url: str
) -> None:
    scheduler.add("g", script=BEGIN)
    watching = await Command.start("watch", "g", url=url)
    await watching.line_with("Plan  3 tasks")
    watching.interrupt()
    ran = await watching.end()
    assert ran.code == 130
    assert ran.lines[-1].strip() == "goalwright watch g"
    assert scheduler.controls == []


async def test_a_question_without_a_terminal_says_how_to_answer(
    scheduler: ScriptedScheduler, url: str
) -> None:
    scheduler.add("g", script=[*BEGIN, ASKED, ("wait", None, {"verb": "answer"}), finish()])
    watching = await Command.start("watch", "g", url=url)
    line = await watching.line_with("May it be published?")
    assert "[yes | no]" in line
    assert line.rstrip().endswith("goalwright answer g 7 TEXT")
    goal = scheduler.goals["g"]
    goal.tasks.append({"task_id": "7", "key": "ask-1", "lane": "human", "state": "parked", "parent": None})
    answered = await invoke("answer", "g", "ask-1", "yes", url=url)
    assert answered.code == 0, answered.err
    assert (await watching.end()).code == 0
    assert scheduler.controls == [("answer", {"goal_id": "g", "task_id": "7", "answer": "yes"})]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["status", "nope"], 4, "no goal nope. Fix: `goalwright ls` lists them"),
        (["why", "g", "nope"], 4, "goal g has no task nope. Fix: its tasks are chart, load, write"),
        (["run", ""], 2, "the goal is empty"),
        (["run", "x", "--example"], 2, "not both"),
        (["run", "x", "--file", "/no/such/file"], 2, "does not exist"),
        (["budget", "g", "lots"], 2, "'lots' is no amount"),
        (["allow", "acme", "lots"], 2, "'lots' is no amount; say 20, or none"),
        (["feedback", "g"], 2, "give a TEXT, a --rating, or both"),
    ],
)
async def test_mistakes_end_with_their_code_and_the_fix(
    scheduler: ScriptedScheduler, url: str, args: list[str], code: int, said: str
) -> None:
    scheduler.add("g", script=[]).tasks = [{**row, "state": "ready", "parent": None} for row in PLAN]
    ran = await invoke(*args, url=url)
    assert ran.code == code, ran.out + ran.err
    assert said in " ".join(ran.err.replace("│", " ").split())
    assert "Traceback" not in ran.err


async def test_without_nats_every_command_ends_with_3_and_the_fix() -> None:
    ran = await goalwright("ls", url="nats://client:secret@127.0.0.1:1")
    assert ran.code == 3
    assert "no NATS server answers at nats://127.0.0.1:1" in ran.err
    assert "goalwright up" in ran.err
    assert "secret" not in ran.err


async def test_without_a_scheduler_commands_end_with_3(nats_server: EmbeddedNats) -> None:
    ran = await invoke("ls", "--json", url=nats_server.client_url)
    assert ran.code == 3
    assert json.loads(ran.out)["error"]["code"] == "no_answer"


async def test_a_refused_submission_names_the_field(scheduler: ScriptedScheduler, url: str) -> None:
    scheduler.refusal = {"code": "bad_field", "message": "budget too small", "field": "budget_usd"}
    ran = await invoke("submit", "x", url=url)
    assert ran.code == 2
    assert "budget too small (field budget_usd)" in ran.err


async def test_submit_prints_the_id_alone_on_stdout(scheduler: ScriptedScheduler, url: str) -> None:
    ran = await invoke("submit", "Report", "--id", "mine", url=url)
    assert (ran.code, ran.out) == (0, "mine\n")
    again = await invoke("submit", "Report", "--id", "mine", "--json", url=url)
    assert json.loads(again.out)["duplicate"] is True


async def test_goals_are_found_by_a_start_of_their_id_or_as_the_latest(
    scheduler: ScriptedScheduler, url: str
) -> None:
    scheduler.add("alpha-1", script=[])
    scheduler.add("beta-2", script=[])
    assert json.loads((await invoke("status", "alp", "--json", url=url)).out)["goal_id"] == "alpha-1"
    assert json.loads((await invoke("status", "-", "--json", url=url)).out)["goal_id"] == "beta-2"


async def test_reads_are_lines_for_people(scheduler: ScriptedScheduler, url: str) -> None:
    await scheduler.play(scheduler.add("g", "Report on sales", script=[]).goal_id, WHOLE)
    listed = await invoke("ls", url=url)
    assert "g  done" in listed.out
    assert "Report on sales" in listed.out
    tree = await invoke("graph", "g", url=url)
    assert [line for line in tree.lines if "Draw the charts" in line]
    mermaid = await invoke("graph", "g", "--format", "mermaid", url=url)
    assert mermaid.lines[0] == "flowchart TD"
    assert "  t2 --> t3" in mermaid.lines
    listing = await invoke("artifacts", "g", url=url)
    assert listing.lines == ["report  text  20 B  text/markdown  maker"]


async def test_artifacts_are_fetched_into_a_folder(
    scheduler: ScriptedScheduler, url: str, tmp_path: Path
) -> None:
    await scheduler.play(scheduler.add("g", script=[]).goal_id, WHOLE)
    ran = await invoke("artifacts", "g", "--out", str(tmp_path / "got"), url=url)
    assert ran.lines[-1] == str(tmp_path / "got")
    assert (tmp_path / "got" / "report.md").exists()


@pytest.mark.parametrize(
    ("args", "verb", "body"),
    [
        (["pause", "g"], "pause", {}),
        (["resume", "g"], "resume", {}),
        (["cancel", "g", "-m", "too late"], "cancel", {"reason": "too late"}),
        (["retry", "g", "chart"], "retry", {"task_id": "3"}),
        (["skip", "g", "3"], "skip", {"task_id": "3"}),
        (["replan", "g", "no charts"], "replan", {"reason": "no charts"}),
        (["budget", "g", "+0.5"], "budget", {"budget_usd": 1.5}),
        (["feedback", "g", "--rating", "0.5", "good"], "feedback", {"text": "good", "rating": 0.5}),
    ],
)
async def test_steering_is_one_request(
    scheduler: ScriptedScheduler, url: str, args: list[str], verb: str, body: dict[str, object]
) -> None:
    scheduler.add("g", script=[]).tasks = [{**row, "state": "dead", "parent": None} for row in PLAN]
    ran = await invoke(*args, url=url)
    assert ran.code == 0, ran.err
    assert scheduler.controls == [(verb, {"goal_id": "g", **body})]


@pytest.mark.parametrize(
    ("args", "body", "said"),
    [
        (
            ["acme", "20"],
            {"budget_usd": 20.0, "per": "total"},
            "acme may spend 20 USD in total; 1.5 USD of it are",
        ),
        (["acme", "$5", "--per", "day"], {"budget_usd": 5.0, "per": "day"}, "acme may spend 5 USD a day"),
        (["acme", "none"], {"budget_usd": None, "per": "total"}, "owner acme has no limit"),
    ],
)
async def test_owner_is_allowed_so_much(
    scheduler: ScriptedScheduler, url: str, args: list[str], body: dict[str, object], said: str
) -> None:
    scheduler.answers["control.budget"] = {"owner": "acme", "spent_usd": 1.25, "held_usd": 0.25}
    ran = await invoke("allow", *args, url=url)
    assert ran.code == 0, ran.err
    assert scheduler.controls == [("budget", {"owner": "acme", **body})]
    assert said in ran.out


async def test_task_shows_prompt_reply_bill_and_program(scheduler: ScriptedScheduler, url: str) -> None:
    goal = scheduler.add("g", script=[])
    goal.tasks = [{**PLAN[0], "state": "succeeded", "parent": None}]
    call = {"prompt": text_ref("prompt", "Write a\nprogram"), "reply": text_ref("reply", "print(1)")}
    program = {"exit_code": 1, "signal": None, "limit": None, "wall_seconds": 0.5, "stderr": "Key\x1b[2J"}
    attempts = [
        {"epoch": 1, "kind": "expand", "error": None, "call": call, "program": None},
        {"epoch": 2, "kind": "failed", "error": {"message": "exit code 1"}, "call": None, "program": program},
    ]
    entry = {"task_id": "2", "epoch": 1, "usd": 0.01, "model": "m", "tokens_in": 900, "tokens_out": 99}
    scheduler.answers["query.task"] = {**goal.tasks[0], "attempts": attempts, "cost_usd": 0.01}
    scheduler.answers["query.ledger"] = {"entries": [entry]}
    ran = await invoke("task", "g", "load", url=url)
    assert ran.code == 0, ran.err
    for said in (
        "load  succeeded",
        "attempt 1: expand",
        "    Write a\n    program",
        "    print(1)",
        "m, 900 tokens in, 99 out, $0.0100",
        "attempt 2: failed",
        "exit code 1, 0.50 s",
        "    Key[2J",
    ):
        assert said in ran.out
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("arguments", ["[1]", '"x"', "{", "null"])
async def test_task_shows_a_reply_that_calls_a_tool_as_no_tool_can_be_called(
    scheduler: ScriptedScheduler, url: str, arguments: str
) -> None:
    goal = scheduler.add("g", script=[])
    goal.tasks = [{**PLAN[0], "state": "succeeded", "parent": None}]
    called = {"function": {"name": "run_program", "arguments": arguments}}
    said = json.dumps({"choices": [{"message": {"role": "assistant", "tool_calls": [called]}}]})
    attempt = {"epoch": 1, "kind": "failed", "error": None, "call": {"reply": text_ref("reply", said)}}
    scheduler.answers["query.task"] = {**goal.tasks[0], "attempts": [attempt]}
    scheduler.answers["query.ledger"] = {"entries": []}
    ran = await invoke("task", "g", "load", url=url)
    assert ran.code == 0, ran.err
    assert "run_program" in ran.out


async def test_logs_follow_a_goal_until_it_ends(scheduler: ScriptedScheduler, url: str) -> None:
    goal = scheduler.add("g", script=[*BEGIN, ("wait", None, {"verb": "pause"}), finish()])
    watching = await Command.start("logs", "g", url=url)
    said = b"reading\n\x1b[2Jrows"
    line = await scheduler.say_until("logs.public.g.2", said, watching.line_with("reading"))
    assert line == "load  reading\n"
    assert await watching.line_with("rows") == "load  [2Jrows\n"
    assert goal.tasks
    await invoke("pause", "g", url=url)
    assert (await watching.end()).code == 0


async def test_watch_goes_on_after_nats_was_restarted(
    scheduler: ScriptedScheduler, url: str, nats_server: EmbeddedNats
) -> None:
    goal = scheduler.add("g", script=BEGIN)
    watching = await Command.start("watch", "g", url=url)
    await watching.line_with("Plan  3 tasks")
    await nats_server.stop()
    await nats_server.start()
    await scheduler.reconnected()
    await scheduler.play(goal.goal_id, [*WHOLE[len(BEGIN) :]])
    ran = await watching.end()
    assert ran.code == 0, ran.err
    assert ran.out.count("replan    revision 1") == 1, "told once, though it was read twice"
