"""Write clock_changes.csv from the time zone database installed on this machine (Debian: package tzdata).

A row is one change of a clock: the instant at which a zone of `zone1970.tab` moved to another offset from
UTC, another daylight-saving state or another abbreviation. `python make_data.py` rewrites the file.
"""

from __future__ import annotations

import csv
import struct
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

ZONEINFO = Path("/usr/share/zoneinfo")
FIRST, LAST = datetime(1900, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 1, tzinfo=timezone.utc)
CONTINENTS = ("Australia", "Europe")
COLUMNS = [
    "date", "hour_utc", "zone", "continent", "country", "latitude", "longitude", "area",
    "offset_before_hours", "offset_after_hours", "shift_minutes", "daylight_saving", "abbreviation",
    "days_since_last_change",
]  # fmt: skip


def coordinates(text: str) -> tuple[float, float]:
    """Degrees of an ISO 6709 string such as +4230+00131 or -690022+0393524."""
    split = max(text.rfind("+"), text.rfind("-"))
    return degrees(text[:split], 2), degrees(text[split:], 3)


def degrees(text: str, digits: int) -> float:
    """Degrees of a signed DDMM, DDDMM, DDMMSS or DDDMMSS."""
    whole, minutes, seconds = text[1 : 1 + digits], text[1 + digits : 3 + digits], text[3 + digits :] or "0"
    value = int(whole) + int(minutes) / 60 + int(seconds) / 3600
    return round(-value if text[0] == "-" else value, 4)


def transitions(zone: str) -> Iterator[tuple[int, tuple[int, int, str], tuple[int, int, str]]]:
    """(instant, type before, type after) of a compiled zone file (RFC 8536); a type is (offset, dst, name)."""
    data = (ZONEINFO / zone).read_bytes()
    small = struct.unpack(">6l", data[20:44])
    at = 44 + small[3] * 5 + small[4] * 6 + small[5] + small[2] * 8 + small[1] + small[0]
    _, _, _, times, types, letters = struct.unpack(">6l", data[at + 20 : at + 44])
    at += 44
    instants = struct.unpack(f">{times}q", data[at : at + 8 * times])
    indexes = data[at + 8 * times : at + 9 * times]
    at += 9 * times
    names = data[at + 6 * types : at + 6 * types + letters]
    kinds = []
    for index in range(types):
        offset, dst, name = struct.unpack(">lBB", data[at + 6 * index : at + 6 * index + 6])
        kinds.append((offset, dst, names[name : names.index(0, name)].decode()))
    before = kinds[0]
    for instant, index in zip(instants, indexes, strict=True):
        yield instant, before, kinds[index]
        before = kinds[index]


def rows() -> Iterator[list[object]]:
    """The rows of the table, unsorted."""
    countries = dict(
        line.split("\t")
        for line in (ZONEINFO / "iso3166.tab").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    for line in (ZONEINFO / "zone1970.tab").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        codes, place, zone, *area = line.split("\t")
        if zone.split("/")[0] not in CONTINENTS:
            continue
        latitude, longitude = coordinates(place)
        last: datetime | None = None
        for instant, before, after in transitions(zone):
            when = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=instant)
            if not FIRST <= when < LAST or before == after:
                continue
            yield [
                when.date().isoformat(), round(when.hour + when.minute / 60, 2), zone, zone.split("/")[0],
                countries[codes.split(",")[0]], latitude, longitude, area[0] if area else "",
                round(before[0] / 3600, 4), round(after[0] / 3600, 4), round((after[0] - before[0]) / 60, 2),
                "yes" if after[1] else "no", after[2] if after[2][0].isalpha() else "",
                (when - last).days if last else "",
            ]  # fmt: skip
            last = when


def main() -> None:
    """Write the file beside this script."""
    with (Path(__file__).parent / "clock_changes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows(), key=lambda row: (row[0], row[2])))


if __name__ == "__main__":
    sys.exit(main())
