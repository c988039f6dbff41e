"""A closer look at what the profile found: time, the strongest link, groups, gaps. One JSON of tables."""

import numpy as np

MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
]  # fmt: skip


def section(title, text, header, rows):
    return {
        "title": title,
        "text": text,
        "header": header,
        "rows": [[str(cell) for cell in row] for row in rows],
    }


def place_of(facts, name):
    return next(place for place, column in enumerate(facts) if column["name"] == name)


def by_month(frame, facts, profile):
    """How rows and the most drifting numbers go with the month of the main date."""
    date = place_of(facts, profile["time"]["date"])
    frame = frame[frame[date].notna()]
    months = frame[date].dt.month
    numbers = [place_of(facts, item["column"]) for item in profile["time"]["drift"][:3]]
    counts, means = months.value_counts(), {place: frame[place].groupby(months).mean() for place in numbers}
    rows = []
    for month in sorted(counts.index):
        row = [MONTHS[month - 1], counts[month], f"{counts[month] / len(frame):.1%}"]
        rows.append(row + [f"{means[place].get(month, float('nan')):.4g}" for place in numbers])
    top = counts.sort_values(ascending=False).head(2)
    even = len(frame) / 12
    names = " and ".join(MONTHS[month - 1] for month in top.index)
    part = top.sum() / len(frame)
    text = f"{names} hold {part:.0%} of the {len(frame)} dated rows; an even year would give each {even:.0f}."
    header = ["month", "rows", "share", *[f"mean {facts[place]['name']}" for place in numbers]]
    return section(f"{facts[date]['name']} by month", text, header, rows)


def by_period(frame, facts, profile):
    """The same dates over the years: which periods are busy, which are empty."""
    date = place_of(facts, profile["time"]["date"])
    when = frame[date].dropna()
    years = when.dt.year
    span = int(years.max() - years.min()) + 1
    if span < 2:
        weekdays = when.dt.day_name().value_counts()
        rows = [[day, count, f"{count / len(when):.1%}"] for day, count in weekdays.items()]
        return section(
            "By day of the week", f"{weekdays.index[0]} has the most rows.", ["day", "rows", "share"], rows
        )
    step = 10 if span > 30 else 5 if span > 15 else 1
    starts = (years // step * step).value_counts().sort_index()
    name = (lambda start: f"{start} to {start + step - 1}") if step > 1 else str
    rows = [[name(start), count, f"{count / len(when):.1%}"] for start, count in starts.items()]
    most, fewest = starts.idxmax(), starts.idxmin()
    text = f"Most rows fall into {name(most)} ({starts[most]}), "
    text += f"the fewest into {name(fewest)} ({starts[fewest]})."
    return section("Over the years", text, ["period", "rows", "share"], rows)


def strongest_link(frame, facts, profile):
    """Does the strongest correlation hold over the whole range? The second number by fifths of the first."""
    pair = profile["correlations"][0]
    a, b = place_of(facts, pair["a"]), place_of(facts, pair["b"])
    both = frame[[a, b]].dropna()
    fifths = pd.qcut(both[a], 5, duplicates="drop")
    groups = both.groupby(fifths, observed=True)
    rows = []
    for _, part in groups:
        span = f"{part[a].min():.6g} to {part[a].max():.6g}"
        rows.append([span, len(part), f"{part[b].mean():.4g}", f"{part[b].median():.4g}"])
    slope, start = np.polyfit(both[a], both[b], 1)
    text = (f"{pair['b']} ≈ {start:.4g} {'+' if slope >= 0 else '-'} {abs(slope):.4g} × {pair['a']} explains "
            f"{pair['pearson'] ** 2:.0%} of its variance over {len(both)} rows.")  # fmt: skip
    return section(
        f"{pair['b']} against {pair['a']}", text, [pair["a"], "rows", f"mean {pair['b']}", "median"], rows
    )


def strongest_group(frame, facts, profile):
    """The groups that explain most of a number, by their means."""
    effect = profile["group_effects"][0]
    group, number = place_of(facts, effect["by"]), place_of(facts, effect["of"])
    means = frame.groupby(group)[number].agg(["count", "mean", "median"]).sort_values("mean", ascending=False)
    shown = means if len(means) <= 12 else pd.concat([means.head(6), means.tail(6)])
    rows = [
        [str(name)[:60], int(row["count"]), f"{row['mean']:.4g}", f"{row['median']:.4g}"]
        for name, row in shown.iterrows()
    ]
    cut = "" if len(means) <= 12 else f" Shown are the six highest and the six lowest of {len(means)} groups."
    text = f"{effect['by']} explains {effect['share']:.0%} of the variance of {effect['of']}.{cut}"
    return section(f"{effect['of']} by {effect['by']}", text, [effect["by"], "rows", "mean", "median"], rows)


def gaps(frame, facts):
    """Where the column with most missing values is empty: its share within each value of a category."""
    worst = max(range(len(facts)), key=lambda place: facts[place]["missing"])
    best = None
    for group in varying(frame, of_type(facts, "category", "boolean"), 15):
        if group == worst:
            continue
        shares = frame[worst].isna().groupby(frame[group]).agg(["mean", "size"])
        shares = shares[shares["size"] >= 5]
        if len(shares) < 2 or shares["mean"].max() - shares["mean"].min() < 0.05:
            continue
        if best is None or shares["mean"].std() > best[1]["mean"].std():
            best = (group, shares.sort_values("mean", ascending=False))
    share = facts[worst]["missing"] / max(1, len(frame))
    text = f"{facts[worst]['name']} is missing in {share:.1%} of the rows."
    if best is None:
        return section(f"Gaps in {facts[worst]['name']}", text, [], [])
    group, shares = best
    name = facts[group]["name"]
    text += f" By {name} it ranges from {shares['mean'].min():.0%} to {shares['mean'].max():.0%}."
    rows = [
        [str(value)[:60], int(row["size"]), f"{row['mean']:.1%}"] for value, row in shares.head(10).iterrows()
    ]
    return section(f"Gaps in {facts[worst]['name']}", text, [name, "rows", "missing"], rows)


def frequent_values(frame, facts):
    """When nothing else is to be seen: the most frequent values of the fullest column."""
    place = max(range(len(facts)), key=lambda place: frame[place].notna().sum())
    counts = frame[place].dropna().astype(str).value_counts().head(10)
    rows = [[value[:60], count] for value, count in counts.items()]
    text = f"{facts[place]['name']} holds {frame[place].nunique()} different values in {len(frame)} rows."
    return section(f"Values of {facts[place]['name']}", text, ["value", "rows"], rows)


def main():
    frame, facts, _ = load()
    profile = read_json(PARAMS["profile"])
    sections = []
    if profile["time"]:
        sections += [by_month(frame, facts, profile)] if profile["time"]["days"] >= 330 else []
        sections.append(by_period(frame, facts, profile))
    if profile["correlations"]:
        sections.append(strongest_link(frame, facts, profile))
    if profile["group_effects"]:
        sections.append(strongest_group(frame, facts, profile))
    if any(column["missing"] for column in facts):
        sections.append(gaps(frame, facts))
    sections = sections or [frequent_values(frame, facts)]
    write_json(PARAMS["patterns"], {"sections": sections})
    print(*[part["text"] for part in sections[:3]])


main()
