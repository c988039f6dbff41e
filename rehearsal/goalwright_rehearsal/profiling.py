"""Goal family 1: profile any CSV and write an illustrated report.

Plan, revision and role turns are computed from the card and the tool results alone. What a step is and how
its artifacts are called stands at the end of its instruction: `[rehearsal profile-csv charts cleaned=…]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from goalwright_rehearsal import sources
from goalwright_rehearsal.messages import LABEL, Json, Reply, ToolCall, Turn

FAMILY = "profile-csv"
FINAL = {"succeeded", "dead", "cancelled", "skipped"}

_ASKED = re.compile(
    r"profil|report|analy[sz]|describ|explor|summar|statisti|overview|insight|visuali[sz]|chart|distribut"
    r"|correlat|outlier|understand|\beda\b|look at|what('s| is) in|bericht|auswert|d[ée]cri|resum",
    re.IGNORECASE,
)
_TABLES = re.compile(r"\.(csv|tsv|tab|txt|dat)$", re.IGNORECASE)
_MARK = re.compile(rf"\[rehearsal {FAMILY} (\w+)([^\]]*)\]")
_SERVES = {"text": "report", "file": "report", "folder": "charts", "table": "cleaned", "json": "summary"}
_DEFAULTS = {
    "cleaned": ("cleaned", "table"),
    "facts": ("column_facts", "json"),
    "profile": ("profile", "json"),
    "charts": ("charts", "folder"),
    "summary": ("summary", "json"),
    "patterns": ("patterns", "json"),
    "report": ("report", "text"),
}
_READS = {
    "clean": ("data",),
    "profile": ("cleaned", "facts"),
    "charts": ("cleaned", "facts", "profile"),
    "summary": ("cleaned", "facts"),
    "patterns": ("cleaned", "facts", "profile"),
    "report": ("profile", "charts"),
    "report_with_patterns": ("profile", "charts", "patterns"),
}
_MAKES = {
    "clean": ("cleaned", "facts"),
    "profile": ("profile",),
    "charts": ("charts",),
    "summary": ("summary",),
    "patterns": ("patterns",),
    "report": ("report",),
    "report_with_patterns": ("report",),
}
_SAYS = {
    "clean": (
        "Clean the table",
        "Read the table whatever its encoding, delimiter and quoting, and write it plainly.",
    ),
    "profile": (
        "Profile the table",
        "Find types, missing values, distributions, correlations, outliers, time patterns.",
    ),
    "charts": (
        "Draw the charts",
        "Draw the distributions, categories, correlations, outliers and the course of time.",
    ),
    "summary": (
        "Sum the columns up",
        "Write rows, and name, type and missing values of each column, as JSON.",
    ),
    "patterns": (
        "Look closer at the findings",
        "Follow up what the profile found: time, links, groups, gaps.",
    ),
    "report": (
        "Write the report",
        "Write the findings in sentences with their numbers, in Markdown, with the charts.",
    ),
    "report_with_patterns": ("Write the report with the patterns", "Write the report, with the closer look."),
}
_DESCRIPTIONS = {
    "cleaned": "the table as UTF-8 CSV with commas, ISO dates and plain numbers",
    "facts": "JSON: what the cleaning decided, column by column",
    "profile": "JSON: every column described, correlations, effects of groups, the course of time, findings",
    "charts": "a folder of PNG pictures and index.json with their captions",
    "summary": "JSON object: rows (integer), columns (array of {name, type, missing}), repeated_rows",
    "patterns": "JSON: tables on what the profile found",
    "report": "the illustrated report, in Markdown; pictures are in the folder of charts",
}
_LIKELY = ("value", "amount", "measurement", "the measured value")
_VALUES = {"report": 10, "report_with_patterns": 10, "charts": 5, "clean": 3, "summary": 3}
_SECONDS = {"clean": 5, "charts": 10, "profile": 5}


# --- planning ------------------------------------------------------------------------------------------


def knows(card: Mapping[str, Json]) -> bool:
    """Whether this family can do the goal of a plan card: a table, a wish to see what is in it."""
    asks = bool(_ASKED.search(str(card.get("goal") or "")))
    return asks and table_of(card) is not None and _names_for(card) is not None


def table_of(card: Mapping[str, Json]) -> str | None:
    """The name of the first input that may be a CSV."""
    inputs = [item for item in card.get("inputs") or [] if isinstance(item, dict) and item.get("name")]
    return next((str(item["name"]) for item in inputs if _is_table(item)), None)


def _is_table(item: Mapping[str, Json]) -> bool:
    media = str(item.get("media_type") or "").lower()
    if item.get("type") == "table" or "csv" in media or "tab-separated" in media:
        return True
    return item.get("type") in ("file", "text") and bool(
        _TABLES.search(str(item["name"])) or "text/" in media
    )


def _names_for(card: Mapping[str, Json]) -> dict[str, str] | None:
    """What each artifact is called, deliverables as the client named them; None when one cannot be made."""
    names = {"data": table_of(card) or ""}
    for wanted in card.get("deliverables") or []:
        part = _SERVES.get(str(wanted.get("type")))
        if part is None or part in names:
            return None
        names[part] = str(wanted.get("name"))
    taken = {str(item.get("name")) for item in card.get("inputs") or []} | set(names.values())
    for part, (name, _) in _DEFAULTS.items():
        if part not in names:
            names[part] = _free(name, taken)
            taken.add(names[part])
    return names


def _free(name: str, taken: Iterable[str]) -> str:
    found, number, used = name, 2, set(taken)
    while found in used:
        found, number = f"{name}_{number}", number + 1
    return found


def plan(card: Mapping[str, Json]) -> dict[str, Json]:
    """The Plan of a goal that this family knows."""
    names = _names_for(card) or {}
    wanted = card.get("deliverables") or []
    given = {_SERVES[str(item["type"])]: str(item["type"]) for item in wanted}
    parts = list(given) or ["report", "charts", "cleaned", "summary"]
    names["pictures"] = "beside" if "charts" in parts else "inside"
    lanes = _lanes(card)
    steps = ["clean", "profile", "charts", "summary", "report"]
    others = [str(item.get("name")) for item in card.get("inputs") or [] if item.get("name") != names["data"]]
    unused = [f"Only {names['data']} is profiled; {', '.join(others)} is left out."] if others else []
    return {
        "objective": f"Show what {names['data']} holds: {', '.join(names[part] for part in parts)}.",
        "deliverables": [_output(part, names, given) for part in parts],
        "constraints": ["Every number comes from the data, by a program."],
        "out_of_scope": ["Anything but profiling one table: forecasts, models, joins, advice."],
        "assumptions": [
            f"{LABEL}: a fixed plan for tables, written without understanding the goal's words.",
            f"{names['data']} is a CSV with any delimiter, encoding and header.",
            *unused,
        ],
        "questions": [],
        "tasks": [_task(step, names, lanes, given) for step in steps],
    }


def _lanes(card: Mapping[str, Json]) -> list[str]:
    return [str(lane.get("name") if isinstance(lane, dict) else lane) for lane in card.get("lanes") or []]


def _output(part: str, names: Mapping[str, str], types: Mapping[str, str]) -> dict[str, str]:
    kind = types.get(part, _DEFAULTS[part][1])
    return {"name": names[part], "type": kind, "description": _DESCRIPTIONS[part]}


def _task(step: str, names: Mapping[str, str], lanes: list[str], types: Mapping[str, str]) -> dict[str, Json]:
    title, instruction = _SAYS[step]
    reads, makes = _READS[step], _MAKES[step]
    told = ("data", *reads, *makes, *(["pictures"] if "report" in makes else []))
    known = " ".join(f"{part}={names[part]}" for part in dict.fromkeys(told))
    lane = "agent.analyst" if step in ("profile", "patterns") and "agent.analyst" in lanes else "agent.coder"
    return {
        "key": step,
        "title": title,
        "instruction": f"{instruction} [rehearsal {FAMILY} {step} {known}]",
        "lane": lane,
        "inputs": [names[part] for part in reads],
        "outputs": [_output(part, names, types) for part in makes],
        "after": [],
        "value": _VALUES.get(step, 1),
        "tokens_in": 9000,
        "tokens_out": 3500,
        "seconds": _SECONDS.get(step, 4),
        "confidence": 0.9,
        "max_failures": 3,
        "on_dead": "fail_goal" if step == "clean" else "skip",
    }


# --- replanning ----------------------------------------------------------------------------------------


def wants_patterns(tasks: list[dict[str, Json]]) -> dict[str, Json] | None:
    """The succeeded profile task of a plan that has not followed it up and whose report is still open."""
    by_key = {str(task.get("key")): task for task in tasks}
    profile, report = by_key.get("profile"), by_key.get("report")
    if profile is None or report is None or by_key.keys() & {"patterns", "deep_dive"}:
        return None
    ready = profile.get("state") == "succeeded" and report.get("state") not in FINAL
    return profile if ready else None


def revise(card: Mapping[str, Json]) -> dict[str, Json]:
    """The Revision: follow up what the profile found, and write the report with it."""
    tasks = [task for task in card.get("tasks") or [] if isinstance(task, dict)]
    if wants_patterns(tasks) is None:
        summary = f"{LABEL}: nothing to change, the plan has what this rehearsal knows to add."
        return {"reason": summary, "drop": [], "add": [], "values": [], "summary": summary}
    names = _names_in(tasks)
    delivered = _listed(card.get("deliverables"))
    names["pictures"] = "beside" if not delivered or names["charts"] in delivered else "inside"
    types = {"report": _type_of(tasks, names["report"])}
    lanes = _lanes(card)
    reason = str(card.get("reason") or "The profile found something worth a closer look.")
    return {
        "reason": reason,
        "drop": [{"key": "report", "reason": "it is replaced by a report that includes the patterns"}],
        "add": [_task(step, names, lanes, types) for step in ("patterns", "report_with_patterns")],
        "values": [],
        "summary": f"{LABEL}: look closer at what the profile found, and write the report with it.",
    }


def _names_in(tasks: list[dict[str, Json]]) -> dict[str, str]:
    """What the artifacts of a running plan are called, read from its tasks."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for task in tasks:
        step = str(task.get("key"))
        made, read = _listed(task.get("outputs")), _listed(task.get("inputs"))
        taken |= {*made, *read}
        names.update(zip(_MAKES.get(step, ()), made, strict=False))
        names.update(zip(_READS.get(step, ()), read, strict=False))
    defaults = {part: name for part, (name, _) in _DEFAULTS.items()} | {"data": "data"}
    names["patterns"] = _free("patterns", taken)
    return defaults | names


def _listed(value: Json) -> list[str]:
    return [str(item.get("name") if isinstance(item, dict) else item) for item in value or []]


def _type_of(tasks: list[dict[str, Json]], name: str) -> str:
    """The type of an output, where the card tells it."""
    outputs = [out for task in tasks for out in task.get("outputs") or [] if isinstance(out, dict)]
    return next((str(out["type"]) for out in outputs if out.get("name") == name and out.get("type")), "text")


# --- role turns ----------------------------------------------------------------------------------------


def step_of(card: Mapping[str, Json]) -> tuple[str, dict[str, str]] | None:
    """The step of a task card and the names of its artifacts, from the mark in its instruction."""
    mark = _MARK.search(str(card.get("instruction") or ""))
    if mark is None or mark[1] not in _READS:
        return None
    return mark[1], dict(part.split("=", 1) for part in mark[2].split() if "=" in part)


def turn(card: Mapping[str, Json], turns: list[Turn]) -> Reply:
    """The next turn of a step: run its program, repair it from its error, finish or give up."""
    step, names = step_of(card) or ("", {})
    refused = next((done for done in turns if done.call.name == "finish"), None)
    if refused is not None:
        return _after_refusal(refused)
    runs = [done.result for done in turns if done.call.name == "run_program"]
    earlier = " ".join(f"{error.get('message')} {error.get('logs')}" for error in card.get("errors") or [])
    if not runs and "cannot read" in earlier:
        return give_up(_last_line(earlier))
    if runs and runs[-1].get("status") == "succeeded":
        return _finish(step, str(runs[-1].get("stdout") or "").strip())
    if runs:
        return _repair(card, step, names, runs)
    if step == "charts":
        measure = _assumed(card, names.get("cleaned", ""))
        said = f"a first draft that takes a column named {measure} for granted"
        return _run(card, "charts_draft", names | {"measure": measure}, said)
    return _run(card, _program(step), _whole(names), f"the program for {step}")


def _after_refusal(finish: Turn) -> Reply:
    """What was refused is given up: for the reason that was given already, or for that of the refusal."""
    if finish.result.get("checks"):
        return give_up(f"the outputs fail their checks: {finish.result.get('error')}")
    return Reply(f"{LABEL}: there is nothing else to deliver.", [finish.call])


def _program(step: str) -> str:
    return "report" if step == "report_with_patterns" else step


def _whole(names: Mapping[str, str]) -> dict[str, str | int]:
    """Parameters of a program that works on the whole table."""
    return {**names, "max_rows": 0, "every": 1}


def _assumed(card: Mapping[str, Json], table: str) -> str:
    """A column name that sounds likely and that the table, as far as its excerpt shows, does not have."""
    excerpts = [
        str(item.get("excerpt") or "") for item in card.get("inputs") or [] if item.get("name") == table
    ]
    header, end, _ = "".join(excerpts).partition("\n")
    likely = _LIKELY if end else _LIKELY[-1:]  # of a header that is cut, the unlikeliest
    return next((name for name in likely if name not in header), "no such column")


def _repair(
    card: Mapping[str, Json], step: str, names: Mapping[str, str], runs: list[dict[str, Json]]
) -> Reply:
    """The repaired program, chosen by the error message; a message that leaves no hope ends the task."""
    error = _error_of(runs[-1])
    if "cannot read" in error or len(runs) > 3:
        return give_up(error)
    missing = re.search(r"KeyError: (.+)", error)
    if step == "charts" and missing and len(runs) == 1:
        said = (
            f"the draft failed with {error}: there is no such column, so columns are taken by their type now"
        )
        return _run(card, "charts", _whole(names), said)
    if runs[-1].get("limit") or runs[-1].get("exit_code") is None or "MemoryError" in error:
        said = f"the program was stopped ({error}): a lighter one, on a part of the rows, takes its place"
        return _run(card, _program(step), {**names, "max_rows": 100_000, "every": 10}, said)
    if step == "charts" and len(runs) == 1:
        return _run(card, "charts", _whole(names), f"the draft failed with {error}: it is written anew")
    return give_up(error)


def _error_of(result: Mapping[str, Json]) -> str:
    """The last line a program printed on its way out, or the limit it hit."""
    if result.get("limit"):
        return f"limit: {result['limit']}"
    error = result.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return _last_line(str(result.get("stderr") or "")) or str(message or "no message")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = next((line[line.find("cannot read") :] for line in lines if "cannot read" in line), None)
    return (found or (lines[-1] if lines else ""))[:300]


def _run(card: Mapping[str, Json], program: str, params: Mapping[str, str | int], said: str) -> Reply:
    call = {
        "language": "python",
        "source": sources.source(program, params),
        "inputs": [str(item["name"]) for item in card.get("inputs") or []],
        "outputs": [{"name": out["name"], "type": out["type"]} for out in card.get("outputs") or []],
        "args": [],
    }
    return Reply(f"{LABEL}: {said}.", [ToolCall("run_program", call)])


def _finish(step: str, printed: str) -> Reply:
    summary = f"{printed[:1500]} ({LABEL}.)"
    return Reply(f"{LABEL}: the program for {step} has done its work.",
                 [ToolCall("finish", {"outputs": [], "summary": summary})])  # fmt: skip


def give_up(reason: str) -> Reply:
    """Say that the task cannot be done: `finish` without outputs, the reason as its summary."""
    return Reply(
        f"{LABEL}: this task cannot be done.",
        [ToolCall("finish", {"outputs": [], "summary": f"{reason.rstrip('.')}. ({LABEL}.)"})],
    )
