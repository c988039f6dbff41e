"""What a plan means to the audit, read from the data of `plan.adopted` and `plan.revised`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from goalwright_reflector.core.model import Plan

_LISTED = 20_000
"""Plans above this many tasks are counted, not listed."""

_OPEN = 256
"""Plans above this many tasks do not name what comes next."""


def adopted(data: Mapping[str, Any], before: Plan | None) -> Plan:
    """The plan after `plan.adopted`; a refinement (a second adoption) adds to the first."""
    tasks = _tasks(data.get("tasks"))
    if before is None:
        return _plan(str(data.get("source") or "planner"), tasks, useless=_useless(data, tasks))
    return _joined(before, tasks)


def revised(data: Mapping[str, Any], before: Plan | None) -> Plan:
    """The plan after `plan.revised`: the whole new list as `tasks`, or what was `added` and `dropped`."""
    if before is None or data.get("tasks"):
        source = before.source if before else "planner"
        return _plan(source, _tasks(data.get("tasks")), useless=frozenset())
    dropped = set(_keys(data.get("dropped")))
    kept = Plan(
        source=before.source,
        total=before.total - len(dropped),
        lanes={key: lane for key, lane in before.lanes.items() if key not in dropped},
        open={key: title for key, title in before.open.items() if key not in dropped},
        useless=before.useless - dropped,
    )
    return _joined(kept, _tasks(data.get("added")))


def shape(plan: Plan) -> str:
    """A fingerprint of what the plan does, to recognise one that was dropped before."""
    return hashlib.sha256(json.dumps(sorted(plan.lanes.items())).encode()).hexdigest()[:16]


def _plan(source: str, tasks: list[Mapping[str, Any]], useless: frozenset[str]) -> Plan:
    keys = {str(task["key"]): task for task in tasks}
    return Plan(
        source=source,
        total=len(keys),
        lanes={k: str(t.get("lane", "")) for k, t in keys.items()} if len(keys) <= _LISTED else {},
        open={k: str(t.get("title") or k) for k, t in keys.items()} if len(keys) <= _OPEN else {},
        useless=useless,
    )


def _joined(before: Plan, tasks: list[Mapping[str, Any]]) -> Plan:
    added = _plan(before.source, [t for t in tasks if t["key"] not in before.lanes], frozenset())
    lanes = {**before.lanes, **added.lanes}
    opened = {**before.open, **added.open}
    return Plan(
        source=before.source,
        total=before.total + added.total,
        lanes=lanes if len(lanes) <= _LISTED else {},
        open=opened if len(opened) <= _OPEN else {},
        useless=before.useless,
    )


def _tasks(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, Mapping) and item.get("key")]


def _keys(value: Any) -> Iterable[str]:
    items = value if isinstance(value, list) else []
    return (str(item["key"]) if isinstance(item, Mapping) else str(item) for item in items)


def _names(value: Any) -> list[str]:
    return list(_names_of(value if isinstance(value, list) else []))


def _names_of(items: list[Any]) -> Iterable[str]:
    return (str(item.get("name")) if isinstance(item, Mapping) else str(item) for item in items)


def _useless(data: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> frozenset[str]:
    """Tasks with outputs of which none reaches a deliverable; none when no deliverables are declared."""
    contract = data.get("contract")
    wanted = _names(contract.get("deliverables")) if isinstance(contract, Mapping) else []
    by_key = {str(task["key"]): task for task in tasks}
    producer = {name: key for key, task in by_key.items() for name in _names(task.get("outputs"))}
    if not any(name in producer for name in wanted):
        return frozenset()
    useful: set[str] = set()
    pending = [producer[name] for name in wanted if name in producer]
    pending += [key for key, task in by_key.items() if not _names(task.get("outputs"))]
    while pending:
        key = pending.pop()
        if key in useful or key not in by_key:
            continue
        useful.add(key)
        pending += _names(by_key[key].get("needs"))
        pending += [producer[name] for name in _names(by_key[key].get("inputs")) if name in producer]
    return frozenset(by_key) - useful
