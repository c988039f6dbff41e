"""How the server imitates a provider. Environment: `GOALWRIGHT_REHEARSAL_*`; flags of `__main__` win."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Share = Annotated[float, Field(ge=0, le=1)]
Fault = Literal["500", "429", "quota", "cut", "ignore_schema", "refuse", "drop", "hang"]


class RehearsalSettings(BaseSettings):
    """Speed, limits and faults. No randomness: a share of 0.05 makes every twentieth answer faulty."""

    model_config = SettingsConfigDict(env_prefix="GOALWRIGHT_REHEARSAL_", extra="ignore")

    host: str = Field(default="127.0.0.1", description="address; loopback unless told otherwise")
    port: int = Field(default=0, ge=0, le=65535, description="port; 0 = a free one")
    api_key: str | None = Field(default=None, description="the only key accepted; unset: any, or none")
    latency_seconds: float = Field(default=0.05, ge=0, description="time every answer takes")
    requests_per_minute: int | None = Field(default=None, ge=1, description="limit; unset = none")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="limit; unset = none")
    burst_seconds: float = Field(
        default=60, gt=0, description="how much of a limit may be used at once: that of so many seconds"
    )
    json_schema: Literal["follow", "ignore", "refuse"] = Field(
        default="follow", description="what the server does with response_format json_schema"
    )
    error_share: Share = Field(default=0, description="share of chat answers that are HTTP 500")
    cut_share: Share = Field(default=0, description="share of chat answers cut by length")
    ignore_schema_share: Share = Field(default=0, description="share of chat answers that ignore a schema")
    quota_share: Share = Field(default=0, description="share of chat answers that say the quota is used up")
    refuse_share: Share = Field(default=0, description="share of chat answers in which the model refuses")
    drop_share: Share = Field(default=0, description="share of chat answers that break off in the middle")
    hang_share: Share = Field(default=0, description="share of chat requests that get no answer")
    hang_seconds: float = Field(default=3600, gt=0, description="how long a hanging request hangs")
