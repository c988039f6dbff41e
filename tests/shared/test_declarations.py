"""Schemas that nothing could be checked against, and those that can be understood."""

from __future__ import annotations

import json
from typing import Any

import pytest
from goalwright_scheduler.core import submission
from goalwright_shared.declarations import fault
from goalwright_shared.errors import Refused
from goalwright_shared.messages import ArtifactType
from goalwright_shared.tables import Column, Table, declared

ID = {"name": "id", "type": "integer", "unique": True}


def tables(*columns: Any, **more: Any) -> dict[str, Any]:
    """A schema of one table."""
    return {"tables": [{"name": "orders", "columns": list(columns)}], **more}


@pytest.mark.parametrize(
    ("kind", "schema", "said"),
    [
        ("json", {"type": "objekt"}, "no JSON Schema (2020-12): $.type"),
        ("json", {"properties": {"a": {"pattern": "("}}}, "$.properties.a.pattern: '(' is not a 'regex'"),
        ("json", {"$ref": "https://example.org/a.json"}, "put it under $defs"),
        ("table", {"type": "object", "properties": {}}, "it declares no tables: the form is"),
        ("table", {"tables": [{"name": "a"}, {"name": "b"}]}, "it declares 2 tables, and a table is one"),
        ("table", {"tables": ["orders"]}, "tables.0 is no object"),
        ("dataset", {"tables": [{"name": "a", "columns": {"id": "integer"}}]}, "tables.0.columns is no list"),
        ("dataset", tables({"type": "integer"}), "tables.0.columns.0 has no name"),
        (
            "database",
            tables(ID | {"unique": "yes"}),
            "tables.0.columns.0.unique is 'yes', neither true nor false",
        ),
        (
            "database",
            tables(ID | {"references": 7}),
            "tables.0.columns.0.references is 7: write table.column",
        ),
        (
            "database",
            tables(ID | {"references": "customers.id"}),
            "orders.id refers to customers.id, which is not",
        ),
        ("database", {"tables": [{"name": "a"}, {"name": "a"}]}, "two tables are named a"),
    ],
)
def test_schema_that_cannot_be_applied_is_named_with_its_place(kind: str, schema: Any, said: str) -> None:
    assert said in (fault(ArtifactType(kind), "shop", schema) or "")


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("json", {"$defs": {"a": {"type": "string"}}, "items": {"$ref": "#/$defs/a"}}),
        ("table", tables(ID, {"name": "note"})),
        ("table", {"columns": ["id", "note"]}),
        ("database", {"tables": [{"columns": [ID]}, {"name": "b", "columns": [ID | {"references": "shop.id"}]}]}),
        ("text", {"anything": "goes"}),
        ("database", None),
    ],
)  # fmt: skip
def test_schema_that_can_be_applied_is_taken(kind: str, schema: Any) -> None:
    assert fault(ArtifactType(kind), "shop", schema) is None


def test_columns_without_a_table_are_those_of_the_output() -> None:
    assert declared("orders", {"columns": ["id", {"name": "n"}]}) == [
        Table("orders", (Column("id"), Column("n")))
    ]


WRONG = {"name": "a", "type": "table", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("goal", "field"),
    [
        ({"text": "x", "deliverables": [WRONG]}, "deliverables.0.schema"),
        (
            {"plan": {"tasks": [{"key": "a", "lane": "exec", "outputs": [WRONG]}]}},
            "plan.tasks.0.outputs.0.schema",
        ),
    ],
)
def test_goal_whose_outputs_could_not_be_checked_is_refused(goal: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as refused:
        submission.parse(json.dumps(goal).encode())
    assert (refused.value.code, refused.value.field) == ("bad_schema", field)
