"""Goals that are worked on while things break, and what must hold of them afterwards."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

from goalwright_scheduler.settings import HUMAN_LANE
from goalwright_shared.messages import Lane
from support.system import System, artifact, wait_for

PERFORMED, OTHER = "agent.coder", "agent.analyst"
"""Lanes of our own worker loop here; they cost nothing and ask nothing of a task."""

LANES = [
    HUMAN_LANE,
    Lane(name="custom.a", performer="custom", may=["done", "expand", "failed", "throttled"], child_lanes=["*"],
         look_ahead=2, lease_seconds=60),
    Lane(name="custom.short", performer="custom", lease_seconds=1),
    Lane(name="custom.paid", performer="custom", pool="k/m", max_input_tokens=1000, max_output_tokens=1000,
         lease_seconds=60, input_usd_per_mtok=1.0, output_usd_per_mtok=4.0),
    Lane(name=PERFORMED, lease_seconds=3),
    Lane(name=OTHER, lease_seconds=3),
    Lane(name="agent.generalist", pool="k/m", max_input_tokens=1000, max_output_tokens=1000, lease_seconds=3,
         input_usd_per_mtok=1.0, output_usd_per_mtok=4.0),
]  # fmt: skip


def layered(lane: str, *, layers: int = 8, width: int = 6, seed: int = 1) -> list[dict[str, Any]]:
    """A random layered graph: two needs each in the layer above."""
    rng = random.Random(seed)
    tasks = []
    for layer in range(layers):
        for place in range(width):
            above = [f"o-{layer - 1}-{rng.randrange(width)}" for _ in range(2)] if layer else []
            tasks.append(
                {
                    "key": f"t-{layer}-{place}",
                    "lane": lane,
                    "inputs": sorted(set(above)),
                    "outputs": [{"name": f"o-{layer}-{place}"}],
                }
            )
    return tasks


def done(work: Any) -> dict[str, Any]:
    """An answer whose size does not grow with the depth of the graph, and that is the same at every try."""
    spec = work["spec"]
    text = f"{spec['key']}:{len(work['inputs'])}"
    return {
        "kind": "done",
        "summary": text,
        "outputs": {o["name"]: artifact(o["name"], text, o["type"]) for o in spec["outputs"]},
    }


# --- a goal in which everything happens --------------------------------------------------------------------

_KINDS = ("plain", "paid", "fails", "throttled", "expands")
_LAYERS = 4


def busy() -> list[dict[str, Any]]:
    """A plan with tasks that succeed, cost, fail once, are throttled once and expand; `perform_busy` does it."""
    tasks = []
    for layer in range(_LAYERS):
        for kind in _KINDS:
            above = [f"{other}-{layer - 1}" for other in (kind, "plain")] if layer else []
            tasks.append(
                {
                    "key": f"{kind}-{layer}",
                    "lane": "custom.paid" if kind == "paid" else "custom.a",
                    "inputs": sorted({f"o-{key}" for key in above}),
                    "outputs": [{"name": f"o-{kind}-{layer}"}],
                }
            )
    return tasks


BUSY_TASKS = len(_KINDS) * _LAYERS + 2 * _LAYERS + 1
_EPOCHS = {"plain": 1, "paid": 1, "fails": 2, "throttled": 2, "expands": 2, "child": 1, "other": 1}


def perform_busy(system: System) -> None:
    """Performers for a busy plan."""
    system.perform("custom.a", _busily, slots=8)
    system.perform("custom.paid", _busily, slots=2)


def _busily(work: Any) -> dict[str, Any]:
    kind = work["spec"]["key"].split("-")[0]
    usage = {"usage": {"model": "m", "tokens_in": 100, "tokens_out": 100}} if work["llm"] else {}
    if kind == "fails" and work["epoch"] == 1:
        return {"kind": "failed", "error": {"code": "unlucky", "message": "once", "retryable": True}}
    if kind == "throttled" and work["epoch"] == 1:
        return {"kind": "throttled"}
    if kind == "expands" and work["turn"] == 0:
        layer = work["spec"]["key"].split("-")[1]
        child = {"key": f"child-{layer}", "lane": "custom.a", "outputs": [{"name": "half"}]}
        other = {"key": f"other-{layer}", "lane": "custom.a", "inputs": ["half"]}
        return {"kind": "expand", "continuation": {"turn": 1}, "tasks": [child, other]}
    return done(work) | usage


def performed_once(system: System) -> None:
    """Each dispatch was performed once, and there were no more of them than the busy plan has."""
    dispatches = Counter((key, epoch) for key, epoch, _ in system.performed)
    assert [one for one, times in dispatches.items() if times > 1] == []
    beyond = [(key, epoch) for key, epoch in dispatches if epoch > _EPOCHS[key.split("-")[0]]]
    assert beyond == []


# --- what must hold ------------------------------------------------------------------------------------------


async def progress(system: System, goal: str, least: int, seconds: float = 60) -> None:
    """Wait until at least so many tasks have succeeded."""

    async def there() -> bool:
        answer = await system.tried(system.goal(goal))
        return int(answer.get("counts", {}).get("succeeded", 0)) >= least or bool(answer.get("finished_at"))

    await wait_for(there, seconds)


async def ended_whole(
    system: System, goal: str, tasks: int, *, seconds: float = 60, events: bool = True, once: bool = True
) -> Any:
    """The goal is done, each of its tasks succeeded once, its `events` are gapless, in order, each told `once`."""
    ended = await system.finished(goal, seconds)
    assert ended["status"] == "done", ended["reason"]
    assert ended["counts"] == {"succeeded": tasks}
    if events:
        await _told_whole(system, goal, tasks, once=once)
    return ended


async def _told_whole(system: System, goal: str, tasks: int, *, once: bool) -> None:
    async def told() -> Any:
        events = await system.events(goal)
        return events if any(event["kind"] == "goal.finished" for event in events) else None

    events = await wait_for(told, 30)
    numbers = [event["seq"] for event in events]
    repeated = [seq for seq, times in Counter(numbers).items() if times > 1]
    assert not (once and repeated), f"told again: {repeated}"
    first = list(dict.fromkeys(numbers))
    missing = set(range(1, max(numbers) + 1)) - set(numbers)
    assert not missing, f"never told: {missing}"
    disorder = [pair for pair in itertools.pairwise(first) if pair[0] > pair[1]]
    assert not disorder, f"told in the wrong order: {disorder}"
    succeeded = Counter({e["seq"]: e["task_id"] for e in events if e["kind"] == "task.succeeded"}.values())
    assert set(succeeded.values()) == {1}
    assert len(succeeded) == tasks
