"""The HTTP server: OpenAI's chat completions, embeddings and models, on starlette."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from goalwright_rehearsal import answers, wire
from goalwright_rehearsal.messages import LABEL, Json, Reply
from goalwright_rehearsal.provider import Provider
from goalwright_rehearsal.requests import check_chat
from goalwright_rehearsal.settings import RehearsalSettings
from goalwright_rehearsal.wire import ApiError

Handler = Callable[[Request, dict[str, Json]], Awaitable[Response]]
_CUT_TOKENS = 16
_DEFAULT_OUTPUT_TOKENS = 16_384


def build_app(settings: RehearsalSettings | None = None) -> Starlette:
    """The server as an ASGI application; every app has limits and counts of its own."""
    service = _Service(settings or RehearsalSettings())
    return Starlette(
        routes=[
            Route("/v1/chat/completions", service.guarded(service.chat), methods=["POST"]),
            Route("/v1/embeddings", service.guarded(service.embed), methods=["POST"]),
            Route("/v1/models", service.models, methods=["GET"]),
            Route("/v1/models/{name:path}", service.model, methods=["GET"]),
            Route("/rehearsal/counts", service.counted, methods=["GET"]),
        ],
        exception_handlers={404: _not_found, Exception: _broken},
    )


class _Service:
    """The endpoints, over one imitated provider."""

    def __init__(self, settings: RehearsalSettings) -> None:
        self._settings = settings
        self._provider = Provider(settings)

    def guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint behind the key, the JSON and the counts; errors become OpenAI's error answers."""

        async def endpoint(request: Request) -> Response:
            counts = self._provider.counts
            counts.requests += 1
            counts.in_flight += 1
            counts.most_in_flight = max(counts.most_in_flight, counts.in_flight)
            try:
                self._check_key(request.headers)
                return await handler(request, await _body(request))
            except ApiError as error:
                counts.failed += error.status != 429
                return JSONResponse(error.body(), error.status, self._labelled(request))
            finally:
                counts.in_flight -= 1

        return endpoint

    async def chat(self, request: Request, body: dict[str, Json]) -> Response:
        """POST /v1/chat/completions."""
        check_chat(body)
        fault = self._provider.fault(request.headers)
        if fault == "hang":
            await _hang(request, self._settings.hang_seconds)
        refusal = self._refusal(body, fault, request)
        if refusal is not None:
            return refusal
        answer = self._answer(body, fault)
        await asyncio.sleep(self._provider.latency(request.headers))
        if fault == "500":
            raise ApiError(500, "server_error", "the rehearsal fails on request", kind="server_error")
        if fault == "quota":
            said = "You exceeded your current quota, please check your plan and billing details."
            raise ApiError(429, "insufficient_quota", said, kind="insufficient_quota")
        if fault == "drop":
            return StreamingResponse(_half(answer), media_type="application/json")
        return self._answered(answer, request)

    async def embed(self, request: Request, body: dict[str, Json]) -> Response:
        """POST /v1/embeddings."""
        if not body.get("input"):
            raise ApiError(400, "missing_required_parameter", "input is missing or empty", "input")
        refusal = self._refusal(body, None, request)
        if refusal is not None:
            return refusal
        answer = wire.embeddings(body)
        await asyncio.sleep(self._provider.latency(request.headers))
        return self._answered(answer, request)

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [wire.model_card()]}, headers=self._labelled(request))

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}: any name is answered, and served by the rehearsal."""
        return JSONResponse(wire.model_card(request.path_params["name"]), headers=self._labelled(request))

    async def counted(self, request: Request) -> Response:
        """GET /rehearsal/counts: what the server has seen."""
        return JSONResponse(dataclasses.asdict(self._provider.counts))

    def _check_key(self, headers: Mapping[str, str]) -> None:
        key = self._settings.api_key
        if key is not None and headers.get("authorization") != f"Bearer {key}":
            raise ApiError(401, "invalid_api_key", "Incorrect API key provided.")

    def _refusal(self, body: dict[str, Json], fault: str | None, request: Request) -> Response | None:
        """HTTP 429 with the time to wait, when a limit says so."""
        refused = ("requests", 1.0) if fault == "429" else self._provider.admit(_expected_tokens(body))
        if refused is None:
            return None
        kind, seconds = refused
        error = ApiError(
            429, "rate_limit_exceeded", f"Limit of {kind} per minute reached: try again in {seconds:.3f}s.",
            kind=kind,
        )  # fmt: skip
        wait = {"retry-after": str(max(1, round(seconds))), "retry-after-ms": str(round(seconds * 1000))}
        return JSONResponse(error.body(), 429, self._labelled(request) | wait)

    def _answer(self, body: dict[str, Json], fault: str | None) -> dict[str, Json]:
        schema_asked = (body.get("response_format") or {}).get("type") == "json_schema"
        if schema_asked and self._settings.json_schema == "refuse":
            message = "response_format json_schema is not supported by this model"
            raise ApiError(400, "unsupported_value", message, "response_format")
        ignored = fault == "ignore_schema" or (schema_asked and self._settings.json_schema == "ignore")
        reply = Reply(f"{LABEL}: this answer ignores the schema.") if ignored else answers.answer(body)
        if fault == "refuse":
            return wire.refusal(body, f"{LABEL}: I refuse on request.")
        return wire.completion(body, reply, _CUT_TOKENS if fault == "cut" else _cap(body))

    def _answered(self, answer: dict[str, Json], request: Request) -> Response:
        counts = self._provider.counts
        counts.answered += 1
        counts.tokens_in += answer["usage"]["prompt_tokens"]
        counts.tokens_out += answer["usage"].get("completion_tokens", 0)
        return JSONResponse(answer, headers=self._labelled(request))

    def _labelled(self, request: Request) -> dict[str, str]:
        number = f"req_rehearsal_{self._provider.counts.requests}"
        return self._provider.headers() | {"x-request-id": number, "x-rehearsal": "no intelligence"}


async def _body(request: Request) -> dict[str, Json]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_json", "the body must be a JSON object")
    return body


async def _half(answer: dict[str, Json]) -> AsyncIterator[bytes]:
    """The first half of an answer, and then the end of the connection."""
    text = json.dumps(answer).encode()
    yield text[: len(text) // 2]
    raise ConnectionAbortedError("the rehearsal breaks off on request")


async def _hang(request: Request, seconds: float) -> None:
    """Give no answer, until the client has gone or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    raise ApiError(504, "timeout", "the rehearsal hung on request", kind="server_error")


def _cap(body: dict[str, Json]) -> int | None:
    cap = body.get("max_completion_tokens") or body.get("max_tokens")
    return cap if isinstance(cap, int) and cap > 0 else _DEFAULT_OUTPUT_TOKENS


def _expected_tokens(body: dict[str, Json]) -> int:
    """What a request counts against the limit of tokens: its prompt and the output cap it names."""
    if "messages" not in body:
        return wire.count_tokens(json.dumps(body.get("input"), ensure_ascii=False))
    named = body.get("max_completion_tokens") or body.get("max_tokens")
    return wire.prompt_tokens(body) + (named if isinstance(named, int) else 0)


async def _not_found(request: Request, _: Exception) -> Response:
    error = ApiError(404, "not_found", f"the rehearsal does not serve {request.method} {request.url.path}")
    return JSONResponse(error.body(), 404)


async def _broken(request: Request, error: Exception) -> Response:
    """A fault of ours, in the shape clients understand; the traceback is in the log."""
    body = ApiError(500, "server_error", f"the rehearsal broke: {error}", kind="server_error").body()
    return JSONResponse(body, 500)
