"""Which addresses may be fetched, pure: URLs, hosts and the addresses that names resolve to.

One parser reads a URL for the check and for the request (yarl), so that the two cannot differ.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL = 2_048
DEFAULT_PORTS = {"http": 80, "https": 443}

_NEVER = tuple(
    map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "168.63.129.16/32", "fd00:ec2::254/128"))
)
"""Where clouds keep the credentials of their machines: no setting allows these."""

_EMBEDDING = tuple(
    map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96"))
)
"""Ranges of IPv6 that carry an IPv4 address somewhere inside: refused whole."""

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_LAST_LABEL = re.compile(r"[a-z][a-z0-9-]*")

_READABLE = re.compile(r"text/[\w.+-]+|application/(json|xml|xhtml\+xml|csv|[\w.-]+\+(json|xml))")


class NotAllowed(Exception):
    """A page may not be fetched; the text says why and what would allow it."""


@dataclass(frozen=True)
class Rules:
    """What may be fetched. `hosts`: `example.org`, `*.example.org` (every name below it) or `*`; `networks` that are
    not public and may be reached all the same (an intranet); `ports` beside the scheme's own."""

    hosts: tuple[str, ...]
    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset()
    seconds: float = 20.0
    max_bytes: int = 2 << 20
    redirects: int = 5


def networks(text: str) -> tuple[Network, ...]:
    """Networks of a comma separated list. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def checked(text: str, rules: Rules) -> URL:
    """The URL to request. Raises NotAllowed."""
    if len(text) > MAX_URL:
        raise NotAllowed(f"the address is longer than {MAX_URL} characters")
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise NotAllowed("the address holds spaces, control characters or backslashes")
    try:
        url = URL(text)
        host, port = (url.raw_host or "").lower().rstrip("."), url.port
    except ValueError as error:
        raise NotAllowed(f"the address cannot be read: {error}") from error
    if url.scheme not in DEFAULT_PORTS:
        raise NotAllowed(
            f"only http and https are fetched, not {url.scheme or 'an address without a scheme'}"
        )
    if url.raw_user is not None or url.raw_password is not None:
        raise NotAllowed("the address holds a user name or a password")
    if port != DEFAULT_PORTS[url.scheme] and port not in rules.ports:
        raise NotAllowed(f"port {port} is not allowed (GOALWRIGHT_WEB_PORTS)")
    literal = _literal(host)
    if literal is None and not (_HOST.fullmatch(host) and _LAST_LABEL.fullmatch(host.rsplit(".", 1)[-1])):
        raise NotAllowed(f"{host or 'nothing'} is no host name")
    if not any(_matches(host, pattern) for pattern in rules.hosts):
        raise NotAllowed(f"{host} is not among the allowed hosts ({', '.join(rules.hosts)})")
    if literal is not None:
        check_address(host, rules.networks)
    return url.with_fragment(None)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _matches(host: str, pattern: str) -> bool:
    pattern = pattern.lower()
    if pattern == "*":
        return True
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def check_address(text: str, allowed: Sequence[Network]) -> None:
    """Refuse an address that is not public, unless its network is allowed. Raises NotAllowed."""
    try:
        address: Address = ipaddress.ip_address(text)
    except ValueError as error:
        raise NotAllowed(f"{text} is no address") from error
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address.scope_id is not None:
            raise NotAllowed(f"{text} is an address of one link")
    if any(address in network for network in _NEVER):
        raise NotAllowed(f"{text} is an address where machines keep credentials")
    if any(address in network for network in allowed):
        return
    embeds = any(address in network for network in _EMBEDDING)
    if not address.is_global or address.is_multicast or address.is_reserved or embeds:
        raise NotAllowed(f"{text} is no public address (GOALWRIGHT_WEB_NETWORKS allows networks of your own)")


def readable(content_type: str) -> str:
    """The media type of a page that can be read as text. Raises NotAllowed."""
    media = content_type.partition(";")[0].strip().lower()
    if not _READABLE.fullmatch(media):
        raise NotAllowed(f"its content type is {media or 'not told'}: only text, JSON and XML are fetched")
    return media
