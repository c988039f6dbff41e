"""Read a CSV whatever its encoding, delimiter, quoting and header, and write it as a plain one.

Writes the cleaned table (UTF-8, commas, ISO dates, plain numbers) and a JSON of what was decided: the column
names, types and missing values, and notes on everything that was changed. Loses no row.
"""

import collections
import csv
import itertools
import json
import os
import re
import sys
import warnings

import pandas as pd

PARAMS = {"data": "data", "cleaned": "cleaned", "facts": "column_facts", "max_rows": 0}

MISSING = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip
BOOLEANS = {"true": "true", "yes": "true", "false": "false", "no": "false"}
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}|\d{1,2}([-/])\d{1,2}\3\d{2}|\d\d\.\d\d\.\d\d"
    r"|\d{1,2}[- ][^\W\d]{3,9}[- ]\d{2,4}|[^\W\d]{3,9} \d{1,2}, \d{4})([ T].*)?"
    r"|(19|20)\d\d-(0[1-9]|1[0-2])|[^\W\d]{3,9} (19|20)\d\d"
)
FORMS = ["%d.%m.%Y", "%d.%m.%y", "%Y/%m/%d", "%Y.%m.%d", "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y",
         "%b %d, %Y", "%B %d, %Y", "%b %Y", "%B %Y"]  # fmt: skip
DAY_FIRST = ["%d/%m/%Y", "%d/%m/%y", "%d-%m-%Y", "%d-%m-%y"]
MONTH_FIRST = ["%m/%d/%Y", "%m/%d/%y", "%m-%d-%Y", "%m-%d-%y"]
CLOCKS = ["", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p"]
NOTES = []
warnings.filterwarnings("ignore")


def refuse(why):
    print(f"cannot read {PARAMS['data']} as a table: {why}", file=sys.stderr)
    sys.exit(2)


def decode(data):
    """The text of the file, and the name of its encoding."""
    if not data.strip():
        refuse("the file is empty")
    known = {b"PAR1": "Parquet", b"PK\x03\x04": "a ZIP or Excel file", b"\x1f\x8b": "gzip", b"%PDF": "PDF"}
    for magic, kind in known.items():
        if data.startswith(magic):
            refuse(f"it is {kind}, not CSV")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    elif data[1:400:2].count(0) > 100 or (len(data) < 400 and data[1::2].count(0) * 2 > len(data[1::2])):
        encodings = ["utf-16-le"]
    else:
        encodings = ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        refuse("it is binary, not text")
    controls = sum(text[:100_000].count(chr(code)) for code in [*range(9), *range(14, 32), 127])
    if controls * 100 > min(len(text), 100_000) or "\0" in text:
        refuse("it is binary, not text")
    if encoding != "utf-8-sig":
        NOTES.append(f"The file was read as {encoding}.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def refuse_other_formats(text):
    """JSON and markup would pass for tables of one odd column."""
    start = text.lstrip()[:200].lower()
    if start.startswith(("<!doctype", "<html", "<?xml", "<svg")):
        refuse("it is HTML or XML, not CSV")
    if start.startswith(("{", "[")):
        try:
            json.loads(text)
        except ValueError:
            return
        refuse("it is JSON, not CSV")


def lines(text):
    """The lines one by one: a StringIO would take four bytes for each character."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def parse(text, delimiter, **options):
    return csv.reader(lines(text), delimiter=delimiter, skipinitialspace=True, **options)


def find_delimiter(text):
    """The candidate under which most rows of a sample have the same width, above one."""
    sample = text[:65536]
    if len(text) > len(sample):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best = (0.7, 1, ",")
    for delimiter in DELIMITERS:
        widths = collections.Counter(len(row) for row in parse(sample, delimiter) if row)
        width, rows = max(widths.items(), key=lambda item: (item[1], item[0]))
        if width > 1:
            best = max(best, (round(rows / widths.total(), 2), width, delimiter))
    return best[2]


def read_rows(text, delimiter):
    rows = [row for row in parse(text, delimiter) if row]
    widest = max((cell.count("\n") for row in rows for cell in row), default=0)
    if text.count('"') % 2 and widest > 20:
        NOTES.append("A quote is never closed: quotes were taken as ordinary characters.")
        rows = [row for row in parse(text, delimiter, quoting=csv.QUOTE_NONE) if row]
    return rows


def usual_width(rows):
    """Cells of most rows, 0 without any."""
    return max(
        collections.Counter(map(len, rows)).items(), key=lambda item: (item[1], item[0]), default=(0, 0)
    )[0]


def without_preamble(rows):
    """The rows without the title and comment lines before the header."""
    usual = usual_width(rows)
    start = 0
    while start < len(rows) - 1 and len(rows[start]) != usual > 1:
        if len(rows[start]) > 1 and not rows[start][0].startswith("#"):
            break
        start += 1
    if start:
        NOTES.append(f"Lines of title or comment before the header, left out: {start}.")
    return rows[start:]


def is_value(cell):
    return bool(PLAIN.fullmatch(cell) or DATE.fullmatch(cell))


def has_header(rows):
    """A header names; it does not look like the values below it."""
    first, rest = [cell.strip() for cell in rows[0]], rows[1:200]
    values = [cell for cell in first if is_value(cell)]
    if len(values) == len([cell for cell in first if cell]):
        return False
    steps = {int(b) - int(a) for a, b in itertools.pairwise(values) if a.isdigit() and b.isdigit()}
    if len(values) > 1 and len(steps) == 1 and 0 not in steps:  # a name, then 2019, 2020, 2021
        return True
    votes = 0
    for index, cell in enumerate(first):
        below = [row[index].strip() for row in rest if index < len(row) and row[index].strip() not in MISSING]
        if below and sum(map(is_value, below)) >= 0.9 * len(below):
            votes += -1 if is_value(cell) else 1
    return votes > 0 or (votes == 0 and not values)


def mend_widths(rows, width, delimiter):
    """Every row gets `width` cells: short ones are filled up, overflow joins the last cell."""
    short = long = 0
    for row in rows:
        if len(row) < width:
            short += 1
            row.extend([""] * (width - len(row)))
        elif len(row) > width:
            long += 1
            row[width - 1 :] = [f"{delimiter} ".join(row[width - 1 :])]  # with a space: not a decimal comma
    if short or long:
        NOTES.append(f"Rows mended because they were not {width} cells wide: {short} shorter, {long} longer.")


def unique_names(header):
    names = []
    for index, cell in enumerate(header):
        name = base = " ".join(cell.split()) or f"column_{index + 1}"
        number = 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
    return names


def plain_form(text):
    return text


def bare(text):
    """Without a currency before, or a currency or percent sign behind."""
    text = text.str.replace(r"^([-+]?)\s?[$€£¥]\s?", r"\1", regex=True)
    return text.str.replace(r"\s?[%€$£¥]$", "", regex=True)


def point_form(text):
    """1,234.5"""
    text = bare(text)
    text = text.where(text.str.fullmatch(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?"))
    return text.str.replace(",", "", regex=False)


def comma_form(text):
    """1.234,5"""
    text = bare(text)
    text = text.where(text.str.fullmatch(r"[-+]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?"))
    return text.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)


def as_numbers(name, values, delimiter):
    """Numbers of a column's values (NaN where unreadable) when at least 95 % are numbers, else None."""
    text = pd.Series(values, dtype=object)
    if text.str.match(r"[-+]?(0\d|\d{16,}$)").any():
        return None  # codes such as 00123, or too long to be exact
    forms = [point_form, comma_form]
    for form in [plain_form, *(reversed(forms) if delimiter == ";" else forms)]:
        if parsed(form(text.head(1000))).notna().mean() < 0.9:
            continue  # a look at the first rows spares most columns of words the rest
        numbers = parsed(form(text))
        if numbers.notna().mean() >= 0.95:
            if form is comma_form:
                NOTES.append(f"The comma in {name} was read as a decimal comma.")
            return numbers
    return None


def parsed(text):
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    return numbers.where(numbers.abs() < 1e300)


def as_dates(name, values, delimiter):
    """Dates of a column's values (NaT where unreadable) when at least 95 % are dates, else None."""
    text = pd.Series(values, dtype=object)
    dated = re.search(r"date|day|datum|time|tag", name.lower())
    if dated and text.str.fullmatch(r"(19|20)\d{6}").all():
        return pd.to_datetime(text, format="%Y%m%d", errors="coerce")
    if text.head(1000).str.fullmatch(DATE).mean() < 0.9 or text.str.fullmatch(DATE).mean() < 0.95:
        return None
    iso = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
    dates = pd.Series(iso.to_numpy())
    sides = text.str.extract(r"^(\d{1,2})[-/](\d{1,2})[-/]\d").dropna().astype(int)
    day_first = (sides[0] > 12).any() or (not (sides[1] > 12).any() and delimiter == ";")
    if len(sides) and not (sides > 12).any().any():
        order = "day before month" if day_first else "month before day"
        NOTES.append(f"Dates of {name} fit both orders; they were read as {order}.")
    for clock in CLOCKS:
        for form in (DAY_FIRST if day_first else MONTH_FIRST) + FORMS:
            unread = dates.isna()
            if not unread.any():
                return dates
            dates[unread] = pd.to_datetime(text[unread], format=form + clock, errors="coerce")
    return dates if dates.notna().mean() >= 0.95 else None


def convert(name, cells, delimiter):
    """The cleaned cells of a column and its facts."""
    cells = ["" if cell in MISSING else cell for cell in map(str.strip, cells)]
    present = [index for index, cell in enumerate(cells) if cell]
    values = [cells[index] for index in present]
    facts = {"name": name, "type": "empty", "missing": len(cells) - len(values), "unreadable": 0}
    if not values:
        return cells, facts
    distinct = set(values)
    if len(distinct) < 10 and {value.lower() for value in distinct} <= set(BOOLEANS):
        facts["type"], new = "boolean", [BOOLEANS[value.lower()] for value in values]
    elif (dates := as_dates(name, values, delimiter)) is not None:
        whole = (dates.dropna() == dates.dropna().dt.normalize()).all()
        facts["type"], facts["unreadable"] = "date", int(dates.isna().sum())
        new = dates.dt.strftime("%Y-%m-%d" if whole else "%Y-%m-%d %H:%M:%S").fillna("").tolist()
    elif (numbers := as_numbers(name, values, delimiter)) is not None:
        known = numbers.dropna()
        integer = bool((known % 1 == 0).all() and (known.abs() < 2**53).all())
        facts["type"], facts["unreadable"] = "integer" if integer else "number", int(numbers.isna().sum())
        new = [
            "" if number != number else str(int(number)) if integer else repr(number)
            for number in numbers.tolist()
        ]
    else:
        facts["type"] = "category" if len(distinct) <= 50 and len(distinct) * 2 <= len(values) else "text"
        new = values
    for index, value in zip(present, new):
        cells[index] = value
    if facts["unreadable"]:
        NOTES.append(f"Values of {name} that are no {facts['type']}, left empty: {facts['unreadable']}.")
    return cells, facts


def main():
    csv.field_size_limit(2**31 - 1)
    with open(f"in/{PARAMS['data']}", "rb") as file:
        text = decode(file.read())
    refuse_other_formats(text)
    delimiter = find_delimiter(text)
    if delimiter != ",":
        NOTES.append(f"Cells were separated by {DELIMITERS[delimiter]}s.")
    rows = without_preamble(read_rows(text, delimiter))
    del text
    if not rows:
        refuse("it holds no row")
    header = has_header(rows)
    if header:
        names = rows.pop(0)
    else:
        names = [""] * usual_width(rows)
        NOTES.append("The file has no header; columns are numbered.")
    if PARAMS["max_rows"] and len(rows) > PARAMS["max_rows"]:
        NOTES.append(f"Only the first {PARAMS['max_rows']} of {len(rows)} rows were read, to save memory.")
        del rows[PARAMS["max_rows"] :]
    if sum(len(row) > len(names) for row in rows) * 2 > len(rows):
        names += [""] * (usual_width(rows) - len(names))
    mend_widths(rows, len(names), delimiter)
    repeated = len(rows) - len({hash(tuple(row)) for row in rows})
    columns = [list(cells) for cells in zip(*rows)] if rows else [[] for _ in names]
    count = len(rows)
    del rows
    kept = [i for i, name in enumerate(names) if name.strip() or not rows_empty(columns[i])] or [0]
    named = unique_names(["" if not names[i].strip() else names[i] for i in kept])
    facts = []
    for place, index in enumerate(kept):
        columns[index], found = convert(named[place], columns[index], delimiter)
        facts.append(found)
    write(named, [columns[index] for index in kept])
    cleaning = {
        "rows": count,
        "columns": facts,
        "delimiter": DELIMITERS[delimiter],
        "header": header,
        "repeated_rows": repeated,
        "notes": NOTES,
    }
    with open(target(PARAMS["facts"], ".json"), "w", encoding="utf-8") as file:
        json.dump(cleaning, file, ensure_ascii=False, indent=1)
    kinds = collections.Counter(found["type"] for found in facts)
    kinds = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    print(f"{count} rows and {len(facts)} columns ({kinds}), {DELIMITERS[delimiter]}-separated.", *NOTES)


def rows_empty(cells):
    return not any(cell.strip() for cell in cells)


def target(name, suffix):
    """out/<name>, with a suffix when the name has none."""
    return os.path.join("out", name if "." in name else name + suffix)


def write(names, columns):
    with open(target(PARAMS["cleaned"], ".csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*columns))


main()
