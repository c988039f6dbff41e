"""Describe every column, the links between columns, the outliers and the course of time, as one JSON."""

MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
]  # fmt: skip


def describe(values, column):
    known = values.dropna()
    rows = len(values)
    found = dict(column, present=len(known), missing_share=plain(column["missing"] / rows if rows else 0, 4))
    found["distinct"] = int(known.nunique())
    if not len(known):
        return found
    if column["type"] in NUMBERS:
        found |= describe_numbers(known)
    elif column["type"] == "date":
        found |= {
            "first": str(known.min()),
            "last": str(known.max()),
            "days": (known.max() - known.min()).days,
        }
    else:
        counts = known.value_counts().head(8)
        found["top"] = [{"value": str(value)[:80], "count": int(count)} for value, count in counts.items()]
        lengths = known.str.len()
        found["length"] = {
            "min": int(lengths.min()),
            "mean": plain(lengths.mean(), 4),
            "max": int(lengths.max()),
        }
    return found


def describe_numbers(known):
    low, middle, high = known.quantile([0.25, 0.5, 0.75])
    below, above = low - 1.5 * (high - low), high + 1.5 * (high - low)
    outside = known[(known < below) | (known > above)]
    found = {
        "min": plain(known.min()), "max": plain(known.max()), "mean": plain(known.mean()),
        "std": plain(known.std()) if len(known) > 1 else None, "zeros": int((known == 0).sum()),
        "quartiles": [plain(low), plain(middle), plain(high)],
        "skew": plain(known.skew(), 3) if len(known) > 2 and known.nunique() > 1 else None,
        "outliers": {"count": len(outside), "below": plain(below), "above": plain(above)},
    }  # fmt: skip
    extremes = outside.iloc[(outside - middle).abs().argsort()[::-1]] if len(outside) else outside
    found["outliers"]["examples"] = [plain(value) for value in extremes.drop_duplicates().head(5)]
    return found


def correlations(frame, facts):
    """Pairs of numeric columns by the strength of their rank correlation."""
    places = varying(frame, of_type(facts, *NUMBERS))
    if len(places) < 2:
        return []
    linear, ranks = frame[places].corr(min_periods=3), frame[places].rank().corr(min_periods=3)
    pairs = []
    for at, a in enumerate(places):
        for b in places[at + 1 :]:
            r, rank = linear.loc[a, b], ranks.loc[a, b]
            if r == r and rank == rank:
                rows = int((frame[a].notna() & frame[b].notna()).sum())
                pair = {"a": facts[a]["name"], "b": facts[b]["name"], "rows": rows}
                pairs.append(pair | {"pearson": plain(r, 3), "spearman": plain(rank, 3)})
    return sorted(pairs, key=lambda pair: -abs(pair["pearson"]))[:20]


def group_effects(frame, facts):
    """How much of a number's variance the groups of a category explain (eta squared)."""
    effects = []
    for group in varying(frame, of_type(facts, "category", "boolean"), 15):
        for place in varying(frame, of_type(facts, *NUMBERS), 15):
            both = frame[[group, place]].dropna()
            total = both[place].var(ddof=0)
            groups = both.groupby(group)[place].agg(["mean", "count"])
            if len(both) < 10 or len(groups) < 2 or not total > 0 or len(groups) * 2 > len(both):
                continue
            between = (groups["count"] * (groups["mean"] - both[place].mean()) ** 2).sum() / len(both)
            if between > 0.995 * total:
                continue  # the number is a property of the group: true, and no finding
            means = groups["mean"].sort_values()
            low = {"group": str(means.index[0])[:60], "mean": plain(means.iloc[0])}
            high = {"group": str(means.index[-1])[:60], "mean": plain(means.iloc[-1])}
            effects.append({"by": facts[group]["name"], "of": facts[place]["name"], "low": low, "high": high,
                            "share": plain(between / total, 3)})  # fmt: skip
    return sorted(effects, key=lambda effect: -effect["share"])[:10]


def course_of_time(frame, facts):
    """Rows by year and month of the main date column, and each number's drift with time."""
    place = main_date(frame, facts)
    if place is None:
        return None
    when = frame[place].dropna()
    months, years = when.dt.month.value_counts(), when.dt.year.value_counts().sort_index()
    weekdays = when.dt.day_name().value_counts()
    gaps = when.drop_duplicates().sort_values().diff().dropna()
    found = {
        "date": facts[place]["name"], "first": str(when.min()), "last": str(when.max()),
        "days": (when.max() - when.min()).days,
        "years": {str(year): int(count) for year, count in years.tail(200).items()},
        "months": {MONTHS[month - 1]: int(months.get(month, 0)) for month in range(1, 13)},
        "weekdays": {str(day): int(count) for day, count in weekdays.items()},
        "longest_gap_days": plain(gaps.max().total_seconds() / 86400, 4) if len(gaps) else None,
        "drift": [],
    }  # fmt: skip
    for number in varying(frame, of_type(facts, *NUMBERS), 15):
        both = frame[[place, number]].dropna()
        if len(both) > 2 and both[number].nunique() > 1 and both[place].nunique() > 1:
            days = (both[place] - both[place].min()).dt.total_seconds()
            found["drift"].append(
                {"column": facts[number]["name"], "pearson": plain(days.corr(both[number]), 3)}
            )
    found["drift"].sort(key=lambda item: -abs(item["pearson"] or 0))
    return found


def tell(profile):
    """The findings as sentences with their numbers."""
    columns = profile["columns"]
    lines = [*tell_gaps(profile), *tell_links(profile), *tell_time(profile["time"]), *tell_outliers(columns)]
    constant = [column["name"] for column in columns if column["distinct"] == 1 and profile["rows"] > 1]
    if constant:
        lines.append(f"One value only is in {', '.join(constant[:5])}.")
    if profile["repeated_rows"]:
        lines.append(f"{profile['repeated_rows']} rows repeat an earlier row exactly.")
    return lines


def tell_gaps(profile):
    columns = profile["columns"]
    gaps = [column for column in columns if column["missing"]]
    if not gaps:
        return [f"No value is missing in {many(len(columns), 'column')}."]
    worst = max(gaps, key=lambda column: column["missing"])
    share = f"{worst['missing']} of {profile['rows']} ({worst['missing_share']:.1%})"
    have = "has" if len(gaps) == 1 else "have"
    return [f"{len(gaps)} of {len(columns)} columns {have} gaps; most are in {worst['name']}: {share}."]


def tell_links(profile):
    lines = []
    for pair in profile["correlations"][:2]:
        if abs(pair["pearson"]) >= 0.3:
            way = "rise together" if pair["pearson"] > 0 else "move in opposite directions"
            strength = f"correlation {pair['pearson']:+.2f} (ranks {pair['spearman']:+.2f})"
            lines.append(f"{pair['a']} and {pair['b']} {way}: {strength} over {pair['rows']} rows.")
    for effect in profile["group_effects"][:2]:
        if effect["share"] >= 0.1:
            low, high = effect["low"], effect["high"]
            means = f"{low['mean']:g} for {low['group']} and {high['mean']:g} for {high['group']}"
            share = f"{effect['share']:.0%} of the variance of {effect['of']}"
            lines.append(f"{effect['by']} explains {share}: its mean is {means}.")
    return lines


def tell_time(time):
    if not time:
        return []
    kinds = time["months"] if time["days"] >= 330 else time["weekdays"]
    kinds = sorted(kinds.items(), key=lambda kind: -kind[1])
    extremes = f"{kinds[0][0]} has the most rows ({kinds[0][1]})"
    if kinds[0][1] <= 1.1 * kinds[-1][1]:
        extremes = (
            f"rows are spread evenly over the {'months' if time['days'] >= 330 else 'days of the week'}"
        )
    elif len(kinds) > 1:
        extremes += f" and {kinds[-1][0]} the fewest ({kinds[-1][1]})"
    lines = [f"{time['date']} runs from {time['first'][:10]} to {time['last'][:10]}; {extremes}."]
    for item in time["drift"][:1]:
        if abs(item["pearson"] or 0) >= 0.3:
            way = "rises" if item["pearson"] > 0 else "falls"
            lines.append(f"{item['column']} {way} with {time['date']}: correlation {item['pearson']:+.2f}.")
    return lines


def tell_outliers(columns):
    odd = [column for column in columns if column.get("outliers", {}).get("count")]
    if not odd:
        return []
    column = max(odd, key=lambda column: column["outliers"]["count"])
    found = column["outliers"]
    limits = f"{found['below']:g} to {found['above']:g} (1.5 interquartile ranges)"
    return [
        f"{column['name']} has {found['count']} outliers outside {limits}, such as {found['examples'][0]:g}."
    ]


def main():
    frame, facts, cleaning = load()
    profile = {
        "rows": len(frame),
        "columns": [describe(frame[place], column) for place, column in enumerate(facts)],
        "correlations": correlations(frame, facts),
        "group_effects": group_effects(frame, facts),
        "time": course_of_time(frame, facts),
        "repeated_rows": cleaning["repeated_rows"],
        "notes": cleaning["notes"],
    }
    profile["findings"] = tell(profile)
    write_json(PARAMS["profile"], profile)
    print(f"{many(profile['rows'], 'row')}, {many(len(facts), 'column')}.", *profile["findings"][:3])


main()
