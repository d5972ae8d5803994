"""Predict a volume by sliding window, and score it: Dice, Jaccard, HD95, ASD."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dataloaders.description import Case, Source
from dataloaders.reading import EvaluationCase, load_cases
from inference.windows import Predictor, sliding_window
from metrics import summarize
from val_2D import Summary, informative_slice, score_volumes


class VolumeValidator:
    """Scores networks on validation volumes during training, by sliding window; reads them once, at the first validation."""

    def __init__(self, source: Source, cases: Sequence[Case], patch_size: Sequence[int], stride: Sequence[int], device: torch.device):
        self.source, self.data, self.cases = source, source.data, list(cases)
        self.patch_size, self.stride, self.device = tuple(patch_size), tuple(stride), device
        self._loaded: list[EvaluationCase] = []

    def load(self) -> list[EvaluationCase]:
        """The cases, read and checked (all problems together)."""
        if not self._loaded:
            self._loaded = load_cases(self.source, self.cases, "validation cases")
        return self._loaded

    def predict(self, predictor: Predictor, loaded: EvaluationCase) -> np.ndarray:
        """Label map (X, Y, Z) uint8 of a case."""
        volume = torch.from_numpy(loaded.pixels)
        return sliding_window(predictor, volume, self.data.num_classes, self.patch_size, self.stride, device=self.device).numpy()

    def __call__(self, predictor: Predictor) -> Summary:
        """{"mean" or class name: {"dice": ..., "hd95_vox": ..., ...}} over all cases."""
        return self.summary(self.rows(predictor))

    def rows(self, predictor: Predictor) -> list[Any]:
        """What `score_case` gives for each case."""
        loaded = self.load()
        return score_volumes([self.predict(predictor, one) for one in loaded], loaded, self.data)

    def summary(self, rows: Sequence[Any]) -> Summary:
        """Means over the cases that `rows` are of."""
        return summarize(rows, self.data.classes[1:])

    def planes(self, predictor: Predictor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the first case, the plane across z with the most foreground: pixels (C, Y, X), reference and prediction (Y, X).

        A slab of the patch's depth around the plane is predicted, not the whole volume.
        """
        loaded = self.load()[0]
        k = informative_slice(np.moveaxis(loaded.reference, 2, 0))
        depth = self.patch_size[2]
        first = min(max(k - depth // 2, 0), max(loaded.reference.shape[2] - depth, 0))
        slab = torch.from_numpy(loaded.pixels[..., first : first + depth])
        labels = sliding_window(predictor, slab, self.data.num_classes, self.patch_size, self.stride, device=self.device).numpy()
        return loaded.pixels[..., k].swapaxes(1, 2), loaded.reference[..., k].T, labels[..., k - first].T
