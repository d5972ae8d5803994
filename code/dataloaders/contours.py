"""Where objects, each of which has a number of its own in a map, end."""
from __future__ import annotations

import numpy as np


def borders(instances: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of which a neighbour above, below, left or right belongs to another object, or to none.

    This is what lies between the dilation and the erosion of each object by a disk of radius 1, of all objects together. Beyond the edge of
    the image nothing differs.
    """
    found = np.zeros(instances.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = instances[here] != instances[there]
        found[here] |= differ
        found[there] |= differ
    return found
