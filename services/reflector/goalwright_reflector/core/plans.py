"""What a plan means to the audit, read from the data of `plan.adopted` and `plan.revised`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from goalwright_reflector.core.model import Plan

_LISTED = 1_000
"""Plans above this many tasks are counted, not listed."""


def adopted(task_id: str, data: Mapping[str, Any]) -> Plan:
    """The plan of a goal, from `plan.adopted` of its root task."""
    tasks = _tasks(data.get("tasks"))
    plan = Plan(
        source=str(data.get("source") or "planner"),
        total=0,
        parents=frozenset({task_id}),
        useless=_useless(data, tasks),
    )
    return _grown(plan, tasks, _count(data, tasks))


def refined(before: Plan, task_id: str, data: Mapping[str, Any]) -> Plan:
    """A planned task became a plan itself: its tasks join those of the goal."""
    tasks = _tasks(data.get("tasks"))
    grown = _grown(before, tasks, _count(data, tasks))
    return replace(grown, parents=before.parents | {task_id})


def revised(before: Plan, data: Mapping[str, Any]) -> Plan:
    """The plan after `plan.revised`: what was `added`, without what was `dropped`."""
    dropped = {str(task["key"]) for task in _tasks(data.get("dropped"))}
    kept = replace(
        before,
        total=max(0, before.total - len(dropped)),
        titles={key: title for key, title in before.titles.items() if key not in dropped},
        lanes={key: lane for key, lane in before.lanes.items() if key not in dropped},
        open=before.open - dropped,
        useless=before.useless - dropped,
    )
    tasks = _tasks(data.get("added"))
    return _grown(kept, tasks, len(tasks))


def shape(plan: Plan) -> str:
    """A fingerprint of what the plan does, to recognise one that was given up before; "" when unknown."""
    if not plan.lanes:
        return ""
    return hashlib.sha256(json.dumps(sorted(plan.lanes.items())).encode()).hexdigest()[:16]


def _grown(before: Plan, tasks: list[Mapping[str, Any]], count: int) -> Plan:
    """`before` with `count` more tasks, of which `tasks` are told; listed only while all are known."""
    total = before.total + count
    known = len(before.titles) == before.total and len(tasks) == count and total <= _LISTED
    keys = [str(task["key"]) for task in tasks]
    return replace(
        before,
        total=total,
        titles={**before.titles, **{k: str(t.get("title") or k) for k, t in zip(keys, tasks, strict=True)}}
        if known
        else {},
        lanes={**before.lanes, **{k: str(t.get("lane")) for k, t in zip(keys, tasks, strict=True)}}
        if known
        else {},
        open=before.open | set(keys) if known else frozenset(),
    )


def _count(data: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> int:
    """Events list the first tasks of a large plan, and tell how many there are."""
    count = data.get("task_count")
    return max(count, len(tasks)) if isinstance(count, int) else len(tasks)


def _tasks(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, Mapping) and item.get("key")]


def _names(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _useless(data: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> frozenset[str]:
    """Tasks with outputs of which none reaches a deliverable; none when that cannot be told."""
    if _count(data, tasks) != len(tasks):
        return frozenset()
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
