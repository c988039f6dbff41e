"""The one place that talks to models: one call in, one plain result out. The only importer of `openai`.

No retries here and no pacing: the scheduler does both. Every way a call can end is a value, so that usage is
settled before anything is validated.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import httpx2
import openai
import structlog
from goalwright_shared.messages import RateSeen, Usage
from goalwright_shared.telemetry import redact
from openai import AsyncOpenAI, DefaultAioHttpClient

from goalwright_agent.core.dialect import (
    Dialect,
    Schema,
    after_refusal,
    default_cap_field,
    is_filtered,
    is_strict,
    is_too_long,
    structure_parameters,
)
from goalwright_agent.core.wire import (
    DEFAULT_RETRY_SECONDS,
    first_choice,
    json_object,
    rate_of,
    retry_after,
    text_of,
    text_or_none,
    usage_of,
)
from goalwright_agent.core.words import in_words
from goalwright_agent.settings import AgentSettings

log = structlog.get_logger(__name__)

BLOCKED = "pool_blocked: "
"""Prefix of the reason of a throttle that no waiting mends: the scheduler parks the pool."""

_BLOCKED_RETRY_SECONDS = 60.0
_JITTER = 0.25
_NO_KEY = "none"
_NO_QUOTA = re.compile(r"insufficient_quota|exceeded your current quota|credit balance is too low", re.I)
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, httpx2.ConnectError)


@dataclass(frozen=True)
class Request:
    """One call. `tools` are the task's own; `schema` asks for one structured answer."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    max_output_tokens: int
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Schema | None = None
    reasoning_effort: str | None = None
    timeout_seconds: float | None = None  # of the task; the settings' limit counts too
    dialect: Dialect = field(default_factory=Dialect)


@dataclass(frozen=True)
class Reply:
    """What the model said, and what it used."""

    content: str
    tool_calls: tuple[dict[str, Any], ...]
    refusal: str | None
    finish_reason: str | None
    usage: Usage | None
    request_id: str | None
    rate: RateSeen | None
    raw: dict[str, Any]


@dataclass(frozen=True)
class Limited:
    """Not now. `blocked`: no waiting helps (bad key, no quota)."""

    retry_after_seconds: float
    reason: str
    blocked: bool = False
    rate: RateSeen | None = None


@dataclass(frozen=True)
class Adapted:
    """The server does not understand this form of request; `dialect` is the one to try next."""

    dialect: Dialect


@dataclass(frozen=True)
class Broken:
    """The call failed. `unbilled`: the provider cannot have charged for it."""

    code: str
    message: str
    retryable: bool
    too_big: bool = False
    unbilled: bool = False


Result = Reply | Limited | Adapted | Broken


@dataclass(frozen=True)
class Vectors:
    """Embeddings, in the order of the texts."""

    vectors: list[list[float]]
    usage: Usage | None
    request_id: str | None
    rate: RateSeen | None


class Provider:
    """A part: the client of one endpoint and key, and what was learned about its models."""

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._dialects: dict[str, Dialect] = {}
        self._client: AsyncOpenAI | None = None

    @property
    def base_url(self) -> str:
        """The endpoint, without credentials."""
        return redact(self._settings.endpoint)

    async def start(self) -> None:
        """Build the client on the running loop; connects at the first call."""
        connections = self._settings.connections
        timeout = httpx2.Timeout(self._settings.call_timeout_seconds, connect=10.0)
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = AsyncOpenAI(
            api_key=self._settings.key or _NO_KEY,
            base_url=self._settings.endpoint,
            max_retries=0,
            timeout=timeout,
            http_client=DefaultAioHttpClient(limits=limits, timeout=timeout),
        )

    async def stop(self) -> None:
        """Close the connections; idempotent."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def dialect(self, model: str, known: Dialect) -> Dialect:
        """How to ask `model`: what this process and the task (`known`) have learned."""
        return self._dialects.get(model, Dialect()).lower(known)

    async def complete(self, request: Request) -> Result:
        """One chat completion."""
        if (missing := self._no_key()) is not None:
            return missing
        dialect = self.dialect(request.model, request.dialect)
        parameters = self._parameters(request, dialect)
        limit = min(self._settings.call_timeout_seconds, request.timeout_seconds or math.inf)
        assert self._client is not None, "the provider is used before start()"
        began = time.monotonic()
        try:
            async with asyncio.timeout(limit):
                raw = await self._client.chat.completions.with_raw_response.create(**parameters)
            return self._reply(raw.text, raw.headers, request.model, time.monotonic() - began)
        except openai.BadRequestError as error:
            return self._refused(error, request, dialect, parameters)
        except openai.UnprocessableEntityError as error:
            return self._refused(error, request, dialect, parameters)
        except (openai.APIError, TimeoutError) as error:
            return self._failure(error, request.model, limit)

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors | Limited | Broken:
        """One embeddings call."""
        if (missing := self._no_key()) is not None:
            return missing
        assert self._client is not None, "the provider is used before start()"
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.call_timeout_seconds):
                raw = await self._client.embeddings.with_raw_response.create(
                    model=model, input=list(texts), encoding_format="float"
                )
            return self._vectors(raw.text, raw.headers, model, len(texts), time.monotonic() - began)
        except (openai.APIError, TimeoutError) as error:
            return self._failure(error, model, self._settings.call_timeout_seconds)

    # --- asking ---

    def _no_key(self) -> Limited | None:
        if self._settings.key or not self._settings.needs_key:
            return None
        return Limited(
            _BLOCKED_RETRY_SECONDS,
            f"{BLOCKED}no key for {self.base_url}: set OPENAI_API_KEY, or set OPENAI_BASE_URL to a server "
            "that needs none",
            blocked=True,
        )

    def _parameters(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        cap_field = dialect.cap_field or default_cap_field(self._settings.endpoint)
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
        effort = request.reasoning_effort or self._settings.reasoning_effort
        if effort and dialect.effort:
            parameters["reasoning_effort"] = effort
        return parameters

    # --- reading ---

    def _reply(
        self, text: str, headers: Mapping[str, str], model: str, seconds: float
    ) -> Reply | Limited | Broken:
        body = json_object(text)
        if body is None:
            return Broken(
                "provider_unavailable",
                f"{self.base_url} answered with something that is no JSON object",
                True,
            )
        if isinstance(body.get("error"), dict | str) and not body.get("choices"):
            return self._error_in_200(body["error"], model)
        choice = first_choice(body.get("choices"))
        message = choice.get("message")
        if not isinstance(message, dict):
            return Broken("provider_unavailable", f"{self.base_url} answered without a message", True)
        calls = message.get("tool_calls")
        return Reply(
            content=text_of(message.get("content")),
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
        self, text: str, headers: Mapping[str, str], model: str, count: int, seconds: float
    ) -> Vectors | Broken:
        body = json_object(text) or {}
        items = body.get("data")
        vectors = (
            [item.get("embedding") for item in items if isinstance(item, dict)]
            if isinstance(items, list)
            else []
        )
        if len(vectors) != count or None in vectors:
            return Broken("invalid_answer", f"{model} gave {len(vectors)} embeddings for {count} texts", True)
        found = [vector for vector in vectors if isinstance(vector, list)]
        return Vectors(found, usage_of(body, model, seconds), headers.get("x-request-id"), rate_of(headers))

    def _error_in_200(self, error: Any, model: str) -> Limited | Broken:
        """Some proxies wrap a provider's error in a 200."""
        message = error.get("message") if isinstance(error, dict) else error
        code = error.get("code") if isinstance(error, dict) else None
        if code == 429 or str(code) == "rate_limit_exceeded":
            return Limited(_jittered(DEFAULT_RETRY_SECONDS), f"{model} is rate limited")
        return Broken(
            "provider_unavailable", f"{model} at {self.base_url}: {redact(str(message))[:500]}", True
        )

    def _refused(
        self, error: openai.APIStatusError, request: Request, dialect: Dialect, parameters: Mapping[str, Any]
    ) -> Result:
        """400 or 422: a dialect to learn, a prompt too long, a filter, or a bad request."""
        said = _said(error)
        if is_too_long(said):
            return Broken("too_big", f"the prompt does not fit {request.model}: {said}", False, True, True)
        if is_filtered(said):
            return Broken("refused", f"the provider's content filter: {said}", False, unbilled=True)
        lower = after_refusal(dialect, said, parameters)
        if lower is not None:
            log.info("dialect learned", model=request.model, dialect=lower.model_dump(), said=said)
            if _is_about_the_server(lower, dialect, request):
                self._dialects[request.model] = self.dialect(request.model, lower)
            return Adapted(lower)
        return Broken(
            "bad_request",
            f"{self.base_url} refused the request for {request.model} ({error.status_code}): {said}. "
            "Fix: check GOALWRIGHT_MODEL and the model's limits.",
            False,
            unbilled=True,
        )

    def _failure(self, error: Exception, model: str, limit: float) -> Limited | Broken:
        match error:
            case openai.RateLimitError():
                return self._limited(error)
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                return Limited(
                    _BLOCKED_RETRY_SECONDS,
                    f"{BLOCKED}{self.base_url} refused the key ({error.status_code}): {_said(error)}. "
                    "Fix: set OPENAI_API_KEY to a valid key that may use "
                    f"{model}, then restart the agent.",
                    blocked=True,
                )
            case openai.NotFoundError():
                return Broken(
                    "model_not_found",
                    f"{self.base_url} does not know {model}: {_said(error)}. Fix: set GOALWRIGHT_MODEL "
                    "to a model that it has, or OPENAI_BASE_URL to the right address (often ending with /v1).",
                    False,
                    unbilled=True,
                )
            case openai.APIStatusError():
                return self._status(error, model)
            case _:
                return self._unanswered(error, model, limit)

    def _limited(self, error: openai.APIStatusError) -> Limited:
        said = _said(error)
        if _NO_QUOTA.search(f"{said} {error.type}"):
            return Limited(
                _BLOCKED_RETRY_SECONDS,
                f"{BLOCKED}the quota of the key at {self.base_url} is used up: {said}. Fix: raise the limit "
                "or add credit at the provider, or set another OPENAI_API_KEY.",
                blocked=True,
            )
        wait = retry_after(error.response.headers, datetime.now(UTC))
        return Limited(_jittered(wait), f"rate limited: {said}", rate=rate_of(error.response.headers))

    def _status(self, error: openai.APIStatusError, model: str) -> Limited | Broken:
        headers = error.response.headers
        if error.status_code in (503, 529) and "retry-after" in headers:
            return Limited(
                _jittered(retry_after(headers, datetime.now(UTC))), f"{model} is overloaded: {_said(error)}"
            )
        if error.status_code == 402:
            reason = f"{BLOCKED}{self.base_url} wants payment: {_said(error)}"
            return Limited(_BLOCKED_RETRY_SECONDS, reason, blocked=True)
        retryable = error.status_code >= 500 or error.status_code in (408, 409)
        return Broken(
            "provider_unavailable" if retryable else "bad_request",
            f"{model} at {self.base_url} answered {error.status_code}: {_said(error)}",
            retryable,
            unbilled=not retryable,
        )

    def _unanswered(self, error: Exception, model: str, limit: float) -> Broken:
        """No connection, a broken one, or silence. The transport calls all three a timeout: the cause tells."""
        causes = list(_causes(error))
        never_sent = [cause for cause in causes if isinstance(cause, _NEVER_SENT)]
        if never_sent:
            return Broken(
                "provider_unavailable",
                f"no model answers at {self.base_url} ({_short(never_sent[0])}). Fix: start that server, set "
                "OPENAI_BASE_URL (and OPENAI_API_KEY) to one that runs, or unset both to use the rehearsal model.",
                True,
                unbilled=True,
            )
        broken = [cause for cause in causes if isinstance(cause, aiohttp.ClientError)]
        if broken and not any(isinstance(cause, TimeoutError) for cause in causes):
            why = f"the connection to {self.base_url} broke: {_short(broken[-1])}"
        else:
            return Broken("timeout", f"{model} at {self.base_url} gave no answer within {limit:g} s", True)
        return Broken("provider_unavailable", why, True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _short(error: BaseException) -> str:
    """Why, in a few words: the system's own for a connection that was never made."""
    cause = getattr(error, "os_error", None)
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno).lower()
    return redact(str(error) or type(error).__name__)[:200]


def _is_about_the_server(lower: Dialect, before: Dialect, request: Request) -> bool:
    """A refused schema that is not portable says nothing about the server; all else does."""
    same_rung = lower.rung == before.rung
    return (
        same_rung
        or before.rung != "json_schema"
        or (request.schema is not None and is_strict(request.schema.body))
    )


def _said(error: openai.APIError) -> str:
    """The provider's own words, with the error's code so that classifiers see it."""
    body = error.body
    words = error.message
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        words = body["message"]
    code = error.code if isinstance(error.code, str) else None
    return redact(f"{words} [{code}]" if code else str(words))[:500]


def _jittered(seconds: float) -> float:
    """A little later, so that refused callers do not come back together."""
    return round(min(seconds, 3600.0) * (1 + random.random() * _JITTER) + 0.01, 3)  # noqa: S311  # no secret
