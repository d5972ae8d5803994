"""Squared distances between the surfaces of one class; a part of `metrics.surface`.

A class is cropped to the box around both surfaces. There a table holds the squared distance to the other surface along one axis
(the longer of the two outer ones); its rows lie so that what a query reads is contiguous. A query, for a few neighbouring surface
voxels of a row together, takes the minimum over the rows of its plane no farther than an upper bound, then the minimum along the
row. The bound is the smaller of the voxel's own entry and, for the surface voxels around it that came before, their distance plus
the step between. Near objects thus need a few look-ups a voxel, far ones many, in vectors of as many entries as fit.

Squared distances of one spacing along all axes are whole numbers of voxels: 16 bits where the box is small enough, else 32.
Other spacings take 64-bit floats.
"""
# Loops count from zero over slices: numba then knows that no index is negative, and the loop becomes vector instructions.
from __future__ import annotations

import numpy as np

from metrics.compiled import compiled

BLOCK = 32  # columns of the table that are looked at together: a vector of 16-bit numbers on wide machines, a few elsewhere


@compiled
def _box(places_a, places_b, height, width):
    """Lowest and highest (z, y, x) of both lists of flat indices, which ascend."""
    low = np.full(3, 1 << 40, np.int64)
    high = np.full(3, -1, np.int64)
    for places in (places_a, places_b):
        low[0], high[0] = min(low[0], places[0] // (width * height)), max(high[0], places[-1] // (width * height))
        i = 0
        while i < places.size:
            row = places[i] // width
            y = row % height
            low[1], high[1] = min(low[1], y), max(high[1], y)
            low[2] = min(low[2], places[i] - row * width)
            while i < places.size and places[i] < (row + 1) * width:
                i += 1
            high[2] = max(high[2], places[i - 1] - row * width)
    return low, high


@compiled
def _placed(places, height, width, low, shape, swapped):
    """Ascending flat indices in the table of `shape`: (z, y, x) of the box, or (y, z, x) when `swapped`."""
    rows, columns = shape[1], shape[2]
    placed = np.empty(places.size, np.int64)
    starts = np.zeros(shape[0] + 1, np.int64)  # where the voxels of a plane of the table begin; used when swapped
    for turn in range(2 if swapped else 1):
        i = 0
        while i < places.size:
            row = places[i] // width
            z = row // height
            y = row - z * height - low[1]
            z -= low[0]
            begin = i
            while i < places.size and places[i] < (row + 1) * width:
                i += 1
            if swapped and turn == 0:
                starts[y + 1] += i - begin
                continue
            to = starts[y] if swapped else begin
            shift = ((y * rows + z) if swapped else (z * rows + y)) * columns - row * width - low[2]
            for k in range(i - begin):
                placed[to + k] = places[begin + k] + shift
            if swapped:
                starts[y] += i - begin
        if turn == 0:
            for y in range(shape[0]):
                starts[y + 1] += starts[y]
    return placed


@compiled
def _one_more(plane, following):
    for i in range(plane.size):
        following[i] = plane[i] + 1


@compiled
def _nearer(plane, steps):
    """steps = min(plane, steps + 1)."""
    for i in range(plane.size):
        steps[i] += 1
        steps[i] = plane[i] if plane[i] < steps[i] else steps[i]


@compiled
def _square(steps, longest, weight, far, plane):
    """plane = weight steps^2, `far` where there is no target."""
    for i in range(plane.size):
        plane[i] = weight * steps[i] * steps[i] if steps[i] <= longest else far


@compiled
def _fill(table, targets, weight, far):
    """Squared distance along the first axis from every voxel of the box to the nearest of `targets`, which ascend; `far` without one."""
    depth = table.shape[0]
    flat = table.reshape(depth, -1)
    size = flat.shape[1]
    none = table.dtype.type(depth)  # steps from `depth` on mean no target
    begin = 0
    for z in range(depth):
        if z == 0:
            flat[0] = none
        else:
            _one_more(flat[z - 1], flat[z])
        while begin < targets.size and targets[begin] < (z + 1) * size:
            flat[z, targets[begin] - z * size] = 0
            begin += 1
    steps = np.full(size, none, table.dtype)
    for z in range(depth - 1, -1, -1):
        _nearer(flat[z], steps)
        _square(steps, table.dtype.type(depth - 1), weight, far, flat[z])


@compiled
def _lower_to_sum(table, a, b, shift, lowest, to):
    """lowest[to + i] = min(lowest[to + i], table[a + i] + shift, table[b + i] + shift) of one block."""
    for i in range(np.uint64(BLOCK)):
        first, second, least = table[a + i], table[b + i], lowest[to + i]
        nearer = first if first < second else second
        value = lowest.dtype.type(nearer + shift)
        value = value if value >= nearer else nearer
        lowest[to + i] = value if value < least else least


@compiled
def _copy(table, a, lowest, to):
    for i in range(np.uint64(BLOCK)):
        lowest[to + i] = table[a + i]


@compiled
def _bound(seen, above, width, straight_y, straight_x, slanting):
    """Least of the 3 x 3 entries of `seen`, whose rows are `width` long, from `above` on, each with the way from it to their centre."""
    beside, below = above + width, above + width + width
    one, two = np.uint64(1), np.uint64(2)
    least = min(min(seen[above + one], seen[below + one]) + straight_y, min(seen[beside], seen[beside + two]) + straight_x)
    corner = min(min(seen[above], seen[above + two]), min(seen[below], seen[below + two])) + slanting
    return min(min(least, corner), seen[beside + one])


@compiled
def _scan(table, row, y, rows, columns, left, right, squares, largest, lowest):
    """lowest[x] = the least of table[row + k, x] + squares[k] over rows of the plane with squares[k] <= largest, x from left to right.

    `table` is flat, and indices are unsigned: slices and the sign of an index would cost more than the minimum does.
    """
    for x in range(left, right, BLOCK):
        _copy(table, np.uint64(row * columns + x), lowest, np.uint64(x))
    for offset in range(1, max(y, rows - 1 - y) + 1):
        shift = squares[offset]
        if shift > largest:
            break
        # Past the border the outermost row comes again, farther than it is, which changes nothing.
        above, below = (row - min(offset, y)) * columns, (row + min(offset, rows - 1 - y)) * columns
        for x in range(left, right, BLOCK):
            _lower_to_sum(table, np.uint64(above + x), np.uint64(below + x), shift, lowest, np.uint64(x))


@compiled
def _lower_to_sums(a, b, shift, sums):
    for i in range(np.uint64(BLOCK)):
        first, second = a[shift[0] + i], b[shift[1] + i]
        value = sums.dtype.type(first + second)
        value = value if value >= first else first
        sums[i] = value if value < sums[i] else sums[i]


@compiled
def _least_sum(lowest, across, shift, left, right, far, sums):
    """The smallest lowest[x] + across[x + shift] for x from left to right, whole blocks. `sums` (BLOCK,) is scratch."""
    for i in range(np.uint64(BLOCK)):
        sums[i] = far
    for x in range(left, right, BLOCK):
        _lower_to_sums(lowest, across, (np.uint64(x), np.uint64(x + shift)), sums)
    for i in range(np.uint64(16)):
        sums[i] = min(sums[i], sums[i + np.uint64(16)])
    for i in range(np.uint64(8)):
        sums[i] = min(sums[i], sums[i + np.uint64(8)])
    least = sums[0]
    for i in range(np.uint64(8)):
        least = min(least, sums[i])
    return least


@compiled
def _directed(sources, table, squares, across, far, weights, squared):
    """Squared distance from every source voxel to the targets of `table`, both as ascending indices into it; into `squared`.

    `squares[k]` is the squared length of k steps along the second axis, `across[columns + k]` along the third.
    """
    depth, rows, columns = table.shape
    flat = table.reshape(-1)
    step_z, step_y, step_x = np.sqrt(weights[0]), np.sqrt(weights[1]), np.sqrt(weights[2])
    diagonal = np.sqrt(weights[1] + weights[2])
    # Distance, or a bound of it, of the last source in a column, less the way from plane 0 to its plane: then a source in a later
    # plane z is no farther from a target than this, plus the way to z, plus the way across. One voxel of margin.
    margined = columns + 2
    seen = np.full((rows + 2) * margined, 1e150)
    lowest, sums = np.empty(columns, table.dtype), np.empty(BLOCK, table.dtype)
    begin = 0
    while begin < sources.size:
        # A stretch: sources of one row whose windows overlap. They share the minimum over the rows of the plane.
        row = sources[begin] // columns
        z, y = row // rows, row % rows
        row_start = row * columns
        left, right, largest = columns, 0, far - far
        end = begin
        while end < sources.size and sources[end] - row_start < columns:
            x = sources[end] - row_start
            best = flat[np.uint64(sources[end])]
            reach = 0
            bound = 0.0
            if best > 0:
                bound = _bound(seen, np.uint64(y * margined + x), np.uint64(margined), step_y, step_x, diagonal) + z * step_z
                # A touch above the true bound, so that rounding never cuts the nearest target off.
                square = bound * bound * (1.0 + 1e-9)
                if square < best:
                    best = table.dtype.type(square)
                bound = np.sqrt(best)
                reach = int(min(bound / step_x, 1e9)) + 1
            if end > begin and x - reach > right:
                break
            left, right = min(left, max(0, x - reach) // BLOCK * BLOCK), max(right, min(columns, (x + reach) // BLOCK * BLOCK + BLOCK))
            largest = max(largest, best)
            squared[end] = best
            seen[np.uint64((y + 1) * margined + x + 1)] = bound - z * step_z
            end += 1
        if largest > 0:
            _scan(flat, row, y, rows, columns, left, right, squares, largest, lowest)
            for i in range(begin, end):
                if squared[i] > 0:
                    x = sources[i] - row_start
                    reach = int(min(np.sqrt(squared[i]) / step_x, 1e9)) + 1
                    first, stop = max(0, x - reach) // BLOCK * BLOCK, min(columns, (x + reach) // BLOCK * BLOCK + BLOCK)
                    squared[i] = _least_sum(lowest, across, columns - x, first, stop, far, sums)
                    seen[np.uint64((y + 1) * margined + x + 1)] = np.sqrt(squared[i]) - z * step_z
        begin = end


@compiled
def _both_directions(surface_p, surface_r, height, width, low, swapped, table, squares, across, far, weights):
    sources_p = _placed(surface_p, height, width, low, table.shape, swapped)
    sources_r = _placed(surface_r, height, width, low, table.shape, swapped)
    squared = np.empty(sources_p.size + sources_r.size, table.dtype)
    weight = table.dtype.type(weights[0])
    _fill(table, sources_r, weight, far)
    _directed(sources_p, table, squares, across, far, weights, squared[: sources_p.size])
    _fill(table, sources_p, weight, far)
    _directed(sources_r, table, squares, across, far, weights, squared[sources_p.size :])
    return squared


def both_directions(surface_p: np.ndarray, surface_r: np.ndarray, height: int, width: int, weights: tuple[float, ...]) -> np.ndarray:
    """Squared distances from each voxel of P to the nearest of R, then from each of R to P, as multiples of `weights[-1]` when all
    `weights` (squared steps along z, y, x) are equal; whole numbers then.

    Surfaces are ascending flat indices into (Z, height, width), none empty. The order within a direction is not told.
    """
    low, high = _box(surface_p, surface_r, height, width)
    shape = tuple(int(n) for n in high - low + 1)
    swapped = shape[1] > shape[0]
    if swapped:
        shape, weights = (shape[1], shape[0], shape[2]), (weights[1], weights[0], weights[2])
    shape = (*shape[:2], -(-shape[2] // BLOCK) * BLOCK)
    a, b, c = (n * n for n in shape)
    equal = weights[0] == weights[1] == weights[2]
    weights = (1.0, 1.0, 1.0) if equal else weights
    # No target is as far as `far`. What is added to it may pass the largest number of 16 bits; the kernels see that.
    dtype = np.uint16 if equal and a + b + c < 1 << 16 else np.int32 if equal and a + b + c < 1 << 30 else np.float64
    far = dtype({np.uint16: 65535, np.int32: 1 << 30, np.float64: 1e300}[dtype])
    squares = (weights[1] * np.arange(shape[1], dtype=np.float64) ** 2).astype(dtype)
    across = (weights[2] * np.arange(-shape[2], shape[2] + 1, dtype=np.float64) ** 2).astype(dtype)
    table = np.empty(shape, dtype)
    return _both_directions(surface_p, surface_r, height, width, low, swapped, table, squares, across, far, weights)
