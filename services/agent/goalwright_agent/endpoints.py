"""Where models are: the providers of the settings, each an address and a key, and what a model's name means.

A key never stands in a setting of ours: the setting names the variable or the file that holds it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from goalwright_shared.errors import Refused
from goalwright_shared.telemetry import redact
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

OPENAI = "https://api.openai.com/v1"

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What a provider may be called: it is the first part of a pool, `<provider>/<model>`."""

_ALMOST = 0.8
"""Likeness (difflib) above which the first part of a model's name is taken for a misspelt provider."""


class ProviderEntry(BaseModel):
    """One more provider, or one more key of the same: a table `[providers.<name>]` of goalwright.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(default=OPENAI, description="any server that speaks chat completions")
    api_key_env: str | None = Field(default=None, description="the variable that holds the key")
    api_key_file: Path | None = Field(
        default=None, description="the file that holds the key, and nothing else"
    )
    requests_per_minute: int | None = Field(default=None, ge=1, description="the provider's limit per model")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="the provider's limit per model")

    @model_validator(mode="before")
    @classmethod
    def _no_key_here(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and (found := {"api_key", "key", "token"} & data.keys()):
            raise ValueError(
                f"{min(found)}: a key does not belong into a setting; put it into a variable or a file, and name that "
                "in api_key_env or api_key_file"
            )
        return data

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        return checked_url(value)

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("it must be the name of an environment variable, not the key itself")
        return value

    @field_validator("api_key_file")
    @classmethod
    def _is_the_only_one(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("api_key_env"):
            raise ValueError("name the key by api_key_env or by api_key_file, not by both")
        return value


def checked_url(value: str) -> str:
    """An address without its last slash. Raises ValueError with the form it must have."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be an address like https://host/v1")
    return value.rstrip("/")


@dataclass(frozen=True)
class Endpoint:
    """One address with one key. `key_source` says where the key comes from, in words for people."""

    name: str
    base_url: str
    key: str | None = field(default=None, repr=False)
    key_source: str = "OPENAI_API_KEY"
    wants_key: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def shown(self) -> str:
        """The address, without credentials."""
        return redact(self.base_url)

    @property
    def needs_key(self) -> bool:
        """Whether a call without a key makes no sense."""
        return self.wants_key or urlsplit(self.base_url).hostname == urlsplit(OPENAI).hostname


def endpoint_of(name: str, entry: ProviderEntry) -> Endpoint:
    """The endpoint of an entry, with its key as it is now; a key that cannot be read is none."""
    key = None
    if entry.api_key_env:
        key = os.environ.get(entry.api_key_env, "").strip() or None
    elif entry.api_key_file:
        try:
            key = entry.api_key_file.read_text(encoding="utf-8").strip() or None
        except OSError:
            key = None
    source = entry.api_key_env or (f"the key in {entry.api_key_file}" if entry.api_key_file else "")
    return Endpoint(
        name=name,
        base_url=entry.base_url,
        key=key,
        key_source=source or f"api_key_env of the provider {name}",
        wants_key=bool(entry.api_key_env or entry.api_key_file),
        requests_per_minute=entry.requests_per_minute,
        tokens_per_minute=entry.tokens_per_minute,
    )


def pool_of(model: str, providers: Collection[str], default: str) -> str:
    """The pool `<provider>/<model>` that a setting means: `<provider>/<model>` where that provider is configured,
    else a model of the default one. Raises Refused when the provider seems misspelt, or no model is named."""
    head, slash, rest = model.partition("/")
    if slash and head in (*providers, default):
        if not rest:
            raise Refused(
                "no_model", f"{model!r} names a provider, and no model of it", hint=f"write {head}/<model>"
            )
        return model
    near = difflib.get_close_matches(head, sorted(providers), n=1, cutoff=_ALMOST) if slash else []
    if near:
        raise Refused(
            "unknown_provider",
            f"there is no provider {head!r} for the model {model!r}",
            hint=f"write {near[0]}/{rest}; or {default}/{model}, if the default provider has a model of that name",
        )
    return f"{default}/{model}"
