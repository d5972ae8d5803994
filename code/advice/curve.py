"""How the score rises with the number of labels, and how many more would be worth a gain.

The error of the supervised network, 1 - Dice, is taken to fall as a power of the number of labelled images, e(m) = a m^-b (Hestness et
al., arXiv 1712.00409; of two parameters, since three budgets allow no third for where the error ends). A gain that brings the error from
e(n) to e' is then worth n ((e(n) / e')^(1 / b) - 1) more labels: a lower bound, since the error of a training of few steps soon falls no
further (on Phantom's folds labels of 58 more patients were needed where this says 8: results/advice.md).
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from advice.evidence import means

DRAWS = 1000
FLATTEST = 0.03
"""Exponent below which the score hardly rises: with 0.03 ten times the labels take 7 % of the error."""
BEYOND = 4.0
"""Up to how many times the labels that there are anything is told of."""
LEAST_ERROR = 1e-3


@dataclass(frozen=True)
class Curve:
    """a m^-b, and what resampled images say of b."""

    budgets: tuple[float, ...]
    scores: tuple[float, ...]
    a: float
    b: float
    drawn: np.ndarray
    """(draws,): exponents of resampled images."""
    weights: np.ndarray
    """(draws, images): how often each image was drawn."""

    @property
    def tells(self) -> bool:
        """Whether the score rises with labels in nine draws of ten."""
        return bool(self.b >= FLATTEST and np.quantile(self.drawn, 0.1) >= FLATTEST)


@dataclass(frozen=True)
class Worth:
    """How many more labelled images would be worth a gain: the middle, and the interval of nine in ten; None: beyond what is told."""

    more: float | None
    low: float
    high: float | None


def exponents(errors: np.ndarray, budgets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(log a, b) of (..., budgets) errors, by least squares of logarithms."""
    x, y = np.log(budgets), np.log(np.maximum(errors, LEAST_ERROR))
    centred = x - x.mean()
    slope = (y * centred).sum(-1) / (centred**2).sum()
    return y.mean(-1) - slope * x.mean(), -slope


def fitted(scores: Mapping[float, np.ndarray], seed: int = 0) -> Curve | None:
    """The curve through the scores, (rounds, images) of the supervised arm by budget; None for fewer than two budgets or three images.

    Images that a budget lacks are left out of all.
    """
    budgets = np.array(sorted(scores), float)
    if len(budgets) < 2:
        return None
    table = np.stack([means(scores[budget]) for budget in budgets])
    table = table[:, ~np.isnan(table).any(0)]
    count = table.shape[1]
    if count < 3:
        return None
    weights = np.random.default_rng([seed, count]).multinomial(count, np.full(count, 1 / count), DRAWS) / count
    log_a, b = exponents(1 - table.mean(1), budgets)
    _, drawn = exponents(1 - weights @ table.T, budgets)
    return Curve(tuple(budgets), tuple(table.mean(1)), float(np.exp(log_a)), float(b), drawn, weights)


def worth(curve: Curve, labels: float, supervised: np.ndarray, better: np.ndarray) -> Worth | None:
    """Of a gain over the supervised arm at so many labels; both (images,) scores of the images of the curve.

    None where the curve does not tell, or the images are others.
    """
    known = ~np.isnan(supervised) & ~np.isnan(better)
    if not curve.tells or curve.weights.shape[1] != known.sum():
        return None
    before = np.maximum(1 - curve.weights @ supervised[known], LEAST_ERROR)
    after = np.maximum(1 - curve.weights @ better[known], LEAST_ERROR)
    slope = np.maximum(curve.drawn, FLATTEST)
    more = labels * (np.clip(before / after, 1e-3, 1e3) ** (1 / slope) - 1)
    middle = labels * ((max(1 - float(supervised[known].mean()), LEAST_ERROR) / max(1 - float(better[known].mean()), LEAST_ERROR))
                       ** (1 / curve.b) - 1)
    low, high = np.quantile(more, [0.05, 0.95])
    most = (BEYOND - 1) * labels
    return Worth(None if middle > most else float(max(middle, 0)), float(max(low, 0)), None if high > most else float(max(high, 0)))
