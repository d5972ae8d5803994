"""The files of a report: Markdown, CSV and LaTeX. Prints what the summary says and computes nothing."""
from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reporting.commands import again
from reporting.printing.cells import published
from reporting.printing.latex import latex
from reporting.printing.markdown import markdown
from reporting.records import Record
from reporting.summary import Report, Row, Stat, Table
from storage.checkpoint import write_atomically

PERCENT = ("dice", "jaccard", "object_f1", "object_dice", "aji", "pq")


def write_tables(report: Report, folder: Path) -> list[Path]:
    """report.md, report.csv, pairs.csv, runs.csv, report.tex; each is the old file or the new one at any moment."""
    texts = {"report.md": markdown(report), "report.csv": table_of(rows(report)), "pairs.csv": table_of(pairs(report)),
             "runs.csv": table_of(runs(report)), "report.tex": latex(report)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(folder / name, text.encode(errors="backslashreplace"))
    return [folder / name for name in texts]


def table_of(lines: Iterable[Mapping[str, Any]]) -> str:
    """Lines as CSV with a header of all their columns; what is not known is empty.

    Spreadsheets run a cell that begins with = + - @ as a formula: texts that do get a ' before it. Numbers stay numbers.
    """
    known = list(lines)
    header = list(dict.fromkeys(name for line in known for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in line.items()} for line in known)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return "" if value is None or value != value else float(f"{value:.8g}") if isinstance(value, float) else value


def _where(table: Table) -> dict[str, Any]:
    return {"data_set": table.data_set, "labeled_num": table.labeled_num, "protocol": table.protocol}


def _stat(name: str, stat: Stat | None, factor: float = 1.0) -> dict[str, Any]:
    values = (stat.mean, stat.sd, stat.low, stat.high) if stat else (None,) * 4
    return {f"{name}_{part}": None if value is None else value * factor for part, value in zip(("mean", "sd", "low", "high"), values)}


def _column(metric: str) -> tuple[str, float]:
    return (f"{metric}_percent", 100.0) if metric in PERCENT else (metric, 1.0)


def rows(report: Report) -> Iterator[dict[str, Any]]:
    """A line for each row and class, and one for the mean over the classes."""
    for table in report.tables:
        for row in table.rows:
            for of in ("mean", *table.classes):
                line = {**_where(table), "row": row.label, "method": row.method, "network": row.records[0].options["model"],
                        "baseline": row.baseline, "class": of, "runs": row.stats[of, "dice"].n}
                for metric in table.metrics:
                    name, factor = _column(metric)
                    line |= _stat(name, row.stats[of, metric], factor)
                yield line | (_whole(table, row) if of == "mean" else {})


def _whole(table: Table, row: Row) -> dict[str, Any]:
    """What is known of a row as a whole."""
    sds = {f"{name}_sd_percent": None if value is None else 100 * value
           for name, value in (("draw", row.draw_sd), ("fold", row.fold_sd), ("seed", row.seed_sd))}
    return {
        **_stat("difference_percent", row.difference, 100.0), "difference_to": row.against and _label(table, row.against),
        "difference_told": row.told, **sds, "mean_rank": table.ranks.mean_rank.get(row.key) if table.ranks else None,
        "level_with_best": row.key in table.level, "training_seconds_mean": row.seconds.mean, "training_seconds_sd": row.seconds.sd,
        "peak_memory_bytes": row.peak_memory.mean,
        "published": " | ".join(f"{published(one)} ({one.source}; {one.protocol})" for one in row.published),
        "remarks": "; ".join(row.remarks), "command": again(row.records[0])}


def _label(table: Table, key: str) -> str:
    return next(row.label for row in table.rows if row.key == key)


def pairs(report: Report) -> Iterator[dict[str, Any]]:
    """A line for each pair."""
    for table in report.tables:
        for pair in table.pairs:
            yield {**_where(table), "better": _label(table, pair.first), "other": _label(table, pair.second), "cases": pair.cases,
                   "groups": pair.groups, "runs": pair.runs, "better_in_runs": pair.better,
                   "dice_difference_percent": 100 * pair.difference, "low": 100 * pair.low, "high": 100 * pair.high,
                   "p": pair.p, "p_holm": pair.p_holm, "false_claim": pair.false_claim, "significant": pair.significant, "said": pair.said}


def runs(report: Report) -> Iterator[dict[str, Any]]:
    """A line for each run, predictor and class, and one for the mean over the classes. Supervised with all labels stands once."""
    told: set[Path] = set()
    for table in report.tables:
        for row in table.rows:
            for record in (*row.records, *(one for others in row.others.values() for one in others)):
                if record.path not in told:
                    told.add(record.path)
                    yield from _run(table, row, record)


def _run(table: Table, row: Row, record: Record) -> Iterator[dict[str, Any]]:
    for of in ("mean", *table.classes):
        line = {**_where(table), "labeled_num": record.labeled_num, "row": row.label, "method": row.method,
                "predictor": record.run["predictor"], "quoted": record.quoted, "fold": record.fold, "draw": record.draw,
                "seed": record.seed, "class": of}
        for metric in (*table.metrics, "both_empty", "n"):
            name, factor = _column(metric)
            value = record.summary[of].get(metric)
            line[name] = None if value is None else value * factor if metric in PERCENT else value
        if of == "mean":
            training = record.run["training"]
            line |= {"training_seconds": training.get("seconds"), "peak_memory_bytes": training.get("peak_memory"),
                     "file": str(record.path), "command": again(record)}
        yield line
