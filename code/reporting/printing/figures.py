"""The figures of a report: scores by budget, by class and by run, learning curves, ranks. Dice in per cent."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from reporting.printing import pictures
from reporting.printing.drawing import INK, Drawing, Look, apart, draw, file_key, looks, short, write_pdf
from reporting.printing.rank_diagram import critical_difference
from reporting.rows import draw_key, said
from reporting.run_files import curves
from reporting.summary import Report, Row, Table

KINDS = ("ranks", "runs", "classes", "curves")
WIDTH = 9.2
"""Inches of a figure as wide as the page."""

Looks = Mapping[str, Look]


def write_figures(report: Report, folder: Path) -> list[Path]:
    """All figures as PDF in a folder, which is made; older PDFs of the same names are replaced. The same report gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    of = looks(report)
    drawings = [draw(by_budget, tables, of) for tables in groups(report)]
    for table in report.tables:
        drawings += table_drawings(table, of).values()
        drawings += [draw(pictures.figure, table, name, examples) for name, examples in pictures.examples(table).items()]
    return [write_pdf(drawing, folder) for drawing in drawings if drawing]


def table_drawings(table: Table, of: Looks) -> dict[str, Drawing]:
    """The figures of one table, by kind: ranks, runs, classes, curves; what there is nothing of is left out."""
    makers = dict(zip(KINDS, (critical_difference, by_run, by_class, learning_curves)))
    made = {kind: draw(make, table, of) for kind, make in makers.items()}
    return {kind: drawing for kind, drawing in made.items() if drawing}


def groups(report: Report) -> list[list[Table]]:
    """Tables that differ in the label budget alone, in the order of the report."""
    found: dict[tuple[str, str], list[Table]] = {}
    for table in report.tables:
        found.setdefault((table.data_set, table.protocol), []).append(table)
    return list(found.values())


def labeled_cases(row: Row) -> int:
    """Labelled training cases of a row's runs (the mean over folds, rounded)."""
    return round(mean(len(record.run["split"].get("labeled", ())) or 1 for record in row.records))


# Dice against the number of labels


def by_budget(tables: Sequence[Table], of: Looks) -> Drawing | None:
    """Mean Dice over the label budgets, a line a method, with the standard deviation over runs; None for a single budget."""
    if len(tables) < 2:
        return None
    places: dict[str, float] = {}
    for table in tables:
        counts = [labeled_cases(row) for row in table.rows if row.baseline != "all" and row.records]
        if counts:
            places[table.key] = math.log2(mean(counts))
    lines: dict[str, list[tuple[float, Any]]] = {}
    tops: dict[str, float] = {}
    for table in tables:
        for row in table.rows:
            stat = row.stats.get(("mean", "dice"))
            if stat is None or stat.mean is None:
                continue
            if row.baseline == "all":
                tops[row.label] = 100 * stat.mean
            elif table.key in places:
                lines.setdefault(row.label, []).append((places[table.key], stat))
    if not lines:
        return None
    figure = Figure((WIDTH, 4.2))
    axis = figure.add_axes((0.06, 0.12, 0.68, 0.84))
    low, high = min(places.values()), max(places.values())
    step = 0.012 * (high - low or 1)
    ends = []
    for k, (label, points) in enumerate(lines.items()):
        look = of[label]
        shift = (k - (len(lines) - 1) / 2) * step
        x, y = [place + shift for place, _ in points], [100 * stat.mean for _, stat in points]
        axis.errorbar(x, y, [100 * (stat.sd or 0) for _, stat in points], color=look.colour, marker=look.marker, markersize=5,
                      linestyle=look.dashes, linewidth=1.6, elinewidth=1, capsize=2.5)
        ends.append((x[-1], y[-1], label, look.colour))
    for label, value in tops.items():
        axis.axhline(value, color=of[label].colour, linewidth=1.2, linestyle=(0, (4, 3)))
        ends.append((high, value, label, of[label].colour))
    edge = high + 0.06 * (high - low or 1) + step * len(lines) / 2
    axis.set_xlim(low - 0.08 * (high - low or 1), edge)
    bottom, top = axis.get_ylim()
    for place, (_, y, label, colour) in zip(apart([end[1] for end in ends], 0.05 * (top - bottom)), ends):
        axis.annotate(short(label), (edge, y), (1.035, (place - bottom) / (top - bottom)), xycoords="data", textcoords="axes fraction",
                      va="center", color=INK, fontsize=8.5, annotation_clip=False,
                      arrowprops=dict(arrowstyle="-", color=colour, linewidth=1, shrinkA=2, shrinkB=0, relpos=(0, 0.5)))
    axis.set_ylim(bottom, top)
    axis.set_xticks([places[table.key] for table in tables if table.key in places],
                    [table.labeled_num for table in tables if table.key in places])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("label budget (logarithmic in the number of labelled cases)")
    axis.set_ylabel("Dice, %")
    first = tables[0]
    words = f"{first.data_set}, {first.protocol}: mean Dice of {len(lines)} methods over {len(places)} label budgets"
    return Drawing(file_key(first.data_set, first.protocol, "budgets"), words, figure)


# Cases by class


def case_scores(row: Row, of_class: str) -> dict[str, float]:
    """Dice of each case of a class, or of the mean over the classes that the case has; mean over the row's runs."""
    values: dict[str, list[float]] = {}
    for record in row.records:
        here: dict[str, list[float]] = {}
        for case in record.cases:
            if of_class in ("mean", case["class"]) and case["dice"] is not None:
                here.setdefault(case["name"], []).append(case["dice"])
        for name, found in here.items():
            values.setdefault(name, []).append(mean(found))
    return {name: mean(found) for name, found in values.items()}


def by_class(table: Table, of: Looks) -> Drawing | None:
    """Box plots of the cases' Dice, a panel a class."""
    rows = [row for row in table.rows if case_scores(row, "mean")][::-1]
    classes = table.classes if len(table.classes) == 1 else ("mean", *table.classes)
    if not rows:
        return None
    across = min(len(classes), 4)
    down = -(-len(classes) // across)
    figure = Figure((WIDTH, down * (0.27 * len(rows) + 0.75)))
    left = 0.035 + min(0.0085 * max(len(short(row.label)) for row in rows), 0.25)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    height = figure.get_figheight()
    figure.subplots_adjust(left, 0.48 / height, 0.99, 1 - 0.28 / height, 0.08, 0.62 / (0.27 * len(rows) + 0.1))
    for axis, name in zip(grid.flat, classes):
        values = [[100 * value for value in case_scores(row, name).values()] for row in rows]
        boxes = axis.boxplot(values, orientation="horizontal", widths=0.62, patch_artist=True, whis=1.5,
                             flierprops=dict(marker="o", markersize=2.4, markeredgewidth=0, alpha=0.65),
                             medianprops=dict(linewidth=1.6), whiskerprops=dict(linewidth=0.9), boxprops=dict(linewidth=0.9),
                             capprops=dict(linewidth=0))
        for k, row in enumerate(rows):
            colour = of[row.label].colour
            boxes["boxes"][k].set(facecolor=(colour, 0.22), edgecolor=colour)
            boxes["medians"][k].set_color(colour)
            boxes["fliers"][k].set_markerfacecolor(colour)
            for line in boxes["whiskers"][2 * k : 2 * k + 2]:
                line.set_color(colour)
        axis.set_title("mean of the classes" if name == "mean" else short(name))
        axis.set_yticks(range(1, len(rows) + 1), [short(row.label) for row in rows])
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("Dice, %")
    for axis in list(grid.flat)[len(classes):]:
        axis.set_visible(False)
    words = f"{table.data_set}, {table.labeled_num} labelled: box plots of the Dice of single cases for {len(rows)} rows, a panel a class"
    return Drawing(file_key(table.key, "classes"), words, figure)


# Runs


def by_run(table: Table, of: Looks) -> Drawing | None:
    """Mean Dice of every run, a dot each; runs of one draw of the labelled cases (or of one fold) are joined. None for single runs."""
    rows = [row for row in table.rows if row.records][::-1]
    if not any(len(row.records) > 1 for row in rows):
        return None
    height = 0.34 * len(rows) + 0.75
    figure = Figure((WIDTH, height))
    left = 0.035 + min(0.0085 * max(len(short(row.label)) for row in rows), 0.25)
    axis = figure.add_axes((left, 0.48 / height, 0.99 - left, 1 - 0.58 / height))
    tips: list[str] = []
    for k, row in enumerate(rows, 1):
        together: dict[Any, list[tuple[float, str]]] = {}
        for record in row.records:
            dice = record.summary["mean"]["dice"]
            if dice is not None:
                together.setdefault((record.fold, record.draw), []).append((100 * dice, said(draw_key(record))))
        look = of[row.label]
        for n, runs in enumerate(together.values()):
            y = k + (0.5 - (n + 0.5) / len(together)) * 0.6
            values = [value for value, _ in runs]
            axis.plot([min(values), max(values)], [y, y], color=look.colour, linewidth=0.9, alpha=0.5)
            for value, word in runs:
                axis.plot([value], [y], look.marker, color=look.colour, markersize=4.4, alpha=0.85, markeredgewidth=0,
                          gid=f"tip-{len(tips)}")
                tips.append(f"{row.label}, {word}: {value:.2f}")
        everything = [value for runs in together.values() for value, _ in runs]
        if everything:
            axis.plot([mean(everything)] * 2, [k - 0.38, k + 0.38], color=look.colour, linewidth=1.8)
    axis.set_yticks(range(1, len(rows) + 1), [short(row.label) for row in rows])
    axis.set_ylim(0.4, len(rows) + 0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel("Dice of a run, %")
    words = f"{table.data_set}, {table.labeled_num} labelled: mean Dice of each of {len(tips)} runs, a line of dots a method"
    return Drawing(file_key(table.key, "runs"), words, figure, tuple(tips))


# Learning curves


def learning_curves(table: Table, of: Looks) -> Drawing | None:
    """Validation Dice and loss against the step: mean over runs, and from the least to the largest; None where no run is at hand."""
    found = [(row, [one for record in row.records if (one := curves(record))]) for row in table.rows]
    found = [(row, runs) for row, runs in found if any(run.dice or run.loss for run in runs)]
    if not found:
        return None
    figure = Figure((WIDTH, 3.7))
    score, loss = figure.subplots(1, 2)
    for row, runs in found:
        look = of[row.label]
        for axis, series, factor in ((score, [run.dice for run in runs], 100), (loss, [run.loss for run in runs], 1)):
            x, middle, low, high = _envelope(series)
            if len(x):
                axis.plot(x, factor * middle, color=look.colour, linestyle=look.dashes, linewidth=1.5, label=short(row.label),
                          marker="o" if len(x) == 1 else None, markersize=3)
                if len(series) > 1:
                    axis.fill_between(x, factor * low, factor * high, color=look.colour, alpha=0.09, linewidth=0)
    score.set(xlabel="step", ylabel="validation Dice, %", ylim=(0, 100))
    loss.set(xlabel="step", ylabel="training loss, total")
    if any(one.get_ydata().max() > 0 for one in loss.get_lines()):
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_major_formatter("{x:g}")
        loss.yaxis.set_minor_locator(NullLocator())
    handles, names = score.get_legend_handles_labels()
    if not handles:
        handles, names = loss.get_legend_handles_labels()
    rows_of_legend = -(-len(handles) // 4)
    figure.legend(handles, names, loc="upper left", ncols=4, bbox_to_anchor=(0.045, 1.0), borderaxespad=0.2)
    figure.subplots_adjust(0.06, 0.13, 0.99, 0.95 - 0.05 * rows_of_legend, 0.16)
    words = f"{table.data_set}, {table.labeled_num} labelled: validation Dice and training loss against the step for {len(found)} rows"
    return Drawing(file_key(table.key, "curves"), words, figure)


def _envelope(series: Sequence[Mapping[int, float]], most: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps (at most 120), and mean, least and largest over the runs that have each of them."""
    by_step: dict[int, list[float]] = {}
    for one in series:
        for step, value in one.items():
            by_step.setdefault(step, []).append(value)
    fullest = max(map(len, by_step.values()), default=0)
    steps = sorted(step for step, values in by_step.items() if len(values) == fullest)
    chosen = [steps[round(k)] for k in np.linspace(0, len(steps) - 1, min(len(steps), most))] if steps else []
    return (np.array(chosen), *(np.array([fold(by_step[step]) for step in chosen]) for fold in (mean, min, max)))  # type: ignore[return-value]
