"""A report as a table on the screen, in 140 columns."""
from __future__ import annotations

import textwrap

from reporting.printing.cells import heading, interval, mark, mean_sd, memory, named, notes, number, place, seconds, tested
from reporting.summary import Report, Row, Table, pair_of

WIDTH = 140
LABEL = 31
LEGEND = ("*: the best of at least two runs each; ≈: not significantly different from it; †: other cases, not compared. "
          "Δ: points to supervised training with the same "
          "labels; n.s.: not significant; 2/3: better in two of three runs. Significance speaks of other patients, runs of other seeds: "
          "a claim needs both.")


def screen(report: Report) -> str:
    """The tables, and what their signs mean."""
    return "\n\n".join([*(_screen(table) for table in report.tables), textwrap.fill(LEGEND, WIDTH)])


def _screen(table: Table) -> str:
    width = min(max(16, *(len(row.label) for row in table.rows)) + 2, LABEL)
    overlap = f"{named(table, 'jaccard').name} %"
    lines = [f"{heading(table)}; {tested(table)}",
             f"{'':<{width}}{'runs':>4}  {'Dice %':<15} {'95 % interval':<16} {overlap:>9} {'HD95 vox':>9} {'ASD vox':>8} {'missed':>7}"
             f"  {'Δ supervised':<15} {'time':>7} {'memory':>8}"]
    for row in table.rows:
        dice, sign = row.stats["mean", "dice"], _mark(table, row)
        flat = [number(row.stats["mean", metric].mean, metric) for metric in ("jaccard", "hd95_vox", "asd_vox", "missed")]
        parts = (number(row.difference.mean if row.difference else None, signed=True), row.told, _runs(table, row))
        shift = " ".join(part for part in parts if part)
        lines.append(f"{_fit(row.label, width - 1):<{width}}{dice.n:>4}  {mean_sd(dice) + sign:<15} {interval(dice):<16} {flat[0]:>9} "
                     f"{flat[1]:>9} {flat[2]:>8} {flat[3]:>7}  {shift:<15} {seconds(row.seconds):>7} {memory(row.peak_memory):>8}")
    if 1 < len(table.classes) <= 6:
        lines += ["", f"{'Dice %, by class':<{width}}" + "".join(f"{_fit(name, 15):<17}" for name in table.classes).rstrip()]
        lines += [f"{_fit(row.label, width - 1):<{width}}" + "".join(f"{mean_sd(row.stats[of, 'dice']):<17}" for of in table.classes)
                  for row in table.rows]
    lines = [line.rstrip() for line in lines]
    for text in (*table.missing, *table.remarks, *notes(table.rows)):
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _runs(table: Table, row: Row) -> str:
    """2/3: in how many runs it is better than the row it is compared with."""
    pair = pair_of(table, row.key, row.against) if row.against else None
    return f"{pair.better if pair.first == row.key else pair.runs - pair.better}/{pair.runs}" if pair and pair.runs > 1 else ""


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _mark(table: Table, row: Row) -> str:
    return "*" if place(table, row, "mean", "dice") == 1 else f" {mark(table, row)}".rstrip()
