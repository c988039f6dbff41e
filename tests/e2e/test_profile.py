"""The example goal and tables of one's own, with the rehearsal model: from a submission to right deliverables."""

from __future__ import annotations

import csv
import io
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Outsider

EXAMPLE = Path(__file__).parents[2] / "examples" / "goals" / "profile"

pytestmark = pytest.mark.timeout(180)


async def profile(outsider: Outsider, name: str, body: bytes) -> list[Any]:
    """The example goal on a table; its events."""
    goal = json.loads((EXAMPLE / "goal.json").read_text())
    table = await outsider.put("data", "table", "text/csv", body)
    return await outsider.watch(await outsider.submit(**goal, id=name, inputs=[table]), 120)


async def assert_delivered(outsider: Outsider, events: Sequence[Any], rows: list[dict[str, str]]) -> Any:
    """Report, charts, table and summary are there and right for the rows; the summary."""
    finished = events[-1]["data"]
    assert (finished["status"], finished["missing"]) == ("done", []), finished
    refs = finished["deliverables"]
    assert set(refs) == {"report", "charts", "cleaned", "summary"}
    summary = json.loads(await outsider.content(refs["summary"]))
    assert summary["rows"] == len(rows)
    missing = {name: sum(not row[name].strip() for row in rows) for name in rows[0]}
    assert {column["name"]: column["missing"] for column in summary["columns"]} == missing
    cleaned = (await outsider.content(refs["cleaned"])).decode()
    assert len(list(csv.DictReader(io.StringIO(cleaned)))) > 0
    report = (await outsider.content(refs["report"])).decode()
    with tarfile.open(fileobj=io.BytesIO(await outsider.content(refs["charts"]))) as charts:
        pictures = [name for name in charts.getnames() if name.endswith(".png")]
    assert pictures
    assert all(Path(picture).name in report for picture in pictures)
    assert "without a language model" in report
    return summary


def assert_repaired_and_replanned(events: Sequence[Any]) -> None:
    """A program failed and a later one of the same parent succeeded; the plan was revised."""
    ran = [
        e
        for e in events
        if e["data"].get("lane") == "exec" and e["kind"] in ("task.failed", "task.succeeded")
    ]
    failed = [e for e in ran if e["kind"] == "task.failed"]
    assert failed
    for bad in failed:
        assert any(
            good["kind"] == "task.succeeded" and good["data"]["parent"] == bad["data"]["parent"]
            for good in ran
            if good["seq"] > bad["seq"]
        )
    assert [e["kind"] for e in events].count("plan.revised") >= 1


async def test_example_goal_ends_with_right_deliverables_a_repair_and_a_replan(outsider: Outsider) -> None:
    (path,) = EXAMPLE.glob("*.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    events = await profile(outsider, "example", path.read_bytes())
    summary = await assert_delivered(outsider, events, rows)
    assert {c["name"]: c["type"] for c in summary["columns"]}["date"] == "date"
    assert_repaired_and_replanned(events)


async def test_table_of_another_country_is_profiled_as_well(outsider: Outsider) -> None:
    rng = random.Random(8)
    rows = [
        {"día": f"{rng.randint(1, 28):02}.{rng.randint(1, 12):02}.2024", "größe": f"{rng.uniform(1, 99):.2f}",
         "città": rng.choice(["Málaga", "Köln", "Forlì", ""]), "prix": str(rng.choice([12, 15, ""]))}
        for _ in range(300)
    ]  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), delimiter=";")
    writer.writeheader()
    writer.writerows(rows)
    events = await profile(outsider, "abroad", out.getvalue().encode())
    summary = await assert_delivered(outsider, events, rows)
    types = {column["name"]: column["type"] for column in summary["columns"]}
    assert (types["día"], types["größe"], types["prix"]) == ("date", "number", "integer")
    assert_repaired_and_replanned(events)


async def test_goal_that_the_rehearsal_does_not_know_is_refused_with_the_fix(outsider: Outsider) -> None:
    accepted = await outsider.client.subscribe("events.public.*.goal.accepted")
    await outsider.client.publish("goals.submit", b"Compose a sonata for the left hand")
    goal = json.loads((await accepted.next_msg(timeout=15)).data)["goal_id"]
    finished = (await outsider.watch(goal))[-1]["data"]
    assert finished["status"] == "failed"
    assert "OPENAI_API_KEY" in finished["reason"]
    assert "profile" in finished["reason"].lower(), "it says what it can rehearse"


async def test_file_that_is_no_table_fails_with_the_reason_and_the_next_goal_works(
    outsider: Outsider,
) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100
    finished = (await profile(outsider, "no-table", picture))[-1]["data"]
    assert finished["status"] == "failed"
    assert "table" in finished["reason"]
    events = await profile(outsider, "a-table", b"n,word\n" + b"".join(b"%d,w\n" % n for n in range(50)))
    assert events[-1]["data"]["status"] == "done"
