"""Exact surface distances between label maps, all classes of a case from one sweep.

The surface of an object is the object minus its erosion by the face-neighbour cross; outside the image is background, so
an object that touches the border has surface there (Heimann et al., IEEE TMI 2009, section II-B). d(A -> B) holds, for every
surface voxel of A, the Euclidean distance to the nearest surface voxel of B. With P the prediction and R the reference:

    hd95 = 95th percentile (linear interpolation) of d(P -> R) and d(R -> P) pooled        hd   = their maximum
    asd  = mean of d(P -> R), directed                                                     assd = mean of the pooled set
    nsd  = share of the pooled set at or below a tolerance

These are medpy 0.5's definitions; nsd counts voxels, where DeepMind's package weighs them by area.

How: one sweep over both maps counts the voxels of every class and lists their surface voxels. A class is cropped to the box
around both surfaces. There a table holds the squared distance to the other surface along the second-last axis, and a query
looks along the last axis and through the planes no farther than an upper bound: the smaller of its own entry in the table
and the distance of the voxel before it plus the step between the two. Near objects thus need a few look-ups a voxel, far ones
a stretch of contiguous memory. Compiled by numba at the first call, kept on disk, runs without the interpreter's lock.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

LARGEST_LABEL = 255
_FAR = 1e300


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's njit without the interpreter's lock; kept on disk where some folder for it can be written."""
    options = {"nogil": True, "fastmath": {"nnan", "nsz"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder that it may write: compile again in each process
        return numba.njit(**options)(function)


@compiled
def _grown(array):
    larger = np.empty(2 * array.size, array.dtype)
    larger[: array.size] = array
    return larger


@compiled
def _extent(row):
    """First and one past the last foreground voxel of a row; (0, 0) without any."""
    seen = np.uint8(0)
    for x in range(row.size):
        seen |= row[x]
    if seen == 0:
        return 0, 0
    first, last = 0, row.size - 1
    while row[first] == 0:
        first += 1
    while row[last] == 0:
        last -= 1
    return first, last + 1


@compiled
def _mark_edges(labels, z, y, first, stop, planar, edge):
    """edge[x] = 1 where voxel (z, y, x) has a face neighbour with another label, or none."""
    depth, height, width = labels.shape
    row = labels[z, y]
    for x in range(first, stop):
        edge[x] = 0
    for x in range(max(first, 1), stop):
        edge[x] |= row[x] != row[x - 1]
    for x in range(first, min(stop, width - 1)):
        edge[x] |= row[x] != row[x + 1]
    if first == 0:
        edge[0] = 1
    if stop == width:
        edge[width - 1] = 1
    if y == 0 or y == height - 1 or (not planar and (z == 0 or z == depth - 1)):
        for x in range(first, stop):
            edge[x] = 1
        return
    above, below = labels[z, y - 1], labels[z, y + 1]
    for x in range(first, stop):
        edge[x] |= (row[x] != above[x]) | (row[x] != below[x])
    if not planar:
        before, after = labels[z - 1, y], labels[z + 1, y]
        for x in range(first, stop):
            edge[x] |= (row[x] != before[x]) | (row[x] != after[x])


@compiled
def _grouped(places, found, of_label, n):
    """Places ordered by label (stable), and where each label starts: label c is places[starts[c]:starts[c + 1]]."""
    starts = np.zeros(257, np.int64)
    for label in range(256):
        starts[label + 1] = starts[label] + of_label[label]
    free = starts.copy()
    ordered = np.empty(n, np.int64)
    for i in range(n):
        label = found[i]
        ordered[free[label]] = places[i]
        free[label] += 1
    return ordered, starts


@compiled
def _sweep(prediction, reference, planar):
    """Voxels of every label (prediction, reference, both) and the flat indices of their surface voxels, by label."""
    depth, height, width = prediction.shape
    counts = np.zeros((3, 256), np.int64)
    surface_counts = np.zeros((2, 256), np.int64)
    places_p, places_r = np.empty(8192, np.int64), np.empty(8192, np.int64)
    found_p, found_r = np.empty(8192, np.uint8), np.empty(8192, np.uint8)
    n_p = n_r = 0
    edge = np.empty(width, np.uint8)
    for z in range(depth):
        for y in range(height):
            base = (z * height + y) * width
            row_p, row_r = prediction[z, y], reference[z, y]
            first, stop = _extent(row_p)
            if stop > first:
                if n_p + width > places_p.size:
                    places_p, found_p = _grown(places_p), _grown(found_p)
                _mark_edges(prediction, z, y, first, stop, planar, edge)
                for x in range(first, stop):
                    label = row_p[x]
                    if label:
                        counts[0, label] += 1
                        counts[2, label] += row_r[x] == label
                        if edge[x]:
                            places_p[n_p] = base + x
                            found_p[n_p] = label
                            surface_counts[0, label] += 1
                            n_p += 1
            first, stop = _extent(row_r)
            if stop > first:
                if n_r + width > places_r.size:
                    places_r, found_r = _grown(places_r), _grown(found_r)
                _mark_edges(reference, z, y, first, stop, planar, edge)
                for x in range(first, stop):
                    label = row_r[x]
                    if label:
                        counts[1, label] += 1
                        if edge[x]:
                            places_r[n_r] = base + x
                            found_r[n_r] = label
                            surface_counts[1, label] += 1
                            n_r += 1
    ordered_p, starts_p = _grouped(places_p, found_p, surface_counts[0], n_p)
    ordered_r, starts_r = _grouped(places_r, found_r, surface_counts[1], n_r)
    return counts, ordered_p, starts_p, ordered_r, starts_r


@compiled
def _box(places_a, places_b, height, width):
    """Lowest and highest (z, y, x) of both lists of flat indices."""
    low = np.full(3, 1 << 40, np.int64)
    high = np.full(3, -1, np.int64)
    for places in (places_a, places_b):
        for place in places:
            x = place % width
            y = (place // width) % height
            z = place // (width * height)
            low[0], high[0] = min(low[0], z), max(high[0], z)
            low[1], high[1] = min(low[1], y), max(high[1], y)
            low[2], high[2] = min(low[2], x), max(high[2], x)
    return low, high


@compiled
def _column_table(targets, height, width, low, high, weight):
    """Squared distance along y from every voxel of the box to the nearest target in its column; `_FAR` where it has none."""
    table = np.full((high[0] - low[0] + 1, high[1] - low[1] + 1, high[2] - low[2] + 1), _FAR)
    occupied = np.zeros(table.shape[0], np.uint8)
    for place in targets:
        z = place // (width * height) - low[0]
        table[z, (place // width) % height - low[1], place % width - low[2]] = 0.0
        occupied[z] = 1
    rows, columns = table.shape[1], table.shape[2]
    steps = np.empty(columns)
    for z in range(table.shape[0]):
        if not occupied[z]:
            continue
        steps[:] = 1e150
        for y in range(rows):
            row = table[z, y]
            for x in range(columns):
                steps[x] = 0.0 if row[x] == 0.0 else steps[x] + 1.0
                row[x] = steps[x]
        for y in range(rows - 2, -1, -1):
            row, below = table[z, y], table[z, y + 1]
            for x in range(columns):
                row[x] = min(row[x], below[x] + 1.0)
        for y in range(rows):
            row = table[z, y]
            for x in range(columns):
                row[x] = weight * row[x] * row[x]
    return table, occupied


@compiled
def _directed(sources, table, occupied, height, width, low, weights):
    """Squared distance from every source voxel to the targets of `table`."""
    depth, columns = table.shape[0], table.shape[2]
    wz, wy, wx = weights
    squared = np.empty(sources.size)
    known_z = known_y = known_x = -1
    known = _FAR
    for i in range(sources.size):
        place = sources[i]
        x = place % width - low[2]
        y = (place // width) % height - low[1]
        z = place // (width * height) - low[0]
        best = table[z, y, x]
        if best > 0.0:
            if known_z >= 0:
                step = np.sqrt(wz * (z - known_z) ** 2 + wy * (y - known_y) ** 2 + wx * (x - known_x) ** 2)
                # A touch above the true bound, so that the nearest target itself is always found and never only bounded.
                bound = (np.sqrt(known) + step) ** 2 * (1.0 + 1e-9)
                best = min(best, bound)
            for plane in range(2 * depth):
                offset = (plane + 1) // 2
                ahead = wz * offset * offset
                if ahead >= best:
                    break
                at = z + offset if plane % 2 else z - offset
                if at < 0 or at >= depth or not occupied[at]:
                    continue
                reach = int(min(np.sqrt((best - ahead) / wx), 1e9)) + 1
                row = table[at, y]
                nearest = best - ahead
                for other in range(max(0, x - reach), min(columns, x + reach + 1)):
                    nearest = min(nearest, row[other] + wx * (other - x) * (other - x))
                best = nearest + ahead if nearest < best - ahead else best
        squared[i] = best
        known_z, known_y, known_x, known = z, y, x, best
    return squared


@compiled
def _both_directions(surface_p, surface_r, height, width, weights):
    low, high = _box(surface_p, surface_r, height, width)
    table, occupied = _column_table(surface_r, height, width, low, high, weights[1])
    to_reference = _directed(surface_p, table, occupied, height, width, low, weights)
    table, occupied = _column_table(surface_p, height, width, low, high, weights[1])
    to_prediction = _directed(surface_r, table, occupied, height, width, low, weights)
    return to_reference, to_prediction


@compiled
def _interpolated_percentile(values, percent):
    """numpy's linear percentile of the square roots of `values`, which are reordered."""
    rank = percent / 100.0 * (values.size - 1)
    lower = int(np.floor(rank))
    ordered = np.partition(values, lower)
    a = np.sqrt(ordered[lower])
    if lower + 1 >= values.size:
        return a
    following = ordered[lower + 1]
    for i in range(lower + 2, values.size):
        following = min(following, ordered[i])
    return a + (np.sqrt(following) - a) * (rank - lower)


@compiled
def _statistics(to_reference, to_prediction, tolerance):
    """(hd95, hd, asd, assd, nsd) of the squared distances of both directions."""
    n = to_reference.size
    pooled = np.empty(n + to_prediction.size)
    pooled[:n] = to_reference
    pooled[n:] = to_prediction
    one_way = total = largest = 0.0
    within = 0
    for i in range(pooled.size):
        distance = np.sqrt(pooled[i])
        total += distance
        if i < n:
            one_way += distance
        largest = max(largest, distance)
        within += distance <= tolerance
    return _interpolated_percentile(pooled, 95.0), largest, one_way / n, total / pooled.size, within / pooled.size


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
        """Squared distances of the prediction's surface voxels to the reference's, and back. ValueError if `label` is absent in one."""
        places_p, starts_p, places_r, starts_r = self._places
        surface_p = places_p[starts_p[label] : starts_p[label + 1]]
        surface_r = places_r[starts_r[label] : starts_r[label + 1]]
        if not surface_p.size or not surface_r.size:
            empty = "prediction" if not surface_p.size else "reference"
            raise ValueError(f"surface distances of label {label}: the {empty} has no such voxel, so there is no surface.")
        steps = checked_spacing(spacing, len(self.shape))
        weights = (1.0,) * (3 - len(steps)) + tuple(step * step for step in steps)
        return _both_directions(surface_p, surface_r, self.shape[-2], self.shape[-1], weights)

    def metrics(self, label: int, spacing: Sequence[float] | None = None, tolerance: float | None = None) -> SurfaceMetrics:
        """All surface metrics of one label. ValueError if it is absent in one of the maps."""
        to_reference, to_prediction = self.squared_distances(label, spacing)
        hd95, hd, asd, assd, nsd = _statistics(to_reference, to_prediction, -1.0 if tolerance is None else float(tolerance))
        return SurfaceMetrics(hd95, hd, asd, assd, float("nan") if tolerance is None else nsd)


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
            f"label maps of shapes {prediction.shape} (prediction) and {reference.shape} (reference): expected the same (Y, X) or (Z, Y, X)."
        )
    volume = (1,) * (3 - prediction.ndim) + prediction.shape
    counts, *places = _sweep(
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
