"""The compiled part of `metrics.surface`: one sweep over two label maps, then distances class by class.

A class is cropped to the box around both surfaces. There a table holds the squared distance to the other surface along the
second-last axis, and a query looks along the last axis and through the planes no farther than an upper bound: the smaller of
its own entry in the table and the distance of the voxel before it plus the step between the two. Near objects thus need a few
look-ups a voxel, far ones a stretch of contiguous memory. Arrays here are always (Z, Y, X); images are one `planar` plane.
"""
# Loops count from zero over slices: numba then knows that no index is negative, and the loop becomes vector instructions.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_FAR = 1e300


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's njit without the interpreter's lock; kept on disk where some folder for it can be written."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz"}, "error_model": "numpy"}
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
def _mark_where_different(row, other, edge):
    for i in range(edge.size):
        edge[i] |= row[i] != other[i]


@compiled
def _mark_edges(labels, z, y, first, stop, planar, edge):
    """edge[i] = 1 where voxel (z, y, first + i) has a face neighbour with another label, or none."""
    depth, height, width = labels.shape
    edge = edge[: stop - first]
    if y == 0 or y == height - 1 or (not planar and (z == 0 or z == depth - 1)):
        edge[:] = 1
        return
    edge[:] = 0
    row = labels[z, y, first:stop]
    _mark_where_different(row[1:], row[:-1], edge[1:])
    _mark_where_different(row[:-1], row[1:], edge[:-1])
    edge[0] |= first == 0 or row[0] != labels[z, y, first - 1]
    edge[-1] |= stop == width or row[-1] != labels[z, y, stop]
    _mark_where_different(row, labels[z, y - 1, first:stop], edge)
    _mark_where_different(row, labels[z, y + 1, first:stop], edge)
    if not planar:
        _mark_where_different(row, labels[z - 1, y, first:stop], edge)
        _mark_where_different(row, labels[z + 1, y, first:stop], edge)


@compiled
def _collect(row, edge, base, places, found, n, counts, surface_counts):
    """Counts the labels of a stretch of a row and appends its surface voxels; the new length of the list."""
    for i in range(row.size):
        label = row[i]
        counts[label] += 1
        if edge[i] and label:
            places[n] = base + i
            found[n] = label
            surface_counts[label] += 1
            n += 1
    return n


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
def sweep_labels(prediction, reference, planar):
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
                n_p = _collect(row_p[first:stop], edge, base + first, places_p, found_p, n_p, counts[0], surface_counts[0])
                for x in range(first, stop):
                    counts[2, row_p[x]] += row_p[x] == row_r[x]
            first, stop = _extent(row_r)
            if stop > first:
                if n_r + width > places_r.size:
                    places_r, found_r = _grown(places_r), _grown(found_r)
                _mark_edges(reference, z, y, first, stop, planar, edge)
                n_r = _collect(row_r[first:stop], edge, base + first, places_r, found_r, n_r, counts[1], surface_counts[1])
    counts[:, 0] = 0
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
                row[x] = below[x] + 1.0 if below[x] + 1.0 < row[x] else row[x]
        for y in range(rows):
            row = table[z, y]
            for x in range(columns):
                row[x] = weight * row[x] * row[x]
    return table, occupied


@compiled
def _least_sum(a, b, least):
    """The smallest a[i] + b[i], or `least`."""
    for i in range(a.size):
        value = a[i] + b[i]
        least = value if value < least else least
    return least


@compiled
def _directed(sources, table, occupied, height, width, low, weights):
    """Squared distance from every source voxel to the targets of `table`."""
    depth, columns = table.shape[0], table.shape[2]
    wz, wy, wx = weights
    across = wx * np.arange(-columns, columns + 1).astype(np.float64) ** 2  # across[columns + k] = wx k^2
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
                first, stop = max(0, x - reach), min(columns, x + reach + 1)
                start = columns + first - x
                nearest = _least_sum(table[at, y, first:stop], across[start : start + stop - first], _FAR)
                best = min(best, nearest + ahead)
        squared[i] = best
        known_z, known_y, known_x, known = z, y, x, best
    return squared


@compiled
def both_directions(surface_p, surface_r, height, width, weights):
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
def statistics(to_reference, to_prediction, tolerance):
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
