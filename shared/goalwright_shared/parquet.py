"""The footer of a Parquet file: its columns and how many rows it has.

Read here by hand, some lines of Thrift's compact protocol, because the libraries that read Parquet weigh 30 to
170 MB and parse in native code what a program has left; nothing but the footer is needed to hold a table to its
declared columns. Formats: https://parquet.apache.org/docs/file-format/metadata/ and Thrift's compact protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

MAGIC = b"PAR1"

_FOOTER_BYTES = 8 << 20
_VALUES = 2_000_000
_DEPTH = 32


class BadFooter(ValueError):
    """Not the footer of a Parquet file; the text says why."""


@dataclass(frozen=True)
class Column:
    """A column at the top of the schema. `kind` is None where the footer says nothing that we know; `nulls` is
    None when it was not counted."""

    name: str
    kind: str | None
    nulls: int | None


@dataclass(frozen=True)
class Footer:
    """What a Parquet file says of itself."""

    rows: int
    columns: tuple[Column, ...]


def read_footer(file: BinaryIO) -> Footer:
    """The footer of a file, wherever it stands; raises `BadFooter`."""
    try:
        end = file.seek(0, 2)
        if end < 12:
            raise BadFooter("it is too short")
        file.seek(end - 8)
        length, magic = struct.unpack("<I4s", file.read(8))
        if magic != MAGIC or length > end - 12:
            raise BadFooter("it has no footer at its end: was it closed?")
        if length > _FOOTER_BYTES:
            raise BadFooter(f"its footer has {length} bytes, and at most {_FOOTER_BYTES} are read")
        file.seek(end - 8 - length)
        return _footer(_Thrift(file.read(length)).struct())
    except (IndexError, KeyError, TypeError, AttributeError, ValueError, struct.error) as error:
        if isinstance(error, BadFooter):
            raise
        raise BadFooter(f"its footer is damaged ({type(error).__name__})") from error
    finally:
        file.seek(0)


def _footer(meta: Mapping[int, Any]) -> Footer:
    """FileMetaData: 2 schema, 3 rows, 4 row groups."""
    schema, nulls = meta[2], _nulls(meta.get(4) or [])
    columns, at = [], 1
    for _ in range(schema[0].get(5) or 0):  # SchemaElement: 5 number of children
        name = bytes(schema[at][4]).decode("utf-8")
        columns.append(Column(name, _kind(schema[at]), nulls.get(name, 0) if meta[3] else 0))
        at = _after(schema, at)
    return Footer(rows=int(meta[3]), columns=tuple(columns))


def _after(schema: list[Any], at: int) -> int:
    """The place behind an element and all below it; elements stand in depth-first order."""
    left = 1
    while left:
        left += (schema[at].get(5) or 0) - 1
        at += 1
    return at


def _kind(element: Mapping[int, Any]) -> str | None:
    """SchemaElement: 1 physical type, 6 converted type, 10 logical type. Groups have no type."""
    logical = next(iter(element.get(10) or {}), None)
    return (
        _LOGICAL.get(logical or 0)
        or _CONVERTED.get(element.get(6, -1))
        or ("text" if element.get(6) == 0 else None)
        or _PHYSICAL.get(element.get(1, -1))
    )


_PHYSICAL = {0: "boolean", 1: "integer", 2: "integer", 3: "datetime", 4: "number", 5: "number"}
_LOGICAL = {
    1: "text",
    4: "text",
    5: "number",
    6: "date",
    8: "datetime",
    10: "integer",
    12: "text",
    14: "text",
}
_CONVERTED = {4: "text", 5: "number", 6: "date", 9: "datetime", 10: "datetime", 19: "text"}
_CONVERTED |= dict.fromkeys(range(11, 19), "integer")


def _nulls(groups: list[Any]) -> dict[str, int | None]:
    """Empty cells by column, over all row groups; None where one of them does not tell."""
    found: dict[str, int | None] = {}
    for group in groups:
        for chunk in group[1]:  # RowGroup: 1 columns; ColumnChunk: 3 meta; there 3 path, 12 statistics
            path = chunk[3][3]
            name = bytes(path[0]).decode("utf-8")
            here = (chunk[3].get(12) or {}).get(3)  # Statistics: 3 null count
            known = found.get(name, 0)
            found[name] = None if here is None or known is None or len(path) > 1 else known + int(here)
    return found


class _Thrift:
    """Thrift's compact protocol, structs as dictionaries by field number."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._values = data, 0, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The struct that begins here."""
        if depth > _DEPTH:
            raise BadFooter("its footer is nested too deep")
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        self._values += 1
        if self._values > _VALUES:
            raise BadFooter(f"its footer holds more than {_VALUES} values")
        match kind:
            case 1 | 2:  # a boolean within a list
                return self._byte() == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._zigzag()
            case 7:
                return struct.unpack("<d", self._take(8))[0]
            case 8:
                return self._take(self._varint())
            case 9 | 10:
                head = self._byte()
                size = head >> 4 if head >> 4 < 15 else self._varint()
                if size > len(self._data) - self._at:
                    raise BadFooter("its footer is cut off")
                return [self._value(head & 15, depth + 1) for _ in range(size)]
            case 12:
                return self.struct(depth + 1)
            case _:
                raise BadFooter(f"its footer holds a value of unknown type {kind}")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._data):
            raise BadFooter("its footer is cut off")
        return self._data[self._at - size : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise BadFooter("a number of its footer is too long")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
