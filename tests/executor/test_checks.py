"""The shared checks of outputs: what passes can be stored, read and shown."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from goalwright_shared.checks import check_acceptance, check_output, read_json
from goalwright_shared.messages import ArtifactType, Check, OutputSpec, RegexCheck, RowsCheck, RubricCheck
from hypothesis import given
from hypothesis import strategies as st


def spec(type: str, schema: object = None, name: str = "x") -> OutputSpec:
    return OutputSpec.model_validate({"name": name, "type": type, "schema": schema})


def failures(spec: OutputSpec, data: bytes) -> list[str]:
    return [result.evidence for result in check_output(spec, data) if not result.passed]


@pytest.mark.parametrize(
    ("data", "evidence"),
    [
        (b"", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"[NaN]", "NaN is no JSON number"),
        (b"[-Infinity]", "-Infinity is no JSON number"),
        (b"[1e999]", "out of range"),
        (b'["a\\u0000b"]', "NUL"),
        (b'{"a\\u0000": 1}', "NUL"),
        (b'["\\ud800"]', "lone surrogate"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 200_000 + b"]" * 200_000, "nested deeper"),
        (b"[" * 101 + b"]" * 101, "nested deeper than 100"),
        (b"9" * 5_000, "not JSON"),
    ],
)
def test_json_that_no_reader_could_take_is_refused_with_the_reason(data: bytes, evidence: str) -> None:
    [found] = failures(spec("json"), data)
    assert evidence in found


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
)


@given(json_values)
def test_ordinary_json_is_read_unchanged(value: object) -> None:
    assert read_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=300), st.sampled_from(list(ArtifactType)))
def test_no_bytes_make_a_check_raise(data: bytes, type: ArtifactType) -> None:
    schema = {"tables": [{"name": "t", "columns": [{"name": "a", "type": "integer", "unique": True}]}]}
    assert check_output(spec(type.value, schema), data)
    assert check_acceptance(
        [RowsCheck(min=1, output="x"), RegexCheck(pattern="a", output="x")], [spec(type.value)], {"x": data}
    )


def test_json_schema_findings_say_where() -> None:
    schema = {"type": "object", "required": ["rows"], "properties": {"rows": {"type": "integer"}}}
    assert failures(spec("json", schema), b'{"rows": 3}') == []
    assert "$.rows" in failures(spec("json", schema), b'{"rows": "3"}')[0]


def test_a_schema_that_is_none_is_told_not_raised() -> None:
    assert "no JSON Schema" in failures(spec("json", {"type": "nonsense"}), b"1")[0]
    assert "cannot be applied" in failures(spec("json", {"$ref": "#/nowhere"}), b"1")[0]


@pytest.mark.parametrize(
    ("data", "evidence"),
    [
        (b"", "not even a header"),
        (b"a,b\n1\n", "row 1 has 1 cells"),
        (b'a,b\n"1,2\n', "not CSV"),
        (b"a\n\0\n", "NUL"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_what_is_no_csv_is_refused_with_the_reason(data: bytes, evidence: str) -> None:
    assert evidence in failures(spec("table"), data)[0]


TABLE = {
    "tables": [
        {
            "name": "t",
            "columns": [
                {"name": "id", "type": "integer", "nullable": False, "unique": True},
                {"name": "price", "type": "number"},
            ],
        }
    ]
}


@pytest.mark.parametrize(
    ("data", "evidence"),
    [
        (b"id\n1\n", "no column price"),
        (b"id,price\n1,2\n1,3\n", "row 2, column id: not unique: '1' is in row 1 too"),
        (b"id,price\n,2\n", "row 1, column id: it is empty"),
        (b"id,price\nx,2\n", "row 1, column id: 'x' is no integer"),
        (b"id,price\n1,cheap\n", "'cheap' is no number"),
    ],
)
def test_a_table_is_held_to_its_declared_columns(data: bytes, evidence: str) -> None:
    assert failures(spec("table", TABLE), b"\xef\xbb\xbfid,price\n1,2.5\n2,\n") == []
    assert evidence in failures(spec("table", TABLE), data)[0]


def test_a_database_is_held_to_its_declared_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (id INTEGER, price REAL)")
    database.commit()
    database.close()
    assert failures(spec("database", TABLE), path.read_bytes()) == []
    other = {"tables": [{"name": "u"}]}
    assert "no table u; there are t" in failures(spec("database", other), path.read_bytes())[0]
    assert "not a SQLite file" in failures(spec("database"), b"id,price\n")[0]


def test_rows_and_regex_are_checked_and_the_rest_is_left_to_others() -> None:
    specs = [spec("table", name="t"), spec("text", name="report")]
    outputs = {"t": b"a\n1\n2\n", "report": b"## Findings\n"}
    checks: list[Check] = [
        RowsCheck(min=2),
        RowsCheck(max=1, output="t"),
        RegexCheck(pattern="^## F"),
        RegexCheck(pattern="("),
        RegexCheck(pattern="x", output="missing"),
        RubricCheck(text="is it good?"),
    ]
    results = check_acceptance(checks, specs, outputs)
    assert [result.passed for result in results] == [True, False, True, False, False]
    assert "2 rows, wanted 0 to 1" in results[1].evidence


def test_a_pattern_that_would_take_for_ever_is_given_up() -> None:
    text = b"a" * 60 + b"b"
    [result] = check_acceptance([RegexCheck(pattern="(a|aa)+$")], [spec("text")], {"x": text})
    assert not result.passed
    assert "cannot be used" in result.evidence


def test_a_pattern_of_a_schema_that_would_take_for_ever_is_given_up() -> None:
    schema = {"type": "string", "pattern": "^(a|aa)+$"}
    assert failures(spec("json", schema), json.dumps("a" * 60).encode()) == []
    [found] = failures(spec("json", schema), json.dumps("a" * 60 + "b").encode())
    assert "cannot be applied" in found
