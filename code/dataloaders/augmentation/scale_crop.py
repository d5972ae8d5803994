"""Random scale, crop and mirror of photographs of any size: what is drawn becomes a plan of whole numbers, which both kernels follow.

Scaling is Pillow's bilinear filter, to the bit: a triangle, as wide as an output pixel where it shrinks (so without aliasing), across
first, then down, in fixed point, rounded to 8 bits after each. Labels and maps take Pillow's nearest pixel.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dataloaders.augmentation.recipes import Draws, Recipe

PRECISION = 22
"""Bits of a weight behind the point, as in Pillow."""


@dataclass(frozen=True)
class Axis:
    """How the output places of one axis are made, for B rows of `out` places each; places from `valid` on lie outside the image."""

    valid: np.ndarray
    """(B,) int64."""
    first: np.ndarray
    """(B, out) int64: the first source pixel that has a weight."""
    count: np.ndarray
    """(B, out) int64: how many have one."""
    weights: np.ndarray
    """(B, out, K) int32, of sum 2^22."""
    nearest: np.ndarray
    """(B, out) int64: the nearest source pixel."""


def scaled_sizes(recipe: Recipe, shapes: np.ndarray, draws: Draws) -> np.ndarray:
    """(B, 2) int64 heights and widths after scaling: the long side is drawn, both ends included, the other follows, rounded half up.

    The bounds are multiples of `recipe.long_side`, or, where that is 0, of each image's own long side.
    """
    assert recipe.scale is not None
    long_side = shapes.max(1)
    base = np.where(recipe.long_side, recipe.long_side, long_side)
    low, high = ((base * factor).astype(np.int64) for factor in recipe.scale)
    drawn = low + np.floor(draws["long_side"] * (high - low + 1)).astype(np.int64)
    following = (shapes * drawn[:, None] / long_side[:, None] + 0.5).astype(np.int64)
    return np.where(shapes == long_side[:, None], drawn[:, None], following).clip(1)


def plan(recipe: Recipe, size: tuple[int, int], shapes: np.ndarray, draws: Draws) -> tuple[Axis, Axis]:
    """(down, across) of crops of `size` from images of `shapes` (B, 2), padded below and to the right where scaled images are smaller."""
    sizes = scaled_sizes(recipe, shapes, draws)
    made = []
    for axis, name in enumerate(("down", "across")):
        room = np.maximum(sizes[:, axis] - size[axis], 0)
        start = np.floor(draws[name] * (room + 1)).astype(np.int64)
        made.append(axis_of(shapes[:, axis], sizes[:, axis], start, size[axis]))
    return made[0], made[1]


def axis_of(sides: np.ndarray, scaled: np.ndarray, start: np.ndarray, out: int) -> Axis:
    """The places `start` to `start + out` of an axis of `sides` pixels that are scaled to `scaled`; each (B,)."""
    valid = np.minimum(scaled - start, out)
    place = np.minimum(start[:, None] + np.arange(out), scaled[:, None] - 1)
    step = sides / scaled
    reach = np.maximum(step, 1.0)[:, None]
    centre = (place + 0.5) * step[:, None]
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + reach + 0.5).astype(np.int64), sides[:, None]) - first
    taps = np.arange(count.max())
    away = np.abs((first[..., None] + taps - centre[..., None] + 0.5) * (1 / reach[..., None]))
    shares = np.where(taps < count[..., None], np.maximum(1 - away, 0), 0.0)
    shares /= shares.sum(-1, keepdims=True)
    weights = (0.5 + shares * (1 << PRECISION)).astype(np.int32)
    nearest = np.stack([nearest_of(int(side), int(many))[places] for side, many, places in zip(sides, scaled, place)])
    return Axis(valid, first, count, weights, nearest)


@lru_cache(maxsize=4096)
def nearest_of(side: int, scaled: int) -> np.ndarray:
    """(scaled,) int64: the pixel of `side` nearest to each place, floor((i + 1/2) side / scaled), added up step by step as Pillow does
    it, whose rounding decides where a place lies between two pixels."""
    steps = np.full(scaled, side / scaled)
    steps[0] /= 2
    return np.minimum(np.add.accumulate(steps).astype(np.int64), side - 1)
