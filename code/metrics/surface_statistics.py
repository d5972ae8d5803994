"""Statistics of surface distances; a part of `metrics.surface`."""
from __future__ import annotations

import numpy as np

from metrics.compiled import compiled


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
def of_any(squared, n, tolerance):
    """(hd95, hd, asd, assd, nsd) of squared distances, the first `n` of which are those of one direction."""
    one_way = total = largest = 0.0
    within = 0
    for i in range(squared.size):
        distance = np.sqrt(squared[i])
        total += distance
        if i < n:
            one_way += distance
        largest = max(largest, distance)
        within += distance <= tolerance
    return _interpolated_percentile(squared, 95.0), largest, one_way / n, total / squared.size, within / squared.size


@compiled
def of_whole(squared, n, step, tolerance):
    """The same of whole squared distances below 2^16 in voxels of side `step`, which are counted in place of sorted."""
    largest = 0
    for value in squared:
        largest = max(largest, value)
    counts = np.zeros((2, largest + 1), np.int64)
    for value in squared[:n]:
        counts[0, value] += 1
    for value in squared[n:]:
        counts[1, value] += 1
    rank = 0.95 * (squared.size - 1)
    lower = int(np.floor(rank))
    a = b = one_way = total = 0.0
    upto = within = 0
    for value in range(largest + 1):
        both = counts[0, value] + counts[1, value]
        if both:
            distance = np.sqrt(value) * step
            if upto <= lower:
                a = distance
            if upto <= lower + 1:
                b = distance
            upto += both
            one_way += counts[0, value] * distance
            total += both * distance
            within += both * (distance <= tolerance)
    return a + (b - a) * (rank - lower), np.sqrt(largest) * step, one_way / n, total / squared.size, within / squared.size
