"""The one connection of a service to NATS, with the defaults that FastStream and nats-py get wrong mended."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

import structlog
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError, NoServersError

from goalwright_shared import subjects
from goalwright_shared.artifacts import ObjectArtifacts, whole_answer
from goalwright_shared.errors import Refused, Unreachable
from goalwright_shared.lifecycle import Stopper
from goalwright_shared.settings import ServiceSettings
from goalwright_shared.telemetry import redact

log = structlog.get_logger(__name__)

_DRAIN_SECONDS = 3
"""Parts finish their work before the connection closes; a message cut off in a fetch would hold it for 30 s."""

INBOX_PREFIX = "_INBOX_SERVICE"
"""Services read replies where clients may not listen; clients keep the default `_INBOX`."""


def build_broker(service: str, settings: ServiceSettings, stopper: Stopper) -> NatsBroker:
    """A broker that never gives up reconnecting and ends the process if its connection is closed for good."""

    async def on_error(error: Exception) -> None:
        log.warning("nats error", error=str(error) or type(error).__name__)

    async def on_disconnect() -> None:
        log.warning("nats disconnected")

    async def on_reconnect() -> None:
        log.info("nats reconnected")

    async def on_closed() -> None:
        stopper.ask("the connection to NATS was closed", failed=True)

    return NatsBroker(
        settings.nats_url,
        name=f"goalwright-{service}",
        inbox_prefix=INBOX_PREFIX,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        connect_timeout=5,
        drain_timeout=_DRAIN_SECONDS,
        pending_size=64 * 1024 * 1024,
        graceful_timeout=settings.drain_seconds,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        closed_cb=on_closed,
        logger=None,
    )


class Connection:
    """A part: connects the broker (handlers start later, with `broker.start()`), closes it last."""

    def __init__(self, broker: NatsBroker, settings: ServiceSettings) -> None:
        self.broker = broker
        self._settings = settings

    @property
    def nats(self) -> Client:
        """The plain nats-py client under the broker."""
        client = self.broker.connection
        assert isinstance(client, Client), "the connection is used before start()"
        return client

    async def start(self) -> None:
        """Connect; raises `Unreachable` when no server answers in time."""
        url = redact(self._settings.nats_url)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_seconds):
                await self.broker.connect()
        except (TimeoutError, OSError, NoServersError) as error:
            raise Unreachable(
                "nats_unreachable",
                f"no NATS server answers at {url} ({str(error) or 'timed out'})",
                hint="start one with `goalwright up`, or set GOALWRIGHT_NATS_URL",
            ) from error

    async def stop(self) -> None:
        """Close; idempotent. Without a server there is nothing to drain, and that is no failure."""
        try:
            await self.broker.stop()
        except (NatsError, OSError) as error:
            log.warning("closed without NATS", error=str(error) or type(error).__name__)


class Outgoing(NamedTuple):
    """A message to publish. `headers` are whole lines, each ended by CRLF; none of the texts may hold others."""

    subject: str
    payload: bytes
    headers: str
    reply: str = ""


async def publish_many(client: Client, messages: Iterable[Outgoing]) -> None:
    """Publish in order, in one write: an eighth of what `Client.publish` costs per message, which checks and
    encodes each anew. Reaches into nats-py, which has no public way to do so (a test holds it to the wire)."""
    parts = []
    for message in messages:
        head = f"NATS/1.0\r\n{message.headers}\r\n".encode()
        reply = f"{message.reply} " if message.reply else ""
        size = len(head) + len(message.payload)
        command = f"HPUB {message.subject} {reply}{len(head)} {size}\r\n".encode()
        parts.append(b"%b%b%b\r\n" % (command, head, message.payload))
    await client._send_command(b"".join(parts))
    await client._flush_pending()


def process_name(settings: ServiceSettings) -> str:
    """This process's name in `alive` and logs."""
    return settings.worker or f"{socket.gethostname()}-{os.getpid()}"


Query = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Ask the scheduler: `await query("graph", {"goal_id": …})`; raises `Unreachable` or returns the answer."""


async def ask(client: Client, subject: str, body: bytes, *, timeout_seconds: float = 10.0) -> bytes:
    """One request; raises `Unreachable` when nobody answers in time."""
    try:
        answer = await client.request(subject, body, timeout=timeout_seconds)
    except (NatsError, TimeoutError) as error:
        how = "listens on" if isinstance(error, NoRespondersError) else "answered in time on"
        raise Unreachable("no_answer", f"nobody {how} {subject}", hint="is a scheduler running?") from error
    return answer.data


def queries(client: Callable[[], Client]) -> Query:
    """A `Query` over NATS, for the `owner` that the body names (default: `public`); raises `Unreachable`, or
    `Refused` when the scheduler says no."""

    artifacts = ObjectArtifacts(lambda: client().jetstream())

    async def query(what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        payload = json.dumps(dict(body)).encode()
        subject = subjects.query(what, body.get("owner"))
        answer = await whole_answer(await ask(client(), subject, payload), artifacts)
        if (error := answer.get("error")) and isinstance(error, dict):
            raise Refused(str(error.get("code")), str(error.get("message")), hint=error.get("hint"))
        return answer

    return query
