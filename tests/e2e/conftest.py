"""The whole system as people have it: `goalwright up` in a home of its own, once for all these tests."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest
from goalwright_cli import processes, runfile
from nats.aio.client import Client
from nats.errors import Error as NatsError
from support import invariants
from support.waiting import eventually

READY_SECONDS = 90.0
Perform = Callable[[Any], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Up:
    """A running `goalwright up`."""

    home: Path
    process: subprocess.Popen[bytes]

    @property
    def run(self) -> runfile.Run:
        """What run.json says now."""
        run = runfile.read(self.home)
        assert run is not None, "the system does not run"
        return run

    def pids(self) -> set[int]:
        """Every process of the system."""
        run = self.run
        return {*run.children.values(), *(pid for pids in run.services.values() for pid in pids)}

    def goalwright(self, *arguments: str) -> str:
        """A command against this system; its output."""
        command = [sys.executable, "-m", "goalwright_cli.main", "--home", str(self.home), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, cwd=self.home.parent, env=environment()
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would point to another system or model, or to an image that somebody left in an engine."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GOALWRIGHT_", "OPENAI_"))}
    return kept | {"GOALWRIGHT_SANDBOX": "bubblewrap"} | more


@contextlib.contextmanager
def running_up(**settings: str) -> Iterator[Up]:
    """Up and ready; stopped at the end, when no process of it may be left."""
    with tempfile.TemporaryDirectory(prefix="goalwright-e2e-") as folder:
        home, log = Path(folder) / "home", Path(folder) / "up.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "goalwright_cli.main", "--home", str(home), "up"],
                stdout=out, stderr=out, env=environment(**settings), cwd=folder,
            )  # fmt: skip
        up, everything = Up(home, process), set[int]()
        try:
            _await_ready(up, log)
            yield up
            everything = up.pids()
            assert asyncio.run(invariants.broken(str(up.run.postgres_dsn))) == {}
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
        assert code == 0, log.read_text()
        assert not (home / "run.json").exists()
        assert [pid for pid in everything if processes.alive(pid)] == []


def _await_ready(up: Up, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while runfile.read(up.home) is None:
        assert up.process.poll() is None, f"the system did not start:\n{log.read_text()}"
        assert time.monotonic() < deadline, f"the system is not ready:\n{log.read_text()}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def up() -> Iterator[Up]:
    """The system of all these tests, with the rehearsal model."""
    with running_up() as system:
        yield system


@dataclass
class Outsider:
    """A client and performer on plain nats-py, with nothing but the address in run.json."""

    client: Client
    performers: list[asyncio.Task[None]] = field(default_factory=list)
    performed: list[tuple[str, list[str]]] = field(default_factory=list)
    """Keys of the tasks that were performed, in order, with the names of their inputs."""

    async def request(self, subject: str, body: Any) -> Any:
        """One request, its JSON answer; asked again while nobody leads."""
        payload = json.dumps(body).encode()

        async def answer() -> Any:
            try:
                return json.loads((await self.client.request(subject, payload, timeout=5)).data)
            except (NatsError, TimeoutError):
                return None

        return await eventually(answer, timeout_seconds=40)

    async def submit(self, **goal: Any) -> str:
        """A goal by request; its id."""
        answer = await self.request("goals.request", goal)
        assert "goal_id" in answer, answer
        return str(answer["goal_id"])

    async def put(self, name: str, type: str, media_type: str, body: bytes) -> dict[str, Any]:
        """A file in the bucket, as an input of a goal."""
        digest = hashlib.sha256(body).hexdigest()
        store = await self.client.jetstream().object_store("ARTIFACTS")
        await store.put(digest, body)
        return {"name": name, "type": type, "media_type": media_type, "object": digest}

    async def content(self, ref: Any) -> bytes:
        """The bytes of a deliverable."""
        if ref.get("inline") is not None:
            return str(ref["inline"]).encode()
        store = await self.client.jetstream().object_store("ARTIFACTS")
        body = (await store.get(ref["object"])).data or b""
        assert hashlib.sha256(body).hexdigest() == ref["sha256"]
        return body

    async def watch(self, goal: str, seconds: float = 60) -> list[Any]:
        """All events of a goal up to goal.finished, which must be gapless."""
        js = self.client.jetstream()
        pull = await js.subscribe(f"events.public.{goal}.>", ordered_consumer=True)
        events: list[Any] = []
        try:
            async with asyncio.timeout(seconds):
                while not events or events[-1]["kind"] != "goal.finished":
                    with contextlib.suppress(NatsError):
                        events.append(json.loads((await pull.next_msg(timeout=1)).data))
        except TimeoutError:
            raise AssertionError(
                f"not finished; so far {[(e['kind'], e['data']) for e in events][-5:]}"
            ) from None
        await pull.unsubscribe()
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        return events

    def perform(self, lane: str, answer: Perform, slots: int = 2) -> None:
        """Serve a lane until the test ends."""
        self.performers += [asyncio.create_task(self._slot(lane, answer)) for _ in range(slots)]

    async def _slot(self, lane: str, answer: Perform) -> None:
        js = self.client.jetstream()
        pull = await js.pull_subscribe_bind(durable="work-" + lane.replace(".", "-"), stream="WORK")
        while True:
            try:
                (message,) = await pull.fetch(1, timeout=2)
            except (NatsError, TimeoutError):
                continue
            work = json.loads(message.data)
            self.performed.append((work["spec"]["key"], sorted(work["inputs"])))
            outcome = {name: work[name] for name in ("goal_id", "task_id", "epoch")} | await answer(work)
            await js.publish(f"outcomes.{lane}", json.dumps(outcome).encode())
            await message.ack()


def text(name: str, words: str) -> dict[str, Any]:
    """An inline text artifact."""
    body = words.encode()
    return {"name": name, "type": "text", "media_type": "text/plain", "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(), "inline": words}  # fmt: skip


async def done(work: Any) -> dict[str, Any]:
    """Every declared output, naming the task that made it."""
    outputs = {o["name"]: text(o["name"], f"made by {work['spec']['key']}") for o in work["spec"]["outputs"]}
    return {"kind": "done", "outputs": outputs}


@contextlib.asynccontextmanager
async def outside(up: Up) -> AsyncIterator[Outsider]:
    """An outsider of a system, for one test."""

    async def ignore(_: Exception) -> None:
        """Disconnections are meant, in tests that kill services."""

    made = Outsider(await nats.connect(up.run.nats_url, max_reconnect_attempts=-1, error_cb=ignore))
    try:
        yield made
    finally:
        for performer in made.performers:
            performer.cancel()
        await asyncio.gather(*made.performers, return_exceptions=True)
        await made.client.close()


@pytest.fixture
async def outsider(up: Up) -> AsyncIterator[Outsider]:
    """An outsider of the session's system."""
    async with outside(up) as made:
        yield made
