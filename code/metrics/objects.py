"""Scores of objects: two maps of instances (H, W), in which every object has a number of its own and 0 is none.

    sums = object_sums(prediction, reference)                     of an image
    object_scores(sums)                                           its scores
    object_scores(total(all_sums))                                those of a set, all of its objects together

Of the gland challenge (Sirinukunwattana et al., Medical Image Analysis 35, 2017), the partner of an object being the one of the other map
that it shares most pixels with:

    object_f1          2 TP / (predicted + reference); a prediction is TP if it covers more than half of its partner
    object_dice        mean of both sides' sum_i |i| Dice(i, partner) / sum_i |i|; 0 without a partner
    object_hausdorff   the same of Hausdorff distances in pixels; without a partner that to the nearest object

and

    aji      sum |R & P| / (sum |R | P| + |what is no reference's P|), P that of largest IoU (Kumar et al., IEEE TMI 36(7), 2017)
    pq       sq rq; pairs of IoU above 1/2 match: sq = their mean IoU, rq = 2 pairs / (predicted + reference) (Kirillov et al., CVPR 2019)

Of two that are equal the smaller number is meant. Where one map has no object, scores are 0 and each object's distance is the diagonal
of the image (the challenge: infinite); where both have none, nothing is measured and the scores are None (the challenge: perfect).
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metrics.instances import consecutive
from metrics.object_distances import distances, pixels_of

MOST_PAIRS = 1 << 24
"""Pairs of objects up to which pixels in common are counted in a table of all of them."""


class ObjectSums(NamedTuple):
    """What is measured of an image, as sums: those of several images add up to those of all their objects."""

    predicted: float = 0.0
    """Objects."""
    reference: float = 0.0
    found: float = 0.0
    """Predictions that cover more than half of their partner."""
    predicted_area: float = 0.0
    reference_area: float = 0.0
    predicted_dice: float = 0.0
    """Dice of each with its partner, times its area."""
    reference_dice: float = 0.0
    predicted_distance: float = 0.0
    """Hausdorff distance, times the area."""
    reference_distance: float = 0.0
    intersection: float = 0.0
    """Of the Jaccard index aggregated over objects."""
    union: float = 0.0
    matched: float = 0.0
    """Pairs of IoU above 1/2."""
    iou: float = 0.0
    """Theirs."""


def total(sums: Sequence[ObjectSums]) -> ObjectSums:
    """What several images amount to."""
    return ObjectSums(*(math.fsum(column) for column in zip(*sums))) if sums else ObjectSums()


def object_sums(prediction: np.ndarray, reference: np.ndarray) -> ObjectSums:
    """Of two maps of instances (H, W) of whole numbers. ValueError for different shapes, or numbers below 0."""
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape or prediction.ndim != 2 or not prediction.size:
        raise ValueError(f"maps of instances of shapes {prediction.shape} (prediction) and {reference.shape} (reference): expected the "
                         "same (H, W).")
    if min(prediction.min(), reference.min()) < 0:
        raise ValueError("a map of instances holds numbers below 0: expected 0 for none, and 1, 2, ...")
    (p, n_p), (r, n_r) = consecutive(prediction), consecutive(reference)
    area_p, area_r = np.bincount(p.ravel(), minlength=n_p + 1), np.bincount(r.ravel(), minlength=n_r + 1)
    area_p[0] = area_r[0] = 0
    one, other, both = _in_common(p, r, n_p, n_r)
    union = area_p[one] + area_r[other] - both
    partner_p, partner_r = _largest(one, other, both, n_p), _largest(other, one, both, n_r)
    shared = dict(zip(zip(one.tolist(), other.tolist()), both.tolist()))
    both_p = np.array([shared.get((i, int(j)), 0) for i, j in enumerate(partner_p)])
    both_r = np.array([shared.get((int(j), i), 0) for i, j in enumerate(partner_r)])
    far_p, far_r = _distances(p, r, partner_p, partner_r)
    iou = both / union
    matched = iou > 0.5
    likest = _largest(other, one, iou, n_r)
    aggregated = likest[other] == one
    left = np.setdiff1d(np.arange(1, n_p + 1), likest)
    values = (
        n_p, n_r, np.count_nonzero(2 * both_p > area_r[partner_p]), area_p.sum(), area_r.sum(),
        _weighted(2 * area_p * both_p, area_p + area_r[partner_p]), _weighted(2 * area_r * both_r, area_r + area_p[partner_r]),
        (area_p * far_p).sum(), (area_r * far_r).sum(),
        both[aggregated].sum(), union[aggregated].sum() + area_r[likest == 0].sum() + area_p[left].sum(), matched.sum(), iou[matched].sum())
    return ObjectSums(*map(float, values))


def _in_common(p: np.ndarray, r: np.ndarray, n_p: int, n_r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(prediction, reference, pixels) of all pairs that have pixels in common."""
    keys = p.ravel().astype(np.int64) * (n_r + 1) + r.ravel()
    if (n_p + 1) * (n_r + 1) <= MOST_PAIRS:
        counts = np.bincount(keys)
        found = np.flatnonzero(counts)
        pixels = counts[found]
    else:
        found, pixels = np.unique(keys, return_counts=True)
    one, other = np.divmod(found, n_r + 1)
    kept = (one > 0) & (other > 0)
    return one[kept], other[kept], pixels[kept]


def _largest(of: np.ndarray, other: np.ndarray, value: np.ndarray, count: int) -> np.ndarray:
    """(count + 1,) for each object the other one of the largest value, the smaller number of two such; 0 where there is none."""
    order = np.lexsort((-other, value, of))
    best = np.zeros(count + 1, np.int64)
    best[of[order]] = other[order]
    return best


def _weighted(above: np.ndarray, below: np.ndarray) -> float:
    return float(np.divide(above, below, out=np.zeros(len(above)), where=below > 0).sum())


def _distances(p: np.ndarray, r: np.ndarray, partner_p: np.ndarray, partner_r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hausdorff distances of the predicted objects and of those of the reference, behind a 0 for none."""
    if min(len(partner_p), len(partner_r)) == 1:
        return np.full(len(partner_p), math.hypot(*p.shape)), np.full(len(partner_r), math.hypot(*p.shape))
    mine, theirs = (p, *pixels_of(p, len(partner_p) - 1)), (r, *pixels_of(r, len(partner_r) - 1))
    far_p = distances(partner_p, np.zeros_like(partner_r), np.zeros(len(partner_r)), *mine, *theirs)
    return far_p, distances(partner_r, partner_p, far_p, *theirs, *mine)


def object_scores(sums: ObjectSums) -> dict[str, float | None]:
    """The scores that sums amount to, by name; None for each where there is no object at all."""
    names = ("object_f1", "object_dice", "object_hausdorff", "aji", "pq", "sq", "rq")
    objects = sums.predicted + sums.reference
    if not objects:
        return dict.fromkeys(names)
    sides = [distance / area for distance, area in ((sums.predicted_distance, sums.predicted_area),
                                                    (sums.reference_distance, sums.reference_area)) if area]
    dice = [dice / area if area else 0.0 for dice, area in ((sums.predicted_dice, sums.predicted_area),
                                                            (sums.reference_dice, sums.reference_area))]
    values = (2 * sums.found / objects, sum(dice) / 2, sum(sides) / len(sides), sums.intersection / sums.union, 2 * sums.iou / objects,
              sums.iou / sums.matched if sums.matched else 0.0, 2 * sums.matched / objects)
    return dict(zip(names, values))
