"""Scores of the rows of a table as arrays over the same cases, and two rows side by side."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reporting.records import Record, group_of
from reporting.rows import Draft, draw_key
from reporting.statistics import interval, mean_known, resampled

Key = tuple[int, ...]


@dataclass(frozen=True)
class Scores:
    """Scores of a row: run by run, over all cases of the table."""

    runs: tuple[Key, ...]
    """(fold, draw, seed)."""
    values: Mapping[str, np.ndarray]
    """By metric: (runs, cases, classes), NaN where not tested, or both prediction and reference lack the class."""
    tested: np.ndarray
    """(runs, cases) bool."""

    @property
    def cases(self) -> np.ndarray:
        """(cases,) bool: tested by any run."""
        return np.asarray(self.tested.any(0))


@dataclass(frozen=True)
class Cases:
    """The test cases of a table."""

    names: tuple[str, ...]
    groups: np.ndarray
    """(cases,): number of the patient or piece."""
    grouped: bool
    """Whether every file names them; without that each case stands for itself."""


def gather(drafts: Sequence[Draft], classes: Sequence[str], metrics: Sequence[str]) -> tuple[Cases, dict[str, Scores]]:
    """The cases of all rows, in alphabetical order, and the scores of each row by its key."""
    group: dict[str, str] = {}
    grouped = True
    for draft in drafts:
        for record in draft.records:
            for case in record.cases:
                grouped &= "group" in case
                if "group" in case or case["name"] not in group:
                    group[case["name"]] = group_of(case)
    names = tuple(sorted(group))
    _, numbers = np.unique([group[name] for name in names], return_inverse=True)
    place = {name: index for index, name in enumerate(names)}
    column = {name: index for index, name in enumerate(classes)}
    scores = {draft.key: _scores(draft.records, place, column, metrics) for draft in drafts}
    return Cases(names, numbers, grouped), scores


def _scores(records: Sequence[Record], place: Mapping[str, int], column: Mapping[str, int], metrics: Sequence[str]) -> Scores:
    values = np.full((len(metrics), len(records), len(place), len(column)), np.nan)
    tested = np.zeros((len(records), len(place)), bool)
    for run, record in enumerate(records):
        rows = [place[case["name"]] for case in record.cases]
        tested[run, rows] = True
        columns = [column[case["class"]] for case in record.cases]
        for index, metric in enumerate(metrics):
            found = [case.get(metric) for case in record.cases]
            values[index, run, rows, columns] = [np.nan if value is None else value for value in found]
    return Scores(tuple(draw_key(record) for record in records), dict(zip(metrics, values)), tested)


def intervals(scores: Scores, cases: Cases, metric: str) -> np.ndarray:
    """(classes + 1, 2): 95 % intervals of the mean of each class and of their mean, over runs and cases; groups drawn whole."""
    there = scores.cases
    _, groups = np.unique(cases.groups[there], return_inverse=True)
    return interval(resampled(scores.values[metric][:, there], groups))


@dataclass(frozen=True)
class Side:
    """Two rows on what they have in common."""

    first: np.ndarray
    """(runs, cases, classes): Dice of the one, NaN where not tested by both."""
    second: np.ndarray
    tested: np.ndarray
    """(runs, cases): by both."""
    said: str

    @property
    def difference(self) -> np.ndarray:
        """(runs, cases, classes): paired difference of Dice; NaN where nothing is in common.

        A class that a run rightly leaves empty (no Dice) counts 1 where any run of the other finds it (Dice 0), else a false alarm would
        cost nothing; it does not count where none does.
        """
        first, second = (filled(one, self.tested, self.first, self.second) for one in (self.first, self.second))
        return first - second


MATCHES: tuple[tuple[Callable[[Key], Key], str], ...] = (
    (lambda key: key, ""),
    (lambda key: (key[0], key[2]), "draws differ: averaged over them"),
    (lambda key: (key[0], key[1]), "seeds differ: averaged over them"),
    (lambda key: (key[0],), "draws and seeds differ: averaged over them"),
)
"""How the runs of two rows are paired: the first way by which any are."""


def side_by_side(first: Scores, second: Scores, cases: Cases) -> Side:
    """Runs of the same fold, draw and seed, where both have them, on the cases that both tested."""
    ways = [(said, _by(first, match), _by(second, match)) for match, said in MATCHES]
    said, mine, yours = next((way for way in ways if set(way[1]) & set(way[2])), ways[0])
    common = sorted(set(mine) & set(yours))
    if not common:
        empty = np.empty((0, len(cases.names), first.values["dice"].shape[2]))
        return Side(empty, empty, np.empty((0, len(cases.names)), bool), "no fold in common")
    remarks = [said] if said else []
    if len(common) < max(len(mine), len(yours)):
        remarks.append(f"on the {len(common)} run{'s' if len(common) > 1 else ''} that both have (of {len(mine)} and {len(yours)})")
    both, alone, pairs = [], np.zeros(len(cases.names), bool), []
    for key in common:
        tested = [scores.tested[runs].any(0) for scores, runs in ((first, mine[key]), (second, yours[key]))]
        both.append(tested[0] & tested[1])
        alone |= tested[0] ^ tested[1]
        pairs.append([mean_known(scores.values["dice"][runs], 0) for scores, runs in ((first, mine[key]), (second, yours[key]))])
    if alone.any():
        missing = [cases.names[index] for index in np.flatnonzero(alone)]
        remarks.append(f"without {', '.join(missing[:3])}{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}, "
                       "which only one of them has")
    mask = np.array(both)
    left, right = (np.where(mask[:, :, None], np.array([pair[side] for pair in pairs]), np.nan) for side in (0, 1))
    return Side(left, right, mask, "; ".join(remarks))


def filled(dice: np.ndarray, tested: np.ndarray, *all_rows: np.ndarray) -> np.ndarray:
    """(runs, cases, classes) with 1 where a run rightly left a class of a tested case empty that some run of `all_rows` did not."""
    counts = np.any([(~np.isnan(one)).any(0) for one in all_rows], axis=0)
    return np.where(np.isnan(dice) & tested[:, :, None] & counts, 1.0, dice)


def _by(scores: Scores, match: Callable[[Key], Key]) -> dict[Key, list[int]]:
    found: dict[Key, list[int]] = {}
    for index, key in enumerate(scores.runs):
        found.setdefault(match(key), []).append(index)
    return found
