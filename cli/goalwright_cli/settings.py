"""What the command line and the supervisor themselves need to know; services have settings of their own."""

from __future__ import annotations

from pathlib import Path

from goalwright_shared.settings import Settings
from pydantic import Field


class SystemSettings(Settings):
    """Where the system lives and which of its outside parts are given."""

    home: Path = Field(
        default=Path(".goalwright"), description="state of the embedded system: data, logs, run.json"
    )
    nats_url: str | None = Field(default=None, description="a NATS server; unset: an embedded one")
    postgres_dsn: str | None = Field(default=None, description="a Postgres; unset: an embedded one")
    nats_port: int = Field(default=0, ge=0, le=65535, description="port of the embedded NATS; 0 = a free one")
    ready_seconds: float = Field(
        default=60.0, gt=0, description="how long a service may take from its start to ready"
    )
    drain_seconds: float = Field(default=25.0, ge=0, description="time for work in flight after a signal")
