"""Write the report in Markdown from the profile, the charts and the patterns."""

import base64
import json
import os

PARAMS = {}


def read_json(name):
    with open(f"in/{name}", encoding="utf-8") as file:
        return json.load(file)


def many(number, word):
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def cell(value):
    """Text that stays inside its cell of a table."""
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def table(header, rows):
    lines = ["| " + " | ".join(map(cell, header)) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def charts():
    """The index of the charts, or what pictures there are."""
    names = sorted(os.listdir(f"in/{PARAMS['charts']}"))
    if "index.json" in names:
        return read_json(f"{PARAMS['charts']}/index.json")
    return [{"file": name, "title": name, "caption": ""} for name in names if name.endswith((".png", ".svg"))]


def address(file):
    """Where a picture is: in the folder of charts beside the report, or inside it."""
    path = f"{PARAMS['charts']}/{file}"
    if PARAMS["pictures"] == "beside":
        return path
    with open(f"in/{path}", "rb") as picture:
        return f"data:image/png;base64,{base64.b64encode(picture.read()).decode()}"


def range_of(column):
    if "quartiles" in column:
        return f"{column['min']:g} … {column['quartiles'][1]:g} … {column['max']:g}"
    if "first" in column:
        return f"{column['first'][:10]} … {column['last'][:10]}"
    return ", ".join(f"{top['value'][:30]} ({top['count']})" for top in column.get("top", [])[:3])


def columns(profile):
    shown = profile["columns"][:60]
    rows = [[c["name"], c["type"], c["missing"], c["distinct"], range_of(c)] for c in shown]
    text = table(
        ["column", "type", "missing", "distinct", "lowest … median … highest, or the most frequent"], rows
    )
    more = len(profile["columns"]) - len(shown)
    return text + (f"\n\n{more} more columns are in the summary." if more else "")


def numbers(profile):
    """Tables of the numeric columns and of their strongest links."""
    found = [c for c in profile["columns"] if "outliers" in c][:60]
    parts = []
    if found:
        rows = [
            [c["name"], c["mean"], c["std"], c["skew"], c["zeros"], c["outliers"]["count"]] for c in found
        ]
        parts.append(table(["column", "mean", "standard deviation", "skew", "zeros", "outliers"], rows))
    if profile["correlations"]:
        rows = [[p["a"], p["b"], p["pearson"], p["spearman"], p["rows"]] for p in profile["correlations"][:8]]
        parts.append(table(["column", "and column", "correlation", "of ranks", "rows"], rows))
    return "\n\n".join(parts)


def closer_look():
    """The sections that the replanned task found, when there was one."""
    if not PARAMS.get("patterns"):
        return ""
    parts = ["## A closer look"]
    for part in read_json(PARAMS["patterns"])["sections"]:
        parts.append(f"### {cell(part['title'])}\n\n{part['text']}")
        if part["rows"]:
            parts.append(table(part["header"], part["rows"]))
    return "\n\n".join(parts)


def main():
    profile = read_json(PARAMS["profile"])
    pictures = charts()
    counted = f"{many(profile['rows'], 'row')} and {many(len(profile['columns']), 'column')}"
    name = PARAMS["data"]
    parts = [
        f"# What {cell(name)} holds",
        "> Written in a rehearsal, without a language model: fixed programs computed every number here from\n"
        "> the data. Nobody has judged what the findings mean.",
        f"The table has {counted}.",
        "## Findings",
        "\n".join(f"- {' '.join(finding.split())}" for finding in profile["findings"])
        or "- Nothing stands out.",
        "## Columns",
        columns(profile),
    ]
    if figures := numbers(profile):
        parts += ["## Numbers", figures]
    parts.append(closer_look())
    parts.append("## Charts")
    for chart in pictures:
        title = cell(chart["title"])
        parts.append(f"### {title}\n\n![{title}]({address(chart['file'])})")
        parts.append(cell(chart["caption"]))
    notes = profile["notes"] or ["Nothing had to be mended."]
    parts += ["## What was cleaned", "\n".join(f"- {' '.join(note.split())}" for note in notes)]
    parts += [
        "## How to read this",
        "Outliers lie more than 1.5 interquartile ranges outside the middle half. Correlations are\n"
        "Pearson's, and of ranks (Spearman's); they show that columns move together, not why. A value that\n"
        "could not be read as its column's type counts as empty in the numbers above, and not as missing.",
    ]
    os.makedirs("out", exist_ok=True)
    path = os.path.join("out", PARAMS["report"] if "." in PARAMS["report"] else PARAMS["report"] + ".md")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n\n".join(part for part in parts if part) + "\n")
    found = f"{many(len(profile['findings']), 'finding')} and {many(len(pictures), 'chart')}"
    print(f"A report of {found} on {counted}.")


main()
