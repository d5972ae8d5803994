"""A report from records: tables, and what every row, pair and rank of them is."""
from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean, stdev
from typing import Any

import numpy as np

from reporting import comparison, remarks, statistics
from reporting.published import Figure, find
from reporting.records import FURTHER, METRICS, Record, Skipped
from reporting.rows import BASELINE, Draft, draw_key, rows_of
from reporting.scores import Cases, Scores, gather, intervals, side_by_side
from reporting.summary import Pair, Report, Row, Stat, Table
from storage import provenance


@dataclass(frozen=True)
class _Sheet:
    """What the rows of a table share."""

    budget: str
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    """Without `missed`."""
    cases: Cases
    scores: Mapping[str, Scores]
    pairs: tuple[Pair, ...]


def build(records: Sequence[Record], skipped: Sequence[Skipped], title: str = "Results") -> Report:
    """Everything that a report of these records says. The same files give the same report."""
    places: dict[tuple[str, str, tuple[str, ...]], dict[str, list[Record]]] = {}
    for record in records:
        budgets = places.setdefault((record.data_name, record.protocol, record.classes), {})
        budgets.setdefault(record.labeled_num, []).append(record)
    tables: list[Table] = []
    for (data_set, protocol, classes), budgets in sorted(places.items()):
        upper = [record for record in budgets.get("all", []) if record.method == BASELINE]
        for budget in sorted(budgets, key=_size):
            mine = budgets[budget]
            if budget == "all" and len(budgets) > 1 and len(upper) == len(mine):
                continue  # it stands in the other tables
            drafts = rows_of([*mine, *(upper if budget != "all" else [])], budget)
            if drafts:
                tables.append(_table(data_set, budget, protocol, classes, drafts, len(tables)))
    newest = max((str(record.run["test"].get("date", "")) for record in records), default="")
    made = f"tests up to {newest}, report by commit {_commit()[:12]}"
    return Report(title, made, tuple(tables), tuple(skipped), tuple(remarks.of_report(records)),
                  {str(record.path): record.options for record in records})


_commit = cache(provenance.commit)
"""Asked of git once."""


def _size(budget: str) -> tuple[int, float, str]:
    """Order of label budgets: numbers, shares, 1/8 and its kin, all."""
    above, slash, below = budget.partition("/")
    try:
        if slash:
            return 1, 100 * float(above) / float(below), budget
        return (1 if budget.endswith("%") else 0, float(budget.rstrip("%")), budget)
    except (ValueError, ZeroDivisionError):
        return 2, 0.0, budget


def _table(data_set: str, budget: str, protocol: str, classes: tuple[str, ...], drafts: Sequence[Draft], place: int) -> Table:
    records = [record for draft in drafts for record in draft.records]
    known = [metric for metric in FURTHER if all(record.summary["mean"].get(metric) is not None for record in records)]
    metrics = (*METRICS, *known)
    cases, scores = gather(drafts, classes, metrics)
    sheet = _Sheet(budget, classes, metrics, cases, scores, comparison.pairs_of(drafts, scores, cases))
    rows = sorted((_row(draft, _baseline_of(draft, drafts), sheet) for draft in drafts),
                  key=lambda row: (("same", "all", "").index(row.baseline), -(row.stats["mean", "dice"].mean or 0), row.key))
    order = {row.key: place for place, row in enumerate(rows)}
    pairs = sorted(sheet.pairs, key=lambda pair: (order[pair.first], order[pair.second]))
    equals = comparison.comparable(drafts, scores)
    shown = (*metrics, "missed")
    best = comparison.best_of(equals, {row.key: row.stats for row in rows}, [(of, metric) for of in (*classes, "mean") for metric in shown])
    top = best.get(("mean", "dice"), ("",))[0]
    return Table(
        key=f"t{place}-" + re.sub(r"[^a-z0-9]+", "-", f"{data_set}-{budget.replace('%', 'pc')}-{protocol}".lower()).strip("-"),
        data_set=data_set, labeled_num=budget, protocol=protocol, dimensions=int(records[0].run.get("dimensions", 2)), classes=classes,
        metrics=shown, rows=tuple(rows), pairs=tuple(pairs), ranks=comparison.ranks_of(equals, scores, cases), best=best,
        missing=tuple(remarks.missing(drafts, budget)), remarks=tuple(remarks.of_table(drafts, cases, scores, equals)),
        level=comparison.level_with(top, equals, sheet.pairs), cases=len(cases.names), groups=len(np.unique(cases.groups)),
        by_matrix=all(record.by_matrix for record in records))


def _baseline_of(draft: Draft, drafts: Sequence[Draft]) -> Draft | None:
    """Supervised with the same labels that a row is compared with: the one of its network, else the one with the shortest label."""
    same = sorted((one for one in drafts if one.baseline == "same"), key=lambda one: (len(one.label), one.label))
    alike = [one for one in same if one.records[0].options["model"] == draft.records[0].options["model"]]
    first = (alike or same)[:1]
    return None if not first or first[0].key == draft.key else first[0]


def _row(draft: Draft, baseline: Draft | None, sheet: _Sheet) -> Row:
    stats: dict[tuple[str, str], Stat] = {}
    for metric in sheet.metrics:
        limits = intervals(sheet.scores[draft.key], sheet.cases, metric)
        if draft.records[0].by_matrix:
            limits = np.full_like(limits, math.nan)  # what cases spread around is their own mean, not the matrix's figure
        for of, (low, high) in zip((*sheet.classes, "mean"), limits):
            stats[of, metric] = _stat([record.summary[of].get(metric) for record in draft.records], low, high)
    for of in (*sheet.classes, "mean"):
        stats[of, "missed"] = _stat([record.summary[of].get("missed") for record in draft.records])
    difference, about = _difference(draft, baseline, sheet) if baseline else (None, [])
    training = [record.run["training"] for record in draft.records]
    draw_sd, fold_sd, seed_sd, told = _spread(draft.records)
    pair = next((p for p in sheet.pairs if baseline and {p.first, p.second} == {draft.key, baseline.key}), None)
    return Row(
        key=draft.key, label=draft.label, method=draft.method, baseline=draft.baseline, records=draft.records, others=draft.others,
        stats=stats, seconds=_stat([one.get("seconds") for one in training]),
        peak_memory=_stat([one.get("peak_memory") for one in training]),
        difference=difference, published=_published(draft, sheet.budget),
        draw_sd=draw_sd, seed_sd=seed_sd, remarks=(*draft.remarks, *told, *about), fold_sd=fold_sd,
        against=baseline.key if baseline else "",
        other_stats={name: _stat([one.summary["mean"]["dice"] for one in records]) for name, records in draft.others.items()},
        told="n.s." if pair and pair.p is not None and not pair.significant else "")


def _stat(values: Sequence[Any], low: float = math.nan, high: float = math.nan) -> Stat:
    known = [float(value) for value in values if value is not None]
    if not known:
        return Stat(None, None, 0, None, None)
    limits = [None if math.isnan(limit) else float(limit) for limit in (low, high)]
    return Stat(mean(known), stdev(known) if len(known) > 1 else None, len(known), limits[0], limits[1])


def _difference(draft: Draft, baseline: Draft, sheet: _Sheet) -> tuple[Stat | None, list[str]]:
    """Mean Dice of a row minus that of another, run by run, and what is to be said of it; its interval from common cases, groups drawn
    whole for both at once."""
    side = side_by_side(sheet.scores[draft.key], sheet.scores[baseline.key], sheet.cases)
    there = ~(np.isnan(side.first).all((0, 2)) & np.isnan(side.second).all((0, 2))) if len(side.tested) else np.zeros(0, bool)
    remarks = [f"difference to {baseline.label}: {side.said}"] if side.said else []
    if not there.any():
        return None, remarks
    _, groups = np.unique(sheet.cases.groups[there], return_inverse=True)
    per_run = [statistics.mean_known(statistics.mean_known(a[there], 0) - statistics.mean_known(b[there], 0), 0)
               for a, b in zip(side.first, side.second)]
    samples = [statistics.resampled(one[:, there], groups)[:, -1:] for one in (side.first, side.second)]
    low, high = statistics.interval(samples[0] - samples[1])[0]
    return _stat([None if math.isnan(value) else value for value in per_run], low, high), remarks


def _spread(records: Sequence[Record]) -> tuple[float | None, float | None, float | None, list[str]]:
    """(deviation by draw, by fold, by seed, what is to be said) of mean Dice."""
    values = {draw_key(record): record.summary["mean"]["dice"] for record in records if record.summary["mean"]["dice"] is not None}
    counts = [len({key[place] for key in values}) for place in range(3)]
    folds, draws, seeds = counts
    if max(folds, draws) < 2 or seeds < 2:
        return None, None, None, []
    found = statistics.spread_of(values if draws > 1 else {(0, fold, seed): value for (fold, _, seed), value in values.items()})
    if found is None:
        uneven = Counter(key[:2] for key in values)
        return None, None, None, ["the spread by draw and by seed is not told apart: the runs are unbalanced "
                                  f"({min(uneven.values())} to {max(uneven.values())} seeds a draw or fold)"]
    return (found[0], None, found[1], []) if draws > 1 else (None, found[0], found[1], [])


def _published(draft: Draft, budget: str) -> tuple[Figure, ...]:
    """Published figures of this method on this data set with this budget, those of our protocol first."""
    first = draft.records[0]
    return tuple(find(first.data_set, "all" if draft.baseline == "all" else budget, draft.method, first.protocol))
