"""Metrics of surface-defect images: the published per-image mean, and detection by image."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DELTA = 1e-10


def simeps_metrics(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> tuple[float, float, float]:
    """(mean IoU, mean Dice, accuracy) as simEps prints them, over all positions of the arrays given (one image or a batch).

    Only foreground classes present in the reference count: IoU = (i + d) / (u + d), Dice = 2(i + d) / (u + i + d), d = 1e-10; both
    are NaN when there is none. Accuracy is the share of equal positions, background included. ValueError for different shapes.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape:
        raise ValueError(f"label maps of shapes {prediction.shape} (prediction) and {reference.shape} (reference): expected equal shapes.")
    ious, dices = [], []
    for label in range(1, num_classes):
        p, r = prediction == label, reference == label
        if r.any():
            both, union = np.count_nonzero(p & r), np.count_nonzero(p | r)
            ious.append((both + DELTA) / (union + DELTA))
            dices.append(2 * (both + DELTA) / (union + both + DELTA))
    mean_iou = float(np.mean(ious)) if ious else float("nan")
    mean_dice = float(np.mean(dices)) if dices else float("nan")
    return mean_iou, mean_dice, float(np.mean(prediction == reference))


def image_flags(prediction: np.ndarray, reference: np.ndarray, num_classes: int, ignored: int | None = None) -> np.ndarray:
    """(2, C) bool of one image: class predicted, class in the reference; column 0 is "any defect" (the background has no flag).

    Positions whose reference is `ignored` do not count.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if ignored is not None:
        kept = reference != ignored
        prediction, reference = prediction[kept], reference[kept]
    flags = np.array([[np.any(labels == label) for label in range(num_classes)] for labels in (prediction, reference)])
    flags[:, 0] = flags[:, 1:].any(1)
    return flags


def image_detection(flags: Sequence[np.ndarray], class_names: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    """Detection over images: under "any" and each foreground class, `recall` and `false_alarms` in 0..1, and the counts.

    `flags`: what `image_flags` gave for each image. recall = share of the `n_defect` images with the defect in which it is predicted
    anywhere; false_alarms = share of the `n_free` images without it in which it is. A share of nothing is None.
    """
    table = np.asarray(flags, dtype=bool).reshape(len(flags), 2, len(class_names) + 1)
    result: dict[str, dict[str, float | int | None]] = {}
    for column, name in enumerate(("any", *class_names)):
        predicted, present = table[:, 0, column], table[:, 1, column]
        n_defect, n_free = int(present.sum()), int((~present).sum())
        result[name] = {
            "recall": float((predicted & present).sum() / n_defect) if n_defect else None,
            "false_alarms": float((predicted & ~present).sum() / n_free) if n_free else None,
            "n_defect": n_defect,
            "n_free": n_free,
        }
    return result
