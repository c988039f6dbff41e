"""Equal tasks are done once and share the result; replicas are done several times and voted on."""

from __future__ import annotations

import asyncio
from typing import Any

from goalwright_scheduler.core import twins
from goalwright_shared.messages import OutputSpec, TaskSpec
from hypothesis import given
from hypothesis import strategies as st
from support.system import System, artifact, echo, wait_for


def task(key: str, lane: str = "custom.a", **more: Any) -> dict[str, Any]:
    return {"key": key, "lane": lane, "instruction": "Say  it", "outputs": [{"name": f"o-{key}"}], **more}


def times(system: System, *keys: str) -> int:
    """How often any of these was performed."""
    return sum(1 for key, _, _ in system.performed if key in keys)


async def test_equal_tasks_are_done_once_and_their_outputs_go_by_place(system: System) -> None:
    await system.start_scheduler(share_equal_tasks="always")
    go = asyncio.Event()

    async def answer(work: Any) -> dict[str, Any]:
        await go.wait()
        return echo(work)

    system.perform("custom.a", answer)
    goal = await system.submit(
        plan={"tasks": [task("a"), task("b"), task("c", instruction="say it otherwise")]}
    )
    await system.until(goal, "c", "dispatched")
    leader, follower = "ab" if (await system.task(goal, "a"))["state"] == "dispatched" else "ba"
    waiting = await system.until(goal, follower, "blocked")
    why = await system.request("query.why", {"goal_id": goal, "task_id": waiting["task_id"]})
    assert leader in why["detail"], why
    go.set()
    ended = await system.finished(goal)
    assert ended["status"] == "done"
    assert times(system, "a", "b") == 1
    assert times(system, "c") == 1
    assert ended["deliverables"]["o-a"]["inline"] == ended["deliverables"]["o-b"]["inline"] == f"{leader}()"
    shared = [event["data"] for event in await system.events(goal) if event["data"].get("shared_with")]
    assert [fact["key"] for fact in shared] == [follower]


async def test_a_task_takes_what_an_equal_one_made_before_it_was_ready(system: System) -> None:
    await system.start_scheduler(share_equal_tasks="always")
    system.perform("custom.a")
    late = task("late", after=["a", "gate"])
    goal = await system.submit(plan={"tasks": [task("a"), task("gate", instruction="wait"), late]})
    ended = await system.finished(goal)
    assert ended["deliverables"]["o-late"]["inline"] == "a()"
    assert times(system, "late") == 0


async def test_a_follower_does_it_itself_when_its_leader_dies(system: System) -> None:
    await system.start_scheduler(share_equal_tasks="always")
    first: list[str] = []

    def answer(work: Any) -> dict[str, Any]:
        first.append(work["spec"]["key"])
        if len(first) == 1:
            return {"kind": "failed", "error": {"code": "broken", "message": "no", "retryable": False}}
        return echo(work)

    system.perform("custom.a", answer, slots=1)
    goal = await system.submit(plan={"tasks": [task("a"), task("b")]})
    ended = await system.finished(goal)
    assert sorted(first) == ["a", "b"]
    assert len(ended["deliverables"]) == 1, "the leader is dead, its follower has done it"


async def test_inputs_count_by_content_not_by_name(system: System) -> None:
    await system.start_scheduler(share_equal_tasks="always")

    def answer(work: Any) -> dict[str, Any]:
        key = work["spec"]["key"]
        if not key.startswith("source"):
            return echo(work)
        text = "other" if key == "source3" else "same"
        return {"kind": "done", "outputs": {f"o-{key}": artifact(f"o-{key}", text)}}

    system.perform("custom.a", answer)
    sources = [task(f"source{n}", instruction=f"make {n}") for n in (1, 2, 3)]
    readers = [task(f"reader{n}", inputs=[f"o-source{n}"]) for n in (1, 2, 3)]
    goal = await system.submit(plan={"tasks": [*sources, *readers]})
    assert (await system.finished(goal))["status"] == "done"
    assert times(system, "reader1", "reader2") == 1
    assert times(system, "reader3") == 1


async def test_what_says_nothing_or_has_effects_is_never_shared(system: System) -> None:
    await system.start_scheduler(share_equal_tasks="always")
    system.perform("custom.a")
    mute = [task(f"m{n}", instruction="") for n in range(3)]
    acting = [task(f"e{n}", effects="idempotent") for n in range(2)]
    goal = await system.submit(plan={"tasks": [*mute, *acting]})
    assert (await system.finished(goal))["status"] == "done"
    assert times(system, "m0", "m1", "m2", "e0", "e1") == 5


async def test_results_cross_goals_of_one_owner_only_when_that_is_wanted(system: System) -> None:
    await system.start_scheduler(share_equal_tasks="always", share_across_goals=True)
    system.perform("custom.a")
    first = await system.submit(plan={"tasks": [task("a")]})
    await system.finished(first)
    second = await system.submit(plan={"tasks": [task("b")]})
    ended = await system.finished(second)
    assert ended["deliverables"]["o-b"]["inline"] == "a()"
    answer = await system.request("goals.request.other", {"plan": {"tasks": [task("c")]}})

    async def done() -> Any:
        return await system.request("query.goal.other", {"goal_id": answer["goal_id"]})

    assert await wait_for(lambda: _finished(done))
    assert times(system, "a", "b", "c") == 2, "another owner's goal has shared nothing"


async def _finished(goal: Any) -> bool:
    return (await goal()).get("finished_at") is not None


async def test_results_stay_in_their_goal_by_default(system: System) -> None:
    await system.start_scheduler(share_equal_tasks="always")
    system.perform("custom.a")
    for key in "ab":
        await system.finished(await system.submit(plan={"tasks": [task(key)]}))
    assert times(system, "a", "b") == 2


async def test_submitted_plans_are_done_as_written_and_made_tasks_are_shared(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] not in ("a", "b"):
            return echo(work)
        return (
            {"kind": "expand", "tasks": [task("x"), task("y")], "continuation": 1}
            if not work["turn"]
            else echo(work)
        )

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("a"), task("b")]})
    assert (await system.finished(goal))["status"] == "done"
    assert times(system, "a", "b") == 4, "two turns each"
    assert times(system, "x", "y") == 1


async def test_a_turn_that_asks_again_gets_a_new_answer(system: System) -> None:
    await system.start_scheduler()

    def answer(work: Any) -> dict[str, Any]:
        if work["spec"]["key"] != "asker" or work["turn"] == 3:
            return echo(work)
        return {"kind": "expand", "tasks": [task("again")], "continuation": work["turn"]}

    system.perform("custom.a", answer)
    goal = await system.submit(plan={"tasks": [task("asker")]})
    assert (await system.finished(goal))["status"] == "done"
    assert times(system, "again") == 3


async def test_replicas_are_done_apart_and_the_answer_of_most_counts(system: System) -> None:
    await system.start_scheduler(share_equal_tasks="always")

    def answer(work: Any) -> dict[str, Any]:
        key = work["spec"]["key"]
        if key == "after":
            return echo(work)
        said = "wrong" if key.endswith("-r2") else "right"
        return {"kind": "done", "outputs": {"o-vote": artifact("o-vote", said)}, "summary": said}

    system.perform("custom.a", answer)
    vote = task("vote", replicas=3, inputs=["given"])
    after = task("after", inputs=["o-vote"], instruction="")
    given_ = {"name": "given", "type": "text", "inline": "x"}
    goal = await system.submit(inputs=[given_], plan={"tasks": [vote, after]})
    ended = await system.finished(goal)
    assert ended["deliverables"]["o-after"]["inline"] == "after(o-vote=right)"
    assert times(system, "vote-r1", "vote-r2", "vote-r3") == 3
    (told,) = [e["data"] for e in await system.events(goal) if e["data"].get("votes")]
    assert (told["key"], told["votes"], told["replicas"]) == ("vote", 2, 3)


async def test_a_vote_without_any_answer_fails(system: System) -> None:
    await system.start_scheduler(share_equal_tasks="always")
    system.perform(
        "custom.a",
        lambda work: {"kind": "failed", "error": {"code": "no", "message": "never", "retryable": False}},
    )
    goal = await system.submit(plan={"tasks": [task("vote", replicas=2)]})
    ended = await system.finished(goal)
    assert ended["status"] == "failed"
    assert "none of 2 replicas" in ended["reason"]


# --- what decides ----------------------------------------------------------------------------------------

words = st.text("ab ", max_size=6)


@given(key=words, title=words, instruction=words, spaces=st.integers(1, 4))
def test_keys_titles_and_white_space_do_not_make_contracts_differ(
    key: str, title: str, instruction: str, spaces: int
) -> None:
    one = TaskSpec(key="one", lane="custom.a", instruction=instruction)
    gap = " " * spaces
    other = TaskSpec(
        key="other",
        title=title,
        value=7,
        lane="custom.a",
        instruction=gap + instruction.replace(" ", gap) + gap,
    )
    assert twins.contract_hash(one, {}) == twins.contract_hash(other, {})


@given(st.sampled_from(["lane", "instruction", "params", "outputs", "inputs"]))
def test_everything_that_decides_a_result_makes_contracts_differ(part: str) -> None:
    base = TaskSpec(key="k", lane="custom.a", instruction="x", inputs=["i"], outputs=[OutputSpec(name="o")])
    other = {
        "lane": base.model_copy(update={"lane": "custom.b"}),
        "instruction": base.model_copy(update={"instruction": "y"}),
        "params": base.model_copy(update={"params": 1}),
        "outputs": base.model_copy(update={"outputs": [OutputSpec(name="o", schema={"type": "object"})]}),
        "inputs": base,
    }[part]
    given_ = {"i": "1"}
    assert twins.contract_hash(base, given_) != twins.contract_hash(
        other, {"i": "2"} if part == "inputs" else given_
    )


@given(st.lists(st.tuples(st.sampled_from("abc")), min_size=1, max_size=9))
def test_the_winner_is_what_most_gave_and_the_first_of_equals(answers: list[tuple[str]]) -> None:
    place, votes = twins.winner(answers)
    counts = {answer: answers.count(answer) for answer in answers}
    assert votes == counts[answers[place]] == max(counts.values())
    assert all(counts[answer] < votes for answer in answers[:place])
