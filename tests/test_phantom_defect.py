"""PhantomDefect: the same to the bit, what its parts hold, and its defects told apart."""
from __future__ import annotations

import hashlib

import numpy as np
import pytest

from dataloaders.catalog import DATA_SETS, open_source, resolve
from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.layouts import phantom_defect
from dataloaders.phantoms.phantom_defect import CLASSES, SIDE, draw_surface
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest, make_split
from metrics import instances_of

DIGEST = "e49e6321e342a1f6"
"""Of ten photographs with their masks and instances."""


@pytest.fixture(scope="module")
def drawn():
    return [draw_surface(0, 0, number) for number in range(1, 11)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_defect, "COUNTS", {"train": 3, "val": 1, "test": 2})
    open_source(DATA_SETS["PhantomDefect"], tmp_path / "PhantomDefect")
    return tmp_path / "PhantomDefect"


def test_a_seed_has_the_same_bytes_everywhere(drawn):
    assert hashlib.sha256(b"".join(array.tobytes() for arrays in drawn for array in arrays)).hexdigest()[:16] == DIGEST


def test_every_defect_has_one_class_and_can_be_seen(drawn):
    seen = set()
    for image, ids, instances in drawn:
        assert image.shape == ids.shape == instances.shape == (SIDE, SIDE)
        assert ((ids > 0) == (instances > 0)).all() and instances.max() == len(np.unique(instances)) - 1
        for number in range(1, int(instances.max()) + 1):
            mask = instances == number
            kind, = np.unique(ids[mask])
            seen.add(int(kind))
            assert instances_of(mask).max() == 1, "a defect is one piece"
            ring = instances_of(mask, grow=3) > 0
            around = ring & (instances == 0)
            assert abs(float(image[mask].mean()) - float(image[around].mean())) > 5
    assert seen == set(range(1, len(CLASSES)))


def test_defects_do_not_touch(drawn):
    for _, ids, instances in drawn:
        found = sum(int(instances_of(ids == kind).max()) for kind in range(1, len(CLASSES)))
        assert found == instances.max()


def test_it_is_drawn_on_first_use_and_recognised(root):
    source = open_source(DATA_SETS["PhantomDefect"], root)
    assert resolve(None, root, root.parent)[0].name == "PhantomDefect"
    split = make_split(source, SplitRequest(labeled_num="2"))
    assert (len(split.labeled), len(split.unlabeled), len(split.val)) == (2, 1, 1)
    case = splits.test_cases(source, SplitRequest(labeled_num="2"))[0]
    assert source.image(case).shape == (1, SIDE, SIDE) and source.label(case).max() < len(CLASSES)
    whole = draw_surface(0, 2, 1)
    for kind in range(1, len(CLASSES)):
        assert (source.instances(case, kind) == np.where(whole[1] == kind, whole[2], 0)).all()
    with pytest.raises(UserError, match="no mask"):
        source.instances(Case("x", case.image, None, "x"), 1)
