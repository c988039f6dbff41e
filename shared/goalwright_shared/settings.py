"""Configuration: flag > environment (`GOALWRIGHT_*`) > `goalwright.toml` > default. Units are in the names.

Each service subclasses `ServiceSettings` in its own `settings.py` with what it alone needs, so that a secret
is read only by the service that uses it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class Settings(BaseSettings):
    """Sources and naming shared by all settings classes."""

    model_config = SettingsConfigDict(
        env_prefix="GOALWRIGHT_",
        toml_file="goalwright.toml",
        extra="ignore",
        populate_by_name=True,
        validate_default=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before the TOML file; no dotenv, no secret folders."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


class ServiceSettings(Settings):
    """What every service needs."""

    nats_url: str = Field(
        default="nats://127.0.0.1:4222", description="NATS, with the credentials of a service"
    )
    home: Path = Field(default=Path(".goalwright"), description="state of the embedded system, caches")
    worker: str | None = Field(
        default=None, description="this process's name in `alive` and logs; default host and pid"
    )
    health_host: str = Field(default="127.0.0.1", description="address of /live, /ready and /metrics")
    health_port: int = Field(default=0, ge=0, le=65535, description="their port; 0 = a free one")
    log_level: str = Field(default="info", description="debug, info, warning or error")
    log_format: str = Field(default="auto", description="json, text, or auto: text on a terminal")
    drain_seconds: float = Field(default=25.0, ge=0, description="time for work in flight after a signal")
    connect_timeout_seconds: float = Field(
        default=30.0, ge=0, description="how long a service waits for NATS at its start before it gives up"
    )
