"""All providers together: each call goes to the endpoint and key that its pool names, asked as it understands."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog

from goalwright_agent.calls import Adapted, Broken, Limited, Reply, Request, Result, Vectors, blocked
from goalwright_agent.client import Client
from goalwright_agent.core.dialect import Dialect, is_strict, keeps_form, one_rung_down
from goalwright_agent.core.wire import arguments_of
from goalwright_agent.dialects import Dialects
from goalwright_agent.endpoints import Endpoint
from goalwright_agent.settings import AgentSettings

log = structlog.get_logger(__name__)

_IGNORED = 2
"""Answers in a row without the form that was asked for, until the next humbler form is asked for: the second correction
of a task is then already asked in another way."""


class Provider:
    """A part: a client for each endpoint and key, and what was learned about their models.

    What is learned counts for this process, and with a `memory` in a file for all that have it.
    """

    def __init__(self, settings: AgentSettings, memory: Dialects | None = None) -> None:
        self._settings = settings
        self._endpoints: dict[str, Endpoint] = settings.endpoints()
        self._memory = memory or Dialects()
        self._formless: Counter[tuple[str, str, str]] = Counter()  # in a row, by base URL, model and rung
        self._clients: dict[str, Client] = {}

    async def start(self) -> None:
        """Build the clients on the running loop; they connect at the first call."""
        self._clients = {
            name: Client(
                endpoint,
                connections=self._settings.connections,
                timeout_seconds=self._settings.call_timeout_seconds,
                reasoning_effort=self._settings.reasoning_effort,
            )
            for name, endpoint in self._endpoints.items()
        }

    async def stop(self) -> None:
        """Close the connections; idempotent."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    def room_to_think(self, model: str) -> int:
        """Output tokens to leave for what `model` thinks before it answers."""
        return self._settings.room_to_think(model)

    async def complete(self, request: Request) -> Result:
        """One chat completion."""
        endpoint = self._endpoints.get(request.key_name)
        if endpoint is None:
            return self._unknown(request.key_name)
        place = endpoint.base_url, request.model
        dialect = (await asyncio.to_thread(self._memory.known, *place)).lower(request.dialect)
        result = await self._clients[endpoint.name].complete(request, dialect)
        if isinstance(result, Adapted):
            return await self._learned(place, request, dialect, result)
        if isinstance(result, Reply):
            await self._noticed(place, request, dialect, result)
        return result

    async def embed(self, key_name: str, model: str, texts: Sequence[str]) -> Vectors | Limited | Broken:
        """One embeddings call."""
        if key_name not in self._endpoints:
            return self._unknown(key_name)
        return await self._clients[key_name].embed(model, texts)

    async def _learned(
        self, place: tuple[str, str], request: Request, dialect: Dialect, adapted: Adapted
    ) -> Adapted:
        """Remember what the refusal says about the server; the task remembers it anyway."""
        lower = adapted.dialect
        log.info("dialect learned", model=request.model, dialect=lower.model_dump(), said=adapted.said)
        if not _is_about_the_server(lower, dialect, request):
            return adapted
        return Adapted(await asyncio.to_thread(self._memory.learn, *place, lower))

    async def _noticed(
        self, place: tuple[str, str], request: Request, dialect: Dialect, reply: Reply
    ) -> None:
        """Remember that a server takes the parameter for structured output, and ignores it."""
        if request.schema is None or request.tools or reply.finish_reason not in ("stop", "tool_calls"):
            return
        answer = reply.content if not reply.tool_calls else arguments_of(reply.tool_calls[0])
        keeps = await asyncio.to_thread(keeps_form, answer, request.schema, dialect.rung)
        counted = (*place, dialect.rung)
        if keeps is None or reply.refusal:
            return
        self._formless[counted] = 0 if keeps else self._formless[counted] + 1
        if self._formless[counted] >= _IGNORED:
            del self._formless[counted]
            lower = one_rung_down(dialect)
            log.info("structured output is ignored", model=request.model, asked=dialect.rung, now=lower.rung)
            await asyncio.to_thread(self._memory.learn, *place, lower)

    def _unknown(self, key_name: str) -> Limited:
        known = ", ".join(sorted(self._endpoints))
        return blocked(
            f"this agent knows no provider {key_name!r}, only {known}: give it the same GOALWRIGHT_PROVIDERS and "
            "GOALWRIGHT_KEY_NAME as `goalwright topology apply` had, or apply again with its own"
        )


def _is_about_the_server(lower: Dialect, before: Dialect, request: Request) -> bool:
    """A refused schema that is not portable says nothing about the server; all else does."""
    same_rung = lower.rung == before.rung
    return (
        same_rung
        or before.rung != "json_schema"
        or (request.schema is not None and is_strict(request.schema.body))
    )
