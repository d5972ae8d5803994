"""What the tables of the page hold: numbers as text, and what a click sorts them by."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reporting.commands import again
from reporting.printing import cells
from reporting.printing.drawing import Look, file_key
from reporting.published import Figure
from reporting.records import Record
from reporting.rows import draw_key, said
from reporting.summary import Pair, Row, Stat, Table

NONE = "–"
MEANING = {
    "dice": "Dice coefficient; more is better",
    "jaccard": "Jaccard index (IoU); more is better",
    "hd95_vox": "95th percentile of the distances between both surfaces; less is better",
    "asd_vox": "mean distance from the predicted surface to the reference; less is better",
    "hd95_mm": "95th percentile of the distances between both surfaces; less is better",
    "asd_mm": "mean distance from the predicted surface to the reference; less is better",
    "object_f1": "objects found, by the gland challenge's F1; more is better",
    "object_dice": "Dice of objects with their partners, weighed by area; more is better",
    "object_hausdorff": "Hausdorff distance of objects to their partners, weighed by area; less is better",
    "aji": "Jaccard index aggregated over objects; more is better",
    "pq": "panoptic quality; more is better",
    "missed": "classes of cases that only one of prediction and reference has, a run; less is better",
}


@dataclass(frozen=True)
class Cell:
    """One value of a table, for one class or the mean of them."""

    text: str
    sort: str
    """A number, "" where the value is missing."""
    note: str = ""
    """The interval, small below the value."""
    mark: str = ""
    """best, second, tied (as good as the best) or ""."""
    tip: str = ""


@dataclass(frozen=True)
class Strip:
    """An interval drawn on the scale that all rows of a column share, in per cent of its width."""

    low: float
    high: float
    middle: float
    tip: str


@dataclass(frozen=True)
class Line:
    """A row of the table of scores."""

    row: Row
    look: str
    metrics: Sequence[Sequence[Cell]]
    """A metric each: the mean, then every class."""
    strips: Sequence[Strip | None]
    runs: Cell
    difference: Cell
    seconds: Cell
    memory: Cell
    published: Cell
    sources: Sequence[int]
    """Numbers of the published figures in the list."""


@dataclass(frozen=True)
class Heat:
    """A cell of the matrix of pairs: three readings, each with how strongly it is tinted (-1 to 1)."""

    values: Sequence[tuple[str, float]]
    tip: str
    significant: bool


def printed(text: str) -> str:
    """A number of a table file as the page prints it: with a true minus, and a dash where nothing is known."""
    return text.replace("-", "−") or NONE


def number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None or math.isnan(value) else printed(f"{value:.{digits}f}")


def sortable(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.8g}"


def signed(value: float, digits: int = 2) -> str:
    return ("+" if value > 0 else "") + number(value, digits)


def p_text(p: float | None) -> str:
    text = cells.p_value(p)
    return NONE if text == "-" else text


def percent(value: float | None) -> str:
    """A probability in per cent."""
    return NONE if value is None else "< 0.1 %" if value < 0.001 else "> 99.9 %" if value > 0.999 else f"{100 * value:.1f} %"


def _interval(stat: Stat | None) -> str:
    return printed(cells.interval(stat)).strip("[]").replace(", ", " to ") if cells.interval(stat) else ""


def score(row: Row, table: Table, of: str, metric: str) -> Cell:
    stat = row.stats.get((of, metric))
    marks = [("", "best", "second")[cells.place(table, row, of, metric)]]
    if of == "mean" and metric == "dice" and row.key in table.level and table.best.get((of, metric)):
        marks.append("tied")
    return Cell(printed(cells.mean_sd(stat, metric)), sortable(stat.mean if stat else None), _interval(stat) if metric == "dice" else "",
                " ".join(marks).strip())


def lines(table: Table, of: Mapping[str, Look], published: Sequence[Figure]) -> list[Line]:
    """The table of scores. `published`: the list that numbers point into."""
    scopes = ("mean", *table.classes) if len(table.classes) > 1 else ("mean",)
    scales = {scope: _scale([row.stats.get((scope, "dice")) for row in table.rows]) for scope in scopes}
    found = []
    for row in table.rows:
        numbers = [published.index(figure) + 1 for figure in row.published]
        scored = [one for one in row.published if one.dice is not None or one.jaccard is not None]
        quoted = min(scored, key=lambda one: (not one.comparable, one.dice is None), default=None)
        found.append(Line(
            row, of[row.label].name, [[score(row, table, scope, metric) for scope in scopes] for metric in table.metrics],
            [_strip(row.stats.get((scope, "dice")), scales[scope]) for scope in scopes],
            Cell(str(len(row.records)), str(len(row.records)), tip="; ".join(said(draw_key(record)) for record in row.records)),
            _difference(row), Cell(printed(cells.seconds(row.seconds)), sortable(row.seconds.mean)),
            Cell(printed(cells.memory(row.peak_memory)), sortable(row.peak_memory.mean)), _published(quoted), numbers))
    return found


def _scale(stats: Sequence[Stat | None]) -> tuple[float, float]:
    ends = [end for stat in stats if stat for end in (stat.low, stat.mean, stat.high) if end is not None]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _strip(stat: Stat | None, scale: tuple[float, float]) -> Strip | None:
    if stat is None or stat.mean is None or stat.low is None or stat.high is None:
        return None
    low, high, middle = (round(4 + 92 * (value - scale[0]) / ((scale[1] - scale[0]) or 1), 2) for value in (stat.low, stat.high, stat.mean))
    return Strip(low, high, middle, f"{number(100 * stat.mean)}, 95 % interval {_interval(stat)}")


def _difference(row: Row) -> Cell:
    stat = row.difference
    if stat is None or stat.mean is None:
        return Cell(NONE, "")
    return Cell(printed(cells.mean_sd(stat, signed=True)), sortable(stat.mean), _interval(stat), tip=row.told)


def _published(figure: Figure | None) -> Cell:
    if figure is None:
        return Cell(NONE, "")
    other = "" if figure.comparable else "Another protocol than ours"
    parts = (figure.source, figure.protocol, other, figure.on_test.capitalize(), figure.remark)
    tip = ". ".join(part for part in parts if part)
    text = number(figure.dice) if figure.dice is not None else f"{cells.overlap(figure)} {number(figure.jaccard)}"
    marked = f"{text} {cells.ON_TEST}" if figure.on_test else text
    return Cell(marked, sortable(figure.dice), mark="" if figure.comparable else "other", tip=tip)


def published_of(table: Table) -> list[Figure]:
    """Published figures of the rows, each once, in the order of the rows."""
    return list(dict.fromkeys(figure for row in table.rows for figure in row.published))


# Pairs


def matrix(table: Table) -> tuple[list[Row], list[list[Heat | None]]]:
    """(rows that stand in some pair, a square of cells: row minus column)."""
    keys = {key for pair in table.pairs for key in (pair.first, pair.second)}
    rows = sorted((row for row in table.rows if row.key in keys), key=lambda row: -(row.stats["mean", "dice"].mean or 0))
    found = {(pair.first, pair.second): pair for pair in table.pairs}
    label = {row.key: row.label for row in rows}
    largest = max((abs(pair.difference) for pair in table.pairs if not math.isnan(pair.difference)), default=0) or 1

    def cell(one: Row, other: Row) -> Heat | None:
        pair = found.get((one.key, other.key)) or found.get((other.key, one.key))
        if pair is None or math.isnan(pair.difference):
            return None
        sign = 1 if pair.first == one.key else -1
        false = None if pair.false_claim is None else pair.false_claim if sign > 0 else 1 - pair.false_claim
        p = pair.p_holm
        heats = (sign * abs(pair.difference) / largest, 0.0 if p is None or p >= 0.05 else sign * (0.45 if p >= 0.001 else 0.9),
                 0.0 if false is None else (1 - 2 * false) ** 3)
        texts = (signed(100 * sign * pair.difference, 1), p_text(p), percent(false))
        tip = f"{label[one.key]} minus {label[other.key]}: {pair_text(pair, sign)}"
        return Heat([(text, round(heat, 3)) for text, heat in zip(texts, heats)], tip, pair.significant)

    return rows, [[cell(one, other) if one is not other else None for other in rows] for one in rows]


def pair_text(pair: Pair, sign: int = 1) -> str:
    low, high = sorted((sign * pair.low, sign * pair.high))
    text = f"{signed(100 * sign * pair.difference)} points of Dice, 95 % interval {number(100 * low)} to {number(100 * high)}"
    text += f", p {p_text(pair.p)}, after Holm {p_text(pair.p_holm)}"
    text += f"; the better of the two is so in {pair.better} of {pair.runs} runs" if pair.runs else ""
    return text + (f". {pair.said}" if pair.said else "")


# Runs and options


@dataclass(frozen=True)
class RunOptions:
    record: Record
    label: str
    which: str
    dice: Cell
    command: str
    own: Mapping[str, str]
    """Options in which the runs of the table differ."""


def run_options(table: Table) -> tuple[dict[str, str], list[RunOptions]]:
    """(options that all runs of a table share, every run with its others and the command that makes it again)."""
    records = list({str(record.path): (row, record) for row in table.rows for record in row.records}.values())
    texts = [{name: option_text(value) for name, value in record.options.items()} for _, record in records]
    shared = {name: value for name, value in texts[0].items() if all(one.get(name) == value for one in texts)} if texts else {}
    runs = [RunOptions(record, row.label, said(draw_key(record)), _run_dice(record), again(record),
                       {name: value for name, value in text.items() if name not in shared})
            for (row, record), text in zip(records, texts)]
    return shared, runs


def _run_dice(record: Record) -> Cell:
    dice = record.summary["mean"].get("dice")
    return Cell(number(None if dice is None else 100 * dice), sortable(dice))


def with_command(sentence: str) -> tuple[str, str]:
    """A sentence and the command at its end, "" where it has none."""
    words, found, command = sentence.partition(": python ")
    return (f"{words}:", f"python {command}") if found else (sentence, "")


def option_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def facts(tables: Sequence[Table]) -> dict[str, str]:
    """What the tables of one data set and protocol have in common, by words."""
    records = [record for table in tables for row in table.rows for record in row.records]
    runs = {str(record.path) for record in records}
    selections = sorted({str(record.run["selection"]) for record in records})
    networks = sorted({str(record.options["model"]) for record in records})
    cases = sorted({(table.cases, table.groups) for table in tables})
    said_cases = "; ".join(f"{n} of {groups} patients or pieces" if groups != n else str(n) for n, groups in cases if n)
    validation = sorted({len(record.run["split"].get("val", ())) for record in records})
    found = {
        "Protocol": tables[0].protocol, "Label budgets": ", ".join(table.labeled_num for table in tables),
        "Classes": ", ".join(tables[0].classes), "Runs": str(len(runs)), "Test cases": said_cases,
        "Validation cases": " to ".join(map(str, sorted({validation[0], validation[-1]}))) if validation else "",
        "Checkpoint": "; ".join(selections), "Network": ", ".join(networks),
        "Training": _training(records),
    }
    return {name: text for name, text in found.items() if text}


def _training(records: Sequence[Record]) -> str:
    steps = sorted({record.options["max_iterations"] for record in records if "max_iterations" in record.options})
    sizes = sorted({option_text(record.options["patch_size"]).replace(" ", "×") for record in records if "patch_size" in record.options})
    parts = [f"{', '.join(f'{n:,}' for n in steps)} steps"] if steps else []
    unit = "voxels" if sizes and sizes[0].count("×") == 2 else "pixels"
    return ", ".join([*parts, *([f"{', '.join(sizes)} {unit}"] if sizes else [])])


def over(table: Table) -> str:
    """What a mean of the table is over: runs by fold, draw and seed."""
    rows = [row for row in table.rows if row.baseline != "all"] or table.rows
    keys = {draw_key(record) for row in rows for record in row.records}
    parts = [f"{len(values)} {word}{'s' if len(values) > 1 else ''}" for place, word in enumerate(("fold", "draw", "seed"))
             if (values := {key[place] for key in keys if key[place] >= 0})]
    counts = sorted({len(row.records) for row in rows})
    each = " to ".join(map(str, sorted({counts[0], counts[-1]}))) if counts else "0"
    return f"{each} run{'' if counts == [1] else 's'} a row ({' × '.join(parts)})"


def spread_lines(table: Table) -> list[tuple[Row, str, str, str]]:
    """(row, deviation by draw, by fold, by seed) of mean Dice in points, where two of them vary."""
    def points(value: float | None) -> str:
        return number(None if value is None else 100 * value)

    return [(row, points(row.draw_sd), points(row.fold_sd), points(row.seed_sd)) for row in table.rows if row.seed_sd is not None]


def anchor(*words: str) -> str:
    """An id for HTML."""
    return file_key(*words).lower()
