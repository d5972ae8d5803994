"""A slice's label carried through its volume by registration of neighbouring slices (after DeSCO; Cai et al., CVPR 2023)."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import binary_closing, binary_opening

from dataloaders.annotation import Slice

ITERATIONS, SMOOTHNESS = 20, 1.5
"""Of the registration of two slices: iterations at half the sides and at whole ones, and the deviation in pixels of the Gaussian that
displacements are smoothed by."""
MARGIN = 16
"""Pixels around the object that are registered with it."""
SQUARE = np.ones((5, 5), bool)
"""What a carried label is opened and closed by (published)."""

Carry = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(slice, its neighbour, the slice's label) -> the neighbour's label."""


def propagated(image: np.ndarray, label: np.ndarray, slices: Sequence[Slice], carry: Carry | None = None) -> dict[str, np.ndarray]:
    """Two labels of a volume from two annotated slices: by name `label1`, `label2`, (X, Y, Z) uint8, and `distance1`, `distance2`.

    image (C, X, Y, Z), of which the first channel is registered; label (X, Y, Z), of which only the slices, (axis, index) each, are read.
    The first label is the first slice's, carried to either side; the second slice, known too, is put in place, and ends the way: where
    it has no foreground, a slice has none. The second label likewise. A distance is that from the annotated slice, in slices, 254 at
    most; 0 in both of them.
    """
    found = {}
    for k, (own, other) in enumerate((tuple(slices), tuple(slices)[::-1]), 1):
        found[f"label{k}"] = carried(image[0], label, own, other, carry or registered)
        found[f"distance{k}"] = distances(label.shape, own, other)
    return found


def distances(shape: Sequence[int], own: Slice, other: Slice) -> np.ndarray:
    """(X, Y, Z) uint8: how many slices from the own one, 254 at most; 0 in the other one too."""
    axis, index = own
    away = np.minimum(np.abs(np.arange(shape[axis]) - index), 254).astype(np.uint8)
    found = np.broadcast_to(away.reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape).copy()
    np.moveaxis(found, other[0], 0)[other[1]] = 0
    return found


def carried(volume: np.ndarray, label: np.ndarray, own: Slice, other: Slice, carry: Carry) -> np.ndarray:
    """(X, Y, Z) uint8: the own slice's label carried through a volume (X, Y, Z), the other slice put in place."""
    axis, start = own
    result = np.zeros(label.shape, np.uint8)
    images, truth, found = (np.moveaxis(x, axis, 0) for x in (volume, label, result))  # views: slices across the axis
    crossing = other[0] - (other[0] > axis)  # the axis of the other slice within one of these
    row = tuple(other[1] if k == crossing else slice(None) for k in range(truth.ndim - 1))
    found[start] = truth[start]
    for step in (1, -1):
        stop = len(images) if step > 0 else -1
        for i in range(start + step, stop, step):
            if not truth[i][row].any():
                break
            found[i] = carry(images[i - step], images[i], found[i - step])
            found[i][row] = truth[i][row]
    np.moveaxis(result, other[0], 0)[other[1]] = np.moveaxis(label, other[0], 0)[other[1]]  # where the way has ended too
    return result


def copied(image: np.ndarray, neighbour: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The label as it is: what registration has to be better than."""
    return label.copy()


def registered(image: np.ndarray, neighbour: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The label (A, B) warped as symmetric demons warp the slice to its neighbour; each class opened and closed by 5 x 5 pixels.

    Registered is what lies around the object, `MARGIN` pixels wide; slices of fewer than 8 pixels are not.
    """
    import SimpleITK as sitk  # here alone: it is large

    if not label.any() or min(label.shape) < 8:
        return label.copy()
    ends = [(np.flatnonzero(label.any(1 - axis))[[0, -1]] + (-MARGIN, MARGIN + 1)).clip(0, label.shape[axis]) for axis in (0, 1)]
    part = tuple(slice(low, high) for low, high in ends)
    fixed, moving, classes = (sitk.GetImageFromArray(np.ascontiguousarray(x[part])) for x in (neighbour, image, label))
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(ITERATIONS)
    demons.SetStandardDeviations(SMOOTHNESS)
    demons.SetNumberOfWorkUnits(1)  # the volumes are dealt out, and a sum must not depend on the number of cores
    coarse = demons.Execute(*(sitk.Shrink(sitk.SmoothingRecursiveGaussian(x, 1.0), [2, 2]) for x in (fixed, moving)))
    field = demons.Execute(fixed, moving, sitk.Resample(coarse, fixed, sitk.Transform(), sitk.sitkLinear, 0.0, coarse.GetPixelID()))
    way = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    warped = sitk.GetArrayFromImage(sitk.Resample(classes, fixed, way, sitk.sitkNearestNeighbor, 0))
    found = np.zeros_like(label)
    for c in np.unique(warped[warped > 0]):
        mask = warped == c
        smooth = binary_closing(np.pad(binary_opening(mask, SQUARE), 4, "edge"), SQUARE)[4:-4, 4:-4]
        found[part][smooth if smooth.any() else mask] = c
    return found
