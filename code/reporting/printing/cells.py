"""Numbers as they are printed: per cent with two digits, distances with two, mean ± standard deviation, [interval]."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reporting.published import Figure
from reporting.summary import Row, Stat, Table


@dataclass(frozen=True)
class Metric:
    """How a metric is printed."""

    name: str
    unit: str
    factor: float = 1.0
    digits: int = 2
    rises: bool = False
    """Whether more is better."""

    @property
    def title(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


METRIC: Mapping[str, Metric] = {
    "dice": Metric("Dice", "%", 100, rises=True),
    "jaccard": Metric("Jaccard", "%", 100, rises=True),
    "hd95_vox": Metric("HD95", "voxels"),
    "asd_vox": Metric("ASD", "voxels"),
    "hd95_mm": Metric("HD95", "mm"),
    "asd_mm": Metric("ASD", "mm"),
    "object_f1": Metric("object F1", "%", 100, rises=True),
    "object_dice": Metric("object Dice", "%", 100, rises=True),
    "object_hausdorff": Metric("object Hausdorff", "pixels"),
    "aji": Metric("AJI", "%", 100, rises=True),
    "pq": Metric("PQ", "%", 100, rises=True),
    "missed": Metric("missed", "", digits=1),
}


IOU = {"mean": Metric("mIoU", "%", 100, rises=True), "class": Metric("IoU", "%", 100, rises=True)}
"""What Jaccard is called where one confusion matrix scores the whole set: of the mean, and of a class."""


def named(table: Table, metric: str, of: str = "mean") -> Metric:
    """How a metric of a table is printed."""
    return IOU["mean" if of == "mean" else "class"] if table.by_matrix and metric == "jaccard" else METRIC[metric]


def number(value: float | None, metric: str = "dice", signed: bool = False) -> str:
    """84.33; an empty string for what is not known."""
    if value is None or math.isnan(value):
        return ""
    how = METRIC[metric]
    return f"{value * how.factor:{'+' if signed else ''}.{how.digits}f}"


def mean_sd(stat: Stat | None, metric: str = "dice", signed: bool = False) -> str:
    """84.33 ± 2.96, without the deviation where there is one run."""
    if stat is None or stat.mean is None:
        return ""
    return number(stat.mean, metric, signed) + (f" ± {number(stat.sd, metric)}" if stat.sd is not None else "")


def interval(stat: Stat | None, metric: str = "dice", signed: bool = False) -> str:
    """[82.67, 85.94]"""
    if stat is None or stat.low is None or stat.high is None:
        return ""
    return f"[{number(stat.low, metric, signed)}, {number(stat.high, metric, signed)}]"


def p_value(p: float | None) -> str:
    """0.034, < 0.001, or - where nothing was tested."""
    return "-" if p is None or math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def seconds(stat: Stat) -> str:
    """Training time: 45 s, 12 min, 3.2 h."""
    if stat.mean is None:
        return ""
    return f"{stat.mean:.0f} s" if stat.mean < 120 else f"{stat.mean / 60:.0f} min" if stat.mean < 7200 else f"{stat.mean / 3600:.1f} h"


def memory(stat: Stat) -> str:
    """Peak memory: 400 MB, 6.1 GB."""
    if stat.mean is None:
        return ""
    return f"{stat.mean / 1e6:.0f} MB" if stat.mean < 1e9 else f"{stat.mean / 1e9:.1f} GB"


def place(table: Table, row: Row, of: str, metric: str) -> int:
    """1 for the best of a column, 2 for the second, else 0."""
    best = table.best.get((of, metric), ())
    return best.index(row.key) + 1 if row.key in best else 0


def mark(table: Table, row: Row) -> str:
    """≈: no significant difference from the best; †: tested on other cases than most rows, so not compared; "" otherwise."""
    alone = table.ranks is not None and row.baseline != "all" and row.key not in table.ranks.mean_rank
    return "†" if alone else "≈" if row.key in table.level else ""


def heading(table: Table) -> str:
    """ACDC, 7 labelled, official split"""
    split = f"{table.protocol} split" if " " not in table.protocol else table.protocol
    return f"{table.data_set}, {'all' if table.labeled_num == 'all' else table.labeled_num} labelled, {split}"


def tested(table: Table) -> str:
    """40 test cases of 20 patients, as a sentence."""
    return f"{table.cases} test cases" + (f" in {table.groups} groups (patients, pieces)" if table.groups != table.cases else "")


def overlap(figure: Figure) -> str:
    """What a source calls its Jaccard: mIoU where it prints that alone, as papers on photographs and defects do."""
    return "Jaccard" if figure.dice is not None else "mIoU"


def published(figure: Figure) -> str:
    """Dice 88.90, HD95 2.32 (voxels), selected on test cases: what a source prints, and how its step was chosen where that flatters it."""
    parts = [("Dice", figure.dice), (overlap(figure), figure.jaccard), ("HD95", figure.hd95), ("ASD", figure.asd)]
    unit = f" ({figure.unit})" if figure.unit and (figure.hd95 is not None or figure.asd is not None) else ""
    told = ", ".join(f"{name} {value:g}" for name, value in parts if value is not None) + unit
    return ", ".join(text for text in (told, figure.on_test) if text)


ON_TEST = "‡"
"""Beside a published number: selected on test cases, or doubted to be."""


def published_dice(figure: Figure) -> str:
    """88.02 ‡: the number alone, marked where it was, or perhaps was, selected on test cases."""
    return f"{figure.dice:g} {ON_TEST if figure.on_test else ''}".strip()


def beside(table: Table) -> tuple[str, dict[str, Figure]]:
    """(lineage, its figure by key of row) of the published figures to print in one column: never two lineages, which are not comparable.

    One whose test cases are those of this table goes first, then the one that has most of the rows. ("", {}) where there is none.
    """
    found: dict[str, dict[str, Figure]] = {}
    for row in table.rows:
        for figure in row.published:
            if figure.dice is not None:
                found.setdefault(figure.lineage, {}).setdefault(row.key, figure)
    order = sorted(found, key=lambda name: (-any(one.comparable for one in found[name].values()), -len(found[name]), name))
    return (order[0], found[order[0]]) if order else ("", {})


def notes(rows: Sequence[Row]) -> list[str]:
    """One line a remark, with the rows that it belongs to."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for remark in row.remarks:
            found.setdefault(remark, []).append(row.label)
    return [f"{'all rows' if 1 < len(rows) == len(labels) else ', '.join(labels)}: {remark}" for remark, labels in found.items()]
