"""Performs lane `tool.web`: one page, as text, marked as holding nothing of the goal's own data."""

from __future__ import annotations

import asyncio
from typing import Any

from goalwright_shared.errors import ArtifactUnavailable
from goalwright_shared.messages import ArtifactType, Done, Failed, Outcome, TaskError, Work
from goalwright_shared.telemetry import redact
from goalwright_shared.worker import Attempt

from goalwright_executor.web.fetch import Fetcher, NotFetched, Page
from goalwright_executor.web.pages import text_of
from goalwright_executor.web.rules import NotAllowed

_HTML = ("text/html", "application/xhtml+xml")


class Web:
    """Keeps nothing between two pages."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    async def perform(self, work: Work, attempt: Attempt) -> Outcome:
        """`done` with the page's text as the one output, or `failed`."""
        params = work.spec.params
        url = params.get("url") if isinstance(params, dict) else None
        if (
            not isinstance(url, str)
            or len(work.spec.outputs) != 1
            or work.spec.outputs[0].type != ArtifactType.TEXT
        ):
            return _failed(
                work, "bad_task", 'tool.web takes params {"url": "https://…"} and makes one text output'
            )
        try:
            page = await self._fetcher.fetch(url)
            text = await asyncio.to_thread(_read, page)
            name = work.spec.outputs[0].name
            ref = await attempt.artifacts.put_bytes(name, ArtifactType.TEXT, text.encode(), "text/plain")
        except NotAllowed as error:
            return _failed(work, "url_refused", f"{url[:200]}: {error}")
        except NotFetched as error:
            return _failed(work, "not_fetched", f"{url[:200]}: {error}", retryable=error.retryable)
        except ArtifactUnavailable as error:
            return _failed(work, error.code, str(error), retryable=True)
        return Done(
            **_ids(work),
            outputs={name: ref.model_copy(update={"private": False})},
            summary=redact(f"{page.url[:500]}: {len(page.body)} bytes of {page.media_type}"),
        )


def _read(page: Page) -> str:
    """The text of a page, fit for any store."""
    try:
        text = page.body.decode(page.charset, "replace")
    except LookupError:  # a charset nobody knows
        text = page.body.decode("utf-8", "replace")
    text = text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text_of(text) if page.media_type in _HTML else text


def _ids(work: Work) -> dict[str, Any]:
    return {"goal_id": work.goal_id, "task_id": work.task_id, "epoch": work.epoch}


def _failed(work: Work, code: str, message: str, *, retryable: bool = False) -> Failed:
    return Failed(**_ids(work), error=TaskError(code=code, message=redact(message), retryable=retryable))
