"""How the reflector speaks: requests on `control.<verb>[.<owner>]`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from goalwright_shared import subjects
from goalwright_shared.broker import ask
from nats.aio.client import Client

_TIMEOUT_SECONDS = 5.0

Say = Callable[[str, str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""`await say("signal", owner, {...})`: the scheduler's answer; a refusal has the field `error`. Raises
`Unreachable` when nobody answers in time."""


def controls(client: Callable[[], Client]) -> Say:
    """A `Say` over NATS."""

    async def say(verb: str, owner: str, body: Mapping[str, Any]) -> dict[str, Any]:
        payload = json.dumps(dict(body)).encode()
        subject = subjects.control(verb, owner)
        answer: dict[str, Any] = json.loads(
            await ask(client(), subject, payload, timeout_seconds=_TIMEOUT_SECONDS)
        )
        return answer

    return say
