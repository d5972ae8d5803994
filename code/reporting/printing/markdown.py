"""A report as Markdown. Prints what the summary says and computes nothing."""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from reporting.printing.cells import (
    METRIC,
    ON_TEST,
    beside,
    heading,
    interval,
    mark,
    mean_sd,
    memory,
    named,
    notes,
    number,
    p_value,
    place,
    published,
    published_dice,
    seconds,
    tested,
)
from reporting.published import sources
from reporting.summary import Pair, Report, Table

HOW_TO_READ = (
    "Mean ± standard deviation over runs (folds, draws of the labelled cases, seeds). Intervals are 95 % bootstrap intervals of the mean, "
    "patients drawn whole, and say nothing about other seeds. Best in bold, second underlined, among rows with at least two runs on the "
    "same cases; ≈: not significantly different from the best; †: other cases, not compared. "
    "Δ: Dice minus that of supervised training with the same labels, in points; "
    "n.s.: not significant. Significance: Wilcoxon's signed-rank test over patients (their runs, classes and cases averaged first), "
    "p < 0.05 after Holm's correction over all pairs of the table. It speaks of other patients; in how many runs the first was better "
    "speaks of other folds, draws and seeds, and a claim needs both. P(false claim): posterior probability that the first of a pair is "
    "not better (Christodoulou et al., arXiv 2505.04720). HD95 and ASD count a missed class as the image's diagonal; missed: such "
    "classes a run.")


def markdown(report: Report) -> str:
    """The whole report."""
    parts = [f"# {_md(report.title)}", f"{_md(report.made)}.", *(f"**{_md(remark)}**" for remark in report.remarks), HOW_TO_READ]
    for table in report.tables:
        parts += [f"## {_md(heading(table))}", f"{tested(table)}.", *_md_table(table)]
    if report.skipped:
        parts += ["## Files that were not counted", _list(f"{one.path}: {one.reason}" for one in report.skipped)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _md_table(table: Table) -> Iterator[str]:
    lineage, printed = beside(table)
    shown = [metric for metric in table.metrics if metric in METRIC]
    head = ["", "runs", METRIC["dice"].title, "95 %", *(named(table, m).title for m in shown if m != "dice"), "Δ", "95 %", "time", "memory",
            *(["published Dice"] if printed else [])]
    label = {row.key: _md(row.label) for row in table.rows}
    lines = []
    for row in table.rows:
        values = {metric: _bold(mean_sd(row.stats["mean", metric], metric), place(table, row, "mean", metric)) for metric in shown}
        dice = f"{values.pop('dice')} {mark(table, row)}".strip()
        shift = f"{mean_sd(row.difference, signed=True)} {row.told}".strip()
        lines.append([label[row.key], str(row.stats["mean", "dice"].n), dice, interval(row.stats["mean", "dice"]), *values.values(),
                      shift, interval(row.difference, signed=True), seconds(row.seconds), memory(row.peak_memory),
                      *([published_dice(printed[row.key]) if row.key in printed else ""] if printed else [])])
    yield _grid(head, lines)
    if printed:
        first = next(iter(printed.values()))
        yield _md(f"Published Dice: {lineage} ({first.source}): {first.protocol}. "
                  + ("On these test cases." if first.comparable else "Other test cases or another selection than here: not comparable."))
        told = list(dict.fromkeys(one.on_test for one in printed.values() if one.on_test))
        if told:
            yield f"{ON_TEST}: {' or '.join(told)}, so the figure is too good."
    if len(table.classes) > 1:
        for metric in ("dice", "jaccard" if table.by_matrix else "hd95_vox"):
            yield f"{named(table, metric, 'class').title} by class:"
            yield _grid(["", *map(_md, table.classes)], [
                [label[row.key], *(_bold(mean_sd(row.stats[of, metric], metric), place(table, row, of, metric)) for of in table.classes)]
                for row in table.rows])
    if table.pairs:
        yield "Pairs, the better first:"
        yield _grid(["better", "other", "Dice, points", "95 %", "p", "p (Holm)", "P(false claim)", "cases", "groups",
                     "better in runs", ""], [
            [label[pair.first], label[pair.second], number(pair.difference, signed=True), _limits(pair), p_value(pair.p),
             p_value(pair.p_holm), p_value(pair.false_claim), str(pair.cases), str(pair.groups),
             f"{pair.better} of {pair.runs}", _md(_verdict(pair))]
            for pair in table.pairs])
    if table.ranks:
        ranks = sorted(table.ranks.mean_rank.items(), key=lambda item: item[1])
        yield (f"Mean ranks over {table.ranks.groups} patients or pieces (1 the best): "
               + ", ".join(f"{label[key]} {rank:.2f}" for key, rank in ranks)
               + f". Friedman: p {_equal(table.ranks.p)}; Nemenyi's critical difference {table.ranks.critical_difference or 0:.2f}. "
               + ("No difference within: " + "; ".join(", ".join(label[key] for key in clique) for clique in table.ranks.cliques)
                  if table.ranks.cliques else "Every two differ") + ".")
    spread = [row for row in table.rows if row.seed_sd is not None]
    if spread:
        yield "What the spread of mean Dice (points) comes from; a fold changes test and labelled cases together:"
        yield _grid(["", "draw of labelled cases", "fold", "seed"], [
            [label[row.key], number(row.draw_sd), number(row.fold_sd), number(row.seed_sd)] for row in spread])
    further = [(row, name, stat) for row in table.rows for name, stat in row.other_stats.items()]
    if further:
        yield "Further predictors of the same runs:"
        yield _grid(["", "predictor", "runs", METRIC["dice"].title], [
            [label[row.key], _md(name), str(stat.n), mean_sd(stat)] for row, name, stat in further])
    figures = [(row, figure) for row in table.rows for figure in row.published]
    if figures:
        yield "All published figures (Dice and Jaccard in per cent). Comparable: on the test cases of this table's protocol."
        yield _grid(["", "published", "network", "source", "protocol", "step chosen by", "comparable", ""], [
            [label[row.key], published(one), _md(one.network), _md(one.source), _md(one.protocol), _md(one.selected_on),
             "yes" if one.comparable else "no", _md(one.remark)] for row, one in figures])
        yield _list(f"{key}: {source.title} ({source.read}). {source.note}".strip() for key, source in sources().items()
                    if any(one.source == key for _, one in figures))
    yield _list((*table.missing, *table.remarks, *notes(table.rows)))


def _limits(pair: Pair) -> str:
    return f"[{number(pair.low, signed=True)}, {number(pair.high, signed=True)}]" if pair.cases else ""


def _verdict(pair: Pair) -> str:
    verdict = "" if pair.significant else "not tested" if pair.p is None else "n.s."
    return "; ".join(part for part in (verdict, pair.said) if part)


def _equal(p: float | None) -> str:
    return "not told (three rows are needed)" if p is None else text if (text := p_value(p)).startswith("<") else f"= {text}"


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def _list(texts: Sequence[str] | Iterator[str]) -> str:
    return "\n".join(f"- {_md(text)}" for text in texts)


def _bold(text: str, at: int) -> str:
    return f"**{text}**" if at == 1 else f"<u>{text}</u>" if at == 2 else text


def _md(text: str) -> str:
    """Text of a file's making as plain text of Markdown: no cell, tag, link or emphasis of its own."""
    return re.sub(r"([\\|<>*`\[\]])", r"\\\1", " ".join(text.split()))
