"""SQL is code: one statement per file, named by its verb; `SQL["complete"]` is its text.

`work_rows.part` is the end of two statements: of the one that dispatches and of the one that sends again.
"""

from __future__ import annotations

from importlib.resources import files

SQL: dict[str, str] = {
    entry.name.removesuffix(".sql"): entry.read_text(encoding="utf-8")
    for entry in sorted(files(__name__).iterdir(), key=lambda entry: entry.name)
    if entry.name.endswith(".sql")
}
for _verb in ("dispatch", "load_work"):
    SQL[_verb] += (files(__name__) / "work_rows.part").read_text(encoding="utf-8")

WRITER = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""Settings of the writer's connection. Its statements name rows by key: a join that reads a whole table is never
right, and the planner chooses one while statistics are young or say that the table is small (tested by EXPLAIN)."""
