"""What paired scores on few images say: intervals, the chance of no gain, which arms are dropped, and what the pick of the best is worth.

The unit is the labelled image (or patient, or piece): its score under an arm is the mean over the divisions in which it was held out. All
of it is arithmetic on arrays; no file, no run.

Two things make such a mean unsure, and each is looked for in the scores. Images differ: the variance of a mean over n images is taken as
s^2 (1 / n + 1 / n_train), s the spread of the images and n_train how many each network learned from. And networks differ, of which a part
of the images shares one: over J parts it is S^2 (1 / J + n_test / n_train), S the spread of the parts' means. Both have Nadeau and
Bengio's correction (Machine Learning 2003) for networks that learned from overlapping images. The wider of the two holds; of one part
alone, which one network predicted, nothing is known of the second, and so no interval. Under a flat
prior the mean has Student's t distribution around what was measured (n - 1 or J - 1 degrees; Corani and Benavoli, Machine Learning 2015:
the Bayesian correlated t-test); "the chance that there is no gain" is its mass below 0.
"""
from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from reporting.statistics import mean_known

LEVEL = 0.9
"""Of intervals: nine in ten, since few images allow no more."""
CLEARLY_WORSE, NEARLY_BEST = 0.05, 0.4
"""Chance of being at least as good as the leader below which an arm of the better half is dropped too, and from which on one of the
worse half stays."""


@dataclass(frozen=True)
class Estimate:
    """A mean over images and how sure it is."""

    mean: float
    scale: float
    """Of Student's t distribution; infinite for fewer than two images or two networks."""
    freedom: int
    """Its degrees."""
    images: int

    @property
    def interval(self) -> tuple[float, float]:
        """The middle `LEVEL` of the distribution."""
        if not np.isfinite(self.scale):
            return -np.inf, np.inf
        wide = self.scale * half_width(self.freedom)
        return self.mean - wide, self.mean + wide

    @property
    def chance_below(self) -> float:
        """That the mean lies below 0."""
        if not np.isfinite(self.scale):
            return 0.5
        if self.scale < 1e-9:
            return float(0.5 * (1 - np.sign(np.round(self.mean, 10))))
        return float(stats.t.cdf(-self.mean / self.scale, self.freedom))


@cache
def half_width(freedom: int) -> float:
    """Of the middle `LEVEL` of Student's t distribution."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, freedom))


def estimate(values: np.ndarray, parts: np.ndarray) -> Estimate:
    """Of (rounds, images) values, NaN where an image was not scored; parts: in which part of its round each image was held out."""
    known = ~np.isnan(values)
    images = means(values)
    images = images[~np.isnan(images)]
    count = len(images)
    if count < 2:
        return Estimate(float(images.mean()) if count else np.nan, np.inf, 1, count)
    folds = int(parts.max()) + 1
    trained_on = parts.shape[1] * (1 - 1 / folds)
    shared = [values[round_][known[round_] & (parts[round_] == part)] for round_ in range(len(values)) for part in range(folds)]
    cells = np.array([some.mean() for some in shared if len(some)])
    if len(cells) < 2:
        return Estimate(float(images.mean()), np.inf, 1, count)
    ways = [(float(images.std(ddof=1) * np.sqrt(1 / count + 1 / trained_on)), count - 1),
            (float(cells.std(ddof=1) * np.sqrt(1 / len(cells) + 1 / (folds - 1))), len(cells) - 1)]
    scale, freedom = max(ways, key=lambda way: way[0] * half_width(way[1]))
    return Estimate(float(images.mean()), scale, freedom, count)


Scores = Mapping[str, np.ndarray]
"""By arm: (rounds, images) scores from 0 to 1, NaN where an image was not scored in that round."""


def means(scores: np.ndarray) -> np.ndarray:
    """(images,): mean over the rounds; NaN where there is none."""
    return mean_known(scores, 0)


def gain(scores: Scores, arm: str, over: str, parts: np.ndarray) -> Estimate:
    """Of an arm over another, paired on the images and rounds that both have."""
    return estimate(scores[arm] - scores[over], parts)


def ranked(stack: np.ndarray, places: Sequence[int], images: np.ndarray) -> list[int]:
    """`places` of arms by their mean over the rounds that all of these share, on `images` (bool); as they came where there are none.

    `stack` is (arms, rounds, images). Rounds are not alike (another division, other first weights): what one arm alone has does not count.
    """
    shared = ~np.isnan(stack[list(places)]).any(0) & images
    if not shared.any():
        return list(places)
    value = {place: float(np.nanmean(means(np.where(shared, stack[place], np.nan)))) for place in places}
    return sorted(places, key=lambda place: -value[place])


def leader(scores: Scores, arms: Sequence[str]) -> str:
    """The arm with the highest mean in the rounds that all share; of equal ones the first named."""
    stack = np.stack([scores[arm] for arm in arms])
    return arms[ranked(stack, range(len(arms)), np.ones(stack.shape[2], bool))[0]]


def survivors(scores: Scores, supervised: Sequence[str], others: Sequence[str], parts: np.ndarray) -> list[str]:
    """The better supervised arm, and of the others the better half: successive halving (Jamieson and Talwalkar, AISTATS 2016).

    An arm of the worse half stays where the chance that it is no worse than the leader is `NEARLY_BEST` or more, one of the better half
    goes where that is below `CLEARLY_WORSE`.
    """
    base = leader(scores, supervised)
    if not others:
        return [base]
    best = leader(scores, others)
    order = sorted(others, key=lambda arm: -gain(scores, arm, best, parts).mean)
    half = -(-len(order) // 2)
    kept = []
    for place, arm in enumerate(order):
        as_good = 1 - gain(scores, arm, best, parts).chance_below if arm != best else 1.0
        if arm == best or (as_good >= CLEARLY_WORSE if place < half else as_good >= NEARLY_BEST):
            kept.append(arm)
    return [base, *kept]


def picked(scores: Scores, arms: Sequence[str], dropped: Container[str] = ()) -> np.ndarray:
    """(rounds, images): for each image the scores of the arm that all other images would choose, NaN where that is not known.

    The best of several arms on few images is best by luck too; its score on an image that had no say in the choice is free of that. They
    choose as the rounds did: so many as were not `dropped` go on from the rounds that all arms share, and the best of these in their own.
    """
    stack = np.stack([scores[arm] for arm in arms])
    alive = [place for place, arm in enumerate(arms) if arm not in dropped] or list(range(len(arms)))
    known = (~np.isnan(stack)).any(1).all(0)
    found = np.full_like(scores[arms[0]], np.nan)
    for image in np.flatnonzero(known):
        others = known.copy()
        others[image] = False
        if others.any():
            kept = ranked(stack, range(len(arms)), others)[: len(alive)]
            on = [place for place in kept if place in alive]
            found[:, image] = stack[ranked(stack, on, others)[0] if on else kept[0]][:, image]
    return found


def gain_of_choice(scores: Scores, base: str, others: Sequence[str], parts: np.ndarray, dropped: Container[str] = ()) -> Estimate:
    """What choosing the best of the arms with unlabelled data gains over `base`, chosen without the image on which it is scored.

    `base` is one supervised arm, the better one by all images: what luck it had counts against a gain. `dropped`: those that did not go
    on after some round.
    """
    return estimate(picked(scores, others, dropped) - scores[base], parts)
