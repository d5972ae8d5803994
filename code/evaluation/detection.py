"""What defect papers report beside the scores of cases: means per image, one confusion matrix over the set, detection by image."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataloaders.description import DataSet
from dataloaders.zoom import resize_nearest
from metrics import confusion_matrix, dataset_overlap, image_detection, image_flags, simeps_metrics


@dataclass(frozen=True)
class Found:
    """What is found in one image, at one size."""

    counts: np.ndarray
    """(K, K), rows reference, columns prediction."""
    means: tuple[float, float, float]
    """mIoU, mDice and accuracy as simEps prints them."""
    flags: np.ndarray
    """(2, K): predicted anywhere, there anywhere."""


def found_in(labels: np.ndarray, reference: np.ndarray, data: DataSet) -> Found:
    """Of a label map (1, h, w); the reference (1, H, W) is resized to it."""
    if labels.shape != reference.shape:
        reference = resize_nearest(reference, (labels.shape[-2], labels.shape[-1]), data.resizing)
    classes = data.num_classes
    return Found(confusion_matrix(labels, reference, classes), simeps_metrics(labels, reference, classes),
                 image_flags(labels, reference, classes, data.ignored))


def figures_of(images: Sequence[Mapping[str, Found]], data: DataSet) -> dict[str, Any]:
    """The published figures by size, of all images of a set."""
    figures = {}
    for size in images[0]:
        each = [image[size] for image in images]
        means = np.array([one.means for one in each])
        with_defect = means[~np.isnan(means[:, 0])]
        miou, mdice, accuracy = with_defect.mean(0).tolist() if len(with_defect) else [None] * 3
        figures[size] = {
            "per_image": {"miou": miou, "mdice": mdice, "accuracy": accuracy, "images": len(with_defect)},
            "data_set": dataset_overlap(np.sum([one.counts for one in each], 0), data.classes),
            "detection": image_detection([one.flags for one in each], data.classes[1:]),
        }
    return figures
