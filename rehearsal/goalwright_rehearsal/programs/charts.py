"""Draw what the columns hold: gaps, distributions, categories, links, outliers, the course of time."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

FOLDER = os.path.join("out", PARAMS["charts"])
INK, SHADE = "#1f4e79", "#c44e52"
CHARTS = []


def label(text, most=28):
    """A name as a chart can show it: short, and never read as a formula."""
    text = " ".join(str(text).split())
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")


def save(figure, title, caption):
    file = f"{len(CHARTS) + 1:02}_{title.lower().replace(' ', '_')}.png"
    figure.tight_layout()
    figure.savefig(os.path.join(FOLDER, file), dpi=90)
    plt.close(figure)
    CHARTS.append({"file": file, "title": title, "caption": caption})


def grid(count, width=3.6, height=2.7):
    """A figure of `count` panels, at most three in a row."""
    across = min(3, count)
    down = -(-count // across)
    figure, axes = plt.subplots(
        down, across, figsize=(width * across + 0.6, height * down + 0.3), squeeze=False
    )
    panels = list(axes.flat)
    for spare in panels[count:]:
        spare.axis("off")
    return figure, panels


def draw_columns(frame, facts):
    """How full each column is; every table has this one."""
    shown = facts[:40]
    figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.26 * len(shown)))
    names = [f"{label(column['name'])} ({column['type']})" for column in shown]
    rows = max(1, len(frame))
    missing = [100 * column["missing"] / rows for column in shown]
    places = range(len(shown))
    axis.barh(places, [100 - part for part in missing], color=INK, label="present")
    axis.barh(places, missing, left=[100 - part for part in missing], color=SHADE, label="missing")
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("% of rows")
    figure.legend(*axis.get_legend_handles_labels(), loc="upper right", ncols=2, fontsize=8)
    gaps = sum(column["missing"] > 0 for column in facts)
    save(
        figure, "Columns", f"{gaps} of {len(facts)} columns have missing values; their types are in brackets."
    )


def draw_distributions(frame, facts, places):
    figure, panels = grid(len(places))
    for axis, place in zip(panels, places):
        values = frame[place].dropna()
        axis.hist(values, bins=min(30, max(5, int(len(values) ** 0.5))), color=INK)
        axis.axvline(values.median(), color=SHADE, linewidth=1)
        axis.set_title(label(facts[place]["name"]), fontsize=9)
        axis.tick_params(labelsize=7)
    save(figure, "Distributions", "Rows by value of each number; the red line is the median.")


def draw_outliers(frame, facts, places):
    figure, axis = plt.subplots(figsize=(7.5, 1 + 0.4 * len(places)))
    scaled = []
    for place in places:
        values = frame[place].dropna()
        low, middle, high = values.quantile([0.25, 0.5, 0.75])
        scaled.append(((values - middle) / ((high - low) or values.std() or 1)).to_numpy())
    axis.boxplot(scaled, orientation="horizontal", flierprops={"markersize": 2})
    axis.set_yticks(range(1, len(places) + 1), [label(facts[place]["name"]) for place in places], fontsize=8)
    axis.set_xscale("symlog", linthresh=2)
    axis.set_xlabel("distance from the median, in interquartile ranges (logarithmic beyond 2)")
    save(
        figure,
        "Outliers",
        "Points beyond the whiskers lie more than 1.5 interquartile ranges outside the box.",
    )


def draw_categories(frame, facts, places):
    figure, panels = grid(len(places), height=3)
    for axis, place in zip(panels, places):
        counts = frame[place].dropna().map(lambda value: str(value)[:60]).value_counts().head(8)[::-1]
        axis.barh(range(len(counts)), counts.to_numpy(), color=INK)
        axis.set_yticks(range(len(counts)), [label(value, 18) for value in counts.index], fontsize=7)
        axis.set_title(label(facts[place]["name"]), fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
    save(figure, "Categories", "Rows by value, the eight most frequent values of each column.")


def draw_correlations(frame, facts, places):
    matrix = frame[places].corr(min_periods=3).to_numpy()
    size = 2.6 + 0.42 * len(places)
    figure, axis = plt.subplots(figsize=(size + 1, size))
    picture = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
    names = [label(facts[place]["name"], 20) for place in places]
    axis.set_xticks(range(len(places)), names, rotation=60, ha="right", fontsize=7)
    axis.set_yticks(range(len(places)), names, fontsize=7)
    if len(places) <= 12:
        for (row, column), value in np.ndenumerate(matrix):
            if value == value:
                ink = "white" if abs(value) > 0.6 else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=ink)
    figure.colorbar(picture, shrink=0.8)
    save(figure, "Correlations", "Red pairs rise together, blue ones move in opposite directions (Pearson).")


def draw_link(frame, facts, pair):
    """The strongest correlation of the profile, point by point."""
    names = [column["name"] for column in facts]
    a, b = names.index(pair["a"]), names.index(pair["b"])
    both = frame[[a, b]].dropna()
    both = both.iloc[:: max(1, len(both) // 5000)]
    figure, axis = plt.subplots(figsize=(5.5, 4))
    axis.scatter(both[a], both[b], s=8, alpha=0.4, color=INK, linewidths=0)
    axis.set_xlabel(label(pair["a"]))
    axis.set_ylabel(label(pair["b"]))
    save(figure, "Strongest link", f"{pair['b']} against {pair['a']}: correlation {pair['pearson']:+.2f}.")


def draw_time(frame, facts, place, numbers):
    when = frame[place]
    days = (when.max() - when.min()).days
    unit, step = ("D", "day") if days <= 92 else ("M", "month") if days <= 3700 else ("Y", "year")
    periods = when.dt.to_period(unit)
    counts = periods.value_counts().sort_index()
    figure, panels = grid(1 + len(numbers), width=4.2)
    panels[0].plot(counts.index.to_timestamp(), counts.to_numpy(), color=INK, linewidth=1)
    panels[0].set_title(f"rows per {step}", fontsize=9)
    for axis, number in zip(panels[1:], numbers):
        means = frame[number].groupby(periods).mean().dropna().sort_index()
        axis.plot(means.index.to_timestamp(), means.to_numpy(), color=INK, linewidth=1)
        axis.set_title(f"mean {label(facts[number]['name'], 20)}", fontsize=9)
    for axis in panels:
        axis.tick_params(labelsize=7)
        axis.tick_params(axis="x", rotation=30)
    save(figure, "Time", f"Rows, and the mean of the numbers, per {step} of {facts[place]['name']}.")


def draw_texts(frame, facts, places):
    figure, panels = grid(len(places))
    for axis, place in zip(panels, places):
        lengths = frame[place].dropna().str.len()
        axis.hist(lengths, bins=min(20, max(3, lengths.nunique())), color=INK)
        axis.set_title(label(facts[place]["name"]), fontsize=9)
        axis.tick_params(labelsize=7)
    save(figure, "Text lengths", "Rows by the number of characters.")


def main():
    os.makedirs(FOLDER, exist_ok=True)
    frame, facts, _ = load()
    frame = frame.iloc[:: PARAMS["every"]]
    numbers = varying(frame, of_type(facts, *NUMBERS))
    groups = varying(frame, of_type(facts, "category", "boolean"), 6)
    texts = varying(frame, of_type(facts, "text"), 3)
    date = main_date(frame, facts)
    draw_columns(frame, facts)
    if numbers:
        draw_distributions(frame, facts, numbers[:9])
        draw_outliers(frame, facts, numbers[:12])
    if groups:
        draw_categories(frame, facts, groups)
    if len(numbers) > 1:
        draw_correlations(frame, facts, numbers[:20])
    links = read_json(PARAMS["profile"])["correlations"]
    if links:
        draw_link(frame, facts, links[0])
    if date is not None:
        draw_time(frame, facts, date, numbers[:5])
    if texts:
        draw_texts(frame, facts, texts)
    with open(os.path.join(FOLDER, "index.json"), "w", encoding="utf-8") as file:
        json.dump(CHARTS, file, ensure_ascii=False, indent=1)
    print(f"{many(len(CHARTS), 'chart')}: {', '.join(chart['title'].lower() for chart in CHARTS)}.")


main()
