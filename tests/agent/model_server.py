"""A tiny OpenAI-compatible server that answers by a script and remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Answer:
    """One HTTP answer."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False  # never answers
    drop: bool = False  # closes the connection in the middle
    endless: bool = False  # never ends


Script = Answer | Callable[[dict[str, Any]], Answer]


def completion(
    message: dict[str, Any],
    *,
    finish_reason: str | None = "stop",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """A chat completion with this message."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 40},
    }
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}
    return Answer(body=body, headers={"x-request-id": "req-1", **(headers or {})})


def says(
    text: str, *, finish_reason: str | None = "stop", headers: Mapping[str, str] | None = None
) -> Answer:
    """A reply in words."""
    return completion({"content": text}, finish_reason=finish_reason, headers=headers)


def calls(*tool_calls: tuple[str, Any], text: str | None = None) -> Answer:
    """A reply with tool calls, each (name, arguments); arguments that are text are sent as they are."""
    made = [
        {
            "id": f"srv{at}",
            "type": "function",
            "function": {"name": name, "arguments": args if isinstance(args, str) else json.dumps(args)},
        }
        for at, (name, args) in enumerate(tool_calls)
    ]
    return completion({"content": text, "tool_calls": made}, finish_reason="tool_calls")


def refuses(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    """An error in the form of OpenAI's."""
    body = {"error": {"message": message, "type": "error", "code": code, "param": None}}
    return Answer(status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


class ModelServer:
    """Serves `script`, one answer per request, the last one again and again. Loopback only."""

    def __init__(self, *script: Script) -> None:
        self.script: list[Script] = list(script)
        self.requests: list[dict[str, Any]] = []
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._hanging: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_post("/v1/{what:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"

    async def stop(self) -> None:
        """Stop listening."""
        for waiting in self._hanging:
            waiting.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    def next(self, *script: Script) -> None:
        """What to answer from now on."""
        self.script = list(script)

    def sent(self, at: int = -1) -> list[dict[str, Any]]:
        """The messages of a request."""
        messages: list[dict[str, Any]] = self.requests[at]["messages"]
        return messages

    def tool_results(self, at: int = -1) -> list[dict[str, Any]]:
        """The tool messages of a request, parsed."""
        return [json.loads(message["content"]) for message in self.sent(at) if message["role"] == "tool"]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body | {"_headers": dict(request.headers), "_path": request.path})
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        answer = step if isinstance(step, Answer) else step(body)
        if answer.hang:
            waiting = asyncio.get_running_loop().create_future()
            self._hanging.append(waiting)
            await waiting
        if answer.endless:
            return await _endless(request)
        if answer.drop:
            assert request.transport is not None
            request.transport.close()
        text = answer.body if isinstance(answer.body, str | bytes) else json.dumps(answer.body)
        return web.Response(
            status=answer.status,
            body=text.encode() if isinstance(text, str) else text,
            headers=answer.headers,
            content_type="application/json",
        )


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" " * 65_536)
    return response


def names(request: dict[str, Any]) -> Sequence[str]:
    """The tools offered in a request."""
    return [tool["function"]["name"] for tool in request.get("tools", ())]
