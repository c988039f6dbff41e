"""Fetch one page within the rules: every redirect is checked like the first address, and the connection goes to the
very address that was checked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from goalwright_executor.web.rules import NotAllowed, Rules, check_address, checked, readable

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host name; raises OSError."""

_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"User-Agent": "goalwright", "Accept-Encoding": "identity", "Accept": "text/*, application/json"}
_BLOCK = 64 * 1024


class NotFetched(Exception):
    """The page did not come; `retryable` when it may another time."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


@dataclass(frozen=True)
class Page:
    """What was fetched."""

    url: str  # after redirects
    media_type: str
    charset: str
    body: bytes


async def look_up(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system resolves it."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class _Checked(AbstractResolver):
    """Resolves names, and refuses those of which any address is not allowed."""

    def __init__(self, rules: Rules, lookup: Lookup) -> None:
        self._rules, self._lookup = rules, lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._lookup(host, port)
        for address in addresses:
            check_address(address, self._rules.networks)
        return [
            ResolveResult(
                hostname=host, host=address, port=port, proto=0, flags=socket.AI_NUMERICHOST,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            )
            for address in addresses
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""


class Fetcher:
    """Fetches pages; keeps no connection, cookie or address between two of them."""

    def __init__(self, rules: Rules, lookup: Lookup = look_up) -> None:
        self._rules, self._lookup = rules, lookup

    async def fetch(self, address: str) -> Page:
        """The page at `address`. Raises NotAllowed, NotFetched."""
        try:
            async with asyncio.timeout(self._rules.seconds), self._session() as session:
                return await self._followed(session, checked(address, self._rules))
        except TimeoutError as error:
            raise NotFetched(f"it did not come within {self._rules.seconds:g} s", retryable=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NotFetched(f"{type(error).__name__}: {error}"[:500], retryable=True) from error

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=_Checked(self._rules, self._lookup),
            socket_factory=self._socket,
            use_dns_cache=False,
            force_close=True,
        )
        return aiohttp.ClientSession(
            connector=connector, headers=_HEADERS, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
            auto_decompress=False,
        )  # fmt: skip

    def _socket(self, found: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """A socket for the address that is about to be connected to: the last check, which nothing goes round."""
        family, kind, proto, _, sockaddr = found
        check_address(str(sockaddr[0]), self._rules.networks)
        return socket.socket(family=family, type=kind, proto=proto)

    async def _followed(self, session: aiohttp.ClientSession, url: URL) -> Page:
        for _ in range(self._rules.redirects + 1):
            async with session.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS or "Location" not in response.headers:
                    return await self._page(response)
                onward = _onward(url, response.headers["Location"])
            if url.scheme == "https" and onward.scheme == "http":
                raise NotAllowed(f"{url.host} leads from https to http")
            url = checked(str(onward), self._rules)
        raise NotFetched(f"more than {self._rules.redirects} redirects", retryable=False)

    async def _page(self, response: aiohttp.ClientResponse) -> Page:
        if response.status != 200:
            again = response.status in (408, 425, 429) or response.status >= 500
            raise NotFetched(f"the server answered {response.status}", retryable=again)
        media_type = readable(response.headers.get("Content-Type", ""))
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise NotAllowed("it comes compressed, although that was not asked for")
        body, cap = bytearray(), self._rules.max_bytes
        if (response.content_length or 0) > cap:
            raise NotAllowed(
                f"it has {response.content_length} bytes, {cap} are allowed (GOALWRIGHT_WEB_MAX_BYTES)"
            )
        async for block in response.content.iter_chunked(_BLOCK):
            body += block
            if len(body) > cap:
                raise NotAllowed(f"it is larger than {cap} bytes (GOALWRIGHT_WEB_MAX_BYTES)")
        return Page(str(response.url), media_type, response.charset or "utf-8", bytes(body))


def _onward(url: URL, location: str) -> URL:
    try:
        return url.join(URL(location))
    except ValueError as error:
        raise NotAllowed(f"it leads to {location[:200]!r}, which cannot be read") from error
