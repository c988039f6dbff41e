"""All providers together: each call goes to the endpoint and key that its pool names, asked as it understands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from goalwright_agent.calls import Adapted, Broken, Limited, Request, Result, Vectors, blocked
from goalwright_agent.client import Client
from goalwright_agent.core.dialect import Dialect, is_strict
from goalwright_agent.dialects import DialectFile
from goalwright_agent.endpoints import Endpoint
from goalwright_agent.settings import AgentSettings

log = structlog.get_logger(__name__)


class Provider:
    """A part: a client for each endpoint and key, and what was learned about their models.

    What is learned counts for this process, and with a `memory` for those that start later.
    """

    def __init__(self, settings: AgentSettings, memory: DialectFile | None = None) -> None:
        self._settings = settings
        self._endpoints: dict[str, Endpoint] = settings.endpoints()
        self._memory = memory
        self._dialects: dict[tuple[str, str], Dialect] = {}  # by base URL and model
        self._clients: dict[str, Client] = {}

    async def start(self) -> None:
        """Build the clients on the running loop; they connect at the first call."""
        if self._memory is not None:
            self._dialects = await asyncio.to_thread(self._memory.read)
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
        dialect = self._dialects.get(place, Dialect()).lower(request.dialect)
        result = await self._clients[endpoint.name].complete(request, dialect)
        if isinstance(result, Adapted):
            return await self._learned(place, request, dialect, result)
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
        if self._memory is not None:  # others may know more by now
            lower = await asyncio.to_thread(self._memory.learn, *place, lower)
        self._dialects[place] = self._dialects.get(place, Dialect()).lower(lower)
        return Adapted(lower)

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
