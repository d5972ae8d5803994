"""How much of a volume is annotated: all of it, or two slices at right angles."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dataloaders.errors import UserError

UNKNOWN = 255
"""What no loss counts; of labels it is the ignored class too."""
AXES = (2, 1)
"""Of the two slices: one across the last axis, one across the axis before it (DeSCO)."""

Slice = tuple[int, int]
"""(axis, index)."""


def largest_slices(label: np.ndarray) -> tuple[Slice, ...]:
    """Across each of `AXES` the slice of a label (X, Y, Z) with most foreground, the first of several; the middle one without any."""
    found = []
    for axis in AXES:
        counts = ((label > 0) & (label != UNKNOWN)).sum(tuple(other for other in range(label.ndim) if other != axis))
        found.append((axis, int(counts.argmax()) if counts.any() else label.shape[axis] // 2))
    return tuple(found)


def published_slices(label: np.ndarray, places: Mapping[int, int | None], name: str) -> tuple[Slice, ...]:
    """The slices that a publication has: across each axis its index, None for the middle. Raises `UserError` where a volume ends before."""
    found = tuple((axis, label.shape[axis] // 2 if place is None else place) for axis, place in places.items())
    beyond = [f"slice {index} of axis {axis}, which has {label.shape[axis]}" for axis, index in found if index >= label.shape[axis]]
    if beyond:
        raise UserError(f"--annotated_slices published: {name} has no {' and no '.join(beyond)}. Choose --annotated_slices largest.")
    return found


def annotated(label: np.ndarray, slices: tuple[Slice, ...]) -> np.ndarray:
    """A label (X, Y, Z) uint8 of which these slices alone are known; the rest is `UNKNOWN`."""
    known = np.full_like(label, UNKNOWN)
    for axis, index in slices:
        at = tuple(index if other == axis else slice(None) for other in range(label.ndim))
        known[at] = label[at]
    return known
