"""What was learned about servers, in a file beside the state: all processes share it, so a new one need not probe.

Losing the file, or an entry in a race between two processes, costs one refused call.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from goalwright_agent.core.dialect import Dialect

log = structlog.get_logger(__name__)

_KEPT_SECONDS = 7 * 86_400.0
"""Servers are updated: what they once refused is tried again after a week."""

_Place = tuple[str, str]
"""Base URL and model."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)

    learned_at: float  # seconds since 1970
    dialect: Dialect


class Dialects:
    """What is known of each base URL and model; blocking. Without a `path` for this process alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._entries: dict[_Place, _Entry] = {}
        self._seen: int | None = None  # the file's time of change, in ns, when it was read last

    def known(self, base_url: str, model: str) -> Dialect:
        """What is known and not too old, whoever learned it; a file that is missing or broken tells nothing."""
        self._refresh()
        entry = self._entries.get((base_url, model))
        return entry.dialect if entry and _is_fresh(entry) else Dialect()

    def learn(self, base_url: str, model: str, dialect: Dialect) -> Dialect:
        """Add to what is known; returns the humbler of both. A file that cannot be written is no error."""
        merged = dialect.lower(self.known(base_url, model))
        self._entries[base_url, model] = _Entry(learned_at=time.time(), dialect=merged)
        if self._path is not None:
            self._write(self._path)
        return merged

    def _write(self, path: Path) -> None:
        rows = [
            {"base_url": url, "model": name, **entry.model_dump(mode="json")}
            for (url, name), entry in sorted(self._entries.items())
            if _is_fresh(entry)
        ]
        new = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(rows, indent=1), encoding="utf-8")
            new.replace(path)
        except OSError as error:
            log.info("what was learned about a server is not kept", path=str(path), why=str(error))

    def _refresh(self) -> None:
        """Take over what other processes have written since."""
        if self._path is None:
            return
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._seen:
                return
            self._seen = changed
            rows = json.loads(self._path.read_text(encoding="utf-8"))
            self._entries |= {
                (str(row["base_url"]), str(row["model"])): _Entry.model_validate(row) for row in rows
            }
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            log.warning(
                "what was learned about servers cannot be read", path=str(self._path), why=str(error)[:200]
            )


def _is_fresh(entry: _Entry) -> bool:
    return entry.learned_at > time.time() - _KEPT_SECONDS
