"""One sweep over two label maps: voxels and surface voxels of every label, compiled; a part of `metrics.surface`.

Arrays here are always (Z, Y, X); images are one `planar` plane. A plane is treated as one long row, as rows are too short for
vectors; its border is mended afterwards.
"""
# Loops count from zero over slices: numba then knows that no index is negative, and the loop becomes vector instructions.
from __future__ import annotations

import numpy as np

from metrics.compiled import compiled

FEW = 8  # labels that are counted one after the other, in vectors


@compiled
def _room(array, n):
    """`array`, or a larger one with its content, with room for `n` entries."""
    if n <= array.size:
        return array
    larger = np.empty(2 * n, array.dtype)
    larger[: array.size] = array
    return larger


@compiled
def _all_labels(plane):
    """The labels of a plane, or-ed: none is larger, and 0 means none."""
    seen = np.uint8(0)
    for i in range(plane.size):
        seen |= plane[i]
    return int(seen)


@compiled
def _rows_of_foreground(plane, width):
    """Indices where the first row with foreground begins and where the last one ends; (0, 0) without any."""
    begin, end = 0, plane.size
    while begin < end and not _all_labels(plane[begin : begin + width]):
        begin += width
    while end > begin and not _all_labels(plane[end - width : end]):
        end -= width
    return (begin, end) if end > begin else (0, 0)


@compiled
def _times(part, label):
    n = np.uint8(0)  # at most 128: bytes are added up in bytes, in vectors of as many as fit
    for i in range(part.size):
        n = np.uint8(n + (part[i] == label))
    return int(n)


@compiled
def _times_in_both(part, other, label):
    n = np.uint8(0)
    for i in range(part.size):
        n = np.uint8(n + ((part[i] == label) & (other[i] == label)))
    return int(n)


@compiled
def _count(plane, seen, counts):
    """Adds how often each label is in the plane; none is larger than `seen`."""
    if seen < FEW:
        for label in range(1, seen + 1):
            for start in range(0, plane.size, 128):
                counts[label] += _times(plane[start : start + 128], np.uint8(label))
    else:
        for i in range(plane.size):
            counts[plane[i]] += 1


@compiled
def _count_in_both(plane, other, seen, counts):
    if seen < FEW:
        for label in range(1, seen + 1):
            for start in range(0, plane.size, 128):
                counts[label] += _times_in_both(plane[start : start + 128], other[start : start + 128], np.uint8(label))
    else:
        for i in range(plane.size):
            counts[plane[i]] += plane[i] == other[i]


@compiled
def _keep_edges(labels, left, right, above, below, before, after, edge):
    """edge[i] = the label where a neighbour has another, else 0."""
    for i in range(edge.size):
        label = labels[i]
        other = (label ^ left[i]) | (label ^ right[i]) | (label ^ above[i]) | (label ^ below[i]) | (label ^ before[i]) | (label ^ after[i])
        edge[i] = label if other else 0


@compiled
def _edges(planes, z, begin, end, width, planar, edge):
    """edge[i] = the label of voxel i of plane z where a face neighbour has another, or none; else 0. From row to row, and 0 around.

    `planes` (Z, Y * X); `begin` and `end` are multiples of `width`.
    """
    plane = planes[z]
    edge[begin // 8 * 8 : begin] = 0
    edge[end : (end + 7) // 8 * 8] = 0
    edge[begin:end] = plane[begin:end]
    first, stop = max(begin, width), min(end, plane.size - width)
    if first >= stop or not planar and (z == 0 or z == planes.shape[0] - 1):
        return
    before, after = (plane, plane) if planar else (planes[z - 1], planes[z + 1])
    _keep_edges(
        plane[first:stop], plane[first - 1 : stop - 1], plane[first + 1 : stop + 1], plane[first - width : stop - width],
        plane[first + width : stop + width], before[first:stop], after[first:stop], edge[first:stop],
    )  # fmt: skip
    for i in range(begin, end, width):
        edge[i] = plane[i]
        edge[i + width - 1] = plane[i + width - 1]


@compiled
def _append(edge, words, begin, end, base, places, found, n):
    """Appends place and label of the edge voxels in words begin to end; the new length of the lists. `words`: `edge` by eights."""
    for word in range(begin, end):
        if words[np.uint64(word)]:
            for i in range(8 * word, 8 * word + 8):
                places[n] = base + i
                found[n] = edge[i]
                n += edge[i] != 0
    return n


@compiled
def _grouped(places, found, n):
    """Places ordered by label (stable), and where each label starts: label c is places[starts[c]:starts[c + 1]]."""
    starts = np.zeros(257, np.int64)
    for i in range(n):
        starts[found[i] + 1] += 1
    several = False
    for label in range(256):
        several |= 0 < starts[label + 1] < n
        starts[label + 1] += starts[label]
    if not several:
        return places[:n], starts
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
    size = height * width
    planes_p, planes_r = prediction.reshape(depth, size), reference.reshape(depth, size)
    counts = np.zeros((3, 256), np.int64)
    places_p, places_r = np.empty(8192, np.int64), np.empty(8192, np.int64)
    found_p, found_r = np.empty(8192, np.uint8), np.empty(8192, np.uint8)
    n_p = n_r = 0
    edge = np.zeros((size + 7) // 8 * 8, np.uint8)
    words = edge.view(np.uint64)
    for z in range(depth):
        begin, end = _rows_of_foreground(planes_p[z], width)
        if end > begin:
            places_p, found_p = _room(places_p, n_p + size + 8), _room(found_p, n_p + size + 8)
            _edges(planes_p, z, begin, end, width, planar, edge)
            n_p = _append(edge, words, begin // 8, (end + 7) // 8, z * size, places_p, found_p, n_p)
            part = planes_p[z, begin:end]
            seen = _all_labels(part)
            _count(part, seen, counts[0])
            _count_in_both(part, planes_r[z, begin:end], seen, counts[2])
        begin, end = _rows_of_foreground(planes_r[z], width)
        if end > begin:
            places_r, found_r = _room(places_r, n_r + size + 8), _room(found_r, n_r + size + 8)
            _edges(planes_r, z, begin, end, width, planar, edge)
            n_r = _append(edge, words, begin // 8, (end + 7) // 8, z * size, places_r, found_r, n_r)
            part = planes_r[z, begin:end]
            seen = _all_labels(part)
            _count(part, seen, counts[1])
    counts[:, 0] = 0
    ordered_p, starts_p = _grouped(places_p, found_p, n_p)
    ordered_r, starts_r = _grouped(places_r, found_r, n_r)
    return counts, ordered_p, starts_p, ordered_r, starts_r
