"""Runs in the sandbox, never imported: columns of the Parquet file in/table as CSV, for `values`.

stdin is a JSON list of column names; their values go to out/values.csv in that order, below a header of numbers. A
null, and a float that is no number, is an empty cell; a value is its text behind `=`. Types that fastparquet does not
keep exactly (decimals become floats, dates nanoseconds) are taken as they are stored and written here.
"""

import csv
import json
import sys
from uuid import UUID

import numpy as np
import pandas as pd
from fastparquet import ParquetFile, parquet_thrift

ROWS = 50_000  # made into text at a time
TYPES = parquet_thrift.ConvertedType
KEPT = {
    TYPES.UTF8, TYPES.UINT_8, TYPES.UINT_16, TYPES.UINT_32, TYPES.UINT_64,
    TYPES.TIMESTAMP_MILLIS, TYPES.TIMESTAMP_MICROS,
}  # fmt: skip


def opened(path):
    """The file without what it says of pandas (time zones, categories, integers that had no nulls) and of types that
    are not kept, and by name what each column was said to be."""
    file = ParquetFile(path)
    said = {
        name: (element.converted_type, element.scale or 0, element.type_length or 0, is_uuid(element))
        for name, element in file.schema.root["children"].items()
    }
    for element in file.fmd.schema:
        if element.converted_type not in KEPT:
            element.converted_type = None
    file.fmd.key_value_metadata = []
    file._base_dtype = None  # worked out from both before
    return file[:], said


def is_uuid(element):
    """Whether the bytes of a column are UUIDs."""
    return getattr(element.logicalType, "UUID", None) is not None


def text(value):
    """A value as text; bytes that are no UTF-8 with escapes."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def number(value, scale, length):
    """A decimal, stored as an integer or as the bytes of one (without the zeros at its end)."""
    if isinstance(value, bytes):
        value = int.from_bytes(value.ljust(length, b"\0"), "big", signed=True)
    digits = str(abs(value)).rjust(scale + 1, "0")
    whole = digits if not scale else f"{digits[:-scale]}.{digits[-scale:]}"
    return f"-{whole}" if value < 0 else whole


def texts(column, converted, scale, length, uuids):
    """The values of some rows of a column, None for what is empty."""
    if column.dtype.kind == "M":
        found = np.datetime_as_string(column.to_numpy()).tolist()
        return [None if moment == "NaT" else moment.rstrip("0").rstrip(".") for moment in found]
    if converted == TYPES.DECIMAL:

        def one(value):
            return number(value, scale, length)
    elif converted == TYPES.DATE:

        def one(value):
            return str(np.datetime64(value, "D"))
    elif uuids:

        def one(value):
            return str(UUID(bytes=value.ljust(16, b"\0")))
    else:
        one = text
    cells = column.to_numpy() if column.dtype == "float32" else column.tolist()
    return [None if cell is None or cell is pd.NA or cell != cell else one(cell) for cell in cells]


def main():
    """Row group by row group."""
    names = json.load(sys.stdin)
    file, said = opened("in/table")
    if nested := [name for name in names if name not in file.columns]:
        sys.exit(f"{', '.join(nested)}: nested columns are not read")
    with open("out/values.csv", "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(range(len(names)))
        for group in range(len(file.row_groups)):
            frame = file[group].to_pandas(columns=list(dict.fromkeys(names)), index=False)
            for at in range(0, len(frame), ROWS):
                some = frame.iloc[at : at + ROWS]
                columns = [texts(some[name], *said[name]) for name in names]
                writer.writerows(
                    [None if cell is None else f"={cell}" for cell in row]
                    for row in zip(*columns, strict=True)
                )


main()
