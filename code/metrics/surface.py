"""Exact surface distances between label maps, all classes of a case from one sweep.

The surface of an object is the object minus its erosion by the face-neighbour cross; outside the image is background, so
an object that touches the border has surface there (Heimann et al., IEEE TMI 2009, section II-B). d(A -> B) holds, for every
surface voxel of A, the Euclidean distance to the nearest surface voxel of B. With P the prediction and R the reference:

    hd95 = 95th percentile (linear interpolation) of d(P -> R) and d(R -> P) pooled        hd   = their maximum
    asd  = mean of d(P -> R), directed                                                     assd = mean of the pooled set
    nsd  = share of the pooled set at or below a tolerance

These are medpy 0.5's definitions. nsd counts voxels, where DeepMind's package weighs surface elements, which lie between voxels, by
area: on balls of radius 15 its number is up to 0.12 above this one, on flat faces within 0.03.

Compiled by numba at the first call (`surface_sweep` and `surface_distances` have the algorithm), kept on disk, runs without the
interpreter's lock.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metrics.surface_distances import both_directions
from metrics.surface_statistics import of_any, of_whole
from metrics.surface_sweep import sweep_labels

LARGEST_LABEL = 255


@dataclass(frozen=True)
class SurfaceMetrics:
    """Distances in the unit of the spacing (voxels without one); `nsd` is a share, NaN without a tolerance."""

    hd95: float
    hd: float
    asd: float
    assd: float
    nsd: float


@dataclass(frozen=True)
class SurfaceSweep:
    """What one sweep over two label maps found: voxels of each label and the places of its surface voxels."""

    shape: tuple[int, ...]
    voxels_prediction: np.ndarray
    voxels_reference: np.ndarray
    voxels_both: np.ndarray
    _places: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    def squared_distances(self, label: int, spacing: Sequence[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances of the prediction's surface voxels to the reference's, and back, in no order that is told.

        ValueError if `label` is absent in one of the maps.
        """
        squared, n, step = self._squared(label, spacing)
        scaled = squared * (1.0 if step is None else step * step)
        return scaled[:n], scaled[n:]

    def metrics(self, label: int, spacing: Sequence[float] | None = None, tolerance: float | None = None) -> SurfaceMetrics:
        """All surface metrics of one label. ValueError if it is absent in one of the maps."""
        squared, n, step = self._squared(label, spacing)
        limit = -1.0 if tolerance is None else float(tolerance)
        if step is None:
            hd95, hd, asd, assd, nsd = of_any(squared, n, limit)
        elif squared.dtype == np.uint16:
            hd95, hd, asd, assd, nsd = of_whole(squared, n, step, limit)
        else:
            hd95, hd, asd, assd, nsd = of_any(squared * (step * step), n, limit)
        return SurfaceMetrics(hd95, hd, asd, assd, float("nan") if tolerance is None else nsd)

    def _squared(self, label: int, spacing: Sequence[float] | None) -> tuple[np.ndarray, int, float | None]:
        """Squared distances of both directions, how many are of the first, and the spacing they are multiples of, if one for all axes."""
        places_p, starts_p, places_r, starts_r = self._places
        surface_p = places_p[starts_p[label] : starts_p[label + 1]]
        surface_r = places_r[starts_r[label] : starts_r[label + 1]]
        if not surface_p.size or not surface_r.size:
            empty = "prediction" if not surface_p.size else "reference"
            raise ValueError(f"surface distances of label {label}: the {empty} has no such voxel, so there is no surface.")
        steps = checked_spacing(spacing, len(self.shape))
        one = steps[0] if len(set(steps)) == 1 else None
        weights = (one or 1.0,) * (3 - len(steps)) + steps
        squared = both_directions(surface_p, surface_r, self.shape[-2], self.shape[-1], tuple(step * step for step in weights))
        return squared, len(surface_p), one


def checked_spacing(spacing: Sequence[float] | None, ndim: int) -> tuple[float, ...]:
    """`spacing` as floats, ones without it. ValueError unless it has one positive finite number for each axis."""
    if spacing is None:
        return (1.0,) * ndim
    steps = tuple(float(step) for step in spacing)
    if len(steps) != ndim or not all(0.0 < step < float("inf") for step in steps):
        raise ValueError(f"spacing {steps} for {ndim} axes: expected {ndim} positive numbers, one for each axis.")
    return steps


def sweep(prediction: np.ndarray, reference: np.ndarray) -> SurfaceSweep:
    """One pass over two label maps (Y, X) or (Z, Y, X) of equal shape, labels 0..255, 0 = background.

    Booleans count as labels 0 and 1. ValueError for other shapes or labels.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape or prediction.ndim not in (2, 3) or prediction.size == 0:
        raise ValueError(
            f"label maps of shapes {prediction.shape} (prediction) and {reference.shape} (reference): "
            "expected the same (Y, X) or (Z, Y, X)."
        )
    volume = (1,) * (3 - prediction.ndim) + prediction.shape
    counts, *places = sweep_labels(
        _as_bytes(prediction, "prediction").reshape(volume), _as_bytes(reference, "reference").reshape(volume), prediction.ndim == 2
    )
    return SurfaceSweep(prediction.shape, counts[0], counts[1], counts[2], tuple(places))


def _as_bytes(labels: np.ndarray, name: str) -> np.ndarray:
    """The map as contiguous, read-only uint8 (one type, so that the kernels are compiled once)."""
    if labels.dtype == np.bool_:
        labels = labels.view(np.uint8)
    elif labels.dtype != np.uint8:
        if labels.min() < 0 or labels.max() > LARGEST_LABEL or (labels.dtype.kind not in "iu" and (labels != np.floor(labels)).any()):
            raise ValueError(f"{name} holds values from {labels.min()} to {labels.max()}: expected whole labels 0..{LARGEST_LABEL}.")
        labels = labels.astype(np.uint8)
    labels = np.ascontiguousarray(labels).view()
    labels.flags.writeable = False
    return labels


def binary_metrics(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float] | None = None, tolerance: float | None = None
) -> SurfaceMetrics:
    """Surface metrics of two masks (non-zero = object). ValueError if one is empty."""
    return sweep(np.asarray(prediction) != 0, np.asarray(reference) != 0).metrics(1, spacing, tolerance)
