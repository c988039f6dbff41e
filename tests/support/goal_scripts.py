"""Scripts of goals for tests of what the command line shows."""

from __future__ import annotations

from typing import Any

from support.scripted import Step, text_ref

CONTRACT = {
    "objective": "Report on the sales",
    "deliverables": ["report"],
    "constraints": ["only the given data"],
    "assumptions": ["amounts are in euros"],
    "out_of_scope": [],
    "questions": [],
}


def row(
    task_id: str, key: str, title: str, lane: str, needs: list[str] | None = None, **more: Any
) -> dict[str, Any]:
    """A task as events list it."""
    return {"task_id": task_id, "key": key, "title": title, "lane": lane, "needs": needs or [], **more}


PLAN = [
    row("2", "load", "Load the table", "agent.coder"),
    row("3", "chart", "Draw the charts", "agent.coder", ["2"]),
    row("4", "write", "Write the report", "agent.writer", ["2", "3"]),
]


def finish(status: str = "done", reason: str | None = None, **more: Any) -> Step:
    """The last event; a done goal delivers a report."""
    delivered = {"report": text_ref("report", "# Sales\n\nThey grew.\n")} if status == "done" else {}
    data: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "deliverables": delivered,
        "missing": [],
        "spent_usd": 0.067,
    }
    return "goal.finished", None, data | more


def dispatched(task_id: str, key: str, lane: str, epoch: int = 1, turn: int = 0, parent: str = "1") -> Step:
    """A task starts."""
    return (
        "task.dispatched",
        task_id,
        {"key": key, "lane": lane, "epoch": epoch, "turn": turn, "parent": parent},
    )


def succeeded(task_id: str, key: str, lane: str, summary: str = "", cost: float = 0.01) -> Step:
    """A task ends well."""
    data: dict[str, Any] = {
        "key": key,
        "lane": lane,
        "epoch": 1,
        "seconds": 1.9,
        "cost_usd": cost,
        "summary": summary,
    }
    return "task.succeeded", task_id, data | {"tokens_in": 900, "tokens_out": 80, "outputs": [key]}


BEGIN: list[Step] = [
    ("goal.accepted", None, {"text": "Report on sales", "labels": {}, "budget_usd": 1.0, "deadline": None}),
    ("task.dispatched", "1", {"key": "plan", "lane": "plan", "epoch": 1, "turn": 0, "parent": None}),
    (
        "task.expanded",
        "1",
        {
            "key": "plan",
            "lane": "plan",
            "generation": 1,
            "tasks": [row("8", "ask", "", "agent.ask")],
            "continued": True,
        },
    ),
    dispatched("8", "ask", "agent.ask", parent="1"),
    succeeded("8", "ask", "agent.ask", "a plan", 0.004),
    ("task.dispatched", "1", {"key": "plan", "lane": "plan", "epoch": 2, "turn": 1, "parent": None}),
    (
        "task.expanded",
        "1",
        {"key": "plan", "lane": "plan", "generation": 2, "tasks": PLAN, "task_count": 3, "continued": False},
    ),
    (
        "plan.adopted",
        "1",
        {
            "contract": CONTRACT,
            "tasks": PLAN,
            "estimate_usd": 0.11,
            "pruned": [],
            "warnings": [],
            "source": "planner",
        },
    ),
]


REPAIR: list[Step] = [
    dispatched("2", "load", "agent.coder"),
    (
        "task.expanded",
        "2",
        {
            "key": "load",
            "lane": "agent.coder",
            "tasks": [row("5", "program-1", "", "exec")],
            "continued": True,
        },
    ),
    dispatched("5", "program-1", "exec"),
    (
        "task.failed",
        "5",
        {
            "key": "program-1",
            "lane": "exec",
            "epoch": 1,
            "final": True,
            "failures": 1,
            "error": {"code": "program_failed", "message": "exit code 1: KeyError: 'amount'"},
        },
    ),
    dispatched("2", "load", "agent.coder", epoch=2, turn=1),
    (
        "task.expanded",
        "2",
        {
            "key": "load",
            "lane": "agent.coder",
            "tasks": [row("6", "program-2", "", "exec")],
            "continued": True,
        },
    ),
    dispatched("6", "program-2", "exec"),
    succeeded("6", "program-2", "exec", "exit 0", 0),
    succeeded("2", "load", "agent.coder", "12,408 rows, 3 bad dates"),
]

REPLAN: list[Step] = [
    ("reflection.signalled", None, {"signal": "no_evidence", "message": "bad dates are ignored"}),
    ("replan.requested", "9", {"key": "replan-1", "reason": "3 bad dates are not explained"}),
    dispatched("9", "replan-1", "plan"),
    succeeded("9", "replan-1", "plan", "adds an explanation", 0.002),
    (
        "plan.revised",
        "1",
        {
            "revision": 1,
            "added": [row("7", "explain", "Explain the bad dates", "agent.analyst", ["2"])],
            "dropped": [],
            "summary": "adds an explanation",
            "reason": "3 bad dates are not explained",
        },
    ),
]  # fmt: skip

WHOLE: list[Step] = [
    *BEGIN,
    *REPAIR,
    *REPLAN,
    dispatched("3", "chart", "agent.coder"),
    dispatched("7", "explain", "agent.analyst"),
    succeeded("7", "explain", "agent.analyst", "typing errors"),
    succeeded("3", "chart", "agent.coder", "2 charts"),
    dispatched("4", "write", "agent.writer"),
    succeeded("4", "write", "agent.writer", "one page"),
    finish(),
]
"""A goal with a repair and a replan, done."""
