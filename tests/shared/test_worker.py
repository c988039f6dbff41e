"""The worker loop on a real nats-server, without a scheduler: the test hands out work and reads outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_shared import subjects, topology
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.errors import ArtifactUnavailable, Refused, TopologyMissing
from goalwright_shared.messages import (
    BODY_BYTES,
    Alive,
    ArtifactRef,
    ArtifactType,
    BodyRef,
    Done,
    Failed,
    Outcome,
    OutputSpec,
    TaskSpec,
    Throttled,
    Work,
    parse_outcomes,
    parse_strict,
)
from goalwright_shared.telemetry import MASK
from goalwright_shared.worker import Attempt, Worker, pack, unpack
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import ConsumerInfo, StreamInfo
from structlog.testing import capture_logs
from support.artifacts import MemoryArtifacts
from support.system import connect
from support.waiting import eventually

LANE = "exec"
Performed = Callable[[Work, Attempt], Awaitable[Outcome]]


def make_work(task_id: str, *, epoch: int = 1, lease_seconds: float = 30, instruction: str = "") -> Work:
    """Work on the lane of these tests."""
    spec = TaskSpec(key=f"t{task_id}", lane=LANE, instruction=instruction, outputs=[OutputSpec(name="out")])
    return Work(
        goal_id="g", task_id=task_id, epoch=epoch, lane=LANE, spec=spec, lease_seconds=lease_seconds
    )  # fmt: skip


def done(work: Work, text: str = "done") -> Done:
    """A good outcome."""
    out = ArtifactRef.of_text("out", text)
    return Done(goal_id=work.goal_id, task_id=work.task_id, epoch=work.epoch, outputs={"out": out})


class Performer:
    """Performs when it is let: `begun` are the epochs it took up, `gate` opens the way to the end."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.cleaned: list[str] = []

    async def __call__(self, work: Work, attempt: Attempt) -> Outcome:
        """Wait for the gate, then answer."""
        self.begun.append((work.task_id, work.epoch))
        try:
            await self.gate.wait()
        finally:
            self.cleaned.append(work.task_id)
        return done(work)


class Bench:
    """A server with its topology, a client that stands for the scheduler, and the workers of a test."""

    def __init__(self, server: EmbeddedNats, client: Client) -> None:
        self.server, self.client, self.js = server, client, client.jetstream(timeout=5)
        self.artifacts = ObjectArtifacts(self.js)
        self.performer = Performer()
        self._workers: list[Worker] = []
        self._clients: list[Client] = []

    async def start(self, perform: Performed | None = None, *, slots: int = 1, **more: Any) -> Worker:
        """A worker with a connection of its own."""
        client = await connect(self.server.service_url)
        self._clients.append(client)

        async def query(what: str, body: Any) -> dict[str, Any]:
            return {"what": what, **body}

        settings = {"lanes": [LANE], "name": "w1", "drain_seconds": 2.0, **more}
        settings.setdefault("artifacts", ObjectArtifacts(lambda: client.jetstream(timeout=5)))
        worker = Worker(
            client=lambda: client, query=query, slots=slots, perform=perform or self.performer, **settings
        )  # fmt: skip
        await worker.start()
        self._workers.append(worker)
        return worker

    async def hand_out(self, work: Work | bytes) -> None:
        """Publish work as the scheduler does."""
        await self.js.publish(subjects.work(LANE), work if isinstance(work, bytes) else work.to_json())

    async def consumer(self) -> ConsumerInfo:
        """The state of the lane's consumer."""
        info: ConsumerInfo = await self.js.consumer_info(subjects.WORK, subjects.work_durable(LANE))
        return info

    async def stored(self, stream: str) -> int:
        """Messages in a stream."""
        info: StreamInfo = await self.js.stream_info(stream)
        return info.state.messages

    async def outcomes(self, count: int = 1) -> list[Outcome]:
        """All outcomes that are stored, once there are `count` of them and no work is left."""

        async def settled() -> bool:
            with contextlib.suppress(NatsError):
                assert await self.stored(subjects.WORK) == 0
                return await self.stored(subjects.OUTCOMES) >= count
            return False

        await eventually(settled, timeout_seconds=20)
        info = await self.js.stream_info(subjects.OUTCOMES)
        found: list[Outcome] = []
        for seq in range(info.state.first_seq, info.state.last_seq + 1):
            message = await self.js.get_msg(subjects.OUTCOMES, seq)
            body = await unpack(message.data or b"", self.artifacts)
            found += parse_outcomes(body, trusted=True)[0]
        return found

    async def outcome(self) -> Outcome:
        """The only outcome."""
        (found,) = await self.outcomes()
        return found

    async def short_deliveries(self, seconds: float) -> None:
        """A message that shows no progress for that long is delivered again."""
        await self.js.add_consumer(subjects.WORK, topology.lane_consumer(LANE, ack_wait=seconds))

    async def close(self) -> None:
        """Stop the workers, close the connections."""
        self.performer.gate.set()
        for worker in self._workers:
            await worker.stop()
        for client in [*self._clients, self.client]:
            with contextlib.suppress(OSError):  # a test has killed its server
                await client.close()


@pytest.fixture
async def bench(nats_server: EmbeddedNats) -> AsyncIterator[Bench]:
    client = await connect(nats_server.service_url)
    made = Bench(nats_server, client)
    await topology.apply(made.js, [LANE])
    try:
        yield made
    finally:
        await made.close()


async def test_work_becomes_an_outcome_and_the_message_is_gone(bench: Bench) -> None:
    bench.performer.gate.set()
    await bench.start()
    await bench.hand_out(make_work("1"))
    outcome = await bench.outcome()
    assert isinstance(outcome, Done)
    assert (outcome.task_id, outcome.epoch, outcome.worker) == ("1", 1, "w1")
    message = await bench.js.get_last_msg(subjects.OUTCOMES, subjects.outcomes(LANE))
    assert message.headers is not None
    assert message.headers["Nats-Msg-Id"] == "1:1"


async def test_waiting_pulls_equal_free_slots(bench: Bench) -> None:
    await bench.start(slots=3)
    await eventually(lambda: _waiting(bench, 3))
    await bench.hand_out(make_work("1"))
    await bench.hand_out(make_work("2"))
    await eventually(lambda: len(bench.performer.begun) == 2)
    await eventually(lambda: _waiting(bench, 1))
    bench.performer.gate.set()
    await bench.outcomes(2)
    await eventually(lambda: _waiting(bench, 3))


async def _waiting(bench: Bench, count: int) -> bool:
    assert (await bench.consumer()).num_waiting == count
    return True


async def _stored(bench: Bench, stream: str, count: int) -> bool:
    assert await bench.stored(stream) == count
    return True


async def test_no_more_is_taken_than_there_are_slots(bench: Bench) -> None:
    await bench.start(slots=2)
    for task_id in "1234":
        await bench.hand_out(make_work(task_id))
    await eventually(lambda: len(bench.performer.begun) == 2)
    info = await bench.consumer()
    assert (info.num_ack_pending, info.num_pending) == (2, 2)
    bench.performer.gate.set()
    assert sorted(o.task_id for o in await bench.outcomes(4)) == list("1234")


async def test_a_task_is_announced_at_once_and_every_third_of_its_lease(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    heard: list[tuple[float, Alive]] = []

    async def on_alive(message: Msg) -> None:
        heard.append((loop.time(), parse_strict(Alive, message.data)))

    await bench.client.subscribe(subjects.alive(LANE), cb=on_alive)
    await bench.client.flush()
    await bench.start()
    begun = loop.time()
    await bench.hand_out(make_work("1", lease_seconds=3))
    await eventually(lambda: len(heard) >= 3)
    assert heard[0][0] - begun < 0.9
    pauses = [after - before for (before, _), (after, _) in itertools.pairwise(heard)]
    assert all(0.7 < pause < 2.0 for pause in pauses[:2]), pauses
    assert {(alive.worker, alive.slots, *alive.tasks) for _, alive in heard} == {("w1", 1, ("1", 1))}
    bench.performer.gate.set()
    await bench.outcome()
    told = len(heard)
    await bench.start(name="w2")  # a round trip later nothing more was said about the task that is done
    assert len(heard) == told


async def test_tasks_of_a_lane_are_announced_together_after_the_first_time(bench: Bench) -> None:
    heard: list[list[str]] = []

    async def on_alive(message: Msg) -> None:
        heard.append(sorted(task for task, _ in parse_strict(Alive, message.data).tasks))

    await bench.client.subscribe(subjects.alive(LANE), cb=on_alive)
    await bench.client.flush()
    await bench.start(slots=3)
    for task_id in "123":
        await bench.hand_out(make_work(task_id, lease_seconds=1.5))
    await eventually(lambda: len(heard) >= 6)
    assert sorted(heard[:3]) == [["1"], ["2"], ["3"]]
    assert heard[3:6] == [["1", "2", "3"]] * 3
    bench.performer.gate.set()
    await bench.outcomes(3)


async def test_a_long_task_is_not_delivered_again(bench: Bench) -> None:
    await bench.start(slots=2)
    await bench.short_deliveries(1.0)
    begun = asyncio.get_running_loop().time()
    await bench.hand_out(make_work("1", lease_seconds=0.9))
    await eventually(lambda: asyncio.get_running_loop().time() - begun > 2.5)
    assert (await bench.consumer()).num_redelivered == 0
    bench.performer.gate.set()
    assert (await bench.outcome()).kind == "done"
    assert bench.performer.begun == [("1", 1)]


async def test_a_message_delivered_twice_is_answered_and_not_performed(bench: Bench) -> None:
    pull = await bench.js.pull_subscribe_bind(subjects.work_durable(LANE), stream=subjects.WORK)
    await bench.hand_out(make_work("1"))
    (message,) = await pull.fetch(1, timeout=5)  # a performer that took it and died
    await message.nak()
    await bench.start()
    outcome = await bench.outcome()
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("redelivered", False)
    assert bench.performer.begun == []


async def test_work_stays_until_its_outcome_is_confirmed(bench: Bench) -> None:
    bench.performer.gate.set()
    await bench.start()
    await bench.js.delete_stream(subjects.OUTCOMES)
    await bench.hand_out(make_work("1"))
    await eventually(lambda: bench.performer.cleaned == ["1"])
    info = await bench.consumer()
    assert (await bench.stored(subjects.WORK), info.num_ack_pending) == (1, 1)
    await topology.apply(bench.js, [LANE])
    assert (await bench.outcome()).kind == "done"
    assert bench.performer.begun == [("1", 1)]


async def test_cancel_ends_the_running_try_without_an_outcome(bench: Bench) -> None:
    await bench.start(slots=2)
    await bench.hand_out(make_work("1"))
    await bench.hand_out(make_work("2"))
    await eventually(lambda: len(bench.performer.begun) == 2)
    await bench.client.publish(subjects.cancel("1"), b"")
    await eventually(lambda: bench.performer.cleaned == ["1"])
    bench.performer.gate.set()
    assert [o.task_id for o in await bench.outcomes(1)] == ["2"]


async def test_a_cancelled_task_may_come_again_with_a_new_epoch(bench: Bench) -> None:
    worker = await bench.start()
    await bench.hand_out(make_work("1"))
    await eventually(lambda: bench.performer.begun == [("1", 1)])
    await bench.client.publish(subjects.cancel("1"), b"")
    await eventually(lambda: worker.busy == 0)
    await bench.hand_out(make_work("1", epoch=2))
    await eventually(lambda: worker.busy == 1)
    bench.performer.gate.set()
    assert [o.epoch for o in await bench.outcomes(1)] == [2]


async def test_two_epochs_of_one_task_are_both_cancelled(bench: Bench) -> None:
    worker = await bench.start(slots=2)
    await bench.hand_out(make_work("1", epoch=1))
    await bench.hand_out(make_work("1", epoch=2))
    await eventually(lambda: worker.busy == 2)
    await bench.client.publish(subjects.cancel("1"), b"")
    await eventually(lambda: worker.busy == 0)
    assert bench.performer.cleaned == ["1", "1"]
    await eventually(lambda: _stored(bench, subjects.WORK, 0))
    assert await bench.stored(subjects.OUTCOMES) == 0


async def test_stop_lets_running_tries_finish(bench: Bench) -> None:
    worker = await bench.start(drain_seconds=10.0)
    await bench.hand_out(make_work("1"))
    await eventually(lambda: worker.busy == 1)
    stopping = asyncio.create_task(worker.stop())
    await eventually(lambda: _waiting(bench, 0))
    assert not stopping.done()
    bench.performer.gate.set()
    await stopping
    assert (await bench.outcome()).kind == "done"


async def test_stop_hands_back_what_does_not_finish_in_time(bench: Bench) -> None:
    worker = await bench.start(drain_seconds=0.2)
    await bench.hand_out(make_work("1"))
    await eventually(lambda: worker.busy == 1)
    await worker.stop()
    outcome = await bench.outcome()
    assert isinstance(outcome, Throttled)
    assert outcome.retry_after_seconds == 0
    assert bench.performer.cleaned == ["1"]


async def test_stop_loses_nothing_that_is_being_delivered(bench: Bench) -> None:
    """Work comes in all the time while one of two workers stops: each message is answered once. (The server
    may just then send a message to a pull that it forgets: that one comes again and is not performed.)"""
    bench.performer.gate.set()
    worker = await bench.start(slots=8)
    await bench.start(name="w2")
    await bench.short_deliveries(2.0)
    stopped = asyncio.Event()

    async def publish() -> int:
        for number in itertools.count(1):
            await bench.hand_out(make_work(str(number)))
            if stopped.is_set():
                return number
        raise AssertionError

    publishing = asyncio.create_task(publish())
    await eventually(lambda: len(bench.performer.begun) > 100)
    await worker.stop()
    stopped.set()
    sent = await publishing
    outcomes = await bench.outcomes(sent)
    assert sorted(int(o.task_id) for o in outcomes) == list(range(1, sent + 1))
    assert len([o for o in outcomes if o.kind == "failed"]) <= 1
    assert len(bench.performer.begun) == len({task for task, _ in bench.performer.begun})


async def test_what_arrives_while_a_slot_leaves_is_handed_back(bench: Bench) -> None:
    """The message is in the hands of the client when the worker is asked to stop."""
    worker = await bench.start()
    await eventually(lambda: _waiting(bench, 1))
    await asyncio.gather(bench.hand_out(make_work("1")), worker.stop())
    if await bench.stored(subjects.WORK):  # the slot had left before: nobody holds it
        assert (await bench.consumer()).num_ack_pending == 0
    else:
        outcome = await bench.outcome()
        assert outcome.kind in ("throttled", "done")


async def test_stop_does_not_hang_when_nats_is_gone(bench: Bench) -> None:
    worker = await bench.start(drain_seconds=0.1)
    await bench.hand_out(make_work("1"))
    await eventually(lambda: worker.busy == 1)
    await bench.server.stop()
    async with asyncio.timeout(10):
        await worker.stop()
    await bench.server.start()


async def test_stop_twice_and_before_work_is_harmless(bench: Bench) -> None:
    worker = await bench.start()
    await worker.stop()
    await worker.stop()
    await eventually(lambda: _waiting(bench, 0))


async def test_an_exception_is_a_retryable_failure_without_secrets(bench: Bench) -> None:
    async def perform(work: Work, attempt: Attempt) -> Outcome:
        raise RuntimeError("the key sk-abcdefghijklmnop was refused")

    await bench.start(perform)
    await bench.hand_out(make_work("1"))
    outcome = await bench.outcome()
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("internal_error", True)
    assert outcome.error.message == f"RuntimeError: the key {MASK} was refused"


async def test_an_error_of_ours_keeps_its_code_and_hint(bench: Bench) -> None:
    async def perform(work: Work, attempt: Attempt) -> Outcome:
        raise Refused("no_such_model", "there is no model x", hint="set GOALWRIGHT_MODEL")

    await bench.start(perform)
    await bench.hand_out(make_work("1"))
    outcome = await bench.outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "no_such_model"
    assert outcome.error.message == "there is no model x. Fix: set GOALWRIGHT_MODEL"


async def test_a_performer_that_cancels_itself_has_failed(bench: Bench) -> None:
    """It is not handed back: it would be dispatched again at once, for ever."""

    async def perform(work: Work, attempt: Attempt) -> Outcome:
        raise asyncio.CancelledError

    await bench.start(perform)
    await bench.hand_out(make_work("1"))
    outcome = await bench.outcome()
    assert isinstance(outcome, Failed)
    assert (outcome.error.code, outcome.error.retryable) == ("internal_error", True)


async def test_a_large_outcome_goes_by_reference(bench: Bench) -> None:
    async def perform(work: Work, attempt: Attempt) -> Outcome:
        return done(work).model_copy(update={"summary": "x" * (BODY_BYTES + 1)})

    await bench.start(perform)
    await bench.hand_out(make_work("1"))
    outcome = await bench.outcome()
    assert isinstance(outcome, Done)
    assert len(outcome.summary) == BODY_BYTES + 1
    message = await bench.js.get_last_msg(subjects.OUTCOMES, subjects.outcomes(LANE))
    assert parse_strict(BodyRef, message.data or b"").body_ref.size > BODY_BYTES


async def test_a_large_outcome_that_cannot_be_stored_is_a_failure_and_the_slot_goes_on(bench: Bench) -> None:
    artifacts = MemoryArtifacts()
    artifacts.full = True

    async def perform(work: Work, attempt: Attempt) -> Outcome:
        return done(work).model_copy(
            update={"summary": "x" * (BODY_BYTES + 1) if work.task_id == "1" else "ok"}
        )

    await bench.start(perform, artifacts=artifacts)
    await bench.hand_out(make_work("1"))
    await bench.hand_out(make_work("2"))
    first, second = await bench.outcomes(2)
    assert isinstance(first, Failed)
    assert (first.error.code, first.error.retryable) == ("artifact_not_stored", True)
    assert second.kind == "done"


async def test_work_by_reference_is_resolved(bench: Bench) -> None:
    bench.performer.gate.set()
    seen: list[int] = []

    async def perform(work: Work, attempt: Attempt) -> Outcome:
        seen.append(len(work.spec.instruction))
        return done(work)

    await bench.start(perform)
    body = await pack(make_work("1", instruction="y" * (BODY_BYTES + 1)).to_json(), bench.artifacts)
    assert len(body) < 1000
    await bench.hand_out(body)
    assert (await bench.outcome()).kind == "done"
    assert seen == [BODY_BYTES + 1]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"not json", id="no JSON"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param(b'{"goal_id": "g"}', id="fields missing"),
        pytest.param(
            BodyRef(
                body_ref=ArtifactRef(
                    name="body", type=ArtifactType.JSON, size=9, sha256="0" * 64, object="0" * 64
                )
            ).to_json(),
            id="a reference to nothing",
        ),
    ],
)
async def test_unreadable_work_is_terminated_and_the_slot_goes_on(bench: Bench, body: bytes) -> None:
    bench.performer.gate.set()
    await bench.start()
    with capture_logs() as logs:
        await bench.hand_out(body)
        await bench.hand_out(make_work("2"))
        assert [o.task_id for o in await bench.outcomes(1)] == ["2"]
    assert [entry["lane"] for entry in logs if entry["event"] == "work is unreadable"] == [LANE]
    advisory = await bench.js.get_msg(subjects.ADVISORIES, 1)
    assert b"terminated" in (advisory.data or b"")


async def test_an_outcome_survives_a_restart_of_nats_and_arrives_once(bench: Bench) -> None:
    """WORK is memory and gone after the restart; the try that ran goes on, and new work is taken."""
    worker = await bench.start()
    await bench.hand_out(make_work("1"))
    await eventually(lambda: worker.busy == 1)
    assert bench.server.process is not None
    bench.server.process.kill()
    await asyncio.to_thread(bench.server.process.wait)
    bench.performer.gate.set()  # it ends while nobody listens
    await eventually(lambda: worker.busy == 0)
    await bench.server.start()

    async def applied() -> bool:
        with contextlib.suppress(NatsError):
            await topology.apply(bench.js, [LANE])
            return True
        return False

    await eventually(applied, timeout_seconds=20)
    assert [(o.task_id, o.kind) for o in await bench.outcomes(1)] == [("1", "done")]
    await bench.hand_out(make_work("2"))
    assert [o.task_id for o in await bench.outcomes(2)] == ["1", "2"]
    assert bench.performer.begun == [("1", 1), ("2", 1)]


async def test_a_lane_without_its_consumer_is_refused_with_the_fix(bench: Bench) -> None:
    with pytest.raises(TopologyMissing, match=r"work-agent-ask .* does not exist.*topology apply"):
        await bench.start(lanes=["agent.ask"])


async def test_an_attempt_asks_for_the_owner_of_its_work_and_logs_without_secrets(bench: Bench) -> None:
    lines: list[bytes] = []
    answers: list[dict[str, Any]] = []

    async def on_line(message: Msg) -> None:
        lines.append(message.data)

    async def perform(work: Work, attempt: Attempt) -> Outcome:
        await attempt.log("using sk-abcdefghijklmnop")
        answers.append(await attempt.query("graph", {"goal_id": work.goal_id}))
        return done(work)

    await bench.client.subscribe(subjects.logs("ann", "g", "1"), cb=on_line)
    await bench.client.flush()
    await bench.start(perform)
    await bench.hand_out(make_work("1").model_copy(update={"owner": "ann"}))
    await bench.outcome()
    await eventually(lambda: lines)
    assert lines == [f"using {MASK}".encode()]
    assert answers == [{"what": "graph", "owner": "ann", "goal_id": "g"}]


async def test_inputs_that_are_gone_are_a_failure_that_says_so(bench: Bench) -> None:
    async def perform(work: Work, attempt: Attempt) -> Outcome:
        raise ArtifactUnavailable("artifact_missing", "artifact rows could not be read")

    await bench.start(perform)
    await bench.hand_out(make_work("1"))
    outcome = await bench.outcome()
    assert isinstance(outcome, Failed)
    assert outcome.error.code == "artifact_missing"
