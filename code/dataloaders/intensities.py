"""What is done to the values of raw images, so that all of a data set have one scale: functions of an array (and of its file's name,
for the sentence with which it is refused).
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from dataloaders.errors import UserError

PERCENTILES = (0.5, 99.5)
SHARE, BINS = 0.999, 256
APART = 50
"""How much greater the greatest value of one image may be than that of another, without a remark."""


def checked_pixels(pixels: np.ndarray, file: Path) -> np.ndarray:
    """float32 pixels; raises `UserError` where one is NaN or infinite."""
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(pixels, dtype=np.float32)
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    if bad:
        raise UserError(f"{file}: {bad} of {values.size} pixels are NaN or infinite; repair the file or leave it out.")
    return values


def several_values(image: np.ndarray, file: Path) -> np.ndarray:
    """float64 voxels of an image; raises `UserError` where they are all the same, or one is not finite."""
    values = checked_pixels(image, file).astype(np.float64)
    if values.min() == values.max():
        raise UserError(f"{file}: every voxel is {values.min():g}; an image has more than one value. Download it again.")
    return values


def min_max(image: np.ndarray, file: Path) -> np.ndarray:
    """float32 from 0, the image's least value, to 1, its greatest (ACDC)."""
    values = several_values(image, file)
    return ((values - values.min()) / (values.max() - values.min())).astype(np.float32)


def clipped(image: np.ndarray, file: Path) -> np.ndarray:
    """float32 in 0..1: clipped to `PERCENTILES` of the image (PROMISE12)."""
    values = several_values(image, file)
    low, high = np.percentile(values, PERCENTILES)
    if low == high:
        low, high = values.min(), values.max()
    return ((np.clip(values, low, high) - low) / (high - low)).astype(np.float32)


def windowed(image: np.ndarray, low: float, high: float, file: Path) -> np.ndarray:
    """float32 from 0 to 1: clipped to a window, then by the least and the greatest value that are left (Synapse, AMOS)."""
    return min_max(np.clip(several_values(image, file), low, high), file)


def standardised(image: np.ndarray, file: Path) -> np.ndarray:
    """float32 with mean 0 and deviation 1 over the image (LA)."""
    values = several_values(image, file)
    return ((values - values.mean()) / values.std()).astype(np.float32)


def brain_box(image: np.ndarray, file: Path) -> tuple[slice, slice, slice]:
    """The box of what is not 0, less its last plane on each axis (BraTS 2019, as published)."""
    sides = []
    for axis in range(3):
        places = np.flatnonzero((image != 0).any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(slice(int(places[0]), int(places[-1])))
    if any(side.stop == side.start for side in sides):
        raise UserError(f"{file}: what is not 0 is one voxel thick; expected a brain. Download it again.")
    return sides[0], sides[1], sides[2]


def capped(image: np.ndarray) -> np.ndarray:
    """Values above the first at which the cumulative histogram reaches 99.9 % are set to it (BraTS 2019).

    The histogram has a bin for every value of whole numbers and 256 bins of floats, as scikit-image counts.
    """
    if image.dtype.kind == "f":
        counts, edges = np.histogram(image, BINS)
        values = (edges[:-1] + edges[1:]) / 2
    else:
        values, counts = np.unique(image, return_counts=True)
    return np.minimum(image, values[np.flatnonzero(np.cumsum(counts) / image.size >= SHARE)[0]])


def by_the_brain(image: np.ndarray, file: Path) -> np.ndarray:
    """float32; mean and deviation of the voxels above 0 become 0 and 1, in all voxels (BraTS 2019)."""
    brain = image[image > 0].astype(np.float64)
    if not brain.size or brain.std() == 0:
        raise UserError(f"{file}: fewer than two values above 0 in the brain; expected FLAIR as the challenge gives it. Download it again.")
    return ((image - brain.mean()) / brain.std()).astype(np.float32)


def scaled(values: np.ndarray, scheme: str) -> np.ndarray:
    """float32 of own volumes by a scheme: "zscore", "ct" (clipped, then zscore) or "none". A constant volume becomes 0."""
    if scheme == "none":
        return values
    if scheme == "ct":
        values = np.clip(values, *np.percentile(values, PERCENTILES))
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return ((values - np.float32(mean)) / np.float32(deviation or 1.0)).astype(np.float32, copy=False)
