"""What the agent needs to know, and the lane rows it performs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from goalwright_shared.errors import Refused
from goalwright_shared.messages import Lane, PoolLimit
from goalwright_shared.settings import ServiceSettings
from pydantic import Field, SecretStr, field_validator

from goalwright_agent.endpoints import (
    NAME,
    OPENAI,
    Endpoint,
    ProviderEntry,
    checked_url,
    endpoint_of,
    pool_of,
)
from goalwright_agent.prices import Price, price_of
from goalwright_agent.roles import Role, load_roles

ASK, EMBED = "agent.ask", "agent.embed"

_THINKING_MODELS = [
    "gpt-5*", "o1*", "o3*", "o4*", "gpt-oss*", "deepseek-r1*", "deepseek-reasoner*", "qwen3*", "qwq*", "magistral*",
    "gemini-2.5*", "gemini-3*", "grok-3-mini*", "grok-4*", "*thinking*", "*reasoning*",
]  # fmt: skip


class AgentSettings(ServiceSettings):
    """Environment: GOALWRIGHT_*, and OPENAI_API_KEY and OPENAI_BASE_URL under their usual names."""

    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias="OPENAI_API_KEY", description="the key; local servers need none"
    )
    openai_base_url: str | None = Field(
        default=None,
        validation_alias="OPENAI_BASE_URL",
        description="any server that speaks chat completions",
    )
    key_name: str = Field(
        default="default", pattern=r"^[A-Za-z0-9_.-]+$", description="name of the key in pools and the ledger"
    )
    providers: dict[str, ProviderEntry] = Field(
        default={},
        description="more endpoints and keys: [providers.<name>] tables; models are <name>/<model>",
    )
    model: str = Field(default="gpt-5-mini", min_length=1, description="the model of roles and agent.ask")
    models: dict[str, str] = Field(
        default={}, description="models of single lanes, by their last word: role, ask or embed"
    )
    model_small: str | None = Field(default=None, description="model of class small; default: model")
    model_large: str | None = Field(default=None, description="model of class large; default: model")
    model_embed: str = Field(default="text-embedding-3-small", description="the model of agent.embed")
    reasoning_effort: str | None = Field(
        default=None, description="low, medium or high, for models that reason; default: the model's own"
    )
    thinking_tokens: int = Field(
        default=8_192, ge=0, description="output tokens of a call set aside for what a model thinks"
    )
    thinking_models: list[str] = Field(
        default=_THINKING_MODELS, description="models that think, as patterns with *"
    )
    prices: dict[str, Price] = Field(
        default={}, description="own prices, in USD per million tokens; 0 is free"
    )
    requests_per_minute: int | None = Field(default=None, ge=1, description="the provider's limit per model")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="the provider's limit per model")
    ask_max_input_tokens: int = Field(default=48_000, ge=1_000, description="cap of one agent.ask call")
    ask_max_output_tokens: int = Field(default=16_384, ge=256, description="cap of one agent.ask call")
    roles: Path | None = Field(default=None, description="folder of your own role files (<name>.md)")
    web_hosts: str = Field(
        default="",
        description="hosts that the executor fetches pages from for roles with fetch_url; empty: none",
    )
    roles_served: str = Field(
        default="", description="lanes this process serves, by their last word, comma separated; default all"
    )
    agent_slots: int = Field(default=32, ge=1, le=1024, description="concurrent calls per lane and process")
    connections: int = Field(default=1024, ge=1, description="HTTP connections of this process")
    call_timeout_seconds: float = Field(default=300.0, gt=0, description="one call may take this long")

    @field_validator("openai_base_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        return checked_url(value) if value else None

    @field_validator("providers")
    @classmethod
    def _are_named_well(cls, value: dict[str, ProviderEntry]) -> dict[str, ProviderEntry]:
        if wrong := [name for name in value if not NAME.fullmatch(name)]:
            raise ValueError(f"a provider cannot be called {wrong[0]!r}: letters, digits, _, . and - only")
        return value

    @property
    def web(self) -> bool:
        """Whether roles may fetch pages."""
        return bool(self.web_hosts.strip())

    @property
    def endpoint(self) -> str:
        """The base URL in use."""
        return (self.openai_base_url or OPENAI).rstrip("/")

    @property
    def key(self) -> str | None:
        """The key in clear; only the provider asks."""
        return self.openai_api_key.get_secret_value() or None if self.openai_api_key else None

    def endpoints(self) -> dict[str, Endpoint]:
        """All endpoints by name; the default one has the name of `key_name`, unless an entry has."""
        default = Endpoint(
            name=self.key_name,
            base_url=self.endpoint,
            key=self.key,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )
        return {default.name: default} | {
            name: endpoint_of(name, one) for name, one in self.providers.items()
        }

    def pool(self, lane: str, model_class: str = "default") -> str:
        """The pool `<provider>/<model>` of a lane: its own model, else that of its class. Raises Refused."""
        special = {"small": self.model_small, "large": self.model_large, "embed": self.model_embed}
        model = self.models.get(lane.removeprefix("agent.")) or special.get(model_class) or self.model
        return pool_of(model, self.providers, self.key_name)

    def room_to_think(self, model: str) -> int:
        """Output tokens to leave for what `model` thinks before it answers."""
        bare = model.rsplit("/", 1)[-1].lower()
        thinks = any(fnmatchcase(bare, pattern.lower()) for pattern in self.thinking_models)
        return self.thinking_tokens if thinks else 0


def lanes(settings: AgentSettings) -> list[Lane]:
    """The lane rows of all roles, agent.ask and agent.embed. Raises Refused: bad role, unknown provider or price."""
    roles = load_roles(settings.roles, web=settings.web)
    rows = [
        *(_role_lane(role, settings) for role in roles.values()),
        _ask_lane(settings),
        _embed_lane(settings),
    ]
    _check_known(settings.models, [row.name for row in rows], "GOALWRIGHT_MODELS")
    return rows


def _llm_lane(
    settings: AgentSettings, pool: str, name: str, *, max_input_tokens: int, max_output_tokens: int
) -> Lane:
    key_name, _, model = pool.partition("/")
    url = settings.endpoints()[key_name].base_url
    prices = {**settings.prices, **({model: settings.prices[pool]} if pool in settings.prices else {})}
    price = price_of(model, url, prices, max_input_tokens)
    return Lane(
        name=name,
        pool=pool,
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
        input_usd_per_mtok=price.input_usd_per_mtok,
        output_usd_per_mtok=price.output_usd_per_mtok,
        may=["done", "expand", "failed", "throttled"],
    )


def _role_lane(role: Role, settings: AgentSettings) -> Lane:
    pool = settings.pool(role.lane, role.model_class)
    lane = _llm_lane(
        settings,
        pool,
        role.lane,
        max_input_tokens=role.max_input_tokens,
        max_output_tokens=role.max_output_tokens + settings.room_to_think(pool),
    )
    web = f"; fetches pages of {settings.web_hosts}" if "fetch_url" in role.tools else ""
    facts = {
        "description": role.description + web,
        "tools": list(role.tools),
        "child_lanes": role.child_lanes,
        "plannable": True,
    }
    return lane.model_copy(update=facts)


def _ask_lane(settings: AgentSettings) -> Lane:
    pool = settings.pool(ASK)
    lane = _llm_lane(
        settings,
        pool,
        ASK,
        max_input_tokens=settings.ask_max_input_tokens,
        max_output_tokens=settings.ask_max_output_tokens + settings.room_to_think(pool),
    )
    return lane.model_copy(update={"description": "answers one given prompt, as text or by a JSON schema"})


def _embed_lane(settings: AgentSettings) -> Lane:
    lane = _llm_lane(
        settings, settings.pool(EMBED, "embed"), EMBED, max_input_tokens=32_000, max_output_tokens=0
    )
    facts = {"description": "turns a list of texts into vectors", "may": ["done", "failed", "throttled"]}
    return lane.model_copy(update=facts)


def pools(settings: AgentSettings) -> list[PoolLimit]:
    """The providers' limits of every pool the lanes use; None is unlimited."""
    endpoints = settings.endpoints()
    found = []
    for name in dict.fromkeys(lane.pool for lane in lanes(settings) if lane.pool):
        endpoint = endpoints[name.partition("/")[0]]
        found.append(
            PoolLimit(
                pool=name,
                requests_per_minute=endpoint.requests_per_minute,
                tokens_per_minute=endpoint.tokens_per_minute,
            )
        )
    return found


def served_lanes(settings: AgentSettings) -> list[str]:
    """The lanes this process serves. Raises Refused."""
    known = [*(role.lane for role in load_roles(settings.roles, web=settings.web).values()), ASK, EMBED]
    wanted = [name.strip() for name in settings.roles_served.split(",") if name.strip()]
    _check_known(wanted, known, "GOALWRIGHT_ROLES_SERVED")
    return [f"agent.{name}" for name in wanted] or known


def _check_known(wanted: Iterable[str], known: Sequence[str], field: str) -> None:
    unknown = [name for name in wanted if f"agent.{name}" not in known]
    if unknown:
        raise Refused(
            "unknown_role",
            f"there is no role {', '.join(unknown)}",
            field=field,
            hint=f"known: {', '.join(lane.removeprefix('agent.') for lane in known)}",
        )
