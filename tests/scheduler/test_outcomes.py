"""What each kind of outcome does to a task, its parent and its dependants."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from support.system import System, artifact, chain, echo, wait_for


def task(key: str, lane: str = "custom.a", **more: Any) -> dict[str, Any]:
    return {"key": key, "lane": lane, "outputs": [{"name": f"o-{key}"}], **more}


async def test_expansion_without_continuation_produces_the_parents_outputs(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] != "parent":
            return echo(work)
        inner = {"key": "inner", "lane": "custom.b", "inputs": ["mid"], "outputs": [{"name": "o-parent"}]}
        first = {"key": "first", "lane": "custom.b", "outputs": [{"name": "mid"}]}
        return {"kind": "expand", "tasks": [first, inner]}

    system.perform("custom.a", answer)
    system.perform("custom.b")
    goal = await system.submit(plan={"tasks": [task("parent"), task("after", inputs=["o-parent"])]})
    ended = await system.finished(goal)
    assert ended["status"] == "done"
    assert ended["deliverables"]["o-after"]["inline"] == "after(o-parent=inner(mid=first()))"


async def test_expansion_with_continuation_comes_back_with_its_children(system: System) -> None:
    await system.start_scheduler()
    resumed: list[Any] = []

    def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] != "asker":
            return echo(work)
        if work["continuation"] is None:
            return {"kind": "expand", "tasks": [task("child", "custom.b")], "continuation": {"step": 2}}
        resumed.append(work)
        return echo(work)

    system.perform("custom.a", answer)
    system.perform("custom.b")
    goal = await system.submit(plan={"tasks": [task("asker")]})
    assert (await system.finished(goal))["status"] == "done"
    (work,) = resumed
    assert (work["epoch"], work["turn"], work["continuation"]) == (2, 1, {"step": 2})
    (child,) = work["children"]
    assert (child["key"], child["status"]) == ("child", "succeeded")
    assert child["outputs"]["o-child"]["inline"] == "child()"


async def test_what_is_not_private_says_so_to_whoever_reads_it(system: System) -> None:
    await system.start_scheduler()
    read: dict[str, Any] = {}

    def answer(work: Any) -> dict[str, Any]:
        read.update(work["inputs"])
        outcome = echo(work)
        if work["spec"]["key"] == "page":
            outcome["outputs"]["o-page"]["private"] = False
        return outcome

    system.perform("custom.a", answer)
    plan = {"tasks": [task("page"), task("own"), task("reader", inputs=["o-page", "o-own"])]}
    await system.finished(await system.submit(plan=plan))
    assert {name: ref["private"] for name, ref in read.items()} == {"o-page": False, "o-own": True}


async def test_another_turn_counts_no_failure(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        if (work["continuation"] or 0) < 3:
            return {"kind": "expand", "tasks": [], "continuation": (work["continuation"] or 0) + 1}
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("turns")]})
    await system.finished(goal)
    told = await system.task(goal, "turns")
    assert (told["state"], told["turn"], told["failures"], told["epoch"]) == ("succeeded", 3, 0, 4)


async def test_turns_are_limited(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a", lambda work: {"kind": "expand", "tasks": [], "continuation": 1})
    goal = await system.submit(plan={"tasks": [task("endless", max_turns=3)]})
    ended = await system.finished(goal)
    assert ended["status"] == "failed"
    assert "had its 3 turns" in ended["reason"]


async def test_retryable_failure_is_tried_again_with_its_errors(system: System) -> None:
    await system.start_scheduler()
    errors: list[Any] = []

    def answer(work: Any) -> dict[str, Any]:
        errors.append([e["message"] for e in work["attempt_errors"]])
        if work["epoch"] == 1:
            return {"kind": "failed", "error": {"code": "odd", "message": "not today", "retryable": True}}
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("shaky")]})
    assert (await system.finished(goal))["status"] == "done"
    assert errors == [[], ["not today"]]


async def test_dead_task_skips_its_dependants_and_others_go_on(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] == "bad":
            return {"kind": "failed", "error": {"code": "no", "message": "cannot", "retryable": False}}
        return echo(work)

    system.perform("custom.a", answer)
    plan = [task("bad"), task("needs-bad", inputs=["o-bad"]), task("fine")]
    goal = await system.submit(plan={"tasks": plan})
    ended = await system.finished(goal)
    assert ended["status"] == "failed"
    assert "o-needs-bad cannot be delivered: task bad failed: cannot" in ended["reason"]
    assert set(ended["deliverables"]) == {"o-fine"}
    assert ended["missing"] == ["o-needs-bad"]
    states = {t["key"]: t["state"] for t in (await system.request("query.graph", {"goal_id": goal}))["tasks"]}
    assert states == {"goal": "dead", "bad": "dead", "needs-bad": "skipped", "fine": "succeeded"}


async def test_dead_child_is_a_result_for_a_parent_with_continuation(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] == "child":
            return {"kind": "failed", "error": {"code": "no", "message": "cannot", "retryable": False}}
        if work["continuation"] is None:
            return {"kind": "expand", "tasks": [task("child")], "continuation": 1}
        assert work["children"][0]["error"]["message"] == "cannot"
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("asker")]})
    assert (await system.finished(goal))["status"] == "done"


async def test_goal_fails_at_once_when_a_task_says_so(system: System) -> None:
    await system.start_scheduler()
    system.perform(
        "custom.a",
        lambda w: {"kind": "failed", "error": {"code": "no", "message": "cannot", "retryable": False}},
    )
    goal = await system.submit(
        plan={"tasks": [task("vital", on_dead="fail_goal"), task("never", "custom.b")]}
    )
    ended = await system.finished(goal)
    assert (ended["status"], ended["reason"]) == ("failed", "task vital failed: cannot")
    assert (await system.task(goal, "never"))["state"] == "cancelled"


async def test_throttle_counts_no_failure(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        return {"kind": "throttled", "retry_after_seconds": 0.1} if work["epoch"] < 3 else echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("slow")]})
    await system.finished(goal)
    told = await system.task(goal, "slow")
    assert (told["state"], told["failures"], told["epoch"]) == ("succeeded", 0, 3)


async def test_outcome_of_an_old_epoch_takes_no_effect(system: System) -> None:
    await system.start_scheduler()
    kept: list[Any] = []

    def answer(work: Any) -> dict[str, Any] | None:
        kept.append(work)
        return None if work["epoch"] == 1 else {**echo(work), "summary": "the second try"}

    system.perform("custom.short", answer)
    goal = await system.submit(plan={"tasks": [task("late", "custom.short")]})
    assert (await system.finished(goal))["status"] == "done"
    stale = {
        "goal_id": goal,
        "task_id": kept[0]["task_id"],
        "epoch": 1,
        **echo(kept[0]),
        "summary": "too late",
    }
    await system.client.jetstream().publish("outcomes.custom.short", json.dumps(stale).encode())
    later = await system.submit(plan={"tasks": [task("later", "custom.short")]})

    async def next_goal_is_served() -> bool:
        return any(work["goal_id"] == later for work in kept)

    await wait_for(next_goal_is_served)
    told = await system.task(goal, "late")
    assert [a["summary"] for a in told["attempts"] if a["kind"] == "done"] == ["the second try"]
    assert told["failures"] == 1


async def test_same_outcome_twice_is_one(system: System) -> None:
    await system.start_scheduler()

    async def answer(work: Any) -> dict[str, Any]:
        outcome = {name: work[name] for name in ("goal_id", "task_id", "epoch")} | echo(work)
        await system.client.jetstream().publish("outcomes.custom.a", json.dumps([outcome, outcome]).encode())
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": chain("custom.a", "x", "y")})
    await system.finished(goal)
    kinds = [event["kind"] for event in await system.events(goal)]
    assert kinds.count("task.succeeded") == 3  # x, y and the goal's own task


async def test_each_try_is_shown_with_what_its_program_did(system: System) -> None:
    await system.start_scheduler()
    did = {"exit_code": 1, "wall_seconds": 0.5, "cpu_seconds": 0.25, "peak_memory_bytes": 9, "stderr": "no\n"}
    error = {"code": "program_failed", "message": "exit code 1: no", "retryable": True}
    checks = [{"check": "schema", "passed": True, "evidence": "as declared"}]

    def answer(work: Any) -> dict[str, Any]:
        if work["epoch"] == 1:
            return {"kind": "failed", "error": error, "program": did, "worker": "first"}
        return echo(work) | {"program": did | {"exit_code": 0}, "worker": "second", "checks": checks}

    system.perform("custom.a", answer)
    system.perform("exec", echo, client="service")
    checked = task("checked") | {"acceptance": [{"kind": "program", "program": {"source": "pass"}}]}
    goal = await system.submit(plan={"tasks": [task("plain"), checked]})
    assert (await system.finished(goal))["status"] == "done"
    for key in ("plain", "checked"):
        tries = (await system.task(goal, key))["attempts"]
        told = [(one["kind"], one["worker"], one["program"]["exit_code"], one["checks"]) for one in tries]
        assert told == [("failed", "first", 1, []), ("done", "second", 0, checks)]
        assert tries[0]["error"]["message"] == error["message"]
        assert {name: tries[0]["program"][name] for name in did} == did


async def test_answer_with_a_text_that_cannot_be_stored_is_a_failure_that_names_it(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.a", lambda work: echo(work) | ({"summary": "a\0b"} if work["epoch"] == 1 else {}))
    goal = await system.submit(plan={"tasks": [task("tells")]})
    assert (await system.finished(goal))["status"] == "done"
    first = (await system.task(goal, "tells"))["attempts"][0]
    assert first["error"]["code"] == "bad_outcome"
    assert "summary holds a NUL character" in first["error"]["message"]


async def test_answer_without_a_declared_output_is_a_failure_that_names_it(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        return {"kind": "done", "outputs": {}} if work["epoch"] == 1 else echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("forgets")]})
    assert (await system.finished(goal))["status"] == "done"
    first = (await system.task(goal, "forgets"))["attempts"][0]
    assert first["error"]["code"] == "missing_output"
    assert "o-forgets" in first["error"]["message"]


async def test_lane_that_may_not_expand_fails_when_it_does(system: System) -> None:
    await system.start_scheduler()
    system.perform("custom.b", lambda work: {"kind": "expand", "tasks": [task("child")]})
    goal = await system.submit(plan={"tasks": [task("sly", "custom.b")]})
    ended = await system.finished(goal)
    assert "lane custom.b may not answer with expand" in ended["reason"]


async def test_expansion_with_a_cycle_fails_as_invalid(system: System) -> None:
    await system.start_scheduler()
    tasks = [task("a", inputs=["o-b"]), task("b", inputs=["o-a"])]
    system.perform("custom.a", lambda work: {"kind": "expand", "tasks": tasks, "continuation": 1})
    goal = await system.submit(plan={"tasks": [task("parent")]})
    ended = await system.finished(goal)
    assert "a → b → a" in ended["reason"]
    told = await system.task(goal, "parent")
    assert told["attempts"][0]["error"]["code"] == "invalid_expansion"


async def test_unreadable_outcome_fails_its_task_and_is_kept_as_dead(system: System) -> None:
    await system.start_scheduler()

    async def answer(work: Any) -> dict[str, Any]:
        return {"kind": "done", "outputs": "nonsense"} if work["epoch"] == 1 else echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("odd")]})
    assert (await system.finished(goal))["status"] == "done"
    assert "outputs" in (await system.dead("OUTCOMES"))["message"]


async def test_value_that_postgres_cannot_hold_fails_its_task_alone(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] == "nul":
            return {**echo(work), "summary": "a \0 in the summary"}
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("nul"), *(task(f"good-{n}") for n in range(10))]})
    ended = await system.finished(goal)
    assert (await system.task(goal, "nul"))["state"] == "dead"
    assert len(ended["deliverables"]) == 10


async def test_large_outcome_comes_by_reference(system: System) -> None:
    await system.start_scheduler()

    async def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] != "many":
            return echo(work)
        tasks = [task(f"t{n}", "custom.b", instruction="x" * 300) for n in range(2000)]
        outcome = {name: work[name] for name in ("goal_id", "task_id", "epoch")}
        body = json.dumps({**outcome, "kind": "expand", "tasks": tasks, "continuation": 1}).encode()
        digest = hashlib.sha256(body).hexdigest()
        store = await system.client.jetstream().object_store("ARTIFACTS")
        await store.put(digest, body)
        ref = {"name": "body", "type": "json", "size": len(body), "sha256": digest, "object": digest}
        await system.client.jetstream().publish("outcomes.custom.a", json.dumps({"body_ref": ref}).encode())
        return {"kind": "throttled"}  # of the same epoch, and later: it takes no effect

    def finish(work: Any) -> Any:
        return echo(work) if work["continuation"] else answer(work)

    system.perform("custom.a", finish)
    system.perform("custom.b", slots=16)
    goal = await system.submit(plan={"tasks": [task("many")]})
    ended = await system.finished(goal, 60)
    assert ended["status"] == "done"
    assert ended["counts"] == {"succeeded": 2002}


async def test_program_check_sees_the_outputs_and_its_failure_reaches_the_next_try(system: System) -> None:
    await system.start_scheduler()
    seen: list[Any] = []

    def answer(work: Any) -> dict[str, Any]:
        seen.append([e["message"] for e in work["attempt_errors"]])
        return {"kind": "done", "outputs": {"o-made": artifact("o-made", f"try {work['epoch']}")}}

    def check(work: Any) -> dict[str, Any]:
        given = work["inputs"]["o-made"]["inline"]
        if given == "try 1":
            return {"kind": "failed", "error": {"code": "program_failed", "message": f"refuses {given}"}}
        return {"kind": "done"}

    system.perform("custom.a", answer)
    system.perform("exec", check, client="service")
    acceptance = [{"kind": "program", "program": {"source": "check()"}}]
    goal = await system.submit(plan={"tasks": [task("made", acceptance=acceptance)]})
    ended = await system.finished(goal)
    assert ended["status"] == "done", ended
    assert ended["deliverables"]["o-made"]["inline"] == "try 2"
    assert "refuses try 1" in seen[1][0]


async def test_several_rubrics_are_judged_of_a_task_that_makes_a_verdict_itself(system: System) -> None:
    await system.start_scheduler()
    judged: list[str] = []

    def judge(work: Any) -> dict[str, Any]:
        (output,) = work["spec"]["outputs"]
        judged.append(work["spec"]["params"]["rubric"])
        passed = judged[-1] != "kind" or judged.count("kind") > 1
        told = json.dumps({"passed": passed, "summary": "rude", "findings": []})
        return {"kind": "done", "outputs": {output["name"]: artifact(output["name"], told, "json")}}

    system.perform("custom.a", echo)
    system.perform("agent.judge", judge, slots=1, client="service")
    made = task(
        "made", inputs=["verdict-2"], outputs=[{"name": n, "type": "text"} for n in ("verdict", "verdict-1")]
    )
    made["acceptance"] = [{"kind": "rubric", "text": text} for text in ("short", "kind")]
    inputs = [{"name": "verdict-2", "type": "text", "inline": "given"}]
    goal = await system.submit(plan={"tasks": [made]}, inputs=inputs)
    assert (await system.finished(goal))["status"] == "done"
    first, second = (await system.task(goal, "made"))["attempts"]
    assert "rude" in first["error"]["message"]
    assert second["kind"] == "done"
    assert sorted(judged) == ["kind", "kind", "short", "short"]
