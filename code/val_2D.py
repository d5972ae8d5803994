"""Predict a case slice by slice, and score it: Dice, Jaccard, HD95, ASD.

The published way (SSL4MIS val_2D): each slice is resized to the training size by nearest neighbour, predicted, and its label map
resized back; every class is scored once over the whole case at its native size.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataloaders.description import Case, DataSet, Source
from dataloaders.reading import EvaluationCase, load_cases
from dataloaders.zoom import resize_nearest
from inference.windows import Predictor, main_output
from metrics import score_case, summarize

Summary = dict[str, dict[str, Any]]
"""Means over cases: "mean" over the foreground classes, and each class by name; a mean over nothing is None."""


def to_training_size(pixels: np.ndarray, data: DataSet, patch_size: Sequence[int]) -> Tensor:
    """(C, S, H, W) pixels as read -> (S, C, h, w) float32, resized and normalised as in training."""
    resized = resize_nearest(np.moveaxis(pixels, 0, 1), (patch_size[0], patch_size[1]), data.resizing)
    slices = torch.from_numpy(np.ascontiguousarray(resized, np.float32))
    if data.intensities == "8-bit":
        slices /= 255
    if data.mean is not None and data.std is not None:
        slices = (slices - torch.tensor(data.mean).view(1, -1, 1, 1)) / torch.tensor(data.std).view(1, -1, 1, 1)
    return slices


@torch.no_grad()
def predict_slices(predictor: Predictor, slices: Tensor, batch: int = 32) -> Tensor:
    """(S, C, h, w) -> label map (S, h, w) uint8 on the predictor's device. Raises FloatingPointError for logits that are not finite."""
    maps = []
    finite = torch.ones((), dtype=torch.bool, device=slices.device)
    for start in range(0, len(slices), batch):
        logits = main_output(predictor(slices[start : start + batch]))
        finite &= logits.isfinite().all()
        maps.append(logits.argmax(1).to(torch.uint8))
    if not finite:
        raise FloatingPointError("the network's output is not finite")
    return torch.cat(maps)


def predict_case(predictor: Predictor, loaded: EvaluationCase, patch_size: Sequence[int], device: torch.device, data: DataSet,
                 batch: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Label maps (S, *patch_size) and (S, H, W) uint8 of a case: at training size and at its native size."""
    predicted = predict_slices(predictor, to_training_size(loaded.pixels, data, patch_size).to(device), batch)
    return predicted.cpu().numpy(), to_native(predicted, loaded.reference.shape[1:], data)


def to_native(predicted: Tensor, size: Sequence[int], data: DataSet) -> np.ndarray:
    """(S, h, w) label maps -> (S, *size) on the host, by the data set's nearest neighbour."""
    return resize_nearest(predicted, (size[0], size[1]), data.resizing).cpu().numpy()


def counts_per_image(predicted: Tensor, reference: Tensor, num_classes: int) -> Tensor:
    """(N, h, w) label maps -> (N, K, K) pixel counts, rows reference, columns prediction; reference pixels of 255 are left out."""
    n, k = len(predicted), num_classes
    image = torch.arange(n, device=predicted.device).view(-1, 1, 1)
    cell = (image * k + reference.long()) * k + predicted.long()
    return torch.bincount(cell[reference != 255], minlength=n * k * k).view(n, k, k)


def informative_slice(reference: np.ndarray) -> int:
    """The slice of (S, H, W) with the most foreground, the middle one where there is none."""
    counts = (np.asarray(reference) % 255 > 0).reshape(len(reference), -1).sum(1)
    return int(counts.argmax()) if counts.any() else len(reference) // 2


def score_volumes(predicted: Sequence[np.ndarray], loaded: Sequence[EvaluationCase], data: DataSet) -> list[Any]:
    """What `score_case` gives for each case, in voxels; cases in parallel."""
    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        return list(pool.map(lambda pair: score_case(pair[0], pair[1].reference, data.num_classes, ignored=data.ignored),
                             zip(predicted, loaded)))


class Validator:
    """Scores networks on the validation cases during training; reads them once, at the first validation."""

    def __init__(self, source: Source, cases: Sequence[Case], patch_size: Sequence[int], device: torch.device, batch: int = 32):
        self.source, self.data, self.cases = source, source.data, list(cases)
        self.patch_size, self.device, self.batch = patch_size, device, batch
        self._loaded: list[EvaluationCase] = []
        self._on_device: list[Tensor] = []

    def load(self) -> list[EvaluationCase]:
        """The cases, read and checked (all problems together)."""
        if not self._loaded:
            self._loaded = load_cases(self.source, self.cases, "validation cases")
            self._on_device = [to_training_size(loaded.pixels, self.data, self.patch_size).to(self.device) for loaded in self._loaded]
        return self._loaded

    def planes(self, predictor: Predictor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the first case, the slice with the most foreground: pixels (C, H, W), reference and prediction (H, W)."""
        loaded = self.load()[0]
        k = informative_slice(loaded.reference)
        predicted = predict_slices(predictor, self._on_device[0][k : k + 1])
        return loaded.pixels[:, k], loaded.reference[k], to_native(predicted, loaded.reference.shape[1:], self.data)[0]

    def __call__(self, predictor: Predictor) -> Summary:
        """{"mean" or class name: {"dice": ..., ...}}. Defect sets give Dice and IoU by the published per-image rule at training size;
        the others Dice and HD95 (voxels) over each case at native size."""
        return self.summary(self.rows(predictor))

    def rows(self, predictor: Predictor) -> list[Any]:
        """What is measured of each case, plain values: pixel counts (K, K) of defect sets, else what `score_case` gives."""
        self.load()
        if self.data.evaluation.scored == "image":
            return [counts.tolist() for images, reference in self._batches()
                    for counts in counts_per_image(predict_slices(predictor, images, self.batch), reference, self.data.num_classes)]
        predicted = [
            to_native(predict_slices(predictor, slices, self.batch), loaded.reference.shape[1:], self.data)
            for slices, loaded in zip(self._on_device, self._loaded)
        ]
        return score_volumes(predicted, self._loaded, self.data)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = (self.patch_size[0], self.patch_size[1])
        for start in range(0, len(self._loaded), self.batch):
            part = range(start, min(start + self.batch, len(self._loaded)))
            references = [torch.from_numpy(resize_nearest(self._loaded[i].reference, size, self.data.resizing)) for i in part]
            yield torch.cat([self._on_device[i] for i in part]), torch.cat(references).to(self.device)

    def summary(self, rows: Sequence[Any]) -> Summary:
        """Means over the cases that `rows` are of."""
        return self._mean_of_images(np.array(rows)) if self.data.evaluation.scored == "image" else summarize(rows, self.data.classes[1:])

    def _mean_of_images(self, counts: np.ndarray) -> Summary:
        """Per image: mean over the foreground classes present in its reference; then the mean over images that have any (simEps)."""
        both = np.diagonal(counts, axis1=1, axis2=2)[:, 1:].astype(float)
        present = counts.sum(2)[:, 1:] > 0
        union = counts.sum(1)[:, 1:] + counts.sum(2)[:, 1:] - both
        iou, dice = (both + 1e-10) / (union + 1e-10), 2 * (both + 1e-10) / (union + both + 1e-10)
        summary = {name: _mean(dice[:, c][present[:, c]], iou[:, c][present[:, c]]) for c, name in enumerate(self.data.classes[1:])}
        shown = present.any(1)
        per_image = [(values[shown] * present[shown]).sum(1) / present[shown].sum(1) for values in (dice, iou)]
        return {"mean": _mean(*per_image), **summary}


def _mean(dice: np.ndarray, iou: np.ndarray) -> dict[str, float]:
    return {"dice": float(dice.mean()) if dice.size else 0.0, "iou": float(iou.mean()) if iou.size else 0.0}
