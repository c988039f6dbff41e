"""A performer on the product's own worker loop whose calls cost time and money at random, in the test's process
or in one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from goalwright_shared import broker, lifecycle
from goalwright_shared.artifacts import ObjectArtifacts
from goalwright_shared.lifecycle import Part, Stopper
from goalwright_shared.messages import ArtifactRef, Done, Failed, Outcome, TaskError, Throttled, Usage, Work
from goalwright_shared.settings import ServiceSettings
from goalwright_shared.telemetry import configure_logging
from goalwright_shared.worker import Attempt, Perform, Worker


@dataclass(frozen=True)
class Manner:
    """How a performer works: seconds of a call, the chance that one fails, the most that its usage may be of
    what was held for it (beyond 1: an overrun)."""

    seconds: tuple[float, float] = (0.0, 0.0)
    failing: float = 0.0
    usage: float = 0.5
    provider: int = 0  # port of a `Provider` that is asked first


class Call:
    """`Perform` in a manner; `performed` are the (task id, epoch) of its tries."""

    def __init__(self, manner: Manner, dice: random.Random | None = None) -> None:
        self._manner, self._dice = manner, dice or random.Random()
        self._provider = Caller(manner.provider) if manner.provider else None
        self.performed: list[tuple[str, int]] = []

    def twice(self) -> list[tuple[str, int]]:
        """Dispatches that were performed more than once."""
        return [one for one, times in Counter(self.performed).items() if times > 1]

    async def __call__(self, work: Work, attempt: Attempt) -> Outcome:
        """One call."""
        self.performed.append((work.task_id, work.epoch))
        if self._provider is not None and not await self._provider.call():
            return Throttled(
                goal_id=work.goal_id, task_id=work.task_id, epoch=work.epoch,
                retry_after_seconds=1.0, reason="the provider refused",
            )  # fmt: skip
        await asyncio.sleep(self._dice.uniform(*self._manner.seconds))
        usage = self._usage(work)
        if self._dice.random() < self._manner.failing:
            error = TaskError(code="unlucky", message="this time it failed", retryable=True)
            return Failed(
                goal_id=work.goal_id, task_id=work.task_id, epoch=work.epoch, error=error, usage=usage
            )
        outputs = {o.name: ArtifactRef.of_text(o.name, work.spec.key, o.type) for o in work.spec.outputs}
        return Done(
            goal_id=work.goal_id, task_id=work.task_id, epoch=work.epoch, outputs=outputs, usage=usage,
            summary=work.spec.key,
        )  # fmt: skip

    def _usage(self, work: Work) -> Usage | None:
        if work.llm is None:
            return None
        share = self._dice.uniform(0, self._manner.usage)
        return Usage(
            model=work.llm.model,
            tokens_in=int(share * work.llm.max_input_tokens),
            tokens_out=int(share * work.llm.max_output_tokens),
        )


def build(
    url: str, lanes: Sequence[str], slots: int, perform: Perform, name: str, stopper: Stopper
) -> list[Part]:
    """The parts of a performer, in the order they start."""
    settings = ServiceSettings(nats_url=url, worker=name)
    made = broker.build_broker("performer", settings, stopper)
    connection = broker.Connection(made, settings)
    worker = Worker(
        client=lambda: connection.nats,
        artifacts=ObjectArtifacts(lambda: connection.nats.jetstream()),
        query=broker.queries(lambda: connection.nats),
        lanes=lanes, slots=slots, perform=perform, name=name, drain_seconds=0,
    )  # fmt: skip
    return [connection, worker]


def environment(url: str, name: str, lanes: Sequence[str], slots: int, manner: Manner) -> dict[str, str]:
    """What a performer process reads."""
    low, high = manner.seconds
    return {
        "PERFORMER_URL": url, "PERFORMER_NAME": name, "PERFORMER_LANES": " ".join(lanes),
        "PERFORMER_SLOTS": str(slots), "PERFORMER_SECONDS": f"{low} {high}",
        "PERFORMER_FAILING": str(manner.failing), "PERFORMER_USAGE": str(manner.usage),
        "PERFORMER_PROVIDER": str(manner.provider),
    }  # fmt: skip


async def serve() -> int:
    """A performer as the environment says, until a signal."""
    configure_logging("performer", level="error", format="text")
    given = {name.removeprefix("PERFORMER_"): value for name, value in os.environ.items()}
    low, high = map(float, given["SECONDS"].split())
    manner = Manner((low, high), float(given["FAILING"]), float(given["USAGE"]), int(given["PROVIDER"]))
    stopper = Stopper()
    parts = build(
        given["URL"], given["LANES"].split(), int(given["SLOTS"]), Call(manner), given["NAME"], stopper
    )
    return await lifecycle.run(parts, stopper)


# --- a provider that counts ------------------------------------------------------------------------------


@dataclass
class Provider:
    """A provider of `limit` calls in any `window` seconds and `burst` more: counts, and refuses what is beyond.

    `by_caller` are the calls of each connection. Callers speak lines: a number, answered with the number and
    `ok` or `no` after `seconds`.
    """

    limit: int
    window: float
    burst: int = 0
    seconds: float = 0.0
    calls: list[float] = field(default_factory=list)
    by_caller: list[int] = field(default_factory=list)
    refused: int = 0
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Provider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def most_at_once(self) -> int:
        """The most calls that it took in any window."""
        most, first = 0, 0
        for last, at in enumerate(self.calls):
            while self.calls[first] <= at - self.window:
                first += 1
            most = max(most, last - first + 1)
        return most

    def _takes(self, now: float) -> bool:
        recent = 0
        for at in reversed(self.calls):
            if at <= now - self.window:
                break
            recent += 1
        if recent >= self.limit + self.burst:
            self.refused += 1
            return False
        self.calls.append(now)
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        caller = len(self.by_caller)
        self.by_caller.append(0)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                taken = self._takes(loop.time())
                self.by_caller[caller] += 1
                answer = line.strip() + (b" ok\n" if taken else b" no\n")
                loop.call_later(self.seconds if taken else 0, _write(writer, answer))
        writer.close()


def _write(writer: asyncio.StreamWriter, line: bytes) -> Callable[[], None]:
    def write() -> None:
        if not writer.is_closing():
            writer.write(line)

    return write


class Caller:
    """One connection to a `Provider`, shared by all calls of a process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._connecting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def call(self) -> bool:
        """Whether the provider took the call; returns when it has answered."""
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
                self._reading = asyncio.create_task(self._read(reader))
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(b"%d\n" % number)
        taken: bool = await answer
        return taken

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            number, answer = line.split()
            self._waiting.pop(int(number)).set_result(answer == b"ok")
