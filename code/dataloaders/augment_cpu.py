"""Augmentation on the CPU: numba kernels that read the flat store and write the batch, a share of the rows a thread.

The kernels are serial and release the interpreter; the threads are Python's. So they may run beside numba's own
parallel code in another thread, which its default threading layer would not survive.
"""
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numba
import numpy as np
import torch

from dataloaders.augment_draws import Draws, brightness_tables, crop_plan, normal_quantiles

if TYPE_CHECKING:
    from dataloaders.augment import Augmenter

IGNORED = 255


def warp(augmenter: Augmenter, rows: np.ndarray, n_labeled: int, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns and flips, or rotations, then resizing: one read and one write a pixel."""
    sides = augmenter.sides(rows, draws)
    table, rotate = augmenter.geometry(rows, draws), draws["rotate"]
    return _run(augmenter, _warp, rows, n_labeled, table, rotate, augmenter.maps[0], augmenter.maps[1], sides)


def crop_3d(augmenter: Augmenter, rows: np.ndarray, n_labeled: int, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns and a flip in the first two axes, then a crop."""
    start = crop_plan(augmenter.size, augmenter.store.shapes[rows], draws)
    table = augmenter.geometry(rows, draws).astype(np.int64)
    return _run(augmenter, _crop_3d, rows, n_labeled, table, start)


def photo(augmenter: Augmenter, rows: np.ndarray, n_labeled: int, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Resize, flips, brightness and contrast, blur, quarter turns, noise; then normalise."""
    flags = np.stack([draws["h_flip"], draws["v_flip"], augmenter.turns(draws), draws["blur"], draws["noise_seed"]], 1).astype(np.int64)
    sides, tables = augmenter.side_of[rows], brightness_tables(draws)
    sigma = draws["noise"].astype(np.float32)
    maps = augmenter.maps
    return _run(augmenter, _photo, rows, n_labeled, maps[0], maps[1], sides, flags, sigma, tables, normal_quantiles())


def _run(augmenter: Augmenter, kernel, rows, n_labeled, *arguments) -> tuple[torch.Tensor, torch.Tensor]:
    store = augmenter.store
    images = torch.empty((len(rows), store.channels, *augmenter.size), dtype=torch.float32)
    labels = torch.empty((n_labeled, *augmenter.size), dtype=torch.int64)
    common = (store.pixels, store.labels, store.offsets[rows], store.label_offsets[rows[:n_labeled]], store.shapes[rows])
    out = (augmenter.scale, augmenter.shift, images.numpy(), labels.numpy())
    if augmenter.pool is None:
        kernel(*common, *arguments, *out, 0, 1)
    else:
        step = augmenter.threads
        share = partial(kernel, *common, *arguments, *out)
        for _ in augmenter.pool.map(share, range(step), [step] * step):
            continue
    return images, labels


def _compiled(function):
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder in which numba may keep compiled code
        return numba.njit(nogil=True)(function)


@_compiled
def _warp(
    pixels, labels, offsets, label_offsets, shapes, table, rotate, row_maps, column_maps, sides, scale, shift, images,
    out_labels, first, step,
):  # fmt: skip
    batch, channels, height, width = images.shape
    source = np.empty(width, np.int64)
    across = np.empty(width, np.int64)
    for b in range(first, batch, step):
        n_rows, n_columns = shapes[b, 0], shapes[b, 1]
        area = n_rows * n_columns
        rows, columns = row_maps[sides[b, 0]], column_maps[sides[b, 1]]
        m00, m01, b0, m10, m11, b1 = table[b]
        for j in range(width):
            across[j] = (int(m01) * n_columns + int(m11)) * columns[j]
        for i in range(height):
            row = rows[i]
            if row < 0:
                source[:] = -1
            elif rotate[b]:
                # The order of the additions is scipy's; another one differs in the last bit, at ties by a pixel.
                y0, x0 = b0 + m00 * row, b1 + m10 * row
                for j in range(width):
                    column = columns[j]
                    y, x = y0 + m01 * column, x0 + m11 * column
                    if column < 0 or y < 0 or x < 0 or y > n_rows - 1 or x > n_columns - 1:
                        source[j] = -1
                    else:
                        source[j] = int(np.floor(y + 0.5)) * n_columns + int(np.floor(x + 0.5))
            else:
                along = (int(m00) * row + int(b0)) * n_columns + int(m10) * row + int(b1)
                for j in range(width):
                    source[j] = along + across[j] if columns[j] >= 0 else -1
            for c in range(channels):
                start, factor, summand = offsets[b] + c * area, scale[c], shift[c]
                line = images[b, c, i]
                for j in range(width):
                    if source[j] >= 0:
                        line[j] = pixels[start + source[j]] * factor + summand
                    else:
                        line[j] = summand
            if b < len(label_offsets):
                line_of_labels, start = out_labels[b, i], label_offsets[b]
                for j in range(width):
                    if start < 0:
                        line_of_labels[j] = IGNORED
                    elif source[j] >= 0:
                        line_of_labels[j] = labels[start + source[j]]
                    else:
                        line_of_labels[j] = 0


@_compiled
def _crop_3d(pixels, labels, offsets, label_offsets, shapes, table, begin, scale, shift, images, out_labels, first, step):
    batch, channels, size0, size1, size2 = images.shape
    for b in range(first, batch, step):
        n0, n1, n2 = shapes[b]
        volume = n0 * n1 * n2
        m00, m01, b0, m10, m11, b1 = table[b]
        # Along the last axis the crop is a run of neighbours; what lies before and after it was padded.
        low, high = max(0, -begin[b, 2]), min(size2, n2 - begin[b, 2])
        for i in range(size0):
            for j in range(size1):
                r, s = i + begin[b, 0], j + begin[b, 1]
                y, x = m00 * r + m01 * s + b0, m10 * r + m11 * s + b1
                inside = 0 <= y < n0 and 0 <= x < n1 and low < high
                source = (y * n1 + x) * n2 + begin[b, 2]
                for c in range(channels):
                    line, start = images[b, c, i, j], offsets[b] + c * volume + source
                    line[:] = shift[c]
                    if inside:
                        for k in range(low, high):
                            line[k] = pixels[start + k] * scale[c] + shift[c]
                if b < len(label_offsets):
                    line_of_labels = out_labels[b, i, j]
                    line_of_labels[:] = 0 if label_offsets[b] >= 0 else IGNORED
                    if inside and label_offsets[b] >= 0:
                        for k in range(low, high):
                            line_of_labels[k] = labels[label_offsets[b] + source + k]


@_compiled
def _photo(
    pixels, labels, offsets, label_offsets, shapes, row_maps, column_maps, sides, flags, sigma, tables, quantiles, scale, shift, images,
    out_labels, first, step,
):  # fmt: skip
    batch, channels, height, width = images.shape
    plane, blurred = np.empty((height, width), np.uint8), np.empty((height, width), np.uint8)
    sums = np.empty((height, width), np.int32)
    place = np.empty((height, width), np.int64)
    for b in range(first, batch, step):
        n_columns, area = shapes[b, 1], shapes[b, 0] * shapes[b, 1]
        rows, columns = row_maps[sides[b, 0]], column_maps[sides[b, 1]]
        h_flip, v_flip, turns, kernel, seed = flags[b]
        for i in range(height):
            for j in range(width):
                r, s = i, j
                if turns == 1:
                    r, s = j, width - 1 - i
                elif turns == 2:
                    r, s = height - 1 - i, width - 1 - j
                elif turns == 3:
                    r, s = height - 1 - j, i
                if v_flip:
                    r = height - 1 - r
                if h_flip:
                    s = width - 1 - s
                place[i, j] = rows[r] * n_columns + columns[s]
        for c in range(channels):
            start = offsets[b] + c * area
            for i in range(height):
                for j in range(width):
                    plane[i, j] = tables[b, pixels[start + place[i, j]]]
            picture = plane
            if kernel > 1:
                _box_blur(plane, kernel, sums, blurred)
                picture = blurred
            for i in range(height):
                line = images[b, c, i]
                for j in range(width):
                    value = np.float32(picture[i, j])
                    if sigma[b] > 0:
                        draw = _hash(seed, (c * height + i) * width + j) >> 16
                        value = np.floor(min(max(value + sigma[b] * quantiles[draw], np.float32(0)), np.float32(255)))
                    line[j] = np.float32(value) * scale[c] + shift[c]
        if b < len(label_offsets):
            for i in range(height):
                for j in range(width):
                    out_labels[b, i, j] = labels[label_offsets[b] + place[i, j]] if label_offsets[b] >= 0 else IGNORED


@_compiled
def _hash(seed, index):
    """32 bits from two 32-bit numbers (the finaliser of MurmurHash3, twice); `augment_torch` computes the same."""
    value = seed
    for summand in (index, np.int64(0x9E3779B9)):
        value = (value + summand) & 0xFFFFFFFF
        value ^= value >> 16
        value = (value * 0x85EBCA6B) & 0xFFFFFFFF
        value ^= value >> 13
        value = (value * 0xC2B2AE35) & 0xFFFFFFFF
        value ^= value >> 16
    return value


@_compiled
def _box_blur(plane, kernel, sums, out):
    """Mean over kernel x kernel pixels, rounded; the border is mirrored without repeating the edge (OpenCV's default)."""
    height, width = plane.shape
    reach, count = kernel // 2, kernel * kernel
    for i in range(height):
        for j in range(width):
            total = 0
            for d in range(j - reach, j + reach + 1):
                at = -d if d < 0 else d
                total += plane[i, 2 * (width - 1) - at if at >= width else at]
            sums[i, j] = total
    for i in range(height):
        for j in range(width):
            total = 0
            for d in range(i - reach, i + reach + 1):
                at = -d if d < 0 else d
                total += sums[2 * (height - 1) - at if at >= height else at, j]
            out[i, j] = (total + count // 2) // count
