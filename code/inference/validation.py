"""Validation: networks scored on the cases that choose the best step."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataloaders.description import Case, Source
from dataloaders.reading import informative_slice
from inference.cases import KEPT, Cases, Ready, predicted
from inference.predicting import Inference
from inference.scoring import Row, Summary, case_scores, counts_of, summary_of
from inference.threads import WORKERS, in_threads
from inference.windows import Predictor


class Validator:
    """Scores networks on a data set's cases, as its `evaluation` says: read ahead, predicted, scored behind, and dropped.

    Cases stay in memory up to `keep` bytes, so that small sets are read once.
    """

    def __init__(self, source: Source, cases: Sequence[Case], inference: Inference, keep: int = KEPT):
        self.data, self.inference = source.data, inference
        self.cases = Cases(source, cases, inference, keep)

    def check(self) -> None:
        """Reads every case once; raises one `UserError` with all that is wrong with any of them."""
        self.cases.check("validation cases")

    def __call__(self, predictor: Predictor) -> Summary:
        """What all cases amount to; see `summary_of`."""
        return self.summary(self.rows(predictor))

    def rows(self, predictor: Predictor) -> list[Row]:
        """What is measured of each case, plain values. Raises FloatingPointError for logits that are not finite."""
        cases = predicted(predictor, self.cases, self.inference, together=self.data.evaluation.scored != "case")
        return list(in_threads(self._row, cases, WORKERS, WORKERS + 2))

    def summary(self, rows: Sequence[Row]) -> Summary:
        """What the cases that `rows` are of amount to."""
        return summary_of(rows, self.data)

    def _row(self, case: tuple[Ready, np.ndarray]) -> Row:
        ready, maps = case
        reference, scored = ready.loaded.reference, self.data.evaluation.scored
        if scored == "image":
            return counts_of(maps, reference, self.data)
        labels = self.inference.native(maps, reference.shape)
        return counts_of(labels, reference, self.data) if scored == "matrix" else case_scores(labels, ready.loaded, self.data)

    def planes(self, predictor: Predictor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the first case, the slice (of a volume the plane across z) with the most foreground: pixels (C, H, W), reference and
        prediction (H, W). Of a volume a slab of the patch's depth is predicted, not the whole."""
        loaded = self.cases.loaded(0)
        if self.data.dimensions == 2:
            k = informative_slice(loaded.reference)
            return loaded.pixels[:, k], loaded.reference[k], self.inference.labels(predictor, loaded.pixels[:, k : k + 1])[0]
        k = informative_slice(np.moveaxis(loaded.reference, 2, 0))
        depth = self.inference.patch_size[2]
        first = min(max(k - depth // 2, 0), max(loaded.reference.shape[2] - depth, 0))
        labels = self.inference.labels(predictor, loaded.pixels[..., first : first + depth])
        return loaded.pixels[..., k].swapaxes(1, 2), loaded.reference[..., k].T, labels[..., k - first].T
