"""Augmentation on the CPU: numba kernels that read the flat store and write the batch, a share of the rows a thread.

The kernels are serial and release the interpreter; the threads are Python's. So they may run beside numba's own
parallel code in another thread, which its default threading layer would not survive.
"""
from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
import torch

from dataloaders.augmentation.frame import Fill, Frame
from dataloaders.augmentation.recipes import Draws, brightness_tables, crop_plan, normal_quantiles
from dataloaders.augmentation.scale_crop import PRECISION, plan

Made = tuple[torch.Tensor, torch.Tensor]
"""Images (B, C, *size) float32, none of them (C = 0) where no pixels are asked for; and (labelled rows, *size) of the values."""


def warp(frame: Frame, rows: np.ndarray, draws: Draws, pixels: Any, values: Any, places: np.ndarray, fill: Fill,
         dtype: torch.dtype) -> Made:
    """Turns and flips, or rotations, then resizing: one read and one write a pixel."""
    sides = frame.sides(rows, draws)
    table, rotate = frame.geometry(rows, draws), draws["rotate"]
    return _run(frame, _warp, rows, pixels, values, places, fill, dtype, table, rotate, frame.maps[0], frame.maps[1], sides)


def crop_3d(frame: Frame, rows: np.ndarray, draws: Draws, pixels: Any, values: Any, places: np.ndarray, fill: Fill,
            dtype: torch.dtype) -> Made:
    """Turns and a flip in the first two axes, then a crop."""
    start = crop_plan(frame.size, frame.store.shapes[rows], draws)
    table = frame.geometry(rows, draws).astype(np.int64)
    return _run(frame, _crop_3d, rows, pixels, values, places, fill, dtype, table, start)


def photo(frame: Frame, rows: np.ndarray, draws: Draws, pixels: Any, values: Any, places: np.ndarray, fill: Fill,
          dtype: torch.dtype) -> Made:
    """Resize, flips, brightness and contrast, blur, quarter turns, noise; then normalise."""
    flags = np.stack([draws["h_flip"], draws["v_flip"], frame.turns(draws), draws["blur"], draws["noise_seed"]], 1).astype(np.int64)
    sides, tables = frame.side_of[rows], brightness_tables(draws)
    sigma = draws["noise"].astype(np.float32)
    return _run(frame, _photo, rows, pixels, values, places, fill, dtype, frame.maps[0], frame.maps[1], sides, flags, sigma, tables,
                normal_quantiles())


def scale_crop(frame: Frame, rows: np.ndarray, draws: Draws, pixels: Any, values: Any, places: np.ndarray, fill: Fill,
               dtype: torch.dtype) -> Made:
    """Scaling of the long side, a crop (padded below and to the right), a mirror; then normalise."""
    down, across = plan(frame.recipe, (frame.size[0], frame.size[1]), frame.store.shapes[rows], draws)
    valid = np.stack([down.valid, across.valid], 1)
    return _run(frame, _scale_crop, rows, pixels, values, places, fill, dtype, valid, draws["h_flip"], down.first, down.count, down.weights,
                down.nearest, across.first, across.count, across.weights, across.nearest)


def _run(frame: Frame, kernel, rows, pixels, values, places, fill, dtype, *arguments) -> Made:
    """Runs a kernel over a share of the rows a thread. Without `pixels` it makes the values alone, by the same geometry."""
    store = frame.store
    channels = 0 if pixels is None else store.channels
    images = torch.empty((len(rows), channels, *frame.size), dtype=torch.float32, memory_format=frame.memory_format)
    warped = torch.empty((len(places), *frame.size), dtype=dtype)
    common = (store.pixels, values, store.offsets[rows], places, store.shapes[rows])
    out = (frame.scale, frame.shift, np.asarray(fill, np.float32), images.numpy(), warped.numpy())
    if frame.pool is None:
        kernel(*common, *arguments, *out, 0, 1)
    else:
        step = frame.threads
        share = partial(kernel, *common, *arguments, *out)
        for _ in frame.pool.map(share, range(step), [step] * step):
            continue
    return images, warped


def _compiled(function):
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder in which numba may keep compiled code
        return numba.njit(nogil=True)(function)


@_compiled
def _warp(
    pixels, labels, offsets, label_offsets, shapes, table, rotate, row_maps, column_maps, sides, scale, shift, fill, images,
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
                        line_of_labels[j] = fill[0] if source[j] >= 0 else fill[1]
                    elif source[j] >= 0:
                        line_of_labels[j] = labels[start + source[j]]
                    else:
                        line_of_labels[j] = fill[2]


@_compiled
def _crop_3d(pixels, labels, offsets, label_offsets, shapes, table, begin, scale, shift, fill, images, out_labels, first, step):
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
                    line_of_labels[:] = fill[2] if label_offsets[b] >= 0 else fill[1]
                    if inside and label_offsets[b] >= 0:
                        for k in range(low, high):
                            line_of_labels[k] = labels[label_offsets[b] + source + k]
                    elif inside:
                        line_of_labels[low:high] = fill[0]


@_compiled
def _photo(
    pixels, labels, offsets, label_offsets, shapes, row_maps, column_maps, sides, flags, sigma, tables, quantiles, scale, shift, fill,
    images, out_labels, first, step,
):  # fmt: skip
    batch, channels, height, width = images.shape
    plane = np.empty((height, width), np.uint8)
    sums, column_sums = np.empty((height, width), np.float32), np.empty(width, np.float32)
    down, across = np.empty(height, np.int64), np.empty(width, np.int64)
    normalised = np.empty(256, np.float32)
    for b in range(first, batch, step):
        n_columns, area = shapes[b, 1], shapes[b, 0] * shapes[b, 1]
        rows, columns = row_maps[sides[b, 0]] * n_columns, column_maps[sides[b, 1]]
        h_flip, v_flip, turns, kernel, seed = flags[b]
        if v_flip:
            rows = rows[::-1]
        if h_flip:
            columns = columns[::-1]
        # The place read by pixel (i, j) is a sum of a part that depends on i and one that depends on j, whatever the turn.
        if turns % 2 == 0:
            down[:] = rows if turns == 0 else rows[::-1]
            across[:] = columns if turns == 0 else columns[::-1]
        else:
            down[:] = columns[::-1] if turns == 1 else columns
            across[:] = rows if turns == 1 else rows[::-1]
        for c in range(channels):
            start, table = offsets[b] + c * area, tables[b]
            for i in range(height):
                line, at = plane[i], start + down[i]
                for j in range(width):
                    line[j] = table[pixels[at + across[j]]]
            if kernel > 1:
                _box_blur(plane, kernel, sums, column_sums)
            if sigma[b] > 0:
                for i in range(height):
                    line, index = plane[i], (c * height + i) * width
                    for j in range(width):
                        value = np.float32(line[j]) + sigma[b] * quantiles[_hash(seed, index + j) >> 16]
                        line[j] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))
            for v in range(256):
                normalised[v] = np.float32(v) * scale[c] + shift[c]
            for i in range(height):
                line, out = plane[i], images[b, c, i]
                for j in range(width):
                    out[j] = normalised[line[j]]
        if b < len(label_offsets):
            for i in range(height):
                out_line, at = out_labels[b, i], label_offsets[b] + down[i]
                for j in range(width):
                    if label_offsets[b] >= 0:
                        out_line[j] = labels[at + across[j]]
                    else:
                        out_line[j] = fill[0]


@_compiled
def _scale_crop(
    pixels, labels, offsets, label_offsets, shapes, valid, mirror, row_first, row_count, row_weights, row_nearest, column_first,
    column_count, column_weights, column_nearest, scale, shift, fill, images, out_labels, first, step,
):  # fmt: skip
    batch, channels, height, width = images.shape
    sums, normalised = np.empty(width, np.int32), np.empty(256, np.float32)
    for b in range(first, batch, step):
        n_columns, area = shapes[b, 1], shapes[b, 0] * shapes[b, 1]
        n_down, n_across = valid[b]
        top = row_first[b, 0]
        bottom = row_first[b, n_down - 1] + row_count[b, n_down - 1]
        narrowed = np.empty((bottom - top, n_across), np.uint8)
        start, direction = (width - 1, -1) if mirror[b] else (0, 1)
        for c in range(channels):
            for v in range(256):
                normalised[v] = np.float32(v) * scale[c] + shift[c]
            for r in range(bottom - top):
                begin = offsets[b] + c * area + (top + r) * n_columns
                for j in range(n_across):
                    total, at = np.int32(1 << (PRECISION - 1)), begin + column_first[b, j]
                    for k in range(column_count[b, j]):
                        total += np.int32(pixels[at + k]) * column_weights[b, j, k]
                    narrowed[r, j] = total >> PRECISION
            for i in range(height):
                line = images[b, c, i]
                if i >= n_down:
                    line[:] = shift[c]
                    continue
                sums[:] = 1 << (PRECISION - 1)
                for k in range(row_count[b, i]):
                    weight, source = row_weights[b, i, k], narrowed[row_first[b, i] + k - top]
                    for j in range(n_across):
                        sums[j] += np.int32(source[j]) * weight
                for j in range(n_across):
                    line[start + direction * j] = normalised[sums[j] >> PRECISION]
                for j in range(n_across, width):
                    line[start + direction * j] = shift[c]
        if b < len(label_offsets):
            known = label_offsets[b] >= 0
            for i in range(height):
                line_of_labels = out_labels[b, i]
                line_of_labels[:] = fill[2] if known else fill[1]
                if i < n_down:
                    at = label_offsets[b] + row_nearest[b, i] * n_columns
                    for j in range(n_across):
                        line_of_labels[start + direction * j] = labels[at + column_nearest[b, j]] if known else fill[0]


@_compiled
def _hash(seed, index):
    """32 bits from two 32-bit numbers (the finaliser of MurmurHash3, twice); `torch_kernels` computes the same."""
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
def _box_blur(plane, kernel, sums, column_sums):
    """Mean over kernel x kernel pixels in place, rounded; mirrored at the border without the edge (OpenCV's default).

    Running sums: of integers below 2^24, which float32 holds exactly.
    """
    height, width = plane.shape
    reach, share = kernel // 2, np.float32(1) / np.float32(kernel * kernel)
    for i in range(height):
        line = plane[i]
        total = np.float32(0)
        for d in range(-reach, reach + 1):
            total += line[_mirrored(d, width)]
        for j in range(width):
            sums[i, j] = total
            total += np.float32(line[_mirrored(j + reach + 1, width)]) - np.float32(line[_mirrored(j - reach, width)])
    column_sums[:] = 0
    for d in range(-reach, reach + 1):
        column_sums += sums[_mirrored(d, height)]
    for i in range(height):
        line, entering, leaving = plane[i], sums[_mirrored(i + reach + 1, height)], sums[_mirrored(i - reach, height)]
        for j in range(width):
            line[j] = np.uint8(column_sums[j] * share + np.float32(0.5))
            column_sums[j] += entering[j] - leaving[j]


@_compiled
def _mirrored(place, length):
    place = -place if place < 0 else place
    return 2 * (length - 1) - place if place >= length else place
