"""Roles are data: a Markdown file with front matter each, shipped in `prompts/` or written by a user."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import yaml
from goalwright_shared.errors import Refused
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
    description: str
    tools: list[Literal["run_program", "ask", "read_artifact", "request_approval", "fetch_url"]] = []
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


def load_roles(folder: Path | None = None, *, web: bool = False) -> dict[str, Role]:
    """The built-in roles and those of `folder`, by name; a user's file replaces a built-in one. Without `web` none of
    them has `fetch_url`.

    Raises Refused, naming the file and what is wrong with it.
    """
    roles = {path.stem: read_role(path) for path in sorted(BUILT_IN.glob("*.md"))}
    if folder is not None:
        if not folder.is_dir():
            raise Refused("no_roles", f"there is no folder {folder}", field="GOALWRIGHT_ROLES")
        roles |= {path.stem: read_role(path) for path in sorted(folder.glob("*.md"))}
    return roles if web else {name: _without_web(role) for name, role in roles.items()}


def _without_web(role: Role) -> Role:
    return role.model_copy(update={"tools": [tool for tool in role.tools if tool != "fetch_url"]})


def read_role(path: Path) -> Role:
    """The role of one file; its name is the file's. Raises Refused."""
    match = _FILE.match(path.read_text(encoding="utf-8").replace("\r\n", "\n"))
    if match is None:
        raise _bad(path, "it must begin with front matter between two lines of ---")
    if not _NAME.fullmatch(path.stem) or path.stem in RESERVED:
        raise _bad(path, "the file name must be lower case letters, digits, - and _ (not ask, not embed)")
    try:
        facts = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        raise _bad(path, f"the front matter is no YAML: {error}") from error
    if not isinstance(facts, dict):
        raise _bad(path, "the front matter must be `field: value` lines")
    try:
        return Role.model_validate({"name": path.stem, "prompt": match[2].strip(), **facts})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise _bad(path, f"{where}: {first['msg']}") from error


def _bad(path: Path, why: str) -> Refused:
    hint = f"fields: description, tools ({', '.join(TOOL_NAMES)}), model_class, max_input_tokens, "
    hint += "max_output_tokens, excerpt_chars"
    return Refused("bad_role", f"role file {path}: {why}", hint=hint)
