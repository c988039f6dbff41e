"""How a goal looks on a terminal, as lines of `rich.text.Text`. Pure: a view in, lines out.

Every line of the live screen is cut to its width; lines of the running story are cut only on a terminal
(`width` None: never).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from goalwright_shared.messages import Event
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from goalwright_cli import tree
from goalwright_cli.files import Delivered, size_text
from goalwright_cli.view import WAITING, GoalView, TaskView
from goalwright_cli.words import brief, clean, clock, gist, money, plural, role, said

GLYPHS = {
    "blocked": "○", "ready": "○", "dispatched": "●", "expanded": "◐", "checking": "◑", "retry_wait": "↻",
    "parked": "?", "succeeded": "✓", "dead": "✗", "cancelled": "–", "skipped": "–",
}  # fmt: skip
STYLES = {
    "blocked": "dim", "ready": "", "dispatched": "bold cyan", "expanded": "cyan", "checking": "cyan",
    "retry_wait": "yellow", "parked": "bold magenta", "succeeded": "green", "dead": "bold red",
    "cancelled": "dim", "skipped": "dim",
    "accepted": "cyan", "planning": "cyan", "running": "cyan", "paused": "bold magenta",
    "done": "bold green", "partial": "bold yellow", "failed": "bold red",
    "stopped_loop": "bold red", "stopped_off_topic": "bold red",
}  # fmt: skip
_PLAN_ROWS = 16
_LABEL = 14


@dataclass(frozen=True, slots=True)
class Bill:
    """What a goal cost."""

    spent_usd: float
    budget_usd: float | None = None
    overrun_usd: float = 0.0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    models: tuple[str, ...] = ()

    @property
    def rehearsed(self) -> bool:
        """Whether the model without intelligence did the work."""
        return any("rehearsal" in model for model in self.models)


# --- the live screen -----------------------------------------------------------------------------------


def screen(view: GoalView, now: datetime, width: int, height: int) -> Text:
    """The whole live screen, at most `height` lines of at most `width` cells."""
    lines = [header(view, now, width)]
    if view.status == "paused":
        lines.append(cut(Text(f"  paused: {_why_paused(view)}", "bold magenta"), width))
    body = max(1, height - len(lines))
    lines += [row_line(row, view, now, width) for row in tree.rows(view, body)] if view.tasks else []
    return Text("\n").join(lines[: max(1, height)])


def header(view: GoalView, now: datetime, width: int) -> Text:
    """One line: goal, status, time, money, tasks."""
    counts = view.counts()
    done = counts.get("succeeded", 0)
    running = sum(counts.get(state, 0) for state in ("dispatched", "expanded", "checking"))
    waiting = sum(counts.get(state, 0) for state in (*WAITING, "retry_wait", "parked"))
    bad = counts.get("dead", 0)
    end = view.ended or now
    seconds = (end - view.started).total_seconds() if view.started else 0
    text = Text()
    text.append(f"{short(view.goal_id)} ", "bold")
    text.append(f"{view.status}", STYLES.get(view.status, ""))
    text.append(f"  {clock(seconds)}  ")
    text.append(_spent(view.spent_usd, view.budget_usd))
    text.append(f"  {done} done", "green")
    text.append(f"  {running} running", "cyan" if running else "dim")
    text.append(f"  {waiting} waiting", "" if waiting else "dim")
    if bad:
        text.append(f"  {bad} failed", "red")
    return cut(text, width)


def short(goal_id: str) -> str:
    """A goal id that fits a header: the whole of a chosen one, both ends of a UUID."""
    return goal_id if len(goal_id) <= 24 else f"{goal_id[:8]}…{goal_id[-6:]}"


def _spent(spent: float, budget: float | None) -> str:
    return f"{money(spent)} of {money(budget)}" if budget else money(spent)


def _why_paused(view: GoalView) -> str:
    told = {
        "budget": f"the budget is used up; `goalwright budget {view.goal_id} +1` adds a dollar",
        "user": f"`goalwright resume {view.goal_id}` goes on",
        "loop": "it was repeating itself",
        "approval": "the plan waits for an approval",
        "question": "it waits for an answer",
    }
    return told.get(view.reason or "", clean(view.reason or "by somebody"))


def row_line(row: tree.Row, view: GoalView, now: datetime, width: int) -> Text:
    """One row of the tree: title, who, how long, cost, what it does or waits for."""
    name, lane = (44, 14) if width >= 110 else (32, 10)
    line = Text()
    line.append(row.guide, "dim")
    if row.task is None:
        line.append(row.text, "red" if row.state == "dead" else "dim")
        if row.cost_usd:
            line.append(f"  {money(row.cost_usd)}", "dim")
        return cut(line, width)
    task = row.task
    style = STYLES.get(task.state, "")
    room = name - cell_len(row.guide) - 2
    line.append(f"{GLYPHS.get(task.state, '·')} ", style)
    line.append(_fit(clean(task.name), max(8, room)), "dim" if task.state in ("blocked", "skipped") else "")
    line.append(f" {_fit(role(task.lane), lane)}", "dim")
    line.append(f" {_time(task, now):>5}", "dim")
    line.append(f" {money(row.cost_usd) if row.cost_usd else '':>7}  ", "dim")
    line.append(detail(task, view, now), _detail_style(task))
    return cut(line, width)


def _fit(text: str, room: int) -> str:
    """Exactly `room` cells: cut with an ellipsis, or filled up."""
    if cell_len(text) > room:
        return set_cell_size(text, room - 1) + "…"
    return set_cell_size(text, room)


def cut(text: Text, width: int | None) -> Text:
    """`text` in at most `width` cells."""
    if width is not None:
        text.truncate(max(1, width), overflow="ellipsis")
    return text


def _time(task: TaskView, now: datetime) -> str:
    if task.state == "succeeded":
        return brief(task.seconds) if task.seconds else ""
    if task.state in ("dispatched", "expanded", "checking", "parked", "retry_wait") and task.since:
        return brief((now - task.since).total_seconds())
    return ""


def _detail_style(task: TaskView) -> str:
    return {"dead": "red", "retry_wait": "yellow", "parked": "magenta"}.get(task.state, "dim")


def detail(task: TaskView, view: GoalView, now: datetime) -> str:
    """What a task does, waits for, or said at its end."""
    match task.state:
        case "dispatched":
            return ", ".join(_tries(task)) or "running"
        case "expanded":
            return _children(task, view)
        case "blocked":
            open_needs = [view.tasks[need] for need in task.needs if need in view.tasks]
            names = [clean(need.key) for need in open_needs if not need.final]
            return f"waits for {_few(names)}" if names else task.note or "waits"
        case "ready":
            return clean(task.note) or ", ".join(["waits for a free slot", *_tries(task)])
        case "retry_wait":
            return f"tries again: {clean(task.error)}"
        case "parked":
            return clean(task.note) or "waits for a person"
        case "dead":
            return clean(task.error) or "failed"
        case "succeeded":
            return said(task.summary, 200)
        case _:
            return f"{task.state}: {clean(task.error)}" if task.error else task.state


def _tries(task: TaskView) -> list[str]:
    found = [f"turn {task.turn + 1}"] if task.turn else []
    return [*found, f"try {task.failures + 1} (was: {gist(task.error, 80)})"] if task.failures else found


def _children(task: TaskView, view: GoalView) -> str:
    names = [clean(t.key) for t in view.tasks.values() if t.parent == task.task_id and not t.final]
    return f"waits for {_few(names)}" if names else "goes on soon"


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


# --- the story, line by line ---------------------------------------------------------------------------

_HEADLINES = {
    "goal.paused", "goal.resumed", "plan.adopted", "plan.revised", "task.failed", "budget.exhausted",
    "approval.requested", "approval.answered", "reflection.signalled", "reflection.reviewed",
    "replan.requested", "feedback.received",
}  # fmt: skip
"""What is printed above the live tree; without a terminal every event is told."""


def story(view: GoalView, event: Event, *, every: bool, width: int | None = None) -> list[Text]:
    """What to print for an event that was just applied; with `every` false only the headlines."""
    if not every and event.kind not in _HEADLINES:
        return []
    if event.kind == "plan.adopted":
        return [*contract(view, width), *plan(view, event.data, width)]
    told = _tell(view, event)
    if told is None:
        return []
    word, style, text = told
    since = (event.at - view.started).total_seconds() if view.started else 0
    line = Text(f"{clock(since)}  ", "dim")
    line.append(f"{word:<9} ", style)
    line.append(clean(text))
    return [cut(line, width)] if event.kind not in _HEADLINES else _hang(line, width, 17)


def _hang(line: Text, width: int | None, indent: int) -> list[Text]:
    """A long line, broken with its rest indented; at most four lines."""
    if width is None or cell_len(line.plain) <= width:
        return [line]
    style = line.spans[-1].style if line.spans else ""
    head, rest = line[:indent], line.plain[indent:]
    parts = textwrap.wrap(rest, max(20, width - indent), max_lines=4, placeholder=" …")
    first = Text.assemble(head, (parts[0], style if len(line.spans) > 2 else ""))
    return [first, *(Text(" " * indent + part) for part in parts[1:])]


def _tell(view: GoalView, event: Event) -> tuple[str, str, str] | None:
    """An event as (word, style, sentence)."""
    data, task = event.data, view.tasks.get(event.task_id or "")
    name = f"{gist(task.name, 60)} ({role(task.lane)})" if task else str(data.get("key", ""))
    match event.kind:
        case "goal.accepted":
            return "accepted", "cyan", f"goal {view.goal_id}"
        case "goal.paused":
            return "paused", "magenta", _why_paused(view)
        case "goal.resumed":
            return "resumed", "cyan", "the goal goes on"
        case "plan.revised":
            return "replan", "yellow", replan_sentence(view)
        case "budget.exhausted":
            return "budget", "magenta", f"{_spent(view.spent_usd, view.budget_usd)} is used up"
        case "approval.requested":
            return "question", "magenta", _question(view, event)
        case "approval.answered":
            return "answered", "cyan", str(data.get("answer") or name)
        case "reflection.signalled":
            return "reflector", "yellow", gist(_words(data, "signal", "message"), 200)
        case "reflection.reviewed":
            return "reflector", "cyan", gist(_words(data, "summary"), 200) or "on track"
        case "replan.requested":
            return "reflector", "yellow", f"asks for another plan: {gist(_words(data, 'reason'), 200)}"
        case "progress.reported":
            return "progress", "dim", _words(data, "summary", "message", "text") or _sums(view)
        case "feedback.received":
            return "feedback", "cyan", _words(data, "rating", "text")
        case "note.posted":
            return "note", "cyan", f"{role(_words(data, 'author'))}: {gist(_words(data, 'text'), 200)}"
        case "ask.requested":
            asked = f"{data.get('by')} asks {role(_words(data, 'lane'))}"
            return "asks", "cyan", f"{asked}: {gist(_words(data, 'question'), 200)}"
        case "ask.answered":
            usd = data.get("cost_usd")
            cost = f" ({money(usd)})" if isinstance(usd, int | float) and usd else ""
            answer = gist(_words(data, "answer"), 200) or f"no answer, {data.get('status')}"
            return "answers", "cyan", f"{role(_words(data, 'lane'))} to {data.get('by')}: {answer}{cost}"
        case "task.succeeded" if event.task_id == view.root:
            return None  # the goal's own end says it
        case kind if task is not None and kind.startswith("task."):
            return _tell_task(view, kind.removeprefix("task."), task, name, data)
    return None


def _tell_task(
    view: GoalView, verb: str, task: TaskView, name: str, data: Mapping[str, Any]
) -> tuple[str, str, str] | None:
    match verb:
        case "dispatched" if task.failures:
            return "started", "cyan", f"{name}, try {task.failures + 1}"
        case "dispatched":
            return ("started", "cyan", name) if task.turn == 0 else None
        case "expanded":
            names = [str(row.get("title") or row.get("key")) for row in data.get("tasks") or []]
            return ("waits", "cyan", f"{name} for {_few(names)}") if names else None
        case "succeeded":
            time, cost = brief(task.seconds), money(task.cost_usd) if task.cost_usd else ""
            facts = " · ".join(fact for fact in (time, cost, said(task.summary, 140)) if fact)
            return "done", "green", f"{name}: {facts}"
        case "failed":
            return "failed", "red", f"{name}: {gist(task.error, 200)}; {_after_failure(view, task)}"
        case "retried":
            return "again", "yellow", name
        case "throttled":
            return "throttled", "yellow", f"{name}: {_words(data, 'reason')}"
        case "parked" | "expired" | "skipped" | "cancelled":
            reason = _words(data, "reason")
            return verb, "yellow", f"{name}: {reason}" if reason else name
    return None


def _after_failure(view: GoalView, task: TaskView) -> str:
    """What happens after a failure: a repair by its parent, another try, or the end."""
    if not task.final:
        return f"try {task.failures + 1} follows"
    parent = view.tasks.get(task.parent or "")
    if parent is not None and parent.state == "expanded" and parent.task_id != view.root:
        return f"{role(parent.lane)} repairs it"
    return "no more tries"


def _question(view: GoalView, event: Event) -> str:
    asked = view.questions.get(event.task_id or "")
    if asked is None:
        return _words(event.data, "text")
    options = f" [{' | '.join(asked.options)}]" if asked.options else ""
    default = f" (default: {asked.default})" if asked.default is not None else ""
    how = f"goalwright answer {view.goal_id} {asked.task_id} TEXT"
    return f"{gist(asked.text, 300)}{options}{default}; answer with: {how}"


def _words(data: Mapping[str, Any], *fields: str) -> str:
    return ": ".join(str(data[field]) for field in fields if data.get(field))


def _sums(view: GoalView) -> str:
    return ", ".join(f"{count} {state}" for state, count in view.counts().items())


def replan_sentence(view: GoalView, number: int = -1) -> str:
    """One replan in a sentence."""
    if not view.replans:
        return ""
    found = view.replans[number]
    changes = [f"adds {_few(list(found.added))}"] if found.added else []
    changes += [f"drops {_few(list(found.dropped))}"] if found.dropped else []
    what = " and ".join(changes) or "corrects estimates"
    why = gist(found.reason or found.summary, 160)
    return f"revision {found.revision} {what}{': ' + why if why else ''}"


def contract(view: GoalView, width: int | None) -> list[Text]:
    """The contract and its assumptions, as labelled paragraphs."""
    agreed = view.contract
    rows = [
        ("objective", agreed.get("objective") or view.text),
        ("deliverables", ", ".join(map(str, agreed.get("deliverables") or []))),
        *(("constraint", item) for item in agreed.get("constraints") or []),
        *(("assumption", item) for item in agreed.get("assumptions") or []),
        *(("not included", item) for item in agreed.get("out_of_scope") or []),
        *(("question", _asked(item)) for item in agreed.get("questions") or []),
        *(("warning", item) for item in view.warnings),
    ]
    return [Text("Contract", "bold"), *labelled([(label, value) for label, value in rows if value], width)]


def _asked(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    default = item.get("default")
    return f"{item.get('text', '')}{f' (taken: {default})' if default else ''}"


def labelled(rows: Iterable[tuple[str, object]], width: int | None) -> list[Text]:
    """`label  paragraph` lines; a label that repeats is printed once; long paragraphs hang."""
    lines: list[Text] = []
    before = ""
    for label, value in rows:
        text = clean(value)
        room = 10**6 if width is None else max(20, width - _LABEL - 2)
        parts = textwrap.wrap(text, room) or [""]
        shown = "" if label == before else label
        lines.append(Text.assemble((f"  {shown:<{_LABEL}}", "dim"), parts[0]))
        lines += [Text(" " * (_LABEL + 2) + part) for part in parts[1:]]
        before = label
    return lines


def plan(view: GoalView, data: Mapping[str, Any], width: int | None) -> list[Text]:
    """The plan: one line per task (a long plan is cut) and what it is estimated to cost."""
    tasks = view.planned()
    title = Text("Plan", "bold")
    about = f"  {plural(len(tasks) + view.unseen, 'task')}"
    if view.estimate_usd is not None:
        about += f", estimated {money(view.estimate_usd)}"
        about += f" of {money(view.budget_usd)}" if view.budget_usd else ""
    if view.plan_source:
        about += f", by {clean(view.plan_source)}"
    about += f", {view.pruned} left out" if view.pruned else ""
    title.append(about, "not bold")
    lines = [title]
    many = len(tasks) > _PLAN_ROWS
    for number, task in enumerate(tasks[: _PLAN_ROWS - 1] if many else tasks, 1):
        lines.append(cut(_plan_line(number, task, view), width))
    if many:
        lines.append(Text(f"      … {len(tasks) + view.unseen - _PLAN_ROWS + 1:,} more", "dim"))
    return lines


def _plan_line(number: int, task: TaskView, view: GoalView) -> Text:
    needs = [view.tasks[need].key for need in task.needs if need in view.tasks]
    line = Text(f"  {number:>3} ", "dim")
    line.append(_fit(clean(task.name), 40))
    line.append(f" {_fit(role(task.lane), 12)}", "dim")
    line.append(f" after {clean(_few(needs))}" if needs else " at once", "dim")
    return line


# --- the end -------------------------------------------------------------------------------------------


def closing(
    view: GoalView, bill: Bill, delivered: list[Delivered], hints: list[str], width: int | None
) -> list[Text]:
    """The last words on a goal: what there is, what it cost, what went wrong and was mended, what next."""
    seconds = (view.ended - view.started).total_seconds() if view.ended and view.started else 0
    counts = view.counts()
    head = Text()
    head.append(view.status.replace("_", " "), STYLES.get(view.status, "bold"))
    head.append(f"  {view.goal_id}  {clock(seconds)}  ")
    wanted = sum(count for state, count in counts.items() if state != "cancelled")
    head.append(f"{counts.get('succeeded', 0)} of {plural(wanted, 'task')}")
    head.append(f", {plural(len(view.replans) + 1, 'plan')}" if view.contract else "")
    rows: list[tuple[str, object]] = [("reason", clean(view.reason)[:1000])] if view.reason else []
    rows += [("delivered", _delivered(item)) for item in delivered]
    rows += [("missing", ", ".join(view.missing))] if view.missing else []
    rows += [("cost", bill_sentence(bill))]
    rows += [("repair", gist(sentence, 240)) for sentence in view.repairs]
    rows += [("replan", replan_sentence(view, number)) for number in range(len(view.replans))]
    rows += [("note", note) for note in notes(bill)] if delivered else []
    rows += [("next", hint) for hint in hints]
    return [Text(), *_hang(head, width, 6), *labelled(rows, width)]


def _delivered(item: Delivered) -> str:
    if item.files == 1 and not item.path.is_dir():
        return f"{item.path.name} ({size_text(item.size)})"
    return f"{item.path.name}/ ({plural(item.files, 'file')}, {size_text(item.size)})"


def bill_sentence(bill: Bill) -> str:
    """Dollars, calls, tokens and models in a line."""
    told = _spent(bill.spent_usd, bill.budget_usd)
    told += f" (and {money(bill.overrun_usd)} billed above it)" if bill.overrun_usd else ""
    told += f", {plural(bill.calls, 'call')}"
    told += f", {bill.tokens_in + bill.tokens_out:,} tokens"
    told += f" ({bill.tokens_in:,} in, {bill.tokens_out:,} out)"
    return told + (f", {', '.join(bill.models)}" if bill.models else "")


def notes(bill: Bill) -> list[str]:
    """What a reader must know about who did the work."""
    if not bill.rehearsed:
        return []
    return [
        "rehearsal model, no intelligence: the programs ran for real on your data, but plan and words were "
        "written beforehand. Set OPENAI_API_KEY (or OPENAI_BASE_URL) and GOALWRIGHT_MODEL for a real one."
    ]
