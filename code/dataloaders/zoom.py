"""Nearest-neighbour resizing by index tables: the mapping of scipy.ndimage.zoom, and that of OpenCV.

Both are separable, so an axis is resized by taking rows at precomputed places. -1 marks a place that is filled with 0.
"""
from __future__ import annotations

from functools import lru_cache
from typing import overload

import numpy as np
import torch

from dataloaders.description import Resizing


@lru_cache(maxsize=4096)
def zoom_indices(n_in: int, n_out: int) -> np.ndarray:
    """(n_out,) int64: where scipy.ndimage.zoom(order=0) reads each output place along an axis of length `n_in`.

    floor(i r + 1/2) with r = (n_in - 1) / (n_out - 1) in float64. Where i r is rounded to above n_in - 1, scipy takes
    the place to lie outside and fills 0: -1 here (256 -> 216 has such a last row).
    """
    ratio = (n_in - 1) / (n_out - 1) if n_out > 1 else 1.0
    coordinates = np.arange(n_out, dtype=np.float64) * ratio
    indices = np.floor(coordinates + 0.5).astype(np.int64)
    indices[coordinates > n_in - 1] = -1
    indices.flags.writeable = False
    return indices


@lru_cache(maxsize=4096)
def floor_indices(n_in: int, n_out: int) -> np.ndarray:
    """(n_out,) int64: OpenCV's nearest mapping, floor(i n_in / n_out)."""
    indices = np.minimum(np.arange(n_out, dtype=np.int64) * n_in // n_out, n_in - 1)
    indices.flags.writeable = False
    return indices


def axis_indices(n_in: int, n_out: int, mapping: Resizing) -> np.ndarray:
    """(n_out,) int64 source places of one axis; see `Resizing`."""
    return zoom_indices(n_in, n_out) if mapping == "corner" else floor_indices(n_in, n_out)


@overload
def resize_nearest(array: np.ndarray, size: tuple[int, int], mapping: Resizing = ...) -> np.ndarray: ...
@overload
def resize_nearest(array: torch.Tensor, size: tuple[int, int], mapping: Resizing = ...) -> torch.Tensor: ...
def resize_nearest(array, size, mapping="corner"):
    """(..., H, W) array or tensor (any device) -> (..., *size) of the same dtype; equal to scipy's zoom to the pixel."""
    rows = axis_indices(array.shape[-2], size[0], mapping)
    columns = axis_indices(array.shape[-1], size[1], mapping)
    zero_rows, zero_columns = np.flatnonzero(rows < 0), np.flatnonzero(columns < 0)
    rows, columns = np.maximum(rows, 0), np.maximum(columns, 0)
    if isinstance(array, torch.Tensor):
        at_rows, at_columns = (torch.from_numpy(places).to(array.device) for places in (rows, columns))
        out = array.index_select(-2, at_rows).index_select(-1, at_columns)
    else:
        out = array[..., rows[:, None], columns]
    if len(zero_rows):
        out[..., zero_rows, :] = 0
    if len(zero_columns):
        out[..., zero_columns] = 0
    return out
