"""What a call that was not answered means: wait, never again, another form of request, or a failure."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import aiohttp
import httpx2
import openai
from goalwright_shared.telemetry import redact

from goalwright_agent.calls import Broken, Limited, blocked
from goalwright_agent.core.dialect import is_filtered, is_too_long
from goalwright_agent.core.wire import DEFAULT_RETRY_SECONDS, rate_of, retry_after, wait_in_words
from goalwright_agent.endpoints import Endpoint

_JITTER = 0.25
_NO_QUOTA_CODE = re.compile(r"insufficient_quota|billing_(hard_limit|not_active)|budget_exceeded", re.I)
_NO_QUOTA = re.compile(
    r"insufficient[_ ](quota|balance|credit)|exceeded your current quota|credit balance is too low"
    r"|billing_(hard_limit|not_active)|budget[_ ](has been )?exceeded|spend(ing)? limit",
    re.I,
)
_BAD_KEY = re.compile(
    r"invalid_api_key|api[ _-]?key[ _](not valid|invalid)|(invalid|incorrect) api[ _-]?key", re.I
)
_NEVER_FITS = re.compile(r"request too large|tokens must be reduced", re.I)
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, httpx2.ConnectError)


class TooLong(httpx2.ReadError):
    """An answer that was cut off because it did not end."""


def said_by(error: openai.APIError) -> str:
    """The provider's own words, with the error's code so that classifiers see it."""
    body = error.body
    words = error.message
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        words = body["message"]
    code = error.code if isinstance(error.code, str) else None
    return redact(f"{words} [{code}]" if code else str(words))[:500]


def of_request(endpoint: Endpoint, model: str, said: str) -> Limited | Broken | None:
    """What a refusal (400, 413, 422) says of the key, the quota or the size of the prompt; None: of none of them."""
    if is_too_long(said):
        return Broken("too_big", f"the prompt does not fit {model}: {said}", False, True, True)
    if is_filtered(said):
        return Broken("refused", f"the provider's content filter: {said}", False, unbilled=True)
    if _NO_QUOTA.search(said):
        return _no_quota(endpoint, said)
    if _BAD_KEY.search(said):
        return _bad_key(endpoint, model, said, 400)
    return None


def in_answer(endpoint: Endpoint, model: str, message: str, code: object) -> Limited | Broken:
    """An error that came with HTTP 200: some proxies wrap their provider's so."""
    if (found := of_request(endpoint, model, message)) is not None:
        return found
    if code == 429 or str(code) in ("429", "rate_limit_exceeded"):
        wait = wait_in_words(message)
        return Limited(
            jittered(DEFAULT_RETRY_SECONDS if wait is None else wait), f"{model} is rate limited: {message}"
        )
    return Broken("provider_unavailable", f"{model} at {endpoint.shown}: {message}", True)


def of_error(endpoint: Endpoint, model: str, error: Exception, limit: float) -> Limited | Broken:
    """A call that ended without an answer; `limit` is what it was given, in seconds."""
    match error:
        case openai.RateLimitError():
            return _limited(endpoint, model, error)
        case openai.AuthenticationError():
            return _bad_key(endpoint, model, said_by(error), error.status_code)
        case openai.PermissionDeniedError():
            said = said_by(error)
            if is_filtered(said):
                return Broken("refused", f"the provider's moderation: {said}", False, unbilled=True)
            return (
                _no_quota(endpoint, said) if _NO_QUOTA.search(said) else _bad_key(endpoint, model, said, 403)
            )
        case openai.NotFoundError():
            return Broken(
                "model_not_found",
                f"{endpoint.shown} does not know {model}: {said_by(error)}. Fix: set GOALWRIGHT_MODEL (or the "
                "setting that names this model) to one that it has, or its address to the right one (often ending with "
                "/v1).",
                False,
                unbilled=True,
            )
        case openai.APIStatusError():
            return _status(endpoint, model, error)
        case _:
            return _unanswered(endpoint, model, error, limit)


def jittered(seconds: float) -> float:
    """A little later, so that refused callers do not come back together."""
    return round(min(seconds, 3600.0) * (1 + random.random() * _JITTER) + 0.01, 3)  # noqa: S311  # no secret


def _no_quota(endpoint: Endpoint, said: str) -> Limited:
    return blocked(
        f"the quota of the key at {endpoint.shown} is used up: {said}. Fix: raise the limit or add credit at the "
        f"provider, or set another {endpoint.key_source}."
    )


def _bad_key(endpoint: Endpoint, model: str, said: str, status: int) -> Limited:
    return blocked(
        f"{endpoint.shown} refused the key ({status}): {said}. Fix: set {endpoint.key_source} to a valid key that "
        f"may use {model}, then restart the agent."
    )


def _limited(endpoint: Endpoint, model: str, error: openai.APIStatusError) -> Limited | Broken:
    """429: the rate, the quota, or a request that no waiting lets through."""
    said, headers = said_by(error), error.response.headers
    if _NEVER_FITS.search(said):
        return Broken(
            "too_big", f"the request is above the limit of tokens of {model}: {said}", False, True, True
        )
    wait = retry_after(headers, datetime.now(UTC), said)
    told = f"{said} {error.type}"
    if _NO_QUOTA_CODE.search(told) or (
        wait is None and _NO_QUOTA.search(told)
    ):  # words with a time mean the rate
        return _no_quota(endpoint, said)
    seconds = jittered(DEFAULT_RETRY_SECONDS if wait is None else wait)
    return Limited(seconds, f"rate limited: {said}", rate=rate_of(headers))


def _status(endpoint: Endpoint, model: str, error: openai.APIStatusError) -> Limited | Broken:
    said, headers, status = said_by(error), error.response.headers, error.status_code
    wait = (
        retry_after(headers, datetime.now(UTC)) if status in (503, 529) and "retry-after" in headers else None
    )
    if wait is not None:
        return Limited(jittered(wait), f"{model} is overloaded: {said}")
    if status == 402:
        return blocked(f"{endpoint.shown} wants payment: {said}")
    if status == 413:
        return Broken("too_big", f"the request is too large for {model}: {said}", False, True, True)
    retryable = status >= 500 or status in (408, 409)
    return Broken(
        "provider_unavailable" if retryable else "bad_request",
        f"{model} at {endpoint.shown} answered {status}: {said}",
        retryable,
        unbilled=not retryable,
    )


def _unanswered(endpoint: Endpoint, model: str, error: Exception, limit: float) -> Broken:
    """No connection, a broken one, or silence. The transport calls all three a timeout: the cause tells."""
    url = endpoint.shown
    causes = list(_causes(error))
    never_sent = [cause for cause in causes if isinstance(cause, _NEVER_SENT)]
    if never_sent:
        return Broken(
            "provider_unavailable",
            f"no model answers at {url} ({_short(never_sent[0])}). Fix: start that server, set "
            "OPENAI_BASE_URL (and OPENAI_API_KEY) to one that runs, or unset both to use the rehearsal model.",
            True,
            unbilled=True,
        )
    broken = [
        cause
        for cause in causes
        if isinstance(cause, aiohttp.ClientError | TooLong | httpx2.DecodingError | httpx2.ProtocolError)
    ]
    if broken and not any(isinstance(cause, TimeoutError) for cause in causes):
        why = f"the connection to {url} broke: {_short(broken[-1])}"
        return Broken("provider_unavailable", why, True)
    return Broken("timeout", f"{model} at {url} gave no answer within {limit:g} s", True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _short(error: BaseException) -> str:
    """Why, in a few words: the system's own for a connection that was never made."""
    cause = getattr(error, "os_error", None)
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno).lower()
    if isinstance(error, aiohttp.ClientResponseError):  # what was asked with is no news, and holds the key
        return f"no HTTP: {error.message}"[:200]
    return redact(str(error) or type(error).__name__)[:200]
