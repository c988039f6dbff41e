"""Bad input gets an answer that says what, where and the fix, and loses nothing: the next goal works."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import nats
import pytest
from goalwright_cli.client import Client
from goalwright_shared.broker import queries
from integration.conftest import Answers
from support.system import System, artifact, chain, echo, wait_for

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Bad:
    """A submission, and what its refusal says: code, field, and words of message and hint."""

    name: str
    payload: Any
    code: str
    field: str | None
    says: tuple[str, ...]
    hint: str

    @property
    def body(self) -> bytes:
        """The bytes of the payload."""
        return self.payload if isinstance(self.payload, bytes) else json.dumps(self.payload).encode()


def task(key: str, *inputs: str, lane: str = "custom.a", **more: Any) -> dict[str, Any]:
    """A task that makes `o-<key>`."""
    return {"key": key, "lane": lane, "inputs": list(inputs), "outputs": [{"name": f"o-{key}"}], **more}


def plan(*tasks: Any) -> dict[str, Any]:
    """A submission that brings its plan."""
    return {"text": "a plan", "plan": {"tasks": list(tasks)}}


TWICE = {"key": "b", "lane": "custom.a", "outputs": [{"name": "o-a"}]}

CASES = [
    Bad("nothing", b"", "empty_goal", "text", ("empty",), "send its text"),
    Bad("blanks", b"  \n ", "empty_goal", "text", ("empty",), "send its text"),
    Bad("empty text", {"text": " "}, "empty_goal", "text", ("empty",), "give a text, or a plan"),
    Bad("no text at all", {"budget_usd": 1}, "empty_goal", "text", ("empty",), "give a text, or a plan"),
    Bad("not JSON", b'{"text": "half', "not_json", None, ("not JSON", "column"), "plain text is taken as"),
    Bad("not UTF-8", b"caf\xe9", "not_utf8", None, ("not UTF-8", "byte 3"), "UTF-8"),
    Bad("JSON that is not UTF-8", b'{"text": "caf\xe9"}', "not_utf8", None, ("byte 13",), "UTF-8"),
    Bad("text of a wrong type", {"text": 5}, "bad_field", "text", ("text", "string"), "docs/subjects.md"),
    Bad("budget in words", {"text": "x", "budget_usd": "lots"}, "bad_field", "budget_usd",
        ("budget_usd", "number"), "docs/subjects.md"),
    Bad("lane of a wrong type", plan({"key": "a", "lane": 7}), "bad_field", "plan.tasks.0.lane",
        ("plan.tasks.0.lane", "string"), "docs/subjects.md"),
    Bad("key that is no key", plan(task("a b")), "bad_field", "plan.tasks.0.key", ("plan.tasks.0.key",),
        "docs/subjects.md"),
    Bad("unknown lane", plan(task("a"), task("b", lane="custom.aa")), "unknown_lane", "plan.tasks.1.lane",
        ("task b", "custom.aa", "does not exist"), "custom.a"),
    Bad("cycle", plan(task("a", "o-b"), task("b", "o-a")), "cycle", "plan.tasks", ("a → b → a",), "a.o-b, b.o-a"),
    Bad("input nobody makes", plan(task("a"), task("b", "o-aa")), "unknown_input", "plan.tasks.1.inputs.0",
        ("o-aa", "task b", "nobody", "did you mean o-a?"), "output of another task"),
    Bad("two producers", plan(task("a"), TWICE), "two_producers", "plan.tasks.1.outputs.0.name",
        ("o-a", "tasks a and b"), "rename one"),
    Bad("task that needs itself", plan(task("a", "o-a")), "self_dependency", "plan.tasks.0.inputs.0",
        ("task a", "o-a"), "remove the input a.o-a"),
    Bad("plan of nothing", plan(), "bad_field", "plan.tasks", ("plan.tasks", "at least 1"), "docs/subjects.md"),
]  # fmt: skip

each_case = pytest.mark.parametrize("bad", CASES, ids=[bad.name for bad in CASES])


async def next_goal_works(system: System) -> None:
    """A goal of two tasks, from its submission to its deliverable."""
    goal = await system.submit(id=uuid.uuid4().hex, plan={"tasks": chain("custom.a", "x", "y")})
    ended = await system.finished(goal)
    assert ended["status"] == "done"
    assert ended["deliverables"]["o-y"]["inline"] == "y(o-x=x())"


async def goals(system: System) -> int:
    """How many goals there are."""
    return len((await system.request("query.goals", {"limit": 500}))["goals"])


def check(told: Any, bad: Bad) -> None:
    """The refusal says what, where and the fix."""
    assert told["code"] == bad.code, told
    assert told.get("field") == bad.field, told
    assert [word for word in bad.says if word not in told["message"]] == [], told
    assert bad.hint in (told.get("hint") or ""), told


@each_case
async def test_request_is_answered_with_what_was_wrong(running: System, bad: Bad) -> None:
    before = await goals(running)
    answer = await running.request("goals.request", bad.body)
    check(answer["error"], bad)
    assert await goals(running) == before
    await next_goal_works(running)


@each_case
async def test_plain_publish_is_refused_in_an_event_and_kept_as_dead(running: System, bad: Bad) -> None:
    refusals = await running.client.subscribe("events.public.unknown.goal.refused")
    await running.client.publish("goals.submit", bad.body)
    event = json.loads((await refusals.next_msg(timeout=15)).data)
    await refusals.unsubscribe()
    assert (event["kind"], event["goal_id"], event["owner"]) == ("goal.refused", "unknown", "public")
    check(event["data"], bad)
    await kept_as_dead(running, "GOALS", bad.code, bad.body)
    await next_goal_works(running)


async def kept_as_dead(system: System, stream: str, code: str, body: bytes) -> None:
    """The last dead message is this one, with its reason."""

    async def there() -> bool:
        message = await (await system.service()).jetstream().get_last_msg("DEAD", f"dead.{stream}")
        text = json.dumps(json.loads(message.data or b"{}"))
        kept = json.loads(text)
        return bool(kept.get("code") == code and kept.get("payload", "") == body.decode("utf-8", "replace"))

    await wait_for(there)


async def test_refusal_names_the_goal_that_named_itself(running: System) -> None:
    refusals = await running.client.subscribe("events.public.*.goal.refused")
    body = plan(task("a", "o-b"), task("b", "o-a")) | {"id": "round-and-round"}
    await running.client.publish("goals.submit", json.dumps(body).encode())
    message = await refusals.next_msg(timeout=15)
    await refusals.unsubscribe()
    assert message.subject == "events.public.round-and-round.goal.refused"
    assert "a → b → a" in json.loads(message.data)["data"]["message"]
    fixed = plan(task("a"), task("b", "o-a")) | {"id": "round-and-round"}
    assert await running.submit(**fixed) == "round-and-round", "a refused goal leaves its id free"
    assert (await running.finished("round-and-round"))["status"] == "done"


async def test_unknown_fields_are_ignored_with_a_warning(running: System) -> None:
    body = plan({**task("a"), "colour": "red"}) | {"id": "colourful", "budget": 3}
    answer = await running.request("goals.request", body)
    told = ["unknown field budget was ignored", "unknown field plan.tasks.0.colour was ignored"]
    assert (answer["status"], sorted(answer["warnings"])) == ("running", told)
    assert (await running.finished("colourful"))["status"] == "done"
    accepted = (await running.events("colourful"))[0]
    assert (accepted["kind"], sorted(accepted["data"]["warnings"])) == ("goal.accepted", told)


async def test_same_id_twice_is_one_goal_and_the_second_is_not_looked_at(running: System) -> None:
    first = await running.request("goals.request", plan(task("a")) | {"id": "twice"})
    again = await running.request("goals.request", plan(task("a", "o-b"), task("b", "o-a")) | {"id": "twice"})
    assert (first["goal_id"], first["duplicate"]) == ("twice", False)
    assert (again["goal_id"], again["duplicate"]) == ("twice", True)
    await running.client.publish("goals.submit", json.dumps(plan(task("a")) | {"id": "twice"}).encode())
    assert (await running.finished("twice"))["status"] == "done"
    await next_goal_works(running)
    events = await running.events("twice")
    assert [event["kind"] for event in events].count("goal.accepted") == 1
    assert [key for key, _, _ in running.performed].count("a") >= 1


# --- 10 MB -----------------------------------------------------------------------------------------------


async def put(system: System, body: bytes) -> dict[str, Any]:
    """A reference to `body`, put into the bucket as a client does."""
    digest = hashlib.sha256(body).hexdigest()
    store = await system.client.jetstream().object_store("ARTIFACTS")
    await store.put(digest, body)
    return {"name": "body", "type": "json", "media_type": "application/json", "size": len(body),
            "sha256": digest, "object": digest}  # fmt: skip


async def test_goal_of_ten_megabytes_comes_by_reference(running: System) -> None:
    heavy = {"filling": "x" * (10 * MEGABYTE)}
    body = plan(task("a", params=heavy), task("b", "o-a")) | {"id": "heavy"}
    whole = json.dumps(body).encode()
    assert len(whole) > 10 * MEGABYTE
    answer = await running.request("goals.request", {"body_ref": await put(running, whole)})
    assert answer["goal_id"] == "heavy", answer
    ended = await running.finished("heavy")
    assert (ended["status"], ended["deliverables"]["o-b"]["inline"]) == ("done", "b(o-a=a())")
    await next_goal_works(running)


async def test_text_of_ten_megabytes_is_refused_with_the_way_to_give_it(running: System) -> None:
    body = plan(task("a")) | {"id": "wordy", "text": "word " * (2 * MEGABYTE)}
    answer = await running.request(
        "goals.request", {"body_ref": await put(running, json.dumps(body).encode())}
    )
    error = answer["error"]
    assert (error["code"], error["field"]) == ("text_too_long", "text")
    assert "has 10485760 bytes" in error["message"]
    assert "as an input" in error["hint"]
    await next_goal_works(running)


async def test_plain_text_that_fills_a_message_is_refused_and_kept_in_part(running: System) -> None:
    refusals = await running.client.subscribe("events.public.unknown.goal.refused")
    await running.client.publish("goals.submit", b"\x01" * 900_000)
    told = json.loads((await refusals.next_msg(timeout=15)).data)["data"]
    await refusals.unsubscribe()
    assert (told["code"], told["field"]) == ("text_too_long", "text")

    async def kept() -> bool:
        dead = await running.dead("GOALS")
        return bool(dead["code"] == "text_too_long" and dead["payload"].startswith("\x01" * 100_000))

    await wait_for(kept)
    await next_goal_works(running)


async def test_event_and_answer_too_big_for_a_message_refer_to_the_whole(
    running: System, answers: Answers
) -> None:
    def fill(work: Any) -> Any:
        outputs = {o["name"]: artifact(o["name"], "x" * 8_000) for o in work["spec"]["outputs"]}
        return {"kind": "done", "outputs": outputs}

    answers["many"] = fill
    tasks = [
        {"key": f"t{n}", "lane": "custom.b", "outputs": [{"name": f"o-{n}-{m}"} for m in range(25)]}
        for n in range(8)
    ]
    await running.submit(id="many", plan={"tasks": tasks})

    async def told() -> Any:
        events = await running.events("many")
        return events[-1] if events and events[-1]["kind"] == "goal.finished" else None

    event = await wait_for(told)
    assert (event["data"]["status"], event["data"]["missing"]) == ("done", [])
    store = await running.client.jetstream().object_store("ARTIFACTS")
    whole = json.loads((await store.get(event["data"]["body_ref"]["object"])).data or b"")
    assert (whole["event_id"], len(whole["data"]["deliverables"])) == (event["event_id"], 200)
    assert "body_ref" in await running.goal("many"), "an answer too"
    service = await running.service()
    for answer in (
        await Client(running.client).query("goal", goal_id="many"),
        await queries(lambda: service)("goal", {"goal_id": "many"}),
    ):
        assert (answer["status"], len(answer["deliverables"])) == ("done", 200)
    await next_goal_works(running)


async def test_reference_to_nothing_is_refused(running: System) -> None:
    nowhere = {"name": "body", "type": "json", "media_type": "application/json", "size": 9,
               "sha256": "0" * 64, "object": "0" * 64}  # fmt: skip
    answer = await running.request("goals.request", {"body_ref": nowhere})
    assert answer["error"]["code"] == "artifact_missing", answer
    assert "hex SHA-256" in answer["error"]["hint"]
    await next_goal_works(running)


async def test_nats_py_refuses_a_payload_over_the_limit_before_sending(running: System) -> None:
    with pytest.raises(nats.errors.MaxPayloadError):
        await running.client.publish("goals.submit", b"x" * (10 * MEGABYTE))
    await next_goal_works(running)


async def test_raw_client_that_sends_ten_megabytes_is_thrown_out_alone(running: System) -> None:
    url = urlsplit(running.server.client_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    hello = json.dumps({"user": url.username, "pass": url.password, "verbose": False}).encode()
    writer.write(b"CONNECT " + hello + b"\r\nPUB goals.submit %d\r\n" % (10 * MEGABYTE))
    said = b""
    async with asyncio.timeout(10):
        while more := await reader.read(4096):
            said += more
    assert b"-ERR 'Maximum Payload Violation'" in said
    writer.close()
    assert running.client.is_connected
    assert await goals(running) > 0
    await next_goal_works(running)


# --- nonsense from custom performers ---------------------------------------------------------------------


async def first_says(system: System, answers: Answers, body: bytes) -> list[Any]:
    """A goal whose performer publishes `body` at the first try and answers well at the second: the errors that
    the second try was told. `TASK` in the body stands for the fields that name the task."""
    told: list[Any] = []
    goal = uuid.uuid4().hex

    async def answer(work: Any) -> Any:
        if work["epoch"] == 1:
            names = json.dumps({name: work[name] for name in ("goal_id", "task_id", "epoch")}).strip("{}")
            said = body.replace(b"TASK", names.encode())
            await system.client.jetstream().publish("outcomes.custom.short", said)
            return None
        told.extend(work["attempt_errors"])
        return echo(work)

    answers[goal] = answer
    await system.submit(id=goal, plan={"tasks": [task("t", lane="custom.short")]})
    ended = await system.finished(goal)
    assert (ended["status"], ended["deliverables"]["o-t"]["inline"]) == ("done", "t()")
    return told


@pytest.mark.parametrize("body", [b"that was easy", b"\xff\xfe", b"[1, null]", b'{"kind": "done"}'])
async def test_outcome_that_names_no_task_is_kept_as_dead_and_the_lease_decides(
    running: System, answers: Answers, body: bytes
) -> None:
    errors = await first_says(running, answers, body)
    assert [error["code"] for error in errors] == ["expired"]
    await kept_as_dead(running, "OUTCOMES", "bad_outcome", body)
    await next_goal_works(running)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{TASK, "kind": "done", "outputs": 5}', "outputs"),
        (b'{TASK, "kind": "finished"}', "kind"),
        (b'{TASK, "kind": "failed", "error": "it hurts"}', "error"),
        (b'{TASK, "kind": "throttled", "retry_after_seconds": "soon"}', "retry_after_seconds"),
    ],
)
async def test_outcome_of_wrong_types_fails_its_task_with_the_field(
    running: System, answers: Answers, body: bytes, says: str
) -> None:
    errors = await first_says(running, answers, body)
    assert [error["code"] for error in errors] == ["bad_outcome"]
    assert says in errors[0]["message"]
    await next_goal_works(running)


async def test_outcome_on_the_subject_of_another_lane_takes_no_effect(
    running: System, answers: Answers
) -> None:
    async def answer(work: Any) -> Any:
        forged = {name: work[name] for name in ("goal_id", "task_id", "epoch")} | {
            "kind": "done", "outputs": {"o-t": artifact("o-t", "forged")}
        }  # fmt: skip
        js = running.client.jetstream()
        await js.publish("outcomes.custom.b", json.dumps(forged).encode())
        await running.client.publish("outcomes.exec", json.dumps(forged).encode())  # a client may not
        return echo(work)

    answers["forged"] = answer
    goal = await running.submit(id="forged", plan={"tasks": [task("t", lane="custom.short")]})
    ended = await running.finished(goal)
    assert (ended["status"], ended["deliverables"]["o-t"]["inline"]) == ("done", "t()")
    await next_goal_works(running)
