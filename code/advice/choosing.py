"""Which images to label next: uncertain ones, spread over what images look like, none of them nearly another. Arithmetic on features.

Of the images that a run expects to segment worst, `POOL` times as many as are wanted, those are taken one after another that lie furthest
from all that is labelled or taken already: greedy k-center (Sener and Savarese, ICLR 2018), behind a choice by uncertainty as in suggestive
annotation (Yang et al., MICCAI 2017). Without a run all images are in the pool; where nothing is labelled the first is the one nearest to
the mean of all. Without a run the few images that lie far from everything else, `ODD` of them, are passed over: k-center would take these
first, and what is like nothing else teaches little of the rest.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preparation.copies import ALIKE, turned

POOL = 4
ODD, NEIGHBOURS = 0.05, 5
"""Share of images that are passed over where there are enough, and the neighbours to which their distance is taken."""


def distances(rows: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(N,) Euclidean distances of (N, D) rows from a point (D,)."""
    return np.sqrt(np.maximum(((rows - point) ** 2).sum(1), 0))


def odd_ones(rows: np.ndarray) -> np.ndarray:
    """(N,) bool: the `ODD` share with the largest distance to their nearest neighbours; none of fewer than 20."""
    count = int(ODD * len(rows))
    found = np.zeros(len(rows), bool)
    if count == 0:
        return found
    far = np.empty(len(rows))
    for place, row in enumerate(rows):
        far[place] = np.partition(distances(rows, row), NEIGHBOURS)[NEIGHBOURS]
    found[np.argsort(far, kind="stable")[len(rows) - count :]] = True
    return found


def nearly(prints: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(N,) bool: which prints (N, SIDE, SIDE) show nearly what `one` (SIDE, SIDE) does, in some turn."""
    flat = prints.reshape(len(prints), -1)
    best = np.max([flat @ np.ascontiguousarray(view).ravel() for view in turned(one[None])], axis=0)
    return np.asarray(best >= ALIKE)


def chosen(rows: np.ndarray, labeled: np.ndarray, groups: Sequence[str], prints: np.ndarray, count: int,
           expected: np.ndarray | None = None) -> tuple[list[int], int]:
    """(places of the images to label next, in order; how many were passed over as near-duplicates or of a group that is there already).

    Args:
        rows: (N, D) features.
        labeled: (N,) bool.
        groups: patient or piece of each image; of one no second image is taken.
        prints: (N, SIDE, SIDE), `preparation.copies.Print.small`.
        count: how many are wanted; fewer come back where there are no more.
        expected: (N,) Dice that a run expects of each; None without a run.
    """
    free = ~labeled
    odd = odd_ones(rows) if expected is None else np.zeros(len(rows), bool)
    passed = np.zeros(len(rows), bool)
    distance = np.full(len(rows), np.inf)
    taken: list[int] = []

    def take(place: int) -> None:
        nonlocal distance
        distance = np.minimum(distance, distances(rows, rows[place]))
        passed[:] |= nearly(prints, prints[place]) & free
        passed[:] |= np.array([group == groups[place] for group in groups]) & free
        passed[place] = False

    for place in np.flatnonzero(labeled):
        take(int(place))
    pool = free & ~odd
    while len(taken) < count:
        open_ = pool & free & ~passed
        if not open_.any():
            if not (free & ~passed).any():
                break
            pool = free.copy()
            continue
        if expected is not None:
            wanted = POOL * count - len(taken)
            worst = np.flatnonzero(open_)[np.argsort(expected[open_], kind="stable")[:wanted]]
            open_ = np.zeros(len(rows), bool)
            open_[worst] = True
        places = np.flatnonzero(open_)
        if np.isinf(distance[places]).all():
            best = int(places[np.argmin(distances(rows[places], rows[pool].mean(0)))])
        else:
            best = int(places[np.argmax(distance[places])])
        taken.append(best)
        free[best] = False
        take(best)
    return taken, int((passed & ~labeled).sum())
