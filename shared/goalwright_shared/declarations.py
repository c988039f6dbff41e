"""Whether a declared schema can be checked at all: asked when a goal is submitted, before it has cost anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from pydantic import JsonValue

from goalwright_shared import tables
from goalwright_shared.messages import ArtifactType

_TABLES = (ArtifactType.TABLE, ArtifactType.DATASET, ArtifactType.DATABASE)
_FORM = 'the form is {"tables": [{"name": …, "columns": [{"name": …, "type": …}]}]}'


def fault(kind: ArtifactType, name: str, schema: Mapping[str, JsonValue] | None) -> str | None:
    """What of a schema for an output of a type cannot be applied; None where all can. (Types without a form take any
    schema, and nothing is checked.)"""
    if not schema:
        return None
    if kind is ArtifactType.JSON:
        return next(_in_json_schema(schema), None)
    return next(_in_tables(kind, name, schema), None) if kind in _TABLES else None


def _in_json_schema(schema: Mapping[str, JsonValue]) -> Iterator[str]:
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        yield f"it is no JSON Schema (2020-12): {error.json_path}: {error.message[:300]}"
    except RecursionError:
        yield "it is nested too deep"
    for key, value in _words(schema):
        if key == "$ref" and isinstance(value, str) and not value.startswith("#"):
            yield f"$ref {value[:100]!r} lies elsewhere, and nothing is fetched: put it under $defs"


def _words(schema: Mapping[str, JsonValue]) -> Iterator[tuple[str, JsonValue]]:
    left: list[Any] = [schema]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield from node.items()
            left += node.values()
        elif isinstance(node, list):
            left += node


def _in_tables(kind: ArtifactType, name: str, schema: Mapping[str, JsonValue]) -> Iterator[str]:
    listed = tables.listed(schema)
    if not listed:
        yield f"it declares no tables: {_FORM}"
        return
    for number, table in enumerate(listed):
        yield from _in_table(f"tables.{number}", table)
    found = tables.declared(name, schema)
    names = [table.name for table in found]
    if kind is ArtifactType.TABLE and len(names) > 1:
        yield f"it declares {len(names)} tables, and a table is one: use a dataset or a database"
    for twice in sorted({one for one in names if names.count(one) > 1}):
        yield f"two tables are named {twice}"
    columns = {(table.name, column.name) for table in found for column in table.columns}
    for table in found:
        for column in table.columns:
            if column.references and column.references not in columns:
                target = ".".join(column.references)
                yield f"column {table.name}.{column.name} refers to {target}, which is not declared"


def _in_table(at: str, table: Any) -> Iterator[str]:
    if not isinstance(table, dict):
        yield f"{at} is no object: {_FORM}"
        return
    columns = table.get("columns", [])
    if not isinstance(columns, list):
        yield f"{at}.columns is no list: {_FORM}"
        return
    for number, column in enumerate(columns):
        here = f"{at}.columns.{number}"
        if isinstance(column, str):
            continue
        if not isinstance(column, dict) or not isinstance(column.get("name"), str):
            yield f"{here} has no name: {_FORM}"
            continue
        for key in ("nullable", "unique"):
            if not isinstance(column.get(key, True), bool):
                yield f"{here}.{key} is {column[key]!r}, neither true nor false"
        if column.get("references") is not None and tables.reference(column["references"]) is None:
            yield f"{here}.references is {column['references']!r}: write table.column"
