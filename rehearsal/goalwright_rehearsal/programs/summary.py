"""The summary other programs read: rows, and each column's name, type and missing values."""

frame, facts, cleaning = load()
columns = [
    {"name": column["name"], "type": column["type"], "missing": column["missing"],
     "unreadable": column["unreadable"], "distinct": int(frame[place].nunique())}
    for place, column in enumerate(facts)
]  # fmt: skip
summary = {"rows": len(frame), "columns": columns, "repeated_rows": cleaning["repeated_rows"]}
summary["made_by"] = "a program of Goalwright's rehearsal model, which has no intelligence"
write_json(PARAMS["summary"], summary)
missing = sum(column["missing"] for column in columns)
print(f"{many(len(frame), 'row')}, {many(missing, 'value')} missing in {many(len(columns), 'column')}.")
