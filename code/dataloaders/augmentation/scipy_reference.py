"""The published augmentations as plain scipy and NumPy calls, one image at a time: the reference of the fast ones."""
from __future__ import annotations

import numpy as np
from scipy import ndimage

from dataloaders.augmentation.recipes import Draws, crop_plan


def warp(array: np.ndarray, draws: Draws, i: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) -> `size`, same dtype, by row i of `draws`: turns and a flip, or a rotation; then zoom, both of order 0."""
    if draws["rotate"][i]:
        array = ndimage.rotate(array, int(draws["angle"][i]), order=0, reshape=False)
    else:
        array = _turned(array, draws, i)
    return ndimage.zoom(array, (size[0] / array.shape[0], size[1] / array.shape[1]), order=0)


def crop_3d(array: np.ndarray, draws: Draws, i: int, size: tuple[int, int, int]) -> np.ndarray:
    """(X, Y, Z) -> `size`: turns and a flip in the first two axes, zero padding where a side is short, a crop."""
    begin = crop_plan(size, np.array([array.shape]), {name: values[i : i + 1] for name, values in draws.items()})[0]
    array = _turned(array, draws, i)
    pad = [(max(0, -b), max(0, b + s - n)) for b, s, n in zip(begin, size, array.shape)]
    array = np.pad(array, pad)
    corner = [b + before for b, (before, _) in zip(begin, pad)]
    return array[tuple(slice(c, c + s) for c, s in zip(corner, size))]


def _turned(array: np.ndarray, draws: Draws, i: int) -> np.ndarray:
    array = np.rot90(array, int(draws["turns"][i]))
    return np.flip(array, int(draws["flip"][i])) if draws["flip"][i] >= 0 else array
