"""`goalwright config`: every setting with its value and where it comes from."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from goalwright_shared.errors import Refused
from goalwright_shared.settings import ServiceSettings, Settings
from goalwright_shared.telemetry import MASK, redact_value
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from goalwright_cli.children import SERVICES
from goalwright_cli.settings import SystemSettings
from goalwright_cli.topology import service_settings

app = typer.Typer(no_args_is_help=True, help="Show the configuration and where it comes from.")

TOML = Path("goalwright.toml")
READERS = ("system", "all", *SERVICES)


@dataclass(frozen=True)
class Setting:
    """One setting of one reader (`all` for those of every service)."""

    reader: str
    variable: str
    value: str
    origin: str
    description: str


@app.callback()
def config() -> None:
    """Show the configuration and where it comes from."""


@app.command()
def show(
    service: Annotated[str | None, typer.Argument(help="only this reader: system, all or a service")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Print every setting with value and origin (environment, goalwright.toml or default), secrets masked."""
    if service not in (None, *READERS):
        raise typer.BadParameter(f"{service!r} is none of {', '.join(READERS)}", param_hint="SERVICE")
    rows = [row for reader in READERS if service in (None, reader) for row in of_reader(reader)]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    width = max((len(row.variable) for row in rows), default=0)
    reader = ""
    for row in rows:
        if row.reader != reader:
            reader = row.reader
            print(f"\n{reader}")
        print(f"  {row.variable:<{width}}  {row.value:<28} {row.origin:<16} {row.description}")


def of_reader(reader: str) -> Iterator[Setting]:
    """The settings that one reader reads; those of every service stand under `all` only."""
    settings: Settings
    if reader == "system":
        settings = SystemSettings()
    else:
        settings = ServiceSettings() if reader == "all" else service_settings(reader)
    in_file = _toml()
    for name, field in type(settings).model_fields.items():
        if reader in ("system", "all") or name not in ServiceSettings.model_fields:
            variable = _variable(name, field)
            yield Setting(
                reader=reader,
                variable=variable,
                value=_shown(variable, getattr(settings, name)),
                origin=_origin(variable, name, in_file),
                description=field.description or "",
            )


def _variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return alias if isinstance(alias, str) else f"GOALWRIGHT_{name.upper()}"


def _origin(variable: str, name: str, in_file: dict[str, object]) -> str:
    if variable in os.environ:
        return "environment"
    return TOML.name if name in in_file or variable in in_file else "default"


def _shown(variable: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else "-"
    masked = redact_value({variable: str(value) if value is not None else None})[variable]
    return "-" if masked is None else str(masked)


def _toml() -> dict[str, object]:
    try:
        return tomllib.loads(TOML.read_text())
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise Refused("bad_toml", f"{TOML} cannot be read: {error}", hint="mend that line") from error
