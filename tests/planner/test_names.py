"""Which artifact a model meant."""

from __future__ import annotations

import re

import pytest
from goalwright_planner.core import names
from hypothesis import given
from hypothesis import strategies as st

KNOWN = ["sales_report", "clean_orders", "monthly_totals", "chart", "part_1", "part_2", "orders"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sales_report", "sales_report"),
        ("Sales Report", "sales_report"),
        ("salesReport", "sales_report"),
        ("sales-report.md", "sales_report"),
        ("sales_reports", "sales_report"),
        ("sale_report", "sales_report"),
        ("report_sales", "sales_report"),
        ("final sales report", "sales_report"),
        ("cleaned_orders", "clean_orders"),
        ("orders_cleaned.csv", "clean_orders"),
        ("tidy_orders", "clean_orders"),
        ("monthly_total", "monthly_totals"),
        ("monthyl_totals", "monthly_totals"),
        ("plot.png", "chart"),
        ("figures", "chart"),
        ("part_1.csv", "part_1"),
        ("part_3", None),
        ("order_data", "orders"),
        ("weather", None),
        ("", None),
        ("…", None),
    ],
)
def test_a_written_name_means(written: str, meant: str | None) -> None:
    assert names.match(written, KNOWN) == meant


def test_two_candidates_are_no_match() -> None:
    assert names.match("report", ["report_data", "final_report"]) is None
    assert names.match("totals.csv", ["total", "Totals"]) == "Totals"


@given(st.text(max_size=200))
def test_a_slug_is_a_name_or_nothing(text: str) -> None:
    slug = names.slug(text)
    assert slug == "" or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", slug)
    assert names.slug(slug) == slug


@given(st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True), unique=True, max_size=8))
def test_every_name_matches_itself_and_nothing_outside(pool: list[str]) -> None:
    for name in pool:
        assert names.match(name, pool) == name
    assert names.match("something quite different 77", pool) in {None, *pool}


@given(st.sets(st.sampled_from(["a", "a-2", "a-3", "b"])))
def test_a_unique_name_is_not_taken(taken: set[str]) -> None:
    assert names.unique("a", taken) not in taken
