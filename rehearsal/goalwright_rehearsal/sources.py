"""The source of the programs that a rehearsal writes: the files in `programs/`, never imported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources

_SHARED = {"profile", "summary", "charts", "charts_draft", "patterns"}
"""Programs that begin with `_table.py`."""


def source(step: str, params: Mapping[str, str | int]) -> str:
    """The program of a step, whole, with its parameters filled in as one JSON literal."""
    text = _read(step)
    if step in _SHARED:
        text = f"{_read('_table')}\n\n{text}"
    literal = json.dumps(dict(params), ensure_ascii=False)  # of text and whole numbers: valid Python, too
    return re.sub(r"(?m)^PARAMS = \{.*\}$", lambda _: f"PARAMS = {literal}", text, count=1)


def _read(name: str) -> str:
    folder = resources.files("goalwright_rehearsal").joinpath("programs")
    return folder.joinpath(f"{name}.py").read_text(encoding="utf-8")
