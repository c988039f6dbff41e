"""What people and the reflector may ask of a goal, and what it answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from support.system import System, chain, echo, wait_for

QUESTION = {"key": "ask", "lane": "human", "outputs": [{"name": "said"}], "question": {"text": "Shall we?"}}


def use(name: str) -> dict[str, Any]:
    return {"key": "use", "lane": "custom.a", "inputs": [name], "outputs": [{"name": "out"}]}


async def test_paused_goal_dispatches_nothing_until_resumed(system: System) -> None:
    await system.start_scheduler()
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y")})
    other = await system.submit(plan={"tasks": chain("custom.a", "other")})
    assert (await system.request("control.pause", {"goal_id": goal}))["ok"]
    system.perform("custom.a")
    assert (await system.finished(other))["status"] == "done"
    assert [key for key, _, _ in system.performed] == ["other"]
    why = await system.request("query.why", {"goal_id": goal, "task_id": "x"})
    assert why["reason"] == "goal_paused"
    assert (await system.request("control.resume", {"goal_id": goal}))["changed"]
    assert (await system.finished(goal))["status"] == "done"


async def test_cancel_reaches_running_work_and_ends_the_goal(system: System) -> None:
    await system.start_scheduler()
    heard: list[str] = []
    subscription = await system.client.subscribe("cancel.*")
    started = asyncio.Event()

    async def answer(work: Any) -> dict[str, Any] | None:
        started.set()
        message = await subscription.next_msg(timeout=10)
        heard.append(message.subject.removeprefix("cancel.") + "/" + work["task_id"])
        return None

    system.perform("custom.a", answer, slots=1)
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y")})
    await started.wait()
    assert (await system.request("control.cancel", {"goal_id": goal, "reason": "enough"}))["changed"]
    ended = await system.finished(goal)
    assert (ended["status"], ended["reason"]) == ("cancelled", "enough")

    async def cancel_was_heard() -> bool:
        return bool(heard)

    await wait_for(cancel_was_heard)
    told, own = heard[0].split("/")
    assert told == own


async def test_question_is_asked_answered_and_its_answer_used(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    goal = await system.submit(plan={"tasks": [QUESTION, use("said")]})

    async def asked() -> Any:
        return (await system.request("query.inbox", {}))["questions"]

    (question,) = await wait_for(asked)
    assert (question["text"], question["goal_id"]) == ("Shall we?", goal)
    answer = {"goal_id": goal, "task_id": question["task_id"], "answer": "we shall"}
    assert (await system.request("control.answer", answer))["ok"]
    ended = await system.finished(goal)
    assert ended["deliverables"]["out"]["inline"] == "use(said=we shall)"
    again = await system.request("control.answer", answer)
    assert again["error"]["code"] in ("not_asked", "goal_ended")


async def test_unanswered_question_takes_its_default(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    question = {**QUESTION, "question": {"text": "?", "default": "yes", "timeout_seconds": 0.2}}
    goal = await system.submit(plan={"tasks": [question, use("said")]})
    assert (await system.finished(goal))["deliverables"]["out"]["inline"] == "use(said=yes)"


async def test_unanswered_question_without_default_fails(system: System) -> None:
    await system.start_scheduler()
    question = {**QUESTION, "question": {"text": "?", "timeout_seconds": 0.2}}
    goal = await system.submit(plan={"tasks": [question]})
    ended = await system.finished(goal)
    assert (ended["status"], "nobody answered" in ended["reason"]) == ("failed", True)


async def test_skip_skips_a_task_and_what_needs_it(system: System) -> None:
    await system.start_scheduler()
    goal = await system.submit(plan={"tasks": [*chain("custom.b", "x", "y"), *chain("custom.a", "z")]})
    assert (await system.request("control.skip", {"goal_id": goal, "task_id": "x"}))["skipped"] == 2
    system.perform("custom.a")
    ended = await system.finished(goal)
    assert ended["missing"] == ["o-y"]
    assert ended["deliverables"]["o-z"]


async def test_retry_clones_a_dead_task_and_its_skipped_dependants(system: System) -> None:
    await system.start_scheduler()
    release = asyncio.Event()

    async def answer(work: Any) -> dict[str, Any]:
        key = work["spec"]["key"]
        if key == "x":
            return {"kind": "failed", "error": {"code": "no", "message": "cannot"}}
        if key == "hold":
            await release.wait()
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [*chain("custom.a", "x", "y"), *chain("custom.a", "hold")]})
    await system.until(goal, "y", "skipped")
    answered = await system.request("control.retry", {"goal_id": goal, "task_id": "x"})
    assert answered["added"] == ["x.r1", "y.r1"], answered
    release.set()
    ended = await system.finished(goal)
    assert ended["status"] == "done"
    assert ended["deliverables"]["o-y"]["inline"] == "y.r1(o-x=x.r1())"


async def test_replan_revises_the_plan_while_it_runs(system: System) -> None:
    await system.start_scheduler()
    replans: list[Any] = []
    release = asyncio.Event()

    def plan(work: Any) -> dict[str, Any]:
        asked = work["spec"]["params"]["replan"]
        replans.append(asked)
        add = {"key": "better", "lane": "custom.a", "inputs": ["o-x"], "outputs": [{"name": "o-y"}]}
        operations = [{"op": "drop", "key": "y", "reason": "worse"}, {"op": "add", "task": add}]
        return {"kind": "revise", "operations": operations, "summary": "better",
                **{name: asked[name] for name in ("target_task_id", "generation", "base_revision")}}  # fmt: skip

    async def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] == "x":
            await release.wait()
        return echo(work)

    system.perform("custom.a", answer)
    system.perform("plan", plan, client="service")
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y")})
    asked = await system.request("control.replan", {"goal_id": goal, "reason": "there is a better way"})
    assert asked["ok"], asked
    await system.until(goal, "y", "cancelled")
    release.set()
    ended = await system.finished(goal)
    assert ended["deliverables"]["o-y"]["inline"] == "better(o-x=x())"
    revised = [e for e in await system.events(goal) if e["kind"] == "plan.revised"]
    assert [(e["data"]["revision"], e["data"]["summary"]) for e in revised] == [(1, "better")]
    assert replans[0]["reason"] == "there is a better way"


async def test_dead_task_that_asks_for_a_replan_gets_one(system: System) -> None:
    await system.start_scheduler()

    def plan(work: Any) -> dict[str, Any]:
        asked = work["spec"]["params"]["replan"]
        assert "cannot" in asked["reason"]
        add = {"key": "other-way", "lane": "custom.a", "outputs": [{"name": "o-x"}]}
        return {"kind": "revise", "operations": [{"op": "add", "task": add}],
                **{name: asked[name] for name in ("target_task_id", "generation", "base_revision")}}  # fmt: skip

    def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] == "x":
            return {"kind": "failed", "error": {"code": "no", "message": "cannot"}}
        return echo(work)

    system.perform("custom.a", answer)
    system.perform("plan", plan, client="service")
    tasks = chain("custom.a", "x", "y")
    tasks[0]["on_dead"] = "replan"
    goal = await system.submit(plan={"tasks": tasks})
    ended = await system.finished(goal)
    assert ended["status"] == "done"
    assert ended["deliverables"]["o-y"]["inline"] == "y(o-x=other-way())"


async def test_failed_replan_skips_what_the_dead_task_held_up(system: System) -> None:
    await system.start_scheduler()
    no = {"kind": "failed", "error": {"code": "no", "message": "cannot"}}
    system.perform("custom.a", lambda work: no)
    system.perform("plan", lambda work: no, client="service")
    tasks = chain("custom.a", "x", "y")
    tasks[0]["on_dead"] = "replan"
    goal = await system.submit(plan={"tasks": tasks})
    ended = await system.finished(goal)
    assert ended["status"] == "failed"
    assert (await system.task(goal, "y"))["state"] == "skipped"


async def test_signal_counts_once(system: System) -> None:
    await system.start_scheduler()
    goal = await system.submit(plan={"tasks": chain("custom.a", "x")})
    signal = {
        "goal_id": goal,
        "signal_id": "s1",
        "signal": "repetition",
        "message": "again",
        "evidence": ["e1"],
    }
    assert (await system.request("control.signal", signal))["new"] is True
    assert (await system.request("control.signal", signal))["new"] is False
    stop = {**signal, "signal_id": "s2", "action": "stop_loop"}
    assert (await system.request("control.signal", stop))["new"] is True
    assert (await system.finished(goal))["status"] == "stopped_loop"
    signalled = [e["data"] for e in await system.events(goal) if e["kind"] == "reflection.signalled"]
    assert [(s["signal"], s["evidence"]) for s in signalled] == [("repetition", ["e1"])] * 2


async def test_at_most_one_review_is_open(system: System) -> None:
    await system.start_scheduler()
    goal = await system.submit(plan={"tasks": chain("custom.a", "x")})
    first = await system.request("control.review", {"goal_id": goal, "reason": "time"})
    second = await system.request("control.review", {"goal_id": goal, "reason": "time"})
    assert (first["new"], second["new"]) == (True, False)
    assert first["task_id"] == second["task_id"]


async def test_feedback_becomes_a_note_that_models_read(system: System) -> None:
    await system.start_scheduler()
    notes: list[Any] = []

    def judge(work: Any) -> dict[str, Any]:
        notes.extend(work["notes"])
        return echo(work)

    goal = await system.submit(plan={"tasks": [{**chain("agent.judge", "x")[0]}]})
    assert (
        await system.request("control.feedback", {"goal_id": goal, "text": "shorter, please", "rating": 3})
    )["ok"]
    system.perform("agent.judge", judge, client="service")
    await system.finished(goal)
    assert [(n["text"], n["author"]) for n in notes] == [("shorter, please", "person")]


async def test_requests_are_refused_with_the_field(system: System) -> None:
    await system.start_scheduler()
    goal = await system.submit(plan={"tasks": chain("custom.a", "x")})
    cases = [
        ("control.pause", {}, "bad_field", "goal_id"),
        ("control.pause", {"goal_id": "nope"}, "not_found", "goal_id"),
        ("control.budget", {"goal_id": goal, "budget_usd": "much"}, "bad_field", "budget_usd"),
        ("control.answer", {"goal_id": goal, "task_id": "x", "answer": "?"}, "not_asked", "task_id"),
        (
            "control.answer",
            {"goal_id": goal, "task_id": "x", "answer": "a" * 9_000},
            "answer_too_long",
            "answer",
        ),
        ("control.retry", {"goal_id": goal, "task_id": "x"}, "not_dead", "task_id"),
        ("query.task", {"goal_id": goal, "task_id": "nope"}, "not_found", "task_id"),
        ("query.task", {"goal_id": goal, "task_id": "a\0b"}, "bad_text", "task_id"),
        ("control.cancel", {"goal_id": goal, "reason": "\ud800"}, "not_utf8", "reason"),
        ("goals.request", {"text": "a\0b"}, "bad_text", "text"),
    ]
    for subject, body, code, field in cases:
        error = (await system.request(subject, body))["error"]
        assert (error["code"], error["field"]) == (code, field), (subject, body)
    for subject, payload in (
        ("control.pause", b"{nonsense"),
        ("control.dance", b"{}"),
        ("query.dance", b"{}"),
    ):
        assert "error" in await system.request(subject, payload)


async def test_lane_is_live_when_it_was_added(system: System) -> None:
    await system.start_scheduler()
    lane = {"name": "custom.new", "performer": "custom", "lease_seconds": 20}
    answered = await system.request("control.lane", {"lane": lane})
    assert answered["ok"], answered
    system.perform("custom.new")
    goal = await system.submit(plan={"tasks": chain("custom.new", "x")})
    assert (await system.finished(goal))["status"] == "done"


async def test_owners_are_kept_apart(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a")
    body = json.dumps({"id": "same", "plan": {"tasks": chain("custom.a", "x")}}).encode()
    mine = await system.request("goals.request.mine", body)
    yours = await system.request("goals.request.yours", body)
    assert (mine["duplicate"], yours["duplicate"]) == (False, False)
    assert (await system.request("query.goal", {"goal_id": "same"}))["error"]["code"] == "not_found"

    async def ended() -> bool:
        answer = await system.request("query.goal.mine", {"goal_id": "same"})
        return bool(answer["status"] == "done" and answer["owner"] == "mine")

    await wait_for(ended)
    assert {event["owner"] for event in await system.events("same", "mine")} == {"mine"}


async def test_cancel_reaches_work_under_way_at_every_level_within_two_seconds(system: System) -> None:
    await system.start_scheduler()
    heard: set[str] = set()
    running: set[str] = set()

    async def cancelled(message: Any) -> None:
        heard.add(message.subject.removeprefix("cancel."))

    await system.client.subscribe("cancel.*", cb=cancelled)

    def answer(work: Any) -> Any:
        if work["spec"]["key"] == "outer":
            kids = [{"key": f"kid{n}", "lane": "custom.a", "outputs": [{"name": f"k{n}"}]} for n in range(3)]
            return {"kind": "expand", "tasks": kids, "continuation": 1}
        running.add(work["task_id"])
        return None  # silent: it is still at it

    system.perform("custom.a", answer, slots=8)
    outer = {"key": "outer", "lane": "custom.a", "outputs": [{"name": "o"}]}
    goal = await system.submit(plan={"tasks": [outer, *chain("custom.a", "x", "y")]})

    async def all_run() -> bool:
        return len(running) == 4

    await wait_for(all_run)
    loop = asyncio.get_running_loop()
    asked = loop.time()
    await system.request("control.cancel", {"goal_id": goal})

    async def all_heard() -> bool:
        return heard >= running

    await wait_for(all_heard)
    assert loop.time() - asked < 2


async def test_failed_goal_is_taken_up_again_without_repeating_what_it_finished(system: System) -> None:
    await system.start_scheduler()
    broken = True

    def answer(work: Any) -> dict[str, Any]:
        if broken and work["spec"]["key"] == "bad":
            return {"kind": "failed", "error": {"code": "no", "message": "the disk is full"}}
        return echo(work)

    system.perform("custom.a", answer)
    tasks = [
        *chain("custom.a", "first"),
        {"key": "bad", "lane": "custom.a", "inputs": ["o-first"], "outputs": [{"name": "o-bad"}]},
        {"key": "last", "lane": "custom.a", "inputs": ["o-bad", "o-first"], "outputs": [{"name": "o-last"}]},
        *chain("custom.a", "beside"),
    ]
    goal = await system.submit(id="again", plan={"tasks": tasks})
    ended = await system.finished(goal)
    assert (ended["status"], sorted(ended["deliverables"]), ended["missing"]) == (
        "failed",
        ["o-beside"],
        ["o-last"],
    )
    broken = False
    system.performed.clear()
    answered = await system.request("control.retry", {"goal_id": goal, "task_id": "bad"})
    assert answered == {"ok": True, "reopened": True, "added": ["bad.r1", "last.r1"]}
    ended = await system.finished(goal)
    assert (ended["status"], ended["missing"]) == ("done", [])
    assert (
        ended["deliverables"]["o-last"]["inline"] == "last.r1(o-bad=bad.r1(o-first=first()),o-first=first())"
    )
    assert ended["deliverables"]["o-beside"]["inline"] == "beside()"
    assert [key for key, _, _ in system.performed] == ["bad.r1", "last.r1"]
    events = await system.events(goal)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["kind"] for event in events]
    assert kinds.count("goal.finished") == 2
    assert kinds.index("goal.resumed") > kinds.index("goal.finished")
    assert (await system.request("control.retry", {"goal_id": goal}))["error"]["code"] == "goal_ended"


async def test_goal_whose_planning_died_is_planned_anew(system: System) -> None:
    await system.start_scheduler()
    broken = True

    def plan(work: Any) -> dict[str, Any]:
        if broken:
            return {"kind": "failed", "error": {"code": "no", "message": "no model"}}
        tasks = [{"key": "only", "lane": "custom.a", "outputs": [{"name": "out"}]}]
        return {"kind": "expand", "tasks": tasks, "deliverables": [{"name": "out", "type": "text"}]}

    system.perform("plan", plan, client="service")
    system.perform("custom.a")
    goal = await system.submit(text="make something")
    assert (await system.finished(goal))["status"] == "failed"
    broken = False
    assert (await system.request("control.retry", {"goal_id": goal}))["reopened"] is True
    ended = await system.finished(goal)
    assert (ended["status"], ended["deliverables"]["out"]["inline"]) == ("done", "only()")


async def test_cancelled_goal_is_taken_up_again(system: System) -> None:
    await system.start_scheduler()
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y")})
    await system.request("control.cancel", {"goal_id": goal})
    assert (await system.finished(goal))["status"] == "cancelled"
    await system.request("control.retry", {"goal_id": goal})
    system.perform("custom.a")
    ended = await system.finished(goal)
    assert ended["deliverables"]["o-y"]["inline"] == "y.r1(o-x=x.r1())"


async def test_asking_twice_changes_nothing_more(system: System) -> None:
    await system.start_scheduler()
    goal = await system.submit(plan={"tasks": [*chain("custom.a", "x", "y"), *chain("custom.b", "z")]})
    for verb, body in (
        ("pause", {}),
        ("feedback", {"text": "shorter", "rating": 4}),
        ("replan", {"reason": "a better way"}),
        ("budget", {"budget_usd": 3}),
        ("skip", {"task_id": "z"}),
        ("review", {"reason": "time"}),
        ("resume", {}),
        ("cancel", {}),
    ):
        first = await system.request(f"control.{verb}", {"goal_id": goal, **body})
        assert first["ok"], (verb, first)
        before = await system.events(goal)
        again = await system.request(f"control.{verb}", {"goal_id": goal, **body})
        assert again["ok"], (verb, again)
        assert len(await system.events(goal)) == len(before), verb
        if "task_id" in first:
            assert again["task_id"] == first["task_id"], verb
