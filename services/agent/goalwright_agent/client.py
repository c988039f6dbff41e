"""The client of one endpoint: one call in, one plain result out.

No retries here and no pacing: the scheduler does both. Every way a call can end is a value, so that usage is
settled before anything is validated.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
import httpx2
import openai
from goalwright_shared.telemetry import redact
from openai import AsyncOpenAI, DefaultAioHttpClient

from goalwright_agent import failures
from goalwright_agent.calls import Adapted, Broken, Limited, Reply, Request, Result, Vectors, blocked
from goalwright_agent.core.answers import without_thoughts
from goalwright_agent.core.dialect import Dialect, after_refusal, default_cap_field, structure_parameters
from goalwright_agent.core.wire import (
    first_choice,
    in_order,
    json_object,
    rate_of,
    text_of,
    text_or_none,
    usage_of,
)
from goalwright_agent.core.words import in_words
from goalwright_agent.endpoints import Endpoint

_NO_KEY = "none"

_ANSWER_BYTES, _PACKED_BYTES = 64 << 20, 256 << 10
"""Of an answer no more is read. We ask for none that is packed; one that is may be a thousand times as large."""

_UNANSWERED = (openai.APIError, TimeoutError, httpx2.HTTPError, aiohttp.ClientError)
"""How a call ends that has no answer; the last two where the library lets its transport's own errors through."""


class _Bounded(httpx2.AsyncByteStream):
    """A body, cut off when it is too long: a server that never ends must not take our memory."""

    def __init__(self, body: httpx2.AsyncByteStream, most: int) -> None:
        self._body, self._most = body, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for chunk in self._body:
            read += len(chunk)
            if read > self._most:
                raise failures.TooLong(f"an answer of more than {self._most} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


async def _bound(response: httpx2.Response) -> None:
    packed = response.headers.get("content-encoding", "identity") != "identity"
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream, _PACKED_BYTES if packed else _ANSWER_BYTES)


class Client:
    """Calls of one endpoint with one key. `dialect` is told how to ask; what a refusal teaches is `Adapted`."""

    def __init__(
        self, endpoint: Endpoint, *, connections: int, timeout_seconds: float, reasoning_effort: str | None
    ) -> None:
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        self._reasoning_effort = reasoning_effort
        timeout = httpx2.Timeout(timeout_seconds, connect=10.0)
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._openai = AsyncOpenAI(
            api_key=endpoint.key or _NO_KEY,
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=timeout,
            default_headers={"Accept-Encoding": "identity"},
            http_client=DefaultAioHttpClient(
                limits=limits, timeout=timeout, event_hooks={"response": [_bound]}
            ),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()

    async def complete(self, request: Request, dialect: Dialect) -> Result:
        """One chat completion."""
        if (missing := self._no_key()) is not None:
            return missing
        parameters = self._parameters(request, dialect)
        limit = min(self._timeout_seconds, request.timeout_seconds or math.inf)
        began = time.monotonic()
        try:
            async with asyncio.timeout(limit):
                answer = await self._post("/chat/completions", parameters)
            return self._reply(answer.content, answer.headers, request.model, time.monotonic() - began)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return self._refused(error, request, dialect, parameters)
        except _UNANSWERED as error:
            return failures.of_error(self._endpoint, request.model, error, limit)

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors | Limited | Broken:
        """One embeddings call."""
        if (missing := self._no_key()) is not None:
            return missing
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                asked = {"model": model, "input": list(texts), "encoding_format": "float"}
                answer = await self._post("/embeddings", asked)
            return self._vectors(answer.content, answer.headers, model, len(texts), time.monotonic() - began)
        except _UNANSWERED as error:
            return failures.of_error(self._endpoint, model, error, self._timeout_seconds)

    # --- asking ---

    async def _post(self, path: str, parameters: Mapping[str, Any]) -> httpx2.Response:
        """As it is: the library's typed methods look through every message first, a tenth of what a call costs us."""
        return await self._openai.post(path, body=dict(parameters), cast_to=httpx2.Response)

    def _no_key(self) -> Limited | None:
        endpoint = self._endpoint
        if endpoint.key or not endpoint.needs_key:
            return None
        return blocked(
            f"no key for {endpoint.shown}: set {endpoint.key_source}, or the address to a server that needs none"
        )

    def _parameters(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        cap_field = dialect.cap_field or default_cap_field(self._endpoint.base_url)
        parameters: dict[str, Any] = {
            "model": request.model,
            "messages": list(request.messages),
            cap_field: request.max_output_tokens,
        }
        if request.tools and dialect.tools:
            parameters["tools"] = list(request.tools)
        elif request.tools:
            parameters["messages"] = in_words(request.messages, request.tools)
        else:
            parameters |= structure_parameters(request.schema, dialect.rung)
        effort = request.reasoning_effort or self._reasoning_effort
        if effort and dialect.effort:
            parameters["reasoning_effort"] = effort
        return parameters

    # --- reading ---

    def _reply(
        self, answer: bytes, headers: Mapping[str, str], model: str, seconds: float
    ) -> Reply | Limited | Broken:
        url = self._endpoint.shown
        body = json_object(answer)
        if body is None:
            return Broken(
                "provider_unavailable", f"{url} answered with something that is no JSON object", True
            )
        error = body.get("error")
        if isinstance(error, dict | str) and not body.get("choices"):
            said = error.get("message") if isinstance(error, dict) else error
            code = error.get("code") if isinstance(error, dict) else None
            return failures.in_answer(self._endpoint, model, redact(str(said))[:500], code)
        choice = first_choice(body.get("choices"))
        message = choice.get("message")
        if not isinstance(message, dict):
            return Broken("provider_unavailable", f"{url} answered without a message", True)
        calls = message.get("tool_calls")
        return Reply(
            content=without_thoughts(text_of(message.get("content"))),
            tool_calls=tuple(call for call in calls if isinstance(call, dict))
            if isinstance(calls, list)
            else (),
            refusal=message.get("refusal") if isinstance(message.get("refusal"), str) else None,
            finish_reason=choice.get("finish_reason"),
            usage=usage_of(body, model, seconds),
            request_id=headers.get("x-request-id") or text_or_none(body.get("id")),
            rate=rate_of(headers),
            raw=body,
        )

    def _vectors(
        self, answer: bytes, headers: Mapping[str, str], model: str, count: int, seconds: float
    ) -> Vectors | Broken:
        body = json_object(answer) or {}
        vectors = in_order(body.get("data"))
        if len(vectors) != count:
            return Broken("invalid_answer", f"{model} gave {len(vectors)} embeddings for {count} texts", True)
        return Vectors(vectors, usage_of(body, model, seconds), headers.get("x-request-id"), rate_of(headers))

    def _refused(
        self, error: openai.APIStatusError, request: Request, dialect: Dialect, parameters: Mapping[str, Any]
    ) -> Result:
        """400 or 422: a prompt too long, a filter, a key, a dialect to learn, or a bad request."""
        said = failures.said_by(error)
        if (found := failures.of_request(self._endpoint, request.model, said)) is not None:
            return found
        lower = after_refusal(dialect, said, parameters)
        if lower is not None:
            return Adapted(lower, said)
        return Broken(
            "bad_request",
            f"{self._endpoint.shown} refused the request for {request.model} ({error.status_code}): {said}. "
            "Fix: check GOALWRIGHT_MODEL and the model's limits.",
            False,
            unbilled=True,
        )
