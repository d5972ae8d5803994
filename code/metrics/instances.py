"""Instances: maps in which every object has a number of its own, 0 where there is none."""
from __future__ import annotations

import numpy as np
from scipy import ndimage


def consecutive(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """(int32 map, number of objects): the objects of a map of whole numbers from 0 on, counted 1, 2, ... in the order of their numbers."""
    present = np.bincount(ids.ravel()) > 0
    present[0] = False
    return np.cumsum(present, dtype=np.int32).take(ids), int(present.sum())


def instances_of(mask: np.ndarray, least: int = 1, grow: int = 0) -> np.ndarray:
    """(H, W) int32 instances of a mask (H, W) bool: its connected regions, pixels that share a corner being connected.

    Regions of fewer than `least` pixels are dropped. Then each grows by a disk of radius `grow`, as HCE's authors have it for
    predictions of the inside of objects: a pixel that several reach is that of the largest number, which may cost a neighbour some of
    its own.
    """
    regions, _ = ndimage.label(mask, np.ones((3, 3), bool))
    sizes = np.bincount(regions.ravel())
    kept = sizes >= least
    kept[0] = False
    regions = np.cumsum(kept, dtype=np.int32)[regions] * kept[regions]
    return grown(regions, grow) if grow else regions


def grown(instances: np.ndarray, radius: int) -> np.ndarray:
    """Every pixel the largest number within `radius` of it."""
    height, width = instances.shape
    wide = np.pad(instances, radius)
    found = instances.copy()
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if 0 < dy * dy + dx * dx <= radius * radius:
                np.maximum(found, wide[radius + dy : radius + dy + height, radius + dx : radius + dx + width], out=found)
    return found
