"""Instances of JSON schemas: the smallest that is valid, and a given value made to fit."""

from __future__ import annotations

from goalwright_rehearsal.messages import LABEL, Json

_DEPTH = 12


def minimal(schema: Json, root: Json = None, depth: int = 0) -> Json:
    """The smallest instance of `schema`; its texts say that it is a rehearsal."""
    root = schema if root is None else root
    schema = _resolved(schema, root)
    if depth > _DEPTH or not isinstance(schema, dict):
        return None
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    if schema.get("enum"):
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return minimal(schema[word][0], root, depth + 1)
    return _of_type(schema, root, depth)


def _of_type(schema: dict[str, Json], root: Json, depth: int) -> Json:
    match _type(schema):
        case "object":
            properties = schema.get("properties") or {}
            names = [*properties, *(name for name in schema.get("required", []) if name not in properties)]
            return {name: minimal(properties.get(name, {}), root, depth + 1) for name in names}
        case "array":
            items = schema.get("items", {})
            return [minimal(items, root, depth + 1) for _ in range(schema.get("minItems", 0))]
        case "string":
            text = LABEL.ljust(schema.get("minLength", 0), ".")
            return text[: schema.get("maxLength", len(text))]
        case "integer" | "number" as kind:
            return _number(schema, 1 if kind == "integer" else 0.5)
        case "boolean":
            return False
    return None


def _number(schema: dict[str, Json], step: float) -> float:
    if "exclusiveMinimum" in schema:
        return schema["exclusiveMinimum"] + step  # type: ignore[no-any-return]  # a schema's bound is a number
    low, high = schema.get("minimum"), schema.get("maximum")
    return low if low is not None else high if high is not None and high < 0 else 0


def _type(schema: dict[str, Json]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind is None:
        return "object" if "properties" in schema or "required" in schema else "string"
    return str(kind)


def _resolved(schema: Json, root: Json) -> Json:
    for _ in range(_DEPTH):
        if not (isinstance(schema, dict) and isinstance(schema.get("$ref"), str)):
            return schema
        at: Json = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            at = at.get(step) if isinstance(at, dict) else None
        schema = at
    return schema


def fit(value: Json, schema: Json, root: Json = None) -> Json:
    """`value` with what an object schema requires filled in, and without what it does not allow."""
    root = schema if root is None else root
    schema = _resolved(schema, root)
    if not isinstance(schema, dict):
        return value
    properties = schema.get("properties") or {}
    if isinstance(value, dict) and properties:
        kept = {name: fit(item, properties.get(name), root) for name, item in value.items()
                if name in properties or schema.get("additionalProperties", True)}  # fmt: skip
        missing = [name for name in schema.get("required", []) if name not in kept]
        return kept | {name: minimal(properties.get(name, {}), root) for name in missing}
    if isinstance(value, list) and "items" in schema:
        return [fit(item, schema["items"], root) for item in value]
    return value
