"""Logs (structlog: JSON off a terminal; goal, task and epoch as fields) and redaction of secrets."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import structlog

_SECRET_NAME = re.compile(r"(api[-_]?key|token|secret|password|passwd|authorization|credential)", re.I)
_NOT_SECRET_NAME = re.compile(
    r"^(max_)?tokens(_in|_out|_cached|_per_minute)?$|^max_(input|output)_tokens$", re.I
)
_START = r"(?:\b|(?<=\\[nrt]))"  # a word begins, also after a newline or tab as JSON text writes it
_PATTERNS = (
    re.compile(_START + r"sk-[A-Za-z0-9_\-]{8,}"),
    re.compile(_START + r"Bearer\s+[A-Za-z0-9._\-+/=]{8,}", re.I),
    re.compile(_START + r"(?:ghp|gho|ghs|github_pat|xox[abpr]|AKIA|AIza)[A-Za-z0-9_\-]{10,}"),
    re.compile(r"""(?<=://)[^/\s:@"']+:[^/\s@"']+(?=@)"""),  # user:password in a URL
    re.compile(
        _START + r"eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}"
    ),  # a JSON web token
    re.compile(
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
        r"(?:.*?-----END [A-Z ]*PRIVATE KEY-----|(?:[A-Za-z0-9+/=\s]|\\[nr])*)",  # whole, or cut off
        re.S,
    ),
)
_KEY_ENDS = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")
_KEY_TEXT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\\r\n")
MASK = "[redacted]"
_known: set[str] = set()


def remember_secrets(values: Iterable[str | None]) -> None:
    """Values of this process that must never appear in logs, prompts, events or artifacts of calls."""
    for value in values:
        if value and len(value) >= 6:
            in_json = (json.dumps(value, ensure_ascii=ascii)[1:-1] for ascii in (False, True))
            _known.update((value, *in_json))


def may_hold_secret(payload: bytes) -> bool:
    """False only when `redact_value` would leave the JSON texts in `payload` as they are. A look for the literal
    parts of all patterns, a hundred times quicker than the patterns themselves: cheapest on much at once."""
    lower = payload.lower()
    if any(map(lower.__contains__, _MARKS)) or any(s.encode().lower() in lower for s in _known):
        return True
    return lower.count(b"token") > sum(lower.count(name) for name in _TOKEN_COUNTS)


_MARKS = (
    b"sk-", b"bearer", b"ghp", b"gho", b"ghs", b"github_pat", b"xox", b"akia", b"aiza", b"://", b"private key",
    b"eyj", b"apikey", b"api-key", b"api_key", b"secret", b"passw", b"authorization", b"credential",
)  # fmt: skip
_TOKEN_COUNTS = (b'"tokens_in"', b'"tokens_out"', b'"tokens_cached"')


def redact(text: str) -> str:
    """`text` with known secrets and everything shaped like one masked."""
    for secret in sorted(_known, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(secret, MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(MASK, text)
    return _without_key_ends(text)


def _without_key_ends(text: str) -> str:
    """The end of a private key whose beginning was cut off masked too."""
    while (found := _KEY_ENDS.search(text)) is not None:
        begin = found.start()
        while begin > 0 and text[begin - 1] in _KEY_TEXT:
            begin -= 1
        text = text[:begin] + MASK + text[found.end() :]
    return text


def redact_value(value: Any) -> Any:
    """The same for nested JSON, names included; values of fields that are named like secrets are masked whole.
    What is no JSON (an exception in a log line) becomes its redacted `repr` if that holds a secret."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            redact_value(k): MASK if _is_secret_name(k) and v else redact_value(v) for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_value(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    shown = repr(value)
    return value if redact(shown) == shown else redact(shown)


def _is_secret_name(name: object) -> bool:
    return isinstance(name, str) and bool(_SECRET_NAME.search(name)) and not _NOT_SECRET_NAME.match(name)


def _redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    redacted: Mapping[str, Any] = redact_value(event)
    return redacted


def configure_logging(service: str, *, level: str = "info", format: str = "auto") -> None:
    """Once per process. Logs go to stderr; libraries' records take the same road."""
    text = format == "text" or (format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=not os.environ.get("NO_COLOR"))
        if text
        else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("nats", "faststream", "httpx", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(service=service, pid=os.getpid())
