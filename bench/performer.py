"""A performer of the bench, as a process of its own, on plain nats-py; it keeps a record of every call.

`single` is what a user writes from the description of the messages alone: slots that each pull one message
and answer it. `batch` takes whatever has arrived and answers all of it in one message.

Started by the stand; speaks lines: prints `ready`; told a path, writes its records there and prints `written`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import sys
import time
from array import array
from collections import defaultdict
from typing import Any

import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import PubAck
from nats.js.client import JetStreamContext

WAIT_SECONDS = 30.0


class Records:
    """Every call that was made: (task number, epoch, began, ended) by goal, times from the machine's
    monotonic clock, which all processes share."""

    def __init__(self, journal: str | None) -> None:
        """With `journal`, `b <task>` and `e <task>` go to that file as they happen: it outlives a kill."""
        self._calls: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if journal else None

    def begin(self, number: int) -> int:
        """A call begins: now."""
        if self._journal is not None:
            os.write(self._journal, f"b {number}\n".encode())
        return time.monotonic_ns()

    def end(self, goal_id: str, number: int, epoch: int, began: int) -> None:
        """A call ends now."""
        self._calls[goal_id].extend((number, epoch, began, time.monotonic_ns()))
        if self._journal is not None:
            os.write(self._journal, f"e {number}\n".encode())

    def report(self, path: str) -> None:
        """Into a file: by goal, all numbers in a row. The records start anew."""
        with open(path, "w") as file:
            json.dump({goal_id: calls.tolist() for goal_id, calls in self._calls.items()}, file)
        self._calls.clear()


class WrongInputs(Exception):
    """A task came without what it declares."""


def outcome(work: dict[str, Any]) -> dict[str, Any]:
    """The answer to one work: output `o<i>` is the text `<i>`. Raises `WrongInputs`."""
    spec, inputs = work["spec"], work["inputs"]
    if len(inputs) != len(spec["inputs"]) or any(ref["inline"] != name[1:] for name, ref in inputs.items()):
        raise WrongInputs(f"{work['goal_id']} {spec['key']}: wants {spec['inputs']}, got {sorted(inputs)}")
    name = spec["outputs"][0]["name"]
    text = name[1:]
    ref = {
        "name": name,
        "type": "text",
        "media_type": "text/plain",
        "size": len(text),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "inline": text,
    }
    return {
        "goal_id": work["goal_id"],
        "task_id": work["task_id"],
        "epoch": work["epoch"],
        "kind": "done",
        "outputs": {name: ref},
    }


def seconds_of(work: dict[str, Any]) -> float:
    """How long the call takes."""
    return float((work["spec"].get("params") or {}).get("seconds", 0))


class Performer:
    """Takes the work of one lane until it is cancelled."""

    def __init__(self, client: Client, lane: str, slots: int, records: Records) -> None:
        self._client, self._slots, self._records = client, slots, records
        self._js: JetStreamContext = client.jetstream(timeout=WAIT_SECONDS)
        self._durable = "work-" + lane.replace(".", "-")
        self._outcomes = f"outcomes.{lane}"

    async def read(self, payload: bytes) -> dict[str, Any]:
        """The work of a message; a big one is an artifact."""
        work: dict[str, Any] = json.loads(payload)
        if "body_ref" in work:
            store = await self._js.object_store("ARTIFACTS")
            work = json.loads((await store.get(work["body_ref"]["object"])).data or b"")
        return work

    async def perform(self, work: dict[str, Any]) -> dict[str, Any]:
        """Make the call and note it."""
        number = int(work["spec"]["key"][1:])
        began = self._records.begin(number)
        if seconds := seconds_of(work):
            await asyncio.sleep(seconds)
        answer = outcome(work)
        self._records.end(work["goal_id"], number, work["epoch"], began)
        return answer

    async def run(self) -> None:
        """Perform until cancelled."""
        raise NotImplementedError


class Single(Performer):
    """Slots that each pull one message, answer it, ack it."""

    async def run(self) -> None:
        """All slots."""
        await asyncio.gather(*(self._slot() for _ in range(self._slots)))

    async def _slot(self) -> None:
        pull = await self._js.pull_subscribe_bind(durable=self._durable, stream="WORK")
        while True:
            with contextlib.suppress(nats.errors.TimeoutError):
                (message,) = await pull.fetch(1, timeout=WAIT_SECONDS)
                answer = await self.perform(await self.read(message.data))
                await self._js.publish(self._outcomes, json.dumps(answer).encode())
                await message.ack()


class Batch(Performer):
    """One waiting pull for many messages; what has arrived together is answered in one message, and acked
    when the stream has the answer."""

    def __init__(self, client: Client, lane: str, slots: int, records: Records) -> None:
        super().__init__(client, lane, slots, records)
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.WORK.{self._durable}"
        self._pull = json.dumps({"batch": slots}).encode()
        self._inbox = client.new_inbox()
        self._arrived: list[Msg] = []
        self._wanted = 0  # messages that our waiting pulls may still bring
        self._awake = asyncio.Event()
        self._acking: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take, answer, ack."""
        await self._client.subscribe(self._inbox, cb=self._take, pending_msgs_limit=0, pending_bytes_limit=0)
        while True:
            if self._wanted <= self._slots // 2:
                self._wanted += self._slots
                await self._client.publish(self._next, self._pull, self._inbox)
            await self._awake.wait()
            self._awake.clear()
            messages, self._arrived = self._arrived, []
            if messages:
                await self._answer(messages)

    async def _take(self, message: Msg) -> None:
        if not message.data:  # a status of the server: the pull is over
            self._wanted = 0
        else:
            self._wanted -= 1
            self._arrived.append(message)
        self._awake.set()

    async def _answer(self, messages: list[Msg]) -> None:
        answers = [await self.perform(await self.read(message.data)) for message in messages]
        stored = await self._js.publish_async(self._outcomes, json.dumps(answers).encode())
        acking = asyncio.create_task(self._ack(messages, stored))
        self._acking.add(acking)
        acking.add_done_callback(self._acking.discard)

    async def _ack(self, messages: list[Msg], stored: asyncio.Future[PubAck]) -> None:
        await stored
        for message in messages:
            await self._client.publish(message.reply, b"")


VARIANTS: dict[str, type[Performer]] = {"single": Single, "batch": Batch}


async def main(variant: str, lane: str, slots: int) -> None:
    """Perform until stdin ends; a failure ends the process with its traceback."""
    client = await nats.connect(os.environ["BENCH_NATS_URL"], max_reconnect_attempts=-1)
    records = Records(os.environ.get("BENCH_JOURNAL"))
    performing = asyncio.create_task(VARIANTS[variant](client, lane, slots, records).run())
    listening = asyncio.create_task(listen(records))
    print("ready", flush=True)
    done, _ = await asyncio.wait({performing, listening}, return_when=asyncio.FIRST_COMPLETED)
    performing.cancel()
    for task in done:
        task.result()
    with contextlib.suppress(NatsError):
        await client.close()


async def listen(records: Records) -> None:
    """Report to each path that is named; returns at the end of stdin."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while path := (await lines.readline()).decode().strip():
        records.report(path)
        print("written", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--lane", required=True)
    parser.add_argument("--slots", type=int, required=True)
    uvloop.run(main(**vars(parser.parse_args())))
