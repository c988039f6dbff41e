"""What was learned about servers, kept in a file beside the state: a new process need not probe again.

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


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)

    learned_at: float  # seconds since 1970
    dialect: Dialect


class DialectFile:
    """The file; blocking. `(base URL, model)` → what is known."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[tuple[str, str], Dialect]:
        """What is known and not too old; nothing where the file is missing or broken."""
        return {place: entry.dialect for place, entry in self._entries().items()}

    def learn(self, base_url: str, model: str, dialect: Dialect) -> Dialect:
        """Add to what is known; returns the humbler of both. A file that cannot be written is no error."""
        entries = self._entries()
        known = entries.get((base_url, model))
        merged = dialect.lower(known.dialect) if known else dialect
        entries[base_url, model] = _Entry(learned_at=time.time(), dialect=merged)
        rows = [
            {"base_url": url, "model": name, **entry.model_dump(mode="json")}
            for (url, name), entry in sorted(entries.items())
        ]
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(rows, indent=1), encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            log.info("what was learned about a server is not kept", path=str(self._path), why=str(error))
        return merged

    def _entries(self) -> dict[tuple[str, str], _Entry]:
        try:
            rows = json.loads(self._path.read_text(encoding="utf-8"))
            found = {(str(row["base_url"]), str(row["model"])): _Entry.model_validate(row) for row in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            log.warning(
                "what was learned about servers cannot be read", path=str(self._path), why=str(error)[:200]
            )
            return {}
        since = time.time() - _KEPT_SECONDS
        return {place: entry for place, entry in found.items() if entry.learned_at > since}
