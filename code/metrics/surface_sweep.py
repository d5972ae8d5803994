"""One sweep over two label maps: voxels and surface voxels of every label, compiled; a part of `metrics.surface`.

Arrays here are always (Z, Y, X); images are one `planar` plane.
"""
# Loops count from zero over slices: numba then knows that no index is negative, and the loop becomes vector instructions.
from __future__ import annotations

import numpy as np

from metrics.compiled import compiled


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
