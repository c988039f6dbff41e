"""Reading the data of events, which other services write: absent or odd values become plain defaults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from goalwright_shared.messages import Event


def key(event: Event) -> str:
    return str(event.data.get("key") or event.task_id or "")


def lane(event: Event) -> str:
    return str(event.data.get("lane") or "")


def epoch(event: Event) -> int:
    epoch = event.data.get("epoch")
    return epoch if isinstance(epoch, int) else event.seq


def failure_class(event: Event) -> str:
    error = event.data.get("error")
    code = error.get("code") if isinstance(error, Mapping) else None
    return str(code or event.kind.removeprefix("task."))


def parent(event: Event) -> str | None:
    parent = event.data.get("parent")
    return None if parent is None else str(parent)


def actions(event: Event) -> str:
    """What the tasks of an expansion would do, in any order."""
    tasks = event.data.get("tasks")
    items = tasks if isinstance(tasks, list) else []
    return " ".join(sorted(str(item.get("action")) for item in items if isinstance(item, Mapping)))


def number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def time(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None else None


def strings(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
