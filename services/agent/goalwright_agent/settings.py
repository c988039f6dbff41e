"""What the agent needs to know, and the lane rows it performs."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from goalwright_shared.errors import Refused
from goalwright_shared.messages import Lane, PoolLimit
from goalwright_shared.settings import ServiceSettings
from pydantic import Field, SecretStr

from goalwright_agent.prices import Price, price_of
from goalwright_agent.roles import ModelClass, Role, load_roles

OPENAI = "https://api.openai.com/v1"
ASK, EMBED = "agent.ask", "agent.embed"


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
    model: str = Field(default="gpt-5-mini", min_length=1, description="the model of roles and agent.ask")
    model_small: str | None = Field(default=None, description="model of class small; default: model")
    model_large: str | None = Field(default=None, description="model of class large; default: model")
    model_embed: str = Field(default="text-embedding-3-small", description="the model of agent.embed")
    reasoning_effort: str | None = Field(
        default=None, description="low, medium or high, for models that reason; default: the model's own"
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

    @property
    def needs_key(self) -> bool:
        """Whether the endpoint certainly refuses calls without a key."""
        return urlsplit(self.endpoint).hostname == urlsplit(OPENAI).hostname

    def model_of(self, model_class: ModelClass) -> str:
        """The model of a class."""
        special = {"small": self.model_small, "large": self.model_large}.get(model_class)
        return special or self.model


def lanes(settings: AgentSettings) -> list[Lane]:
    """The lane rows of all roles, agent.ask and agent.embed. Raises Refused: bad role, unknown price."""
    roles = load_roles(settings.roles, web=settings.web)
    return [
        *(_role_lane(role, settings) for role in roles.values()),
        _ask_lane(settings),
        _embed_lane(settings),
    ]


def _llm_lane(
    settings: AgentSettings, model: str, name: str, *, max_input_tokens: int, max_output_tokens: int
) -> Lane:
    price = price_of(model, settings.endpoint, settings.prices, max_input_tokens)
    return Lane(
        name=name,
        pool=f"{settings.key_name}/{model}",
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
        input_usd_per_mtok=price.input_usd_per_mtok,
        output_usd_per_mtok=price.output_usd_per_mtok,
        may=["done", "expand", "failed", "throttled"],
    )


def _role_lane(role: Role, settings: AgentSettings) -> Lane:
    lane = _llm_lane(
        settings,
        settings.model_of(role.model_class),
        role.lane,
        max_input_tokens=role.max_input_tokens,
        max_output_tokens=role.max_output_tokens,
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
    lane = _llm_lane(
        settings,
        settings.model,
        ASK,
        max_input_tokens=settings.ask_max_input_tokens,
        max_output_tokens=settings.ask_max_output_tokens,
    )
    return lane.model_copy(update={"description": "answers one given prompt, as text or by a JSON schema"})


def _embed_lane(settings: AgentSettings) -> Lane:
    lane = _llm_lane(settings, settings.model_embed, EMBED, max_input_tokens=32_000, max_output_tokens=0)
    facts = {"description": "turns a list of texts into vectors", "may": ["done", "failed", "throttled"]}
    return lane.model_copy(update=facts)


def pools(settings: AgentSettings) -> list[PoolLimit]:
    """The provider's limits of every pool the lanes use; None is unlimited."""
    names = dict.fromkeys(lane.pool for lane in lanes(settings) if lane.pool)
    return [
        PoolLimit(
            pool=name,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
        )
        for name in names
    ]


def served_lanes(settings: AgentSettings) -> list[str]:
    """The lanes this process serves. Raises Refused."""
    known = [*(role.lane for role in load_roles(settings.roles, web=settings.web).values()), ASK, EMBED]
    wanted = [name.strip() for name in settings.roles_served.split(",") if name.strip()]
    unknown = [name for name in wanted if f"agent.{name}" not in known]
    if unknown:
        raise Refused(
            "unknown_role",
            f"there is no role {', '.join(unknown)}",
            field="GOALWRIGHT_ROLES_SERVED",
            hint=f"known: {', '.join(lane.removeprefix('agent.') for lane in known)}",
        )
    return [f"agent.{name}" for name in wanted] or known
