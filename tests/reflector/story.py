"""Writes the event stream of one goal, as the scheduler would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from goalwright_reflector.core.audit import observe
from goalwright_reflector.core.model import Audit, Rules, Signal
from goalwright_shared.messages import Event

START = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
RULES = Rules()
ROOT = "1"


class Story:
    """Each call is one event; `seq` and time (one second an event) go on by themselves."""

    def __init__(self, goal_id: str = "g", *, start: datetime = START) -> None:
        self.goal_id, self.events = goal_id, list[Event]()
        self.start = start

    def tell(self, kind: str, task_id: str | None = None, **data: Any) -> Event:
        """The next event."""
        seq = len(self.events) + 1
        event = Event(
            event_id=f"{self.goal_id}:{seq}", seq=seq, goal_id=self.goal_id, owner="public", kind=kind,
            task_id=task_id, at=self.start + timedelta(seconds=seq - 1), data=data,
        )  # fmt: skip
        self.events.append(event)
        return event

    def begin(
        self,
        tasks: Sequence[dict[str, Any]] = (),
        *,
        source: str = "planner",
        budget_usd: float = 1.0,
        deadline_seconds: float = 3600,
        deliverables: Sequence[str] = (),
    ) -> None:
        """Accepted and planned: the two events every goal starts with."""
        deadline = (self.start + timedelta(seconds=deadline_seconds)).isoformat()
        self.tell("goal.accepted", text="a goal", labels={}, budget_usd=budget_usd, deadline=deadline)
        contract = {"objective": "a goal", "deliverables": list(deliverables)}
        listed = list(tasks) or planned("a", "b", "c", "d", "e")
        self.tell(
            "plan.adopted", ROOT, source=source, contract=contract, tasks=listed[:500],
            task_count=len(listed), warnings=[], pruned=[], estimate_usd=0.0,
        )  # fmt: skip

    def turn(self, task_id: str, *actions: str) -> Event:
        """A task took another turn: it wants these things done (nothing: it only reads on)."""
        tasks = [{"key": f"c{n}", "lane": "exec", "action": action} for n, action in enumerate(actions)]
        return self.tell(
            "task.expanded", task_id, key=f"k{task_id}", lane="agent.coder", tasks=tasks, continued=True,
            task_count=len(tasks), parent=ROOT,
        )  # fmt: skip

    def tool(
        self, task_id: str, parent: str, action: str, result: str, *, lane: str = "exec", summary: str = ""
    ) -> Event:
        """What a task had wanted is dispatched and done."""
        about = {"key": "c0", "lane": lane, "epoch": 1, "parent": parent}
        self.tell("task.dispatched", task_id, **about, action=action)
        return self.tell("task.succeeded", task_id, **about, result=result, summary=summary)

    def failure(self, task_id: str, epoch: int, code: str, *, final: bool = False, key: str = "a") -> None:
        """A try failed; the scheduler retries it unless it was the last."""
        error = {"code": code, "message": "no"}
        self.tell(
            "task.failed", task_id, key=key, lane="exec", epoch=epoch, error=error, final=final, parent=ROOT
        )  # fmt: skip
        if not final:
            self.tell("task.retried", task_id, key=key, lane="exec", epoch=epoch)

    def success(self, task_id: str, key: str, lane: str = "agent.analyst", **data: Any) -> Event:
        """A planned task (or a review, which stands aside) is done."""
        parent = None if lane == "reflect" else ROOT
        return self.tell("task.succeeded", task_id, key=key, lane=lane, epoch=1, parent=parent, **data)

    def review(self, task_id: str) -> Event:
        """A review has begun."""
        return self.tell("task.dispatched", task_id, key=task_id, lane="reflect", epoch=1, parent=None)

    def time(self, seconds: float) -> datetime:
        """So many seconds after the goal was accepted."""
        return self.start + timedelta(seconds=seconds)


def planned(*keys: str, lane: str = "agent.analyst") -> list[dict[str, Any]]:
    """Rows of `plan.adopted`."""
    return [task(key, lane=lane) for key in keys]


def task(
    key: str,
    *,
    lane: str = "agent.analyst",
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    needs: Sequence[str] = (),
) -> dict[str, Any]:
    """One row of `plan.adopted`."""
    return {
        "key": key, "title": f"Do {key}", "lane": lane, "needs": list(needs), "inputs": list(inputs),
        "outputs": list(outputs),
    }  # fmt: skip


def audited(events: Iterable[Event], rules: Rules = RULES) -> tuple[Audit, list[Signal]]:
    """The audit after these events, and everything it gave reason to say."""
    audit, signals = Audit(goal_id="g", owner="public"), list[Signal]()
    for event in events:
        audit, raised = observe(audit, event, event.at, rules)
        signals += raised
    return audit, signals


def said(signals: Iterable[Signal]) -> list[tuple[str, str]]:
    """What was said as (signal, action)."""
    return [(signal.signal, signal.action) for signal in signals]
