"""The largest component of every class."""
from __future__ import annotations

import numpy as np
import pytest

from metrics.components import largest_component


def test_each_class_keeps_its_own_and_corners_connect():
    labels = np.zeros((6, 7, 5), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1  # three voxels that touch by corners
    labels[5, 5, 3:5] = 1
    labels[0, 5:7, 0], labels[4, 0, 0] = 3, 3
    want = labels.copy()
    want[5, 5, 3:5] = 0
    want[4, 0, 0] = 0
    kept = largest_component(labels)
    assert (kept == want).all() and kept.dtype == labels.dtype and labels[4, 0, 0] == 3


def test_of_equals_the_first_stays():
    labels = np.array([[0, 1, 1, 0, 1, 1], [2, 0, 0, 0, 0, 0], [0, 0, 0, 2, 0, 0]], np.uint8)
    assert largest_component(labels).tolist() == [[0, 1, 1, 0, 0, 0], [2, 0, 0, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize("value, kind", [(0, np.uint8), (1, bool), (255, np.uint8), (2, np.int64)])
def test_whole_maps_and_types(value, kind):
    labels = np.full((3, 4, 5), value, kind)
    kept = largest_component(labels)
    assert (kept == labels).all() and kept.dtype == kind
