"""Answers of queries as lines for people. Pure: JSON in, lines out; money in dollars, times in UTC."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from goalwright_shared.messages import ArtifactRef, BadMessage, parse_lenient_value
from rich.text import Text

from goalwright_cli import render, tree
from goalwright_cli.files import size_text
from goalwright_cli.render import STYLES, labelled
from goalwright_cli.view import WAITING, GoalView, TaskView
from goalwright_cli.words import clean, money, plural, role

_CALL_CHARACTERS = 2_500
"""How much of a message of a prompt, of a reply or of an output is shown; `--json` names the whole artifact."""


def table(rows: Iterable[tuple[str, ...]], styles: tuple[str, ...] = ()) -> list[Text]:
    """Columns as wide as their widest cell; the last one is not padded."""
    cells = [tuple(clean(cell) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))] if cells else []
    lines = []
    for row in cells:
        line = Text()
        for column, cell in enumerate(row):
            style = styles[column] if column < len(styles) else ""
            last = column == len(row) - 1
            line.append(cell if last else f"{cell:<{widths[column]}}  ", style or STYLES.get(cell, ""))
        line.rstrip()
        lines.append(line)
    return lines


_NOTES = 10
"""Lines of the blackboard that a goal's status shows."""


def goals(rows: list[dict[str, Any]]) -> list[Text]:
    """`goalwright ls`: one line per goal."""
    if not rows:
        return [Text("no goals yet; try: goalwright run")]
    return table(
        (
            row["goal_id"],
            _status(row),
            _tasks(row.get("counts") or {}),
            f"{money(row.get('spent_usd') or 0)} of {money(row.get('budget_usd') or 0)}",
            _moment(row.get("created_at")),
            _start(row.get("text") or "", 60),
        )
        for row in rows
    )


def _status(row: Mapping[str, Any]) -> str:
    reason = clean(row.get("reason") or "")
    short = reason if len(reason) <= 12 else ""
    return f"{row['status']} ({short})" if short else str(row["status"])


def _tasks(counts: Mapping[str, int]) -> str:
    return f"{counts.get('succeeded', 0)}/{sum(counts.values())} tasks"


def _moment(text: object) -> str:
    return str(text or "")[:16].replace("T", " ")


def _start(text: str, length: int) -> str:
    whole = clean(text)
    return whole if len(whole) <= length else whole[: length - 1] + "…"


def goal(found: Mapping[str, Any], bill: render.Bill) -> list[Text]:
    """`goalwright status`: where a goal stands."""
    counts = found.get("counts") or {}
    head = Text.assemble(
        (f"{found['goal_id']}  ", "bold"), (str(found["status"]), STYLES.get(found["status"], ""))
    )
    head.append(f": {clean(found['reason'])}" if found.get("reason") else "")
    rows: list[tuple[str, object]] = [
        ("goal", found.get("text") or ""),
        ("tasks", ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none yet"),
        ("cost", render.bill_sentence(bill)),
    ]
    if found.get("held_usd"):
        rows.append(("held", f"{money(found['held_usd'])} for calls in flight"))
    rows += [
        ("delivered", f"{name} ({ref.get('media_type', '')}, {size_text(int(ref.get('size') or 0))})")
        for name, ref in (found.get("deliverables") or {}).items()
    ]
    rows += [("noted", f"{_author(note)}: {note['text']}") for note in (found.get("notes") or [])[:_NOTES]]
    rows += [("note", note) for note in render.notes(bill)]
    return [head, *labelled(rows, None)]


def _author(note: Mapping[str, Any]) -> str:
    """Who wrote a line of the blackboard: a role and its task, the reflector or a person."""
    name = role(str(note.get("author") or ""))
    return f"{name} ({note['key']})" if note.get("key") else name


# --- the graph -----------------------------------------------------------------------------------------


def view_of(found: Mapping[str, Any], answer: Mapping[str, Any]) -> GoalView:
    """The same view that events build, from the answers of `query.goal` and `query.graph`."""
    tasks = {
        row["task_id"]: TaskView(
            task_id=row["task_id"],
            key=row["key"],
            order=order,
            title=row.get("title") or "",
            lane=row["lane"],
            parent=row.get("parent"),
            generation=row.get("generation") or 0,
            needs=tuple(row.get("needs") or ()),
            state=row["state"],
            epoch=row.get("epoch") or 0,
            turn=row.get("turn") or 0,
            failures=row.get("failures") or 0,
            cost_usd=row.get("cost_usd") or 0.0,
            summary=row.get("summary") or "",
            error=_message(row.get("error")),
        )
        for order, row in enumerate(answer["tasks"])
    }
    root = next((task.task_id for task in tasks.values() if task.parent is None), None)
    generations = (task.generation for task in tasks.values() if root and task.parent == root)
    return GoalView(
        found["goal_id"],
        text=found.get("text") or "",
        status=found["status"],
        reason=found.get("reason"),
        budget_usd=found.get("budget_usd"),
        spent_usd=found.get("spent_usd") or 0.0,
        root=root,
        generation=max(generations, default=0),
        tasks=tasks,
    )


def _message(error: Any) -> str:
    return (
        str(error.get("message") or error.get("code") or "") if isinstance(error, dict) else str(error or "")
    )


def graph(found: Mapping[str, Any], answer: Mapping[str, Any]) -> list[Text]:
    """`goalwright graph`: every task, as a tree."""
    view = view_of(found, answer)
    now = datetime.now(UTC)
    lines = [render.row_line(row, view, now, 160) for row in tree.whole(view)]
    for line in lines:
        line.rstrip()
    lines += [
        Text(f"–  {clean(row.get('key'))} was left out: {clean(row.get('reason'))}", "dim")
        for row in answer.get("pruned") or []
    ]
    revision = answer.get("revision") or 0
    head = Text.assemble((found["goal_id"], "bold"), f"  {_status(found)}, plan {revision + 1}")
    return [head, *lines] if lines else [head, Text("no tasks yet")]


_MERMAID_CLASSES = {
    "succeeded": "fill:#d7f5dd,stroke:#1a7f37,color:#111", "dead": "fill:#ffd8d3,stroke:#cf222e,color:#111",
    "running": "fill:#d6eaff,stroke:#0969da,color:#111", "waiting": "fill:#f3f3f3,stroke:#8c8c8c,color:#111",
    "parked": "fill:#f4dcff,stroke:#8250df,color:#111", "gone": "fill:#fff,stroke:#bbb,color:#777",
}  # fmt: skip


def mermaid(tasks: list[dict[str, Any]]) -> str:
    """A mermaid flowchart: solid edges are results that are needed, dotted ones lead to subtasks."""
    known = {row["task_id"] for row in tasks}
    lines = ["flowchart TD"]
    for row in tasks:
        title = clean(row.get("title") or row["key"]).replace('"', "'").replace("<", "‹").replace(">", "›")
        lines.append(f'  t{row["task_id"]}["{title}<br/>{role(row["lane"])}"]:::{_class(row["state"])}')
    for row in tasks:
        lines += [f"  t{need} --> t{row['task_id']}" for need in row.get("needs") or () if need in known]
        if row.get("parent") in known:
            lines.append(f"  t{row['parent']} -.-> t{row['task_id']}")
    lines += [f"  classDef {name} {style}" for name, style in _MERMAID_CLASSES.items()]
    return "\n".join(lines)


def _class(state: str) -> str:
    if state in WAITING or state == "retry_wait":
        return "waiting"
    if state in ("dispatched", "expanded", "checking"):
        return "running"
    return state if state in _MERMAID_CLASSES else "gone"


# --- one task ------------------------------------------------------------------------------------------


def task(
    answer: Mapping[str, Any], entries: list[dict[str, Any]], calls: Mapping[int, Mapping[str, str]]
) -> list[Text]:
    """`goalwright task`: what it is, and each attempt with its call, its program and its bill."""
    head = Text.assemble((f"{answer['key']}  ", "bold"), (answer["state"], STYLES.get(answer["state"], "")))
    rows: list[tuple[str, object]] = [
        ("id", answer["task_id"]),
        ("title", answer.get("title") or ""),
        ("lane", answer["lane"]),
        ("needs", ", ".join(answer.get("needs") or [])),
        ("inputs", ", ".join(map(str, answer.get("inputs") or []))),
        ("outputs", ", ".join(map(str, answer.get("outputs") or []))),
        ("cost", money(answer.get("cost_usd") or 0)),
        ("asked", _asked(answer.get("asks") or [], answer.get("asked_usd") or 0)),
        ("asked by", ((answer.get("spec") or {}).get("asked") or {}).get("by") or ""),
        ("failures", answer.get("failures") or 0),
        ("summary", answer.get("summary") or ""),
    ]
    lines = [head, *labelled([(label, value) for label, value in rows if value or label == "cost"], None)]
    lines += [line for ask in answer.get("asks") or [] for line in _question_and_answer(ask)]
    bills = {entry.get("epoch"): entry for entry in entries}
    for attempt in answer.get("attempts") or []:
        epoch = int(attempt["epoch"])
        lines += _attempt(attempt, bills.get(epoch), calls.get(epoch, {}))
    return lines


def _asked(asks: list[dict[str, Any]], cost: float) -> str:
    """How many questions a task has put to other roles, and what their answers cost beside the task's own calls."""
    return f"{plural(len(asks), 'question')} to other roles, {money(cost)}" if asks else ""


def _question_and_answer(ask: Mapping[str, Any]) -> list[Text]:
    head = Text.assemble(
        (f"asked {role(ask['lane'])}  ", "bold"), (ask["state"], STYLES.get(ask["state"], ""))
    )
    rows: list[tuple[str, object]] = [
        ("id", ask["task_id"]),
        ("question", ask.get("question") or ""),
        ("answer", ask.get("answer") or ""),
        ("error", _message(ask["error"]) if ask.get("error") else ""),
        ("cost", money(ask.get("cost_usd") or 0)),
    ]
    return [Text(), head, *labelled([(label, value) for label, value in rows if value], None)]


def _attempt(
    attempt: Mapping[str, Any], entry: Mapping[str, Any] | None, call: Mapping[str, str]
) -> list[Text]:
    head = Text(f"attempt {attempt['epoch']}: ", "bold")
    head.append(str(attempt["kind"]), "red" if attempt["kind"] == "failed" else "green")
    if attempt.get("worker"):
        head.append(f"  by {clean(attempt['worker'])}", "dim")
    rows: list[tuple[str, object]] = []
    if attempt.get("error"):
        rows.append(("error", _message(attempt["error"])))
    if entry is not None:
        tokens = f"{entry.get('tokens_in') or 0:,} tokens in, {entry.get('tokens_out') or 0:,} out"
        rows.append(("call", f"{entry.get('model') or ''}, {tokens}, {money(entry.get('usd') or 0)}"))
    lines = [Text(), head, *labelled(rows, None)]
    for part in ("prompt", "reply"):
        if part in call:
            lines += _chat(part, call[part])
    return lines + (_program(attempt["program"]) if attempt.get("program") else [])


def _program(run: Mapping[str, Any]) -> list[Text]:
    """A program's verdict as the sandbox gave it, and what it printed."""
    ended = f"exit code {run.get('exit_code')}"
    if run.get("signal"):
        ended = f"killed by signal {run['signal']}"
    if run.get("limit"):
        ended += f", limit hit: {run['limit']}"
    facts = f"{ended}, {run.get('wall_seconds') or 0:.2f} s, {run.get('cpu_seconds') or 0:.2f} s cpu"
    facts += f", {size_text(int(run.get('peak_memory_bytes') or 0))} at most"
    sandbox = f"in {run['sandbox']}" if run.get("sandbox") else ""
    rows = [("program", facts), ("sandbox", "; ".join(filter(None, [sandbox, *run.get("lacks", [])])))]
    rows += [("dropped", "; ".join(run["dropped"]))] if run.get("dropped") else []
    lines = labelled(rows, None)
    for part in ("stdout", "stderr"):
        if run.get(part):
            lines += _block(part, str(run[part]))
    return lines


def _chat(label: str, text: str) -> list[Text]:
    """A prompt or a reply as a conversation: who said what; anything else than chat completions as it is."""
    try:
        body = json.loads(text)
        messages = body["messages"] if label == "prompt" else [body["choices"][0]["message"]]
        spoken = [(str(message["role"]), _speech(message)) for message in messages]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return _block(label, text)
    return [line for who, said in spoken for line in _block(f"{label}, {who}", said)]


def _speech(message: Mapping[str, Any]) -> str:
    """What a message says, then the tools it calls with their arguments, one a line, text as text."""
    parts = [str(message["content"])] if message.get("content") else []
    for call in message.get("tool_calls") or []:
        function = call["function"]
        parts.append(f"→ {function['name']}")
        for name, value in json.loads(function["arguments"]).items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            parts.append(f"{name}: {shown}" if "\n" not in shown else f"{name}:\n{shown}")
    return "\n".join(parts)


def _block(label: str, text: str) -> list[Text]:
    shown = clean(text[:_CALL_CHARACTERS], lines=True)
    lines = [Text(f"  {label}", "dim"), *(Text(f"    {line}") for line in shown.splitlines())]
    left = len(text) - _CALL_CHARACTERS
    return [*lines, Text(f"    … {left:,} more characters", "dim")] if left > 0 else lines


def printed(attempts: list[dict[str, Any]]) -> list[Text]:
    """What the programs of a task printed so far."""
    runs = [attempt["program"] for attempt in attempts if attempt.get("program")]
    text = "".join(str(run.get(part) or "") for run in runs for part in ("stdout", "stderr"))
    return [Text(clean(line)) for line in text.splitlines()]


# --- artifacts and questions ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """One artifact of a goal; `raw` is the row as it was answered."""

    name: str
    origin: str
    ref: ArtifactRef
    raw: dict[str, Any]


def artifact_rows(
    rows: list[dict[str, Any]], delivered: Mapping[str, ArtifactRef], *, everything: bool
) -> list[ArtifactRow]:
    """What was delivered; or everything, with the task that made it."""
    found = []
    for raw in rows:
        try:
            ref = parse_lenient_value(ArtifactRef, raw["ref"])[0]
        except BadMessage:
            continue
        found.append(ArtifactRow(ref.name, str(raw.get("key") or "input"), ref, raw))
    if everything:
        return found
    # the outermost task that handed it on is what a person knows by name
    inner_first = sorted(found, key=lambda row: -int(row.raw.get("scope") or 0))
    makers = {row.ref.sha256: row.origin for row in inner_first if int(row.raw.get("scope") or 0)}
    return [
        ArtifactRow(name, makers.get(ref.sha256, ""), ref, {"name": name, "ref": ref.model_dump(mode="json")})
        for name, ref in delivered.items()
    ]


def file_names(rows: list[ArtifactRow]) -> dict[str, ArtifactRef]:
    """A distinct name on disk for each artifact: its own, with its task's when two share it."""
    names: dict[str, ArtifactRef] = {}
    for row in rows:
        name = row.name
        if name in names and names[name].sha256 != row.ref.sha256:
            name, number = f"{row.name}_{row.origin}", 2
            while name in names and names[name].sha256 != row.ref.sha256:
                name, number = f"{row.name}_{row.origin}_{number}", number + 1
        names[name] = row.ref
    return names


def artifacts(rows: list[ArtifactRow]) -> list[Text]:
    """`goalwright artifacts`: name, type, size, origin."""
    if not rows:
        return [Text("nothing was delivered yet; --all shows what tasks have made so far")]
    return table(
        (row.name, str(row.ref.type), size_text(row.ref.size), row.ref.media_type, row.origin) for row in rows
    )


def rows(columns: list[str], cells: list[list[str]], numeric: list[bool], more: bool) -> list[Text]:
    """The answer of a query: numbers to the right, cells of at most 60 characters."""
    lines = [[cell if len(cell) <= 60 else f"{cell[:59]}…" for cell in row] for row in [columns, *cells]]
    widths = [max(len(row[at]) for row in lines) for at in range(len(columns))]
    found = []
    for number, row in enumerate(lines):
        parts = zip(row, widths, numeric, strict=True)
        text = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in parts)
        found.append(Text(text.rstrip(), style="bold" if number == 0 else ""))
    note = (
        f"more than {len(cells):,} rows: add LIMIT, or take all with --csv"
        if more
        else plural(len(cells), "row")
    )
    return [*found, Text(note, style="dim")]


def questions(rows: list[dict[str, Any]]) -> list[Text]:
    """`goalwright inbox`: each question with the command that answers it."""
    lines: list[Text] = [] if rows else [Text("nothing waits for a person")]
    for row in rows:
        default = row.get("default")
        facts: list[tuple[str, object]] = [
            ("options", " | ".join(map(str, row.get("options") or []))),
            ("default", "" if default is None else f"{default}, at {_moment(row.get('timeout_at'))} UTC"),
            ("answer with", f"goalwright answer {row['goal_id']} {row['task_id']} TEXT"),
        ]
        lines += [Text(line, "bold") for line in clean(row["text"], lines=True).splitlines()]
        lines += labelled([(label, value) for label, value in facts if value], None)
    return lines
