"""Which rows of a table differ: pairs, ranks, and what may be printed in bold."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from reporting import statistics
from reporting.rows import Draft
from reporting.scores import Cases, Scores, filled, side_by_side
from reporting.summary import Pair, Ranks, Stat

LEVEL = 0.05
RISING = ("dice", "jaccard", "object_f1", "object_dice", "aji", "pq")
"""Metrics of which more is better."""


def pairs_of(drafts: Sequence[Draft], scores: Mapping[str, Scores], cases: Cases) -> tuple[Pair, ...]:
    """Every two rows on what they have in common, p-values corrected together; supervised with all labels competes with nobody."""
    found = [_pair(one, other, scores, cases) for one, other in combinations([d.key for d in drafts if d.baseline != "all"], 2)]
    corrected = statistics.holm([pair.p for pair in found])
    return tuple(replace(pair, p_holm=p, significant=p is not None and p < LEVEL) for pair, p in zip(found, corrected))


def _pair(one: str, other: str, scores: Mapping[str, Scores], cases: Cases) -> Pair:
    side = side_by_side(scores[one], scores[other], cases)
    by_case = statistics.mean_known(statistics.mean_known(side.difference, 0), 1)
    by_run = statistics.mean_known(statistics.mean_known(side.difference, 2), 1)
    there = ~np.isnan(by_case)
    if not there.any():
        return Pair(one, other, 0, float("nan"), float("nan"), float("nan"), None, None, None, False, side.said or "no common case")
    difference = float(by_case[there].mean())
    if difference < 0:
        one, other, by_case, by_run, difference = other, one, -by_case, -by_run, -difference
    _, groups = np.unique(cases.groups[there], return_inverse=True)
    units = statistics.group_means(by_case[there], groups)
    low, high = statistics.interval(statistics.resampled(by_case[None, there, None], groups))[0]
    p, reason = statistics.wilcoxon(units)
    return Pair(one, other, int(there.sum()), difference, float(low), float(high), p, None, statistics.false_claim(units), False,
                "; ".join(part for part in (side.said, reason) if part), len(units), len(by_run), int((by_run > 0).sum()))


def comparable(drafts: Sequence[Draft], scores: Mapping[str, Scores]) -> tuple[str, ...]:
    """Keys of the rows that were tested on the same cases as most rows (on more cases, where two camps are equal), those apart that started
    from the weights of an earlier run."""
    camps: dict[bytes, list[str]] = {}
    for draft in drafts:
        if draft.baseline != "all" and not started(draft):
            camps.setdefault(scores[draft.key].cases.tobytes(), []).append(draft.key)
    by_size = sorted(camps.values(), key=lambda camp: (len(camp), int(scores[camp[0]].cases.sum())))
    return tuple(by_size[-1]) if by_size else ()


def started(draft: Draft) -> bool:
    """Whether a row's runs started from an earlier run (--init_run)."""
    return any(record.options.get("init_run") for record in draft.records)


def ranks_of(keys: Sequence[str], scores: Mapping[str, Scores], cases: Cases) -> Ranks | None:
    """Ranks by mean Dice of each patient, of rows with the same cases; None for fewer than two rows or patients."""
    if len(keys) < 2:
        return None
    there = scores[keys[0]].cases
    dice = [scores[key].values["dice"] for key in keys]
    by_case = np.array([statistics.mean_known(statistics.mean_known(filled(one, scores[key].tested, *dice), 0), 1)[there]
                        for key, one in zip(keys, dice)])
    known = ~np.isnan(by_case).any(0)
    groups = cases.groups[there][known]
    if len(np.unique(groups)) < 2:
        return None
    units = np.column_stack([statistics.group_means(one[known], groups) for one in by_case])
    mean = dict(zip(keys, map(float, statistics.mean_ranks(units))))
    difference = statistics.critical_difference(len(keys), len(units))
    return Ranks(mean, int(known.sum()), statistics.friedman(units), difference, statistics.cliques(mean, difference), len(units))


def best_of(keys: Sequence[str], stats: Mapping[str, Mapping[tuple[str, str], Stat]],
            places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The best and the second of each (class, metric) among the rows `keys` that have two runs or more; nothing where not two have, or
    where the first two are equal."""
    found = {}
    for place in places:
        known = [(mean if place[1] not in RISING else -mean, key) for key in keys
                 if (mean := stats[key][place].mean) is not None and stats[key][place].n > 1]
        known.sort()
        if len(known) > 1 and known[0][0] != known[1][0]:
            found[place] = tuple(key for _, key in known[:2])
    return found


def level_with(top: str, keys: Sequence[str], pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Which of the comparable rows `keys` the row `top` does not differ from significantly, or was not tested against."""
    return tuple(sorted(other for pair in pairs if top in (pair.first, pair.second) and not pair.significant
                        and (other := pair.second if pair.first == top else pair.first) in keys))
