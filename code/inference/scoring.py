"""How predicted cases are scored: case by case, image by image, or by one confusion matrix over the whole set (`Evaluation.scored`).

A row is what is measured of one case, a plain value: what `score_case` gives, or pixel counts. A summary is what a set's rows amount to.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dataloaders.description import DataSet
from dataloaders.reading import EvaluationCase
from dataloaders.zoom import resize_nearest
from metrics import confusion_matrix, score_case, summarize
from metrics.defects import DELTA
from metrics.overlap import class_dice, intersection_union_target, stpp_miou, unimatch_miou

IGNORED = 255
Row = list[Any]
Summary = dict[str, dict[str, Any]]
"""By class name, and under "mean": its scores by name; a mean over nothing is None."""


def case_scores(labels: np.ndarray, loaded: EvaluationCase, data: DataSet, empty: str = "penalty", backend: str = "numba",
                mm: bool = False) -> Row:
    """What `score_case` gives for a predicted case at native size; with `mm` in millimetres too, where the spacing is known.

    A case of one image is scored as a plane: as a volume of one slice it would be surface everywhere.
    """
    plane = data.dimensions == 2 and len(labels) == 1
    prediction, reference = (labels[0], loaded.reference[0]) if plane else (labels, loaded.reference)
    spacing = loaded.spacing[-prediction.ndim :] if mm and loaded.spacing else None
    return score_case(prediction, reference, data.num_classes, spacing, data.ignored, empty, backend=backend)


def counts_of(labels: np.ndarray, reference: np.ndarray, data: DataSet) -> Row:
    """(K, K) pixel counts of a predicted case, rows reference, columns prediction, as lists; reference pixels of 255 are left out.

    `labels` may have another size than `reference`, which is then resized to it.
    """
    if labels.shape != reference.shape:
        reference = resize_nearest(reference, (labels.shape[-2], labels.shape[-1]), data.resizing)
    return confusion_matrix(labels, reference, data.num_classes, IGNORED).tolist()


def summary_of(rows: Sequence[Row], data: DataSet) -> Summary:
    """What the rows of a set amount to: means over its cases, over its images, or what its one confusion matrix says."""
    if data.evaluation.scored == "case":
        return summarize(rows, data.classes[1:])
    if data.evaluation.scored == "image":
        return mean_of_images(np.array(rows), data.classes)
    return of_matrix(np.sum(rows, 0), data.classes)


def mean_of_images(counts: np.ndarray, classes: Sequence[str]) -> Summary:
    """Of counts (N, K, K): per image the mean over the foreground classes present in its reference; then the mean over images that have
    any (simEps)."""
    both = np.diagonal(counts, axis1=1, axis2=2)[:, 1:].astype(float)
    present = counts.sum(2)[:, 1:] > 0
    union = counts.sum(1)[:, 1:] + counts.sum(2)[:, 1:] - both
    iou, dice = (both + DELTA) / (union + DELTA), 2 * (both + DELTA) / (union + both + DELTA)
    summary = {name: _mean(dice[:, c][present[:, c]], iou[:, c][present[:, c]]) for c, name in enumerate(classes[1:])}
    shown = present.any(1)
    per_image = [(values[shown] * present[shown]).sum(1) / present[shown].sum(1) for values in (dice, iou)]
    return {"mean": _mean(*per_image), **summary}


def _mean(dice: np.ndarray, iou: np.ndarray) -> dict[str, float]:
    return {"dice": float(dice.mean()) if dice.size else 0.0, "iou": float(iou.mean()) if iou.size else 0.0}


def of_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Summary:
    """IoU and Dice of every class, background too, from one confusion matrix (K, K); None for a class that is in neither map.

    The mean has `miou`, which leaves such classes out (ST++), and `miou_absent_zero`, in which their IoU is 0 (UniMatch). The two differ
    on small parts of a data set only.
    """
    iou, mean_of_present = stpp_miou(matrix)
    both, union, _ = intersection_union_target(matrix)
    dice = class_dice(matrix)
    means = {"miou": mean_of_present, "miou_absent_zero": unimatch_miou(both, union)[1] / 100, "dice": _mean_known(dice)}
    by_class = {name: {"dice": dice[c], "iou": iou[c]} for c, name in enumerate(classes)}
    return {of: {key: None if np.isnan(value) else float(value) for key, value in scores.items()}
            for of, scores in {"mean": means, **by_class}.items()}


def _mean_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


WORDS = {"dice": "Dice", "miou": "mIoU"}
"""What a score by which the best step is chosen is called on the screen."""


def score_of(summary: Mapping[str, Mapping[str, Any]], data: DataSet) -> float:
    """The number by which the best step is chosen, and which a plateau schedule follows; 0 where nothing could be measured."""
    return summary["mean"][data.evaluation.best_by] or 0.0
