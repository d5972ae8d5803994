"""Where a volume lies: affines between NIfTI's world and SimpleITK's.

An affine here is (4, 4) float64 and takes array indices to mm in RAS+ (right, anterior, superior grow), as nibabel's do. SimpleITK
keeps origin, direction and spacing in LPS+, so the first two axes of the world change their sign between the two.
"""
from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(image: Any) -> np.ndarray:
    """(4, 4) of a three-dimensional SimpleITK image, for arrays with the axes (x, y, z)."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


def place(image: Any, affine: np.ndarray) -> float:
    """Gives a SimpleITK image the place that `affine`, of (x, y, z) arrays, describes; returns how many mm its farthest corner is off.

    That is 0 up to rounding, except for a sheared affine, which SimpleITK cannot hold: it then gets the nearest rotation, its voxels
    keep their size, and the centre of the volume its place. A written NIfTI file keeps an affine to the precision of float32.
    Raises ValueError for an affine without a volume (`is_affine`).
    """
    if not is_affine(affine):
        raise ValueError(f"no place in space: {np.asarray(affine).tolist()}")
    wanted = LPS @ np.asarray(affine, np.float64)
    spacing = spacing_of(wanted)
    left, _, right = np.linalg.svd(wanted[:3, :3] / spacing)
    given = np.eye(4)
    given[:3, :3] = (left @ right) * spacing
    last = np.asarray(image.GetSize(), np.float64) - 1
    given[:3, 3] = wanted[:3, 3] + (wanted[:3, :3] - given[:3, :3]) @ (last / 2)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((left @ right).ravel().tolist())
    image.SetOrigin(given[:3, 3].tolist())
    return distance(given, wanted, image.GetSize())


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """(3,) mm between voxels along each axis of the array."""
    return np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)


def reversed_axes(affine: np.ndarray) -> np.ndarray:
    """The affine of an array whose axes are turned round: of (z, y, x) from that of (x, y, z), and back."""
    return np.asarray(affine, np.float64)[:, [2, 1, 0, 3]]


def distance(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """The largest distance in mm between the two places of a corner voxel of an array of this shape."""
    corners = np.array(list(product(*((0, side - 1) for side in shape))), np.float64)
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return float(np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max())


def is_affine(affine: np.ndarray) -> bool:
    """Whether the numbers are finite and span a volume."""
    matrix = np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or (spacing_of(matrix) <= 0).any():
        return False
    return bool(abs(np.linalg.det(matrix[:3, :3] / spacing_of(matrix))) > 1e-6)
