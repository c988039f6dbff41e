"""What must be true after a run, or the run does not count: every task performed exactly once and after what
it needs, every event there, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.workloads import Graph


class Wrong(Exception):
    """The run lost, repeated or disordered something."""


def check_calls(graph: Graph, calls: Sequence[tuple[int, int, int, int]]) -> None:
    """Each task was performed once, at its first epoch, and began after all it needs had ended."""
    times = Counter(number for number, *_ in calls)
    missing = [i for i in range(len(graph)) if i not in times]
    again = [number for number, count in times.items() if count > 1]
    if missing or again or len(times) != len(graph):
        raise Wrong(
            f"{len(missing)} tasks not performed {missing[:5]}, {len(again)} more than once {again[:5]}"
        )
    if late := [number for number, epoch, *_ in calls if epoch != 1]:
        raise Wrong(f"{len(late)} tasks were dispatched more than once: {late[:5]}")
    ended = {number: end for number, _, _, end in calls}
    early = [
        (number, need) for number, _, began, _ in calls for need in graph.deps[number] if ended[need] > began
    ]
    if early:
        raise Wrong(f"{len(early)} tasks began before what they need had ended: {early[:5]}")


def check_events(graph: Graph, events: Iterable[Mapping[str, Any]]) -> int:
    """No gap from the first event to `goal.finished`, which says `done`; each task dispatched and succeeded
    once. Returns how many events there are."""
    last, status = 0, None
    seen: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event["seq"] != last + 1:
            raise Wrong(f"event {event['seq']} follows event {last}")
        last = event["seq"]
        if event["kind"] == "goal.finished":
            status = event["data"]["status"]
        elif event["kind"] in ("task.dispatched", "task.succeeded"):
            seen[event["kind"], event["data"]["key"]] += 1
    if status != "done":
        raise Wrong(f"the goal ended as {status}")
    for kind in ("task.dispatched", "task.succeeded"):
        wrong = [i for i in range(len(graph)) if seen[kind, f"t{i}"] != 1]
        if wrong:
            raise Wrong(f"{len(wrong)} tasks have not one {kind}: {wrong[:5]}")
    return last
