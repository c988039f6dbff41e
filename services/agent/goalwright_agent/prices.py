"""What a token costs: the user's own table first, then the bundled one, then free on private endpoints."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from goalwright_shared.errors import Refused
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

log = structlog.get_logger(__name__)


class Price(BaseModel):
    """US dollars per million tokens; 0 is free."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd_per_mtok: float = Field(ge=0)
    output_usd_per_mtok: float = Field(ge=0)


FREE = Price(input_usd_per_mtok=0, output_usd_per_mtok=0)


def price_of(model: str, endpoint: str, overrides: Mapping[str, Price], max_input_tokens: int) -> Price:
    """The price at which holds are made and calls are settled.

    Where a provider has tiers, that of the lane's input cap counts. Raises Refused for an unknown price on
    a public endpoint: a budget that cannot be kept must not be promised.
    """
    if model in overrides:
        return overrides[model]
    known = _bundled(model, endpoint, max_input_tokens)
    if known is not None:
        return known
    if is_private(endpoint):
        log.warning("model is taken as free: no price is known and its endpoint is private", model=model)
        return FREE
    raise Refused(
        "unknown_price",
        f"the price of {model} at {urlsplit(endpoint).hostname} is not known",
        field="GOALWRIGHT_PRICES",
        hint=f'set GOALWRIGHT_PRICES to {{"{model}": {{"input_usd_per_mtok": 1, "output_usd_per_mtok": 4}}}} '
        "with its real prices (0 is free)",
    )


def is_private(endpoint: str) -> bool:
    """Whether an endpoint is the user's own: loopback, a private address, a name without a public suffix."""
    host = urlsplit(endpoint).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost", ".svc", ".lan"))
    return address.is_loopback or address.is_private


def _bundled(model: str, endpoint: str, max_input_tokens: int) -> Price | None:
    """The price in the table that `genai-prices` carries (no network); None when it has none."""
    from genai_prices import Usage, calc_price  # half a second of import, needed at topology time only

    tokens = max(max_input_tokens, 1000)
    usage = Usage(input_tokens=tokens, output_tokens=tokens)
    prefix, _, rest = model.partition("/")
    lookups: tuple[Callable[[], PriceCalculation], ...] = (
        lambda: calc_price(usage, model, provider_api_url=endpoint),
        lambda: calc_price(usage, model),
        lambda: calc_price(usage, model, provider_id="openai"),
        lambda: calc_price(usage, rest, provider_id=prefix),  # the form that proxies use: provider/model
    )
    for lookup in lookups:
        try:
            found = lookup()
        except LookupError:
            continue
        return Price(
            input_usd_per_mtok=_per_million(found.input_price, tokens),
            output_usd_per_mtok=_per_million(found.output_price, tokens),
        )
    return None


def _per_million(price: Decimal, tokens: int) -> float:
    return round(float(price) * 1_000_000 / tokens, 6)
