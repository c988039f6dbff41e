"""Roles are data: a Markdown file with front matter each, shipped in `prompts/` or written by a user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from goalwright_shared.errors import Refused
from goalwright_shared.graph import near_names
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from goalwright_agent.core.tools import TOOL_LANES, TOOL_NAMES

BUILT_IN = Path(__file__).parent / "prompts"

_FILE = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.S)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
RESERVED = ("ask", "embed")
"""Lanes of the agent that are no roles."""

ModelClass = Literal["default", "small", "large"]


class Role(BaseModel):
    """What a role is for, what it may call and what one of its calls may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    prompt: str
    description: str = Field(min_length=1)
    tools: list[Literal[
        "run_program", "ask", "read_artifact", "write_artifact", "post_note", "request_approval", "fetch_url"
    ]] = []  # fmt: skip
    model_class: ModelClass = "default"
    max_input_tokens: int = Field(default=32_000, ge=1_000)
    max_output_tokens: int = Field(default=8_192, ge=256)
    excerpt_chars: int = Field(default=2_000, ge=0, le=60_000)  # of each input, in the card

    @property
    def lane(self) -> str:
        """The lane its tasks are on."""
        return f"agent.{self.name}"

    @property
    def child_lanes(self) -> list[str]:
        """The lanes its tools need."""
        return list(dict.fromkeys(lane for tool in self.tools for lane in TOOL_LANES.get(tool, ())))


FIELDS = tuple(field for field in Role.model_fields if field not in ("name", "prompt"))
"""What front matter may hold."""


def load_roles(folder: Path | None = None, *, web: bool = False) -> dict[str, Role]:
    """The built-in roles and those of `folder`, by name; a user's file replaces a built-in one. Without `web` none of
    them has `fetch_url`.

    Raises Refused, naming the file and what is wrong with it.
    """
    roles = {path.stem: read_role(path) for path in sorted(BUILT_IN.glob("*.md"))}
    if folder is not None:
        if not folder.is_dir():
            hint = "create it, or unset GOALWRIGHT_ROLES to use the built-in roles alone"
            raise Refused("no_roles", f"there is no folder {folder}", field="GOALWRIGHT_ROLES", hint=hint)
        roles |= {path.stem: read_role(path) for path in sorted(folder.glob("*.md"))}
    return roles if web else {name: _without_web(role) for name, role in roles.items()}


def _without_web(role: Role) -> Role:
    return role.model_copy(update={"tools": [tool for tool in role.tools if tool != "fetch_url"]})


def read_role(path: Path) -> Role:
    """The role of one file; its name is the file's. Raises Refused."""
    if not _NAME.fullmatch(path.stem) or path.stem in RESERVED:
        raise _bad(
            path, "the file name must be lower case letters, digits, - and _ (not ask, not embed): rename it"
        )
    try:
        match = _FILE.match(path.read_text(encoding="utf-8-sig").replace("\r\n", "\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, f"it cannot be read as UTF-8 text ({error})") from error
    if match is None:
        raise _bad(path, "it must begin with front matter between two lines of ---")
    try:
        facts = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise _bad(path, f"the front matter is no YAML: {error}") from error
    if not isinstance(facts, dict):
        raise _bad(path, "the front matter must be `field: value` lines")
    if not match[2].strip():
        raise _bad(path, "there is no prompt after the front matter: write what the role does")
    try:
        return Role.model_validate({"name": path.stem, "prompt": match[2].strip(), **facts})
    except ValidationError as error:
        faults = [_told(fault) for fault in error.errors(include_url=False)]
        raise _bad(path, "; ".join(faults)) from error


def _told(fault: Mapping[str, Any]) -> str:
    """One thing that is wrong with the front matter, and what to do."""
    field = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "missing":
        return f"{field} is missing: add a line `{field}: …`"
    if fault["type"] == "extra_forbidden":
        near = near_names(field, FIELDS)
        return f"there is no field {field}" + (f": did you mean {near[0]}?" if near else ": remove it")
    given = fault["input"]
    if field != "tools":
        return f"{field}: {fault['msg']}, not {given!r}"
    if len(fault["loc"]) < 2:
        return f"tools: {given!r} is no list: write [{given or ''}]"
    near = near_names(str(given), TOOL_NAMES)
    return f"there is no tool {given!r}" + (f": did you mean {near[0]}?" if near else "")


def _bad(path: Path, why: str) -> Refused:
    hint = f"fields: {', '.join(FIELDS)}; tools: {', '.join(TOOL_NAMES)}; the shipped ones in {BUILT_IN} are examples"
    return Refused("bad_role", f"role file {path}: {why}", hint=hint)
