"""What the programs after `clean` share: the cleaned table as typed columns."""

import json
import math
import os
import warnings

import pandas as pd

PARAMS = {}

warnings.filterwarnings("ignore")
NUMBERS = ("integer", "number")


def read_json(name):
    with open(f"in/{name}", encoding="utf-8") as file:
        return json.load(file)


def target(name, suffix):
    """out/<name>, with a suffix when the name has none."""
    return os.path.join("out", name if "." in name else name + suffix)


def write_json(name, value):
    with open(target(name, ".json"), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=False)


def plain(number, digits=6):
    """A float that JSON can hold (None where there is none), in few significant digits."""
    number = float(number)
    if not math.isfinite(number):
        return None
    return float(f"{number:.{digits}g}") if abs(number) < 1e15 else number


def many(number, word):
    """1 row, 2 rows."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def load():
    """The cleaned table, its columns numbered, and the facts of each column from the cleaning."""
    cleaning = read_json(PARAMS["facts"])
    facts = cleaning["columns"]
    places = list(range(len(facts)))
    frame = pd.read_csv(
        f"in/{PARAMS['cleaned']}", dtype=str, keep_default_na=False, header=0, names=places,
        index_col=False, skip_blank_lines=False, encoding="utf-8",
    )  # fmt: skip
    for place, column in enumerate(facts):
        text = frame[place].where(frame[place] != "")
        if column["type"] in NUMBERS:
            frame[place] = pd.to_numeric(text, errors="coerce").astype(float)
        elif column["type"] == "date":
            frame[place] = pd.to_datetime(text, format="ISO8601", errors="coerce")
        else:
            frame[place] = text
    return frame, facts, cleaning


def of_type(facts, *types):
    """Places of the columns of these types that hold more than one distinct value or any at all."""
    return [place for place, column in enumerate(facts) if column["type"] in types]


def varying(frame, places, most=40):
    """The first `most` of `places` whose values differ."""
    return [place for place in places if frame[place].nunique() > 1][:most]


def main_date(frame, facts):
    """The date column with the most values, or None."""
    dates = varying(frame, of_type(facts, "date"))
    return max(dates, key=lambda place: frame[place].notna().sum(), default=None)
