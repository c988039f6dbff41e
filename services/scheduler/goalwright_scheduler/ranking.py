"""Head starts of the tasks of a plan, from what they are worth and what they are likely to cost; and what done
tasks teach about that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from goalwright_shared.graph import Compiled
from goalwright_shared.messages import TaskSpec, Usage

from goalwright_scheduler.change import Change, Lesson, TaskRow
from goalwright_scheduler.core import calibration, estimates, roi


def head_starts(
    change: Change,
    parent: TaskRow,
    specs: Sequence[TaskSpec],
    compiled: Compiled,
    values: Mapping[str, float] | None,
) -> dict[str, float]:
    """Head starts by key for the tasks of a goal's plan; none for deeper tasks, which go where their parent
    went. `values` are the deliverables'."""
    if not parent.is_root:
        return {}
    free = set(compiled.unconsumed) | set(compiled.exports)
    nodes = {spec.key: _node(change, spec, compiled.needs[spec.key], free, values or {}) for spec in specs}
    starts = roi.head_starts(compiled.order, nodes, cap_seconds=change.settings.head_start_seconds)
    return {key: start + parent.head_start for key, start in starts.items()}


def _node(
    change: Change, spec: TaskSpec, needs: tuple[str, ...], free: set[str], values: Mapping[str, float]
) -> roi.Node[str]:
    learned = change.calibrations.get(spec.lane, calibration.NONE)
    effort = spec.effort
    took = estimates.seconds(effort.seconds, learned)
    raw = estimates.raw_cost(change.lanes.get(spec.lane), effort.tokens_in, effort.tokens_out, _cap(spec))
    return roi.Node(
        key=spec.key,
        needs=needs,
        value=worth([output.name for output in spec.outputs], spec.value, free, values),
        cost=estimates.effort(estimates.likely(raw, learned), took),
        confidence=estimates.confidence(spec.confidence, spec.max_failures),
        seconds=took,
    )


def worth(outputs: Sequence[str], value: float, free: set[str], values: Mapping[str, float]) -> float:
    """What a task's own deliverables are worth: its outputs that are `free` (exported, or consumed by nobody)
    at the value of the deliverable, else at the task's own. A task without outputs is worth its value."""
    if not outputs:
        return value
    return sum(values.get(name, value) for name in outputs if name in free)


def observe(change: Change, row: TaskRow, cost: int, usage: Usage | None) -> None:
    """A task has been done, by an answer that did cost this much: remember it for its lane's calibration."""
    effort = row.spec.effort
    change.lessons.append(
        Lesson(
            task=row.id,
            epoch=row.epoch,
            lane=row.lane,
            estimated_cost=estimates.raw_cost(
                change.lanes.get(row.lane), effort.tokens_in, effort.tokens_out, _cap(row.spec)
            ),
            cost=cost,
            estimated_seconds=effort.seconds,
            seconds=usage.seconds if usage else 0.0,
        )
    )


def _cap(spec: TaskSpec) -> int | None:
    return spec.prompt.max_output_tokens if spec.prompt else None
