"""Statistics on scores: tests, intervals, ranks and spreads. Pure functions on arrays; no file, no record, no option.

The unit of every test is what was drawn from the population: a patient, or a piece of steel. Where it has several cases, these are
averaged first, since two frames of one heart are not two independent observations. Where a case was tested by several runs (seeds,
draws of labelled cases), the runs are averaged before that. So a p-value speaks of other patients, not of other seeds: those stand
in the standard deviation over runs. Over folds every patient is tested once a seed, but the networks of two folds share training
cases, which makes every such test a little too sure (Bengio and Grandvalet, JMLR 2004: no unbiased estimate exists).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

DRAWS = 5000
"""Bootstrap samples of an interval."""
EXACT = 50
"""Up to so many pairs Wilcoxon's p-value is exact, ties included."""
DIGITS = 10
"""Differences are rounded so far, so that noise of float sums breaks no tie."""


def wilcoxon(differences: np.ndarray) -> tuple[float | None, str]:
    """(two-sided p of the signed-rank test, what is to be said of it) for paired differences (n,).

    Zeros are dropped (Wilcoxon 1945), ties share their mean rank. Up to `EXACT` remaining pairs the null distribution is enumerated
    with these very ranks, beyond that scipy's normal approximation with its correction for ties is taken. All zero: p = 1. One pair: None.
    """
    rounded = np.round(np.asarray(differences, float), DIGITS)
    left = rounded[rounded != 0]
    if len(rounded) < 2:
        return None, "one pair cannot be tested" if len(rounded) else "no common case"
    if not len(left):
        return 1.0, "no difference in any case"
    if len(left) > EXACT:
        return float(stats.wilcoxon(np.sort(left), method="asymptotic").pvalue), ""
    doubled = np.round(2 * stats.rankdata(np.abs(left))).astype(int)  # midranks are halves
    probability = np.zeros(doubled.sum() + 1)
    probability[0] = 1.0
    for rank in doubled:
        moved = np.zeros_like(probability)
        moved[rank:] = probability[:-rank]
        probability = (probability + moved) / 2
    smaller = int(min(doubled[left > 0].sum(), doubled[left < 0].sum()))
    least = 2 * 0.5 ** len(rounded)
    said = f"{len(rounded)} pairs cannot reach p < 0.05 (at best {least:.2g})" if least >= 0.05 else ""
    return float(min(1.0, 2 * probability[: smaller + 1].sum())), said


def holm(p: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's step-down correction (Scand. J. Statist. 1979), in the order given; None stays None and is not counted."""
    known = sorted((value, index) for index, value in enumerate(p) if value is not None)
    found: list[float | None] = [None] * len(p)
    highest = 0.0
    for place, (value, index) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - place)))
        found[index] = highest
    return found


def false_claim(differences: np.ndarray) -> float | None:
    """Posterior probability that the mean of paired differences (n,) is not above 0: that the claim "the first is better" is false.

    Christodoulou et al., "False Promises in Medical Imaging AI?", arXiv 2505.04720, for segmentation: with means m, standard deviations
    s and the correlation r of both methods' scores by case, P = t_{n-1}(sqrt(n) (m_B - m_A) / sqrt(s_A^2 + s_B^2 - 2 s_A s_B r)), the
    posterior under a flat prior on means and logarithm of the deviation. The paper works on published tables and must estimate s and r
    ("model congruence") from other studies; here the scores themselves are paired, the root is the standard deviation of the differences,
    and nothing is estimated from elsewhere. Two things are ours: n counts patients, not images, and differences without any spread give
    0, 0.5 or 1 by their sign. None for fewer than two.
    """
    values = np.round(np.asarray(differences, float), DIGITS)
    if len(values) < 2:
        return None
    mean, spread = values.mean(), values.std(ddof=1)
    if spread < 10.0 ** -DIGITS:
        return float(0.5 * (1 - np.sign(np.round(mean, DIGITS))))
    return float(stats.t.cdf(-mean * np.sqrt(len(values)) / spread, len(values) - 1))


@cache
def weights(groups: int, seed: int = 0) -> np.ndarray:
    """(DRAWS, groups) float64: how often each group is in each bootstrap sample; the same ones for the same number of groups."""
    drawn = np.random.default_rng([seed, groups]).integers(groups, size=(DRAWS, groups)) + groups * np.arange(DRAWS)[:, None]
    return np.bincount(drawn.ravel(), minlength=DRAWS * groups).reshape(DRAWS, groups).astype(float)


def resampled(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(DRAWS, K + 1): bootstrap means of (runs, cases, K) values, groups drawn whole, a column each; the last is the mean over the columns.

    `groups` (cases,) numbers from 0; a group comes with all its cases and all their runs. NaN: the run has no such value of the case, which
    is left out, as in the tables. Where a sample holds no value of a column, it is NaN there, and the mean is over the others.
    """
    number = int(groups.max()) + 1
    known = ~np.isnan(values)
    sums, counts = np.zeros((number, values.shape[2])), np.zeros((number, values.shape[2]))
    np.add.at(sums, groups, np.where(known, values, 0.0).sum(0))
    np.add.at(counts, groups, known.sum(0))
    drawn = weights(number)
    with np.errstate(invalid="ignore"):
        means = (drawn @ sums) / (drawn @ counts)
    return np.column_stack([means, mean_known(means, 1)])


def interval(samples: np.ndarray) -> np.ndarray:
    """(K, 2): 95 % percentile intervals of (DRAWS, K) bootstrap samples; NaN where a column has no value."""
    if not np.isnan(samples).any():
        return np.percentile(samples, [2.5, 97.5], axis=0).T
    known = [column[~np.isnan(column)] for column in samples.T]
    return np.array([np.percentile(one, [2.5, 97.5]) if len(one) else [np.nan] * 2 for one in known])


def mean_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over an axis without the NaNs; NaN where there is nothing else."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis) / known.sum(axis)


def group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(groups,): means of (cases,) values by group, in the order of the numbers, groups without a case left out."""
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, values) / np.bincount(index)


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """(k,): mean rank of each column of (n, k) scores, 1 the best (highest), ties share their mean."""
    return stats.rankdata(-np.round(scores, DIGITS), axis=1).mean(0)


def friedman(scores: np.ndarray) -> float | None:
    """p of Friedman's test on (n, k) scores, corrected for ties. All columns equal: 1; fewer than three columns or two rows: None."""
    rounded = np.round(scores, DIGITS)
    if scores.shape[1] < 3 or len(scores) < 2:
        return None
    if (rounded == rounded[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*rounded.T).pvalue)


@cache
def critical_difference(k: int, n: int, alpha: float = 0.05) -> float:
    """Nemenyi: the difference of mean ranks from which two of k methods differ on n units (Demsar, JMLR 2006, section 3.2.2)."""
    return float(stats.studentized_range.ppf(1 - alpha, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n)))


def cliques(ranks: Mapping[str, float], difference: float) -> tuple[tuple[str, ...], ...]:
    """Largest groups of two or more methods, neighbours by mean rank, whose ranks lie within the critical difference."""
    ordered = sorted(ranks, key=lambda name: (ranks[name], name))
    found: list[tuple[str, ...]] = []
    for start in range(len(ordered)):
        within = tuple(name for name in ordered[start:] if ranks[name] - ranks[ordered[start]] <= difference)
        if len(within) > 1 and not any(set(within) <= set(earlier) for earlier in found):
            found.append(within)
    return tuple(found)


def spread_of(values: Mapping[tuple[Any, Any, Any], float]) -> tuple[float, float] | None:
    """(standard deviation by draw, by seed) of values keyed by (block, draw, seed); None where they cannot be told apart.

    Random effects, seeds nested in draws, draws nested in blocks (folds, whose own means are taken out): what the seed decides, its
    interaction with the draw included, is the mean square within draws; what the draw decides is the mean square between draws less
    that, over the number of seeds, and 0 where this is negative. Every draw must have the same number of seeds, at least two, and
    every block the same number of draws, at least two.
    """
    blocks: dict[Any, dict[Any, list[float]]] = {}
    for (block, draw, _), value in values.items():
        blocks.setdefault(block, {}).setdefault(draw, []).append(value)
    sizes = {len(seeds) for draws in blocks.values() for seeds in draws.values()}
    widths = {len(draws) for draws in blocks.values()}
    if len(sizes) != 1 or len(widths) != 1 or min(sizes) < 2 or min(widths) < 2:
        return None
    table = np.array([list(draws.values()) for draws in blocks.values()])  # blocks, draws, seeds
    within = table.var(axis=2, ddof=1).mean()
    between = table.shape[2] * table.mean(2).var(axis=1, ddof=1).mean()
    return float(np.sqrt(max(between - within, 0) / table.shape[2])), float(np.sqrt(within))
