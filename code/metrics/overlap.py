"""Overlap of masks and label maps, by counts: of two masks, of a case, and of a whole data set by one confusion matrix."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def dice_of_counts(prediction: float, reference: float, both: float) -> float:
    """2|P & R| / (|P| + |R|); 1 when both are empty."""
    total = prediction + reference
    return 2.0 * float(both) / float(total) if total else 1.0


def jaccard_of_counts(prediction: float, reference: float, both: float) -> float:
    """|P & R| / |P | R|; 1 when both are empty."""
    union = prediction + reference - both
    return float(both) / float(union) if union else 1.0


def _mask_counts(prediction: np.ndarray, reference: np.ndarray) -> tuple[int, int, int]:
    prediction, reference = np.asarray(prediction) != 0, np.asarray(reference) != 0
    if prediction.shape != reference.shape:
        raise ValueError(f"masks of shapes {prediction.shape} (prediction) and {reference.shape} (reference): expected equal shapes.")
    return int(prediction.sum()), int(reference.sum()), int((prediction & reference).sum())


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice of two masks (non-zero = object) of any equal shape; 1 when both are empty."""
    return dice_of_counts(*_mask_counts(prediction, reference))


def jaccard(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Jaccard (IoU) of two masks of any equal shape; 1 when both are empty."""
    return jaccard_of_counts(*_mask_counts(prediction, reference))


def abs_ravd(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Absolute relative volume difference ||P| - |R|| / |R|; NaN when the reference is empty."""
    n_prediction, n_reference, _ = _mask_counts(prediction, reference)
    return abs(n_prediction - n_reference) / n_reference if n_reference else float("nan")


def confusion_matrix(prediction: np.ndarray, reference: np.ndarray, num_classes: int, ignored: int | None = 255) -> np.ndarray:
    """(C, C) int64 counts, rows = reference, columns = prediction; positions whose reference is `ignored` are dropped.

    Matrices of several images add up to the one of the data set. ValueError for other labels outside 0..C-1.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape:
        raise ValueError(f"label maps of shapes {prediction.shape} (prediction) and {reference.shape} (reference): expected equal shapes.")
    if ignored is not None:
        kept = reference != ignored
        prediction, reference = prediction[kept], reference[kept]
    for name, labels in (("prediction", prediction), ("reference", reference)):
        if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
            raise ValueError(f"{name} holds labels from {labels.min()} to {labels.max()}: expected 0..{num_classes - 1}.")
    pairs = reference.astype(np.int64).ravel() * num_classes + prediction.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def intersection_union_target(matrix: np.ndarray) -> np.ndarray:
    """(3, C) int64: positions in both, in either, in the reference, for each class of a confusion matrix."""
    both, target = np.diag(matrix), matrix.sum(1)
    return np.stack([both, target + matrix.sum(0) - both, target])


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """(C,) IoU in 0..1 for each class of a confusion matrix; NaN for a class absent from both."""
    both, union, _ = intersection_union_target(matrix)
    return np.divide(both, union, out=np.full(len(both), np.nan), where=union > 0)


def class_dice(matrix: np.ndarray) -> np.ndarray:
    """(C,) Dice in 0..1 for each class of a confusion matrix; NaN for a class absent from both."""
    both, total = np.diag(matrix), matrix.sum(0) + matrix.sum(1)
    return np.divide(2 * both, total, out=np.full(len(both), np.nan), where=total > 0)


def unimatch_miou(intersection: np.ndarray, union: np.ndarray) -> tuple[np.ndarray, float]:
    """Per cent for each class and their mean as UniMatch prints them, from sums over the data set (C,).

    100 I / (U + 1e-10) over all classes: one that is absent from both counts as 0.
    """
    percent = 100.0 * np.asarray(intersection) / (np.asarray(union) + 1e-10)
    return percent, float(percent.mean())


def stpp_miou(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """IoU of each class and their mean as ST++ prints them: absent classes are NaN and left out; NaN when all are."""
    iou = class_iou(matrix)
    present = iou[~np.isnan(iou)]
    return iou, float(present.mean()) if present.size else float("nan")


def dataset_overlap(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Dice and IoU of a data set from its one confusion matrix, by class name (background first, as in the matrix).

    "mean" is over the foreground classes, "mean_with_background" over all; a class absent from both is None and left out.
    """
    if len(class_names) != len(matrix):
        raise ValueError(f"{len(class_names)} class names for a confusion matrix of {len(matrix)} classes.")
    values = {"dice": class_dice(matrix), "iou": class_iou(matrix)}

    def mean(numbers: np.ndarray) -> float | None:
        numbers = numbers[~np.isnan(numbers)]
        return float(numbers.mean()) if numbers.size else None

    result = {"mean": {key: mean(numbers[1:]) for key, numbers in values.items()}}
    result["mean_with_background"] = {key: mean(numbers) for key, numbers in values.items()}
    for index, name in enumerate(class_names):
        result[name] = {key: mean(numbers[index : index + 1]) for key, numbers in values.items()}
    return result
