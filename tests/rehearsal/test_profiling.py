"""Goal family 1, played whole: real answers over HTTP, real programs on real and ugly files."""

from __future__ import annotations

import csv
import io
import json
import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from goalwright_shared.checks import check_output
from goalwright_shared.messages import ArtifactType, OutputSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI

from rehearsal.conftest import in_process, over_http
from rehearsal.playing import Played, Programs, Stage

GOAL = "Profile this table and write an illustrated report"


def play(stage: Stage, path: Path, goal: str = GOAL) -> tuple[dict[str, Any], dict[str, Played]]:
    """The plan of a goal on a file, and how each of its tasks went; stops at the first that is given up."""
    stage.give("data.csv", path)
    plan = stage.plan(goal)
    played = {}
    for task in plan["tasks"]:
        played[task["key"]] = stage.perform(task)
        if played[task["key"]].status != "succeeded":
            break
    return plan, played


def read(stage: Stage, name: str) -> Any:
    return json.loads(stage.artifacts[name].read_text(encoding="utf-8"))


def summary_of(stage: Stage) -> dict[str, tuple[str, int]]:
    """{column: (type, missing)} of the summary."""
    return {
        column["name"]: (column["type"], column["missing"]) for column in read(stage, "summary")["columns"]
    }


@dataclass
class Example:
    """The example goal, played once for all tests that look at it."""

    stage: Stage
    plan: dict[str, Any]
    played: dict[str, Played]


@pytest.fixture(scope="module")
def done(client: OpenAI, programs: Programs, example: Path) -> Example:
    """The example goal, over HTTP."""
    stage = Stage(over_http(client), programs)
    return Example(stage, *play(stage, example))


def test_example_goal_ends_with_report_charts_table_and_summary(done: Example, example: Path) -> None:
    assert {task.status for task in done.played.values()} == {"succeeded"}
    with example.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    summary = read(done.stage, "summary")
    assert summary["rows"] == len(rows)
    for column in summary["columns"]:
        assert column["missing"] == sum(not row[column["name"]] for row in rows)
    assert summary_of(done.stage)["date"][0] == "date"
    assert summary_of(done.stage)["days_since_last_change"] == ("integer", 49)
    goal = json.loads(example.with_name("goal.json").read_text())
    (wanted,) = [one["schema"] for one in goal["deliverables"] if one["name"] == "summary"]
    jsonschema.validate(summary, wanted)
    assert_report_is_illustrated(done.stage)
    assert [one["name"] for one in done.plan["deliverables"]] == ["report", "charts", "cleaned", "summary"]


def assert_report_is_illustrated(stage: Stage) -> None:
    report = stage.artifacts["report"].read_text(encoding="utf-8")
    charts = stage.artifacts["charts"]
    pictures = json.loads((charts / "index.json").read_text(encoding="utf-8"))
    assert pictures
    for picture in pictures:
        assert (charts / picture["file"]).read_bytes().startswith(b"\x89PNG")
        assert f"](charts/{picture['file']})" in report
    assert "without a language model" in report


def test_first_charts_program_fails_on_the_data_and_is_repaired_from_its_error(done: Example) -> None:
    draft, repaired = done.played["charts"].runs
    assert draft.exit_code == 1
    assert "KeyError: 'value'" in draft.stderr and "Traceback" in draft.stderr
    assert repaired.exit_code == 0
    assert done.played["charts"].sources[0] != done.played["charts"].sources[1]


def test_draft_fails_even_where_its_first_guess_is_a_column(direct: Stage, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("value,amount\n1,2\n3,4\n5,6\n")
    _, played = play(direct, path)
    assert [run.exit_code for run in played["charts"].runs] == [1, 0]
    assert "KeyError: 'measurement'" in played["charts"].runs[0].stderr


def test_review_asks_for_a_replan_that_names_what_the_profile_found(done: Example) -> None:
    stage = Stage(done.stage.ask, done.stage.programs, dict(done.stage.artifacts), dict(done.stage.types))
    tasks = [graph_row(task, "succeeded", done.played[task["key"]].summary) for task in done.plan["tasks"]]
    tasks[-1]["state"] = "blocked"
    verdict = stage.structured("Verdict", judge_card(tasks))
    assert verdict["plan_relevant"] is False
    assert "longitude and offset_before_hours rise together: correlation +0.98" in verdict["better_plan"]
    revision = stage.structured("Revision", revise_card(done.plan, tasks, verdict["better_plan"]))
    assert [one["key"] for one in revision["drop"]] == ["report"]
    patterns, report = revision["add"]
    assert stage.perform(patterns).status == "succeeded"
    del stage.artifacts["report"]
    assert stage.perform(report).status == "succeeded"
    assert "## A closer look" in stage.artifacts["report"].read_text()
    assert "March and October hold 72%" in stage.artifacts["report"].read_text()
    tasks += [graph_row(patterns, "succeeded", ""), graph_row(report, "ready", "")]
    assert stage.structured("Verdict", judge_card(tasks))["plan_relevant"] is True


@pytest.mark.parametrize("state", ["blocked", "ready", "dispatched"])
def test_replan_is_asked_for_while_the_report_is_open(direct: Stage, example: Path, state: str) -> None:
    direct.give("data.csv", example)
    plan = direct.plan(GOAL)
    tasks = [graph_row(task, "succeeded", "found") for task in plan["tasks"]]
    tasks[-1]["state"] = state
    assert direct.structured("Verdict", judge_card(tasks))["plan_relevant"] is False
    tasks[-1]["state"] = "succeeded"
    assert direct.structured("Verdict", judge_card(tasks))["plan_relevant"] is True
    revision = direct.structured("Revision", revise_card(plan, tasks, "late"))
    assert (revision["drop"], revision["add"]) == ([], [])


def graph_row(task: dict[str, Any], state: str, summary: str) -> dict[str, Any]:
    names = [out["name"] for out in task["outputs"]]
    kept = {name: task[name] for name in ("key", "title", "lane", "inputs", "after")}
    return kept | {"outputs": names, "state": state, "summary": summary[:400]}


def judge_card(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    review = {
        "goal": GOAL,
        "contract": {},
        "tasks": tasks,
        "spent_usd": 0,
        "budget_usd": 1,
        "elapsed_seconds": 9,
    }
    return {"kind": "task", "role": "judge", "inputs": [], "outputs": [], "params": {"review": review}}


def revise_card(plan: dict[str, Any], tasks: list[dict[str, Any]], reason: str) -> dict[str, Any]:
    return {"kind": "revise", "goal": GOAL, "contract": None, "reason": reason, "evidence": [], "revision": 0,
            "generation": 1, "tasks": tasks, "lanes": [{"name": "agent.coder"}]}  # fmt: skip


def wide(columns: int, rows: int) -> bytes:
    lines = [[f"col{column}" for column in range(columns)]]
    lines += [[str(column * row % 7) for column in range(columns)] for row in range(rows)]
    return "".join(",".join(line) + "\n" for line in lines).encode()


OPEN_QUOTE = "".join(f"{number},{chr(34) * (number == 3)}x{number}\n" for number in range(60)).encode()
UGLY: dict[str, tuple[bytes, dict[str, tuple[str, int]] | None]] = {
    "semicolons and decimal commas": (
        "Tag;Umsatz;Größe\n1.2.2024;1.234,50;groß\n15.02.2024;99,5;klein\n28.02.2024;;groß\n".encode("cp1252"),
        {"Tag": ("date", 0), "Umsatz": ("number", 1), "Größe": ("text", 0)},
    ),
    "tabs and utf-16": (
        "name\tvalue\nÅsa\t1\n李雷\t2\nЯна\t\n".encode("utf-16"),
        {"name": ("text", 0), "value": ("integer", 1)},
    ),
    "no header": (
        b"1,2.5,2024-01-01\n2,3.5,2024-01-02\n3,4.5,2024-01-03\n",
        {"column_1": ("integer", 0), "column_2": ("number", 0), "column_3": ("date", 0)},
    ),
    "years as names": (
        b"country,2019,2020,2021\nNorway,1.5,2.5,3.5\nPeru,2,3,4\n",
        {"country": ("text", 0), "2019": ("number", 0), "2020": ("number", 0), "2021": ("number", 0)},
    ),
    "one column": (b"temperature\n12\n13\n\n15\n", {"temperature": ("integer", 0)}),
    "one column of words": (b"word\nalpha\nbeta\n", {"word": ("text", 0)}),
    "one row": (b"a,b,c\n1,x,2024-05-06\n", {"a": ("integer", 0), "b": ("text", 0), "c": ("date", 0)}),
    "header only": (b"a,b,c\n", {"a": ("empty", 0), "b": ("empty", 0), "c": ("empty", 0)}),
    "dates in several forms": (
        b"when,n\n2024-03-01,1\n02/03/2024,2\n25/03/2024,3\n4 Mar 2024,4\n2024-03-05T10:00:00Z,5\n",
        {"when": ("date", 0), "n": ("integer", 0)},
    ),
    "title and comments before the header": (
        b"# exported, by hand, today, twice\nSales\n\nday,shop,n\n2024-01-01,a,1\n2024-01-02,b,2\n2024-01-03,a,3\n",
        {"day": ("date", 0), "shop": ("text", 0), "n": ("integer", 0)},
    ),
    "dates of offices": (
        b"a,b,c,d\n19-Sep-03,01/31/2024 1:30 PM,Jan 2024,2024-01\n1-Oct-04,12/01/2024 11:00 AM,May 2024,2024-12\n",
        {"a": ("date", 0), "b": ("date", 0), "c": ("date", 0), "d": ("date", 0)},
    ),
    "what only looks like dates": (
        b"version,ip,ssn,score\n1.2.10,10.0.0.1,123-45-6789,3-1\n1.3.4,10.0.0.2,987-65-4321,2-2\n",
        {"version": ("text", 0), "ip": ("text", 0), "ssn": ("text", 0), "score": ("text", 0)},
    ),
    "all text": (
        b"a,b\n" + b"".join(b"word %d,other %d\n" % (i, i) for i in range(40)),
        {"a": ("text", 0), "b": ("text", 0)},
    ),
    "all empty": (b"a,b\n,\n,\n", {"a": ("empty", 2), "b": ("empty", 2)}),
    "twice the same name": (
        b"x,x,x\n1,2,3\n4,5,6\n",
        {"x": ("integer", 0), "x_2": ("integer", 0), "x_3": ("integer", 0)},
    ),
    "codes": (
        b"zip,card,n\n00123,4111111111111111,1\n04567,4222222222222222,2\n",
        {"zip": ("text", 0), "card": ("text", 0), "n": ("integer", 0)},
    ),
    "ragged": (b"a,b,c\n1,2\n3,4,5,6\n7,8,9\n", {"a": ("integer", 0), "b": ("integer", 0), "c": ("text", 1)}),
    "quotes and newlines": (
        b'id,note\n1,"two\nlines, and a ""quote"""\n2,"a | b"\n3,<script>\n',
        {"id": ("integer", 0), "note": ("text", 0)},
    ),
    "a quote that is never closed": (
        b"id,note\n" + OPEN_QUOTE,
        {"id": ("integer", 0), "note": ("text", 0)},
    ),
    "formulas in names": (
        b"$a$_{,b^2,price ($),\xe2\x82\xac\n1,2,$3.50,4%\n2,3,$4.50,5%\n9,1,$1,250%\n",
        {"$a$_{": ("integer", 0), "b^2": ("integer", 0), "price ($)": ("number", 0), "€": ("integer", 0)},
    ),
    "wild numbers": (
        b"a,b,c\n1e308,inf,0\n-1e308,5,0\n1e-300,nan,0\n" + b"2,3,0\n" * 40,
        {"a": ("number", 0), "b": ("integer", 1), "c": ("integer", 0)},
    ),
    "old and far dates": (
        b"d,n\n0999-01-01,1\n1600-02-03,2\n9999-12-31,3\n2024-01-01,4\n",
        None,
    ),
    "constant columns": (
        b"a,b,c\n" + b"5,x,2024-01-01\n" * 30,
        {"a": ("integer", 0), "b": ("category", 0), "c": ("date", 0)},
    ),
    "old Mac line ends": (b"a,b\r1,2\r3,4\r", {"a": ("integer", 0), "b": ("integer", 0)}),
    "blank lines": (b"\n\na,b\n1,2\n\n3,4\n\n", {"a": ("integer", 0), "b": ("integer", 0)}),
    "unnamed index": (b",a\n0,x\n1,y\n", {"column_1": ("integer", 0), "a": ("text", 0)}),
    "very wide": (wide(columns=150, rows=20), None),
}  # fmt: skip


@pytest.mark.parametrize("name", UGLY)
def test_ugly_table_is_profiled_to_the_end(direct: Stage, tmp_path: Path, name: str) -> None:
    data, expected = UGLY[name]
    path = tmp_path / "ugly.csv"
    path.write_bytes(data)
    plan, played = play(direct, path)
    assert {key: task.status for key, task in played.items()} == {
        task["key"]: "succeeded" for task in plan["tasks"]
    }, [run.stderr for task in played.values() for run in task.runs]
    tasks = [graph_row(task, "succeeded", "") for task in plan["tasks"]]
    tasks[-1]["state"] = "blocked"
    for task in direct.structured("Revision", revise_card(plan, tasks, "closer"))["add"]:
        assert direct.perform(task).status == "succeeded"
    assert_report_is_illustrated(direct)
    for output in ("cleaned", "summary", "profile", "patterns", "report"):
        checks = check_output(
            OutputSpec(name=output, type=ArtifactType(direct.types[output])),
            direct.artifacts[output].read_bytes(),
        )
        assert all(check.passed for check in checks), checks
    if expected is not None:
        assert summary_of(direct) == expected


def test_every_decision_of_the_cleaning_is_in_the_report(direct: Stage, tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_bytes(
        "Tag;Umsatz;Ort\n1.2.2024;1.234,50;Köln\n15.2.2024;99,5\n20.2.2024;7,5;Bonn\n".encode("cp1252")
    )
    play(direct, path)
    report = direct.artifacts["report"].read_text(encoding="utf-8")
    for said in (
        "Cells were separated by semicolons.",
        "The file was read as cp1252.",
        "The comma in Umsatz was read as a decimal comma.",
        "Rows mended because they were not 3 cells wide: 1 shorter, 0 longer.",
        "Tag runs from 2024-02-01 to 2024-02-20; Thursday has the most rows (2) and Tuesday the fewest (1).",
    ):
        assert said in report
    assert direct.artifacts["cleaned"].read_text(encoding="utf-8").splitlines()[1] == "2024-02-01,1234.5,Köln"


def test_report_carries_its_pictures_where_the_charts_are_not_delivered(
    direct: Stage, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("n,m\n1,2\n3,5\n")
    direct.give("data.csv", path)
    plan = direct.plan(GOAL, [{"name": "findings.md", "type": "file", "description": ""}])
    assert [direct.perform(task).status for task in plan["tasks"]] == ["succeeded"] * 5
    pictures = json.loads((direct.artifacts["charts"] / "index.json").read_text())
    report = direct.artifacts["findings.md"].read_text()
    assert report.count("](data:image/png;base64,") == len(pictures) > 0
    assert "](charts/" not in report


def test_value_that_is_no_number_is_counted_apart_from_the_missing(direct: Stage, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("n,m\n" + "".join(f"{number},x\n" for number in range(60)) + "unknown,x\n,x\n")
    play(direct, path)
    column = read(direct, "summary")["columns"][0]
    assert (column["type"], column["missing"], column["unreadable"]) == ("integer", 1, 1)
    assert "Values of n that are no integer, left empty: 1." in direct.artifacts["report"].read_text()


NO_TABLES = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n\n ", "the file is empty"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "binary"),
    "program": (b"\x7fELF\x02\x01\x01" + bytes(500), "binary"),
    "spreadsheet": (b"PK\x03\x04" + bytes(100), "a ZIP or Excel file"),
    "parquet": (b"PAR1" + bytes(100), "Parquet"),
    "page": (b"<!DOCTYPE html><html><body>hi</body></html>", "HTML"),
    "json": (b'[{"a": 1}, {"a": 2}]', "JSON"),
}


@pytest.mark.parametrize("name", NO_TABLES)
def test_file_that_is_no_table_ends_its_task_with_the_reason(
    direct: Stage, tmp_path: Path, name: str
) -> None:
    data, reason = NO_TABLES[name]
    path = tmp_path / "no.csv"
    path.write_bytes(data)
    _, played = play(direct, path)
    clean = played["clean"]
    assert (clean.status, len(clean.runs), clean.runs[0].exit_code) == ("given_up", 1, 2)
    assert "cannot read data.csv as a table" in clean.summary and reason in clean.summary
    assert "Traceback" not in clean.runs[0].stderr


def test_second_try_on_what_is_no_table_runs_no_program(direct: Stage, tmp_path: Path) -> None:
    path = tmp_path / "no.csv"
    path.write_bytes(b"")
    direct.give("data.csv", path)
    task = direct.plan(GOAL)["tasks"][0]
    first = direct.perform(task)
    again = direct.perform(task, errors=[{"code": "given_up", "message": first.summary, "logs": ""}])
    assert (again.status, again.runs) == ("given_up", [])
    assert "the file is empty" in again.summary


CELLS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda number: f"{number:.3f}"),
    st.sampled_from(
        ["", "NA", "yes", "no", "2024-02-29", "31/12/2023", "1,5", "0", "-", "#", "00", "1e5", "$5"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12),
    st.text(string.ascii_letters + ' ,;|"\n', max_size=12),
)


GAPS = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
"""What pandas takes for missing by default."""


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]], str]:
    width = draw(st.integers(2, 5))
    names = [f"name {index}" for index in range(width)]
    rows = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=3, max_size=12))
    return names, rows, draw(st.sampled_from([",", ";", "\t", "|"]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_any_written_table_keeps_its_rows_columns_and_gaps(
    programs: Programs, tmp_path: Path, table: tuple[list[str], list[list[str]], str]
) -> None:
    names, rows, delimiter = table
    stage = Stage(in_process, programs)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([names, *rows])
    path = tmp_path / "any.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    stage.give("data.csv", path)
    clean, profile, *_ = stage.plan(GOAL)["tasks"]
    assert stage.perform(clean).status == "succeeded"
    with stage.artifacts["cleaned"].open(encoding="utf-8", newline="") as file:
        header, *cleaned = csv.reader(file)
    assert (header, len(cleaned)) == (names, len(rows))
    assert stage.perform(profile).status == "succeeded"
    for index, column in enumerate(read(stage, "profile")["columns"]):
        gaps = sum(row[index].strip() in GAPS for row in rows)
        assert column["missing"] == gaps
        assert column["present"] == len(rows) - gaps - column["unreadable"]


def test_long_table_stays_within_the_time_and_memory_of_a_program(direct: Stage, tmp_path: Path) -> None:
    source = random.Random(7)  # fixed: the same table in every run
    path = tmp_path / "long.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("day,shop,amount,items,note\n")
        for index in range(200_000):
            day = f"20{10 + index % 14}-{1 + index % 12:02}-{1 + index % 28:02}"
            file.write(f"{day},shop {index % 17},{source.gauss(50, 20):.2f},{index % 9},n{index % 5000}\n")
    _, played = play(direct, path)
    assert {task.status for task in played.values()} == {"succeeded"}
    assert read(direct, "summary")["rows"] == 200_000
    assert summary_of(direct) == {
        "day": ("date", 0), "shop": ("category", 0), "amount": ("number", 0), "items": ("integer", 0),
        "note": ("text", 0),
    }  # fmt: skip
