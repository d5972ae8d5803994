"""Distances between the surfaces of one class, compiled; a part of `metrics.surface`.

A class is cropped to the box around both surfaces. There a table holds the squared distance to the other surface along the
second-last axis, and a query looks along the last axis and through the planes no farther than an upper bound: the smallest of
its own entry in the table and, for each neighbour that came before it, that one's distance plus the step between the two. Near
objects thus need a few look-ups a voxel; far ones share the minimum over the planes with their neighbours in the row, and read
contiguous memory. Arrays here are always (Z, Y, X); images are one `planar` plane.
"""
# Loops count from zero over slices: numba then knows that no index is negative, and the loop becomes vector instructions.
from __future__ import annotations

import numpy as np

from metrics.compiled import compiled

_FAR = 1e300


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
def _down(row, steps):
    """One step more than in the row above, none on a target."""
    for i in range(row.size):
        steps[i] = 0.0 if row[i] == 0.0 else steps[i] + 1.0
        row[i] = steps[i]


@compiled
def _up(row, steps, weight):
    """The smaller of the row's steps and one more than in the row below; the row becomes their weighted squares."""
    for i in range(row.size):
        from_below = steps[i] + 1.0
        steps[i] = row[i] if row[i] < from_below else from_below
        row[i] = weight * (steps[i] * steps[i])


@compiled
def _column_table(targets, height, width, low, high, weight):
    """Squared distance along y from every voxel of the box to the nearest target in its column, and which planes have one.

    A column without a target has 1e300 or so; a plane without one is left as it was. Targets come in ascending order, so that
    a plane is filled, swept down and swept up while it is in the cache.
    """
    depth, rows, columns = high[0] - low[0] + 1, high[1] - low[1] + 1, high[2] - low[2] + 1
    table = np.empty((depth, rows, columns))
    occupied = np.zeros(depth, np.uint8)
    steps = np.empty(columns)
    begin = 0
    for z in range(depth):
        start = (z + low[0]) * height * width
        if begin == targets.size or targets[begin] >= start + height * width:
            continue
        occupied[z] = 1
        plane = table[z]
        plane[:] = _FAR
        while begin < targets.size and targets[begin] < start + height * width:
            place = targets[begin] - start
            plane[place // width - low[1], place % width - low[2]] = 0.0
            begin += 1
        steps[:] = 1e150
        for y in range(rows):
            _down(plane[y], steps)
        steps[:] = 1e150
        for y in range(rows - 1, -1, -1):
            _up(plane[y], steps, weight)
    return table, occupied


@compiled
def _least_sum(a, b, least):
    """The smallest a[i] + b[i], or `least`."""
    for i in range(a.size):
        value = a[i] + b[i]
        least = value if value < least else least
    return least


@compiled
def _lower_to_sum(row, shift, lowest):
    """lowest[i] = min(lowest[i], row[i] + shift)."""
    for i in range(row.size):
        value = row[i] + shift
        lowest[i] = value if value < lowest[i] else lowest[i]


@compiled
def _bound(z, y, x, seen, seen_plane, steps):
    """Upper bound of a voxel's distance from its neighbours that came before: theirs plus the step between."""
    least = _FAR
    for down in range(3):
        for right in range(3):
            back = z - seen_plane[y + down, x + right]
            if back <= 1:
                value = seen[y + down, x + right] + steps[back, down, right]
                least = value if value < least else least
    return least


@compiled
def _directed(sources, table, occupied, height, width, low, weights):
    """Squared distance from every source voxel, in ascending order, to the targets of `table`."""
    depth, rows, columns = table.shape
    wz, wy, wx = weights
    across = wx * np.arange(-columns, columns + 1).astype(np.float64) ** 2  # across[columns + k] = wx k^2
    steps = np.empty((2, 3, 3))
    for back in range(2):
        for down in range(3):
            for right in range(3):
                steps[back, down, right] = np.sqrt(wz * back + wy * (down - 1) ** 2 + wx * (right - 1) ** 2)
    seen = np.empty((rows + 2, columns + 2))  # distance, or a bound of it, of the last source in a column; one voxel of margin
    seen_plane = np.full((rows + 2, columns + 2), -9, np.int64)
    squared = np.empty(sources.size)
    lowest = np.empty(columns)
    begin = 0
    while begin < sources.size:
        # A stretch: sources of one row whose windows overlap. They share the minimum over the planes.
        z = sources[begin] // (width * height) - low[0]
        y = (sources[begin] // width) % height - low[1]
        row_start = ((z + low[0]) * height + y + low[1]) * width + low[2]
        left, right, largest = columns, 0, 0.0
        end = begin
        while end < sources.size and sources[end] - row_start < columns:
            x = sources[end] - row_start
            best = table[z, y, x] if occupied[z] else _FAR
            if best > 0.0:
                bound = _bound(z, y, x, seen, seen_plane, steps)
                # A touch above the true bound, so that the nearest target itself is always found and never only bounded.
                best = min(best, bound * bound * (1.0 + 1e-9))
            reach = int(min(np.sqrt(best / wx), 1e9)) + 1 if best > 0.0 else 0
            if end > begin and x - reach > right:
                break
            left, right, largest = min(left, max(0, x - reach)), max(right, min(columns, x + reach + 1)), max(largest, best)
            squared[end] = best
            seen[y + 1, x + 1], seen_plane[y + 1, x + 1] = np.sqrt(best), z
            end += 1
        if largest > 0.0:
            lowest[left:right] = _FAR
            if occupied[z]:
                _lower_to_sum(table[z, y, left:right], 0.0, lowest[left:right])
            for offset in range(1, depth):
                ahead = wz * offset * offset
                if ahead >= largest:
                    break
                if z >= offset and occupied[z - offset]:
                    _lower_to_sum(table[z - offset, y, left:right], ahead, lowest[left:right])
                if z + offset < depth and occupied[z + offset]:
                    _lower_to_sum(table[z + offset, y, left:right], ahead, lowest[left:right])
            for i in range(begin, end):
                if squared[i] > 0.0:
                    x = sources[i] - row_start
                    reach = int(min(np.sqrt(squared[i] / wx), 1e9)) + 1
                    first, stop = max(0, x - reach), min(columns, x + reach + 1)
                    start = columns + first - x
                    squared[i] = _least_sum(lowest[first:stop], across[start : start + stop - first], _FAR)
                    seen[y + 1, x + 1] = np.sqrt(squared[i])
        begin = end
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
