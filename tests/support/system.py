"""The scheduler, running for real against real servers; performers and clients of tests talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg
import nats
import pytest
from goalwright_cli.embedded_nats import EmbeddedNats
from goalwright_scheduler import migrations
from goalwright_scheduler.app import build
from goalwright_scheduler.core.states import TRANSITIONS
from goalwright_scheduler.lanes import store_lanes
from goalwright_scheduler.settings import HUMAN_LANE, SchedulerSettings
from goalwright_shared import topology
from goalwright_shared.lifecycle import Part, Stopper
from goalwright_shared.messages import Lane, PoolLimit
from goalwright_shared.worker import Perform
from nats.aio.client import Client

from support import forked, invariants, performer
from support.forked import Process
from support.performer import Manner

LANES = [
    HUMAN_LANE,
    Lane(name="plan", may=["done", "expand", "revise", "failed", "throttled"], child_lanes=["*"], lease_seconds=5),
    Lane(name="exec", lease_seconds=5),
    Lane(name="reflect", may=["done", "expand", "failed", "throttled"], child_lanes=["agent.*"], lease_seconds=5),
    Lane(
        name="agent.ask", pool="k/m", max_input_tokens=1000, max_output_tokens=1000, lease_seconds=5,
        input_usd_per_mtok=1.0, output_usd_per_mtok=4.0,
    ),
    Lane(name="agent.judge", pool="k/m", max_input_tokens=1000, max_output_tokens=1000, lease_seconds=5),
    Lane(
        name="agent.generalist", plannable=True, pool="k/m", max_input_tokens=1000, max_output_tokens=1000,
        may=["done", "expand", "failed", "throttled"], child_lanes=["exec", "agent.*", "human"], lease_seconds=5,
    ),
    Lane(name="custom.a", performer="custom", may=["done", "expand", "failed", "throttled"], child_lanes=["*"],
         look_ahead=2, lease_seconds=10),
    Lane(name="custom.b", performer="custom", look_ahead=2, lease_seconds=10),
    Lane(name="custom.short", performer="custom", lease_seconds=1),
]  # fmt: skip

P = TypeVar("P", bound=Perform)

_POOLS = (PoolLimit(pool="k/m"),)


async def wait_for(check: Callable[[], Awaitable[Any]], seconds: float = 15.0) -> Any:
    """The first truthy answer of `check`; fails when there is none in time."""
    async with asyncio.timeout(seconds):
        while True:
            found = await check()
            if found:
                return found
            await asyncio.sleep(0.02)


@dataclass
class System:
    """A running scheduler process, and a client of it."""

    server: EmbeddedNats
    dsn: str
    client: Client
    processes: list[Process] = field(default_factory=list)
    performers: list[asyncio.Task[None]] = field(default_factory=list)
    performed: list[tuple[str, int, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    closing: bool = False
    _service: asyncio.Task[Client] | None = None

    async def start_scheduler(self, **settings: Any) -> None:
        """A scheduler inside the test's own process: two seconds of imports are paid once."""
        chosen = {"leader_lease_seconds": 1, "worker": "in-process", **settings}
        stopper = Stopper()
        made = SchedulerSettings(nats_url=self.server.service_url, postgres_dsn=self.dsn, **chosen)
        for part in build(made, stopper):
            await part.start()
            self.parts.append(part)
        await wait_for(self.answers, 30)

    async def start_scheduler_process(self, *, awaited: bool = True, **environment: str) -> Process:
        """One more scheduler, as a process that can be killed; `awaited` until somebody leads."""
        process = forked.start(
            "scheduler",
            {"GOALWRIGHT_NATS_URL": self.server.service_url, "GOALWRIGHT_POSTGRES_DSN": self.dsn,
             "GOALWRIGHT_LOG_LEVEL": "error", "GOALWRIGHT_LEADER_LEASE_SECONDS": "1",
             **self.environment, **environment},
        )  # fmt: skip
        self.processes.append(process)
        if awaited:
            await wait_for(self.answers, 30)
        return process

    async def start_performer(
        self, lanes: Sequence[str], slots: int, perform: P, *, url: str | None = None
    ) -> P:
        """A performer on our own worker loop, inside the test's process; `perform` again."""
        name = f"performer-{len(self.parts)}"
        for part in performer.build(url or self.server.service_url, lanes, slots, perform, name, Stopper()):
            await part.start()
            self.parts.append(part)
        return perform

    def start_performer_process(self, lanes: Sequence[str], slots: int, manner: Manner) -> Process:
        """A performer on our own worker loop as a process that can be killed."""
        name = f"performer-process-{len(self.processes)}"
        process = forked.start(
            "performer", performer.environment(self.server.service_url, name, lanes, slots, manner)
        )
        self.processes.append(process)
        return process

    async def kill(self, process: Process, number: int = signal.SIGKILL) -> None:
        """End one process and wait for its end."""
        process.send_signal(number)
        await process.wait()
        self.processes.remove(process)

    async def service(self) -> Client:
        """A connection with the rights of a service; one, however many ask at once."""
        if self._service is None:
            self._service = asyncio.create_task(connect(self.server.service_url))
        return await asyncio.shield(self._service)

    async def answers(self) -> bool:
        """Whether a leader answers control requests."""
        try:
            answer = await self.client.request("control.pause", b'{"goal_id": "none"}', timeout=0.5)
        except (nats.errors.Error, TimeoutError):
            return False
        return b"not_found" in answer.data

    async def request(self, subject: str, body: Any) -> Any:
        """One request, its JSON answer."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        return json.loads((await self.client.request(subject, payload, timeout=15)).data)

    async def submit(self, **goal: Any) -> str:
        """A goal by request; its id."""
        answer = await self.request("goals.request", goal)
        assert "goal_id" in answer, answer
        goal_id: str = answer["goal_id"]
        return goal_id

    async def goal(self, goal_id: str) -> Any:
        """The answer of `query.goal`."""
        return await self.request("query.goal", {"goal_id": goal_id})

    async def events(self, goal_id: str, owner: str = "public") -> list[Any]:
        """The stored events of a goal, in order."""
        js = self.client.jetstream()
        pull = await js.subscribe(f"events.{owner}.{goal_id}.>", ordered_consumer=True)
        found: list[Any] = []
        while True:
            try:
                found.append(json.loads((await pull.next_msg(timeout=0.3)).data))
            except (nats.errors.TimeoutError, TimeoutError):
                await pull.unsubscribe()
                return found

    async def dead(self, stream: str) -> Any:
        """The last message that was kept as dead, with the operator's rights."""
        message = await (await self.service()).jetstream().get_last_msg("DEAD", f"dead.{stream}")
        return json.loads(message.data or b"{}")

    async def finished(self, goal_id: str, seconds: float = 20.0) -> Any:
        """The data of `goal.finished`, awaited."""

        async def ended() -> Any:
            answer = await self.tried(self.goal(goal_id))
            return answer if answer.get("finished_at") else None

        return await wait_for(ended, seconds)

    async def tried(self, request: Awaitable[Any]) -> Any:
        """The answer of a request that may find nobody yet: an empty one then."""
        try:
            return await request
        except (nats.errors.Error, TimeoutError):
            return {}

    async def restart_nats(self, *, wipe: bool = False) -> None:
        """Kill -9 nats-server and start it again, with its store or with an empty one."""
        process = self.server.process
        assert process is not None
        process.kill()
        await asyncio.to_thread(process.wait)
        if wipe:
            shutil.rmtree(self.server._folder.parent / "nats" / "jetstream")
        await self.server.start()

    async def task(self, goal_id: str, key: str) -> Any:
        """The answer of `query.task`."""
        return await self.request("query.task", {"goal_id": goal_id, "task_id": key})

    async def until(self, goal_id: str, key: str, *states: str) -> Any:
        """The task, once it is in one of `states`."""

        async def there() -> Any:
            answer = await self.task(goal_id, key)
            return answer if answer.get("state") in states else None

        return await wait_for(there)

    def perform(
        self,
        lane: str,
        answer: Callable[[Any], Any] | None = None,
        slots: int = 4,
        client: str = "client",
    ) -> list[asyncio.Task[None]]:
        """A performer on plain nats-py; `answer` maps Work to an outcome's own fields (None: no answer).
        With `client="service"` it has the rights of a service, for the lanes of ours."""
        started = [asyncio.create_task(self._slot(lane, answer or echo, client)) for _ in range(slots)]
        self.performers += started
        return started

    async def _slot(self, lane: str, answer: Callable[[Any], Any], client: str) -> None:
        js = (self.client if client == "client" else await self.service()).jetstream()
        pull = await js.pull_subscribe_bind(durable="work-" + lane.replace(".", "-"), stream="WORK")
        while not self.closing:
            try:
                (message,) = await pull.fetch(1, timeout=2)
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            work = json.loads(message.data)
            if "body_ref" in work:  # over 512 KiB: the whole message is an artifact
                store = await js.object_store("ARTIFACTS")
                work = json.loads((await store.get(work["body_ref"]["object"])).data or b"")
            self.performed.append((work["spec"]["key"], work["epoch"], lane))
            outcome = answer(work)
            if asyncio.iscoroutine(outcome):
                outcome = await outcome
            if outcome is not None:
                base = {name: work[name] for name in ("goal_id", "task_id", "epoch")}
                await js.publish(f"outcomes.{lane}", json.dumps({**base, **outcome}).encode())
            await message.ack()


def artifact(name: str, text: str, type: str = "text") -> dict[str, Any]:
    """An inline artifact, as an outsider would write it."""
    body = text.encode()
    return {"name": name, "type": type, "media_type": "text/plain", "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(), "inline": text}  # fmt: skip


def echo(work: Any) -> dict[str, Any]:
    """An answer that names what it was given: outputs say from which inputs they come."""
    given = ",".join(f"{name}={ref['inline']}" for name, ref in sorted(work["inputs"].items()))
    return {
        "kind": "done",
        "outputs": {
            o["name"]: artifact(o["name"], f"{work['spec']['key']}({given})", o["type"])
            for o in work["spec"]["outputs"]
        },
        "summary": f"did {work['spec']['key']}",
    }


def chain(lane: str, *keys: str) -> list[dict[str, Any]]:
    """Tasks that each need the one before."""
    return [
        {
            "key": key,
            "lane": lane,
            "inputs": [f"o-{keys[i - 1]}"] if i else [],
            "outputs": [{"name": f"o-{key}"}],
        }
        for i, key in enumerate(keys)
    ]


async def refuse_illegal_transitions(dsn: str) -> None:
    """A trigger that knows the table of legal transitions: a statement that breaks it fails."""
    legal = ", ".join(f"('{old}', '{new}')" for old, after in TRANSITIONS.items() for new in sorted(after))
    db = await asyncpg.connect(dsn)
    await db.execute(
        f"""CREATE FUNCTION legal_transition() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.epoch < OLD.epoch THEN
                    RAISE EXCEPTION 'the epoch of task % went back', NEW.id;
                END IF;
                IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN ({legal}) THEN
                    RAISE EXCEPTION 'task % may not go from % to %', NEW.id, OLD.state, NEW.state;
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER legal_transition BEFORE UPDATE ON task
            FOR EACH ROW EXECUTE FUNCTION legal_transition()"""
    )
    await db.close()


async def connect(url: str) -> Client:
    """A client that outlives restarts of the server."""

    async def ignore(_: Exception) -> None:
        """Disconnections are meant, in tests that kill the server."""

    return await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=1, error_cb=ignore)


async def prepare(
    server: EmbeddedNats, dsn: str, lanes: Sequence[Lane], pools: Sequence[PoolLimit] = ()
) -> None:
    """Schema, lanes, streams and consumers."""
    await migrations.migrate(dsn)
    await refuse_illegal_transitions(dsn)
    await store_lanes(dsn, lanes, pools)
    client = await nats.connect(server.service_url)
    await topology.apply(client.jetstream(), [lane.name for lane in lanes if lane.performer != "human"])
    await client.close()


@contextlib.asynccontextmanager
async def opened(
    server: EmbeddedNats, dsn: str, lanes: Sequence[Lane] = LANES, pools: Sequence[PoolLimit] = _POOLS
) -> AsyncIterator[System]:
    """A system on real servers, topology applied, without a scheduler; whatever it starts ends with it, and
    the invariants are checked."""
    await prepare(server, dsn, lanes, pools)
    client = await connect(server.client_url)
    made = System(server, dsn, client)
    try:
        yield made
    finally:
        made.closing = True  # nats-py may swallow a cancel that races with a reply
        for task in made.performers:
            task.cancel()
        await asyncio.gather(*made.performers, return_exceptions=True)
        for part in reversed(made.parts):
            await part.stop()
        for process in list(made.processes):
            if process.returncode is None:
                await made.kill(process)
        if made._service is not None:
            await (await made._service).close()
        await client.close()
    assert await invariants.broken(dsn) == {}


@pytest.fixture
async def system(nats_server: EmbeddedNats, postgres_dsn: str) -> AsyncIterator[System]:
    """Real NATS, real Postgres, topology applied; no scheduler yet (`await system.start_scheduler()`)."""
    async with opened(nats_server, postgres_dsn) as made:
        yield made
