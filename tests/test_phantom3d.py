"""The synthetic volumes: their bytes, their geometry, what makes them neither trivial nor impossible, and how they lie on disk."""
import hashlib
import json

import numpy as np
import pytest
from scipy import ndimage

from dataloaders import catalog
from dataloaders.catalog import DATA_SETS, open_source
from dataloaders.errors import UserError
from dataloaders.layouts import phantom3d as layout
from dataloaders.phantoms import phantom3d
from dataloaders.phantoms.phantom3d import Canvas, Dice, Ellipsoid, Tube, draw_volume
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest


@pytest.fixture(scope="module")
def volumes():
    return [draw_volume(0, number) for number in range(1, 7)]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(layout, "PARTS", {"train": 2, "val": 1, "test": 1})


def digest(arrays):
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def test_the_bytes_of_a_seed_are_the_same_on_every_machine(volumes):
    assert [digest(v) for v in volumes[:2]] == ["af86987c289d9039", "62f1b3c2821b62a6"], "the drawing changed: raise phantom3d.VERSION"
    assert digest(draw_volume(1, 1)) != digest(volumes[0])


def test_arrays_are_what_real_data_are(volumes):
    for image, label, spacing, affine in volumes:
        assert image.dtype == np.float32 and label.dtype == np.uint8 and image.shape == label.shape
        assert all(low <= side <= high for side, (low, high) in zip(image.shape, ((64, 80), (64, 72), (40, 48))))
        assert abs(image.mean()) < 1e-4 and abs(image.std() - 1) < 1e-4
        assert set(np.unique(label)) == {0, 1} and 0.02 < label.mean() < 0.2
        assert 20 < label.sum() * spacing.prod() / 1000 < 90, "millilitres of an atrium"
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), spacing, rtol=1e-5)
        assert np.linalg.det(affine[:3, :3]) > 0 and affine[0, 0] < 0 and affine[1, 1] < 0, "x to the left, y to the back"
    assert len({v[0].shape for v in volumes}) == len(volumes)


def test_the_atrium_is_one_piece_with_veins(volumes):
    for _, label, spacing, _ in volumes:
        pieces, _ = ndimage.label(label)
        sizes = np.bincount(pieces.ravel())[1:]
        assert sizes.max() > 0.99 * sizes.sum()
        # What an opening by a ball of 5 mm takes away is thin: the veins and the appendage.
        distance = ndimage.distance_transform_edt(label, spacing)
        opened = ndimage.distance_transform_edt(distance <= 5, spacing) <= 5
        assert 0.02 < (label.astype(bool) & ~opened).sum() / label.sum() < 0.5


def test_no_threshold_finds_the_atrium(volumes):
    """Blood elsewhere is as bright; and what is blood in one volume is flesh in another."""
    means = []
    for image, label, _, _ in volumes:
        best = max(2 * (label[image > t]).sum() / ((image > t).sum() + label.sum()) for t in np.linspace(-1, 3, 41))
        assert best < 0.75
        means.append(image[label == 1].mean())
    assert max(means) - min(means) > 0.3


def test_shapes_are_painted_in_their_window_only():
    """A window leaves nothing out: the whole volume gives the same picture."""
    shapes = [Ellipsoid((3, -4, 2), (12, 8, 6), 0.5, -0.4), Ellipsoid((0, 0, 0), (9, 7, 5)),
              Tube((-60, 0, 0), (1, 0, 0), 120, 5, (0, 9, -6)), Tube((5, 5, -20), (0.6, 0, 0.8), 30, 3, (-8, 4, 0)),
              Tube((500, 0, 0), (0, 0, 1), 10, 3)]
    for shape in shapes:
        canvas = Canvas((40, 38, 30), np.array([1.3, 1.3, 1.8]), Dice(0))
        canvas.add(shape, (2.0, 0.5), (0, 1.0))
        inside = canvas.image.copy()
        canvas.image[:] = 0
        for grown, value in ((2.0, 0.5), (0, 1.0)):
            canvas.paint(canvas.distance(shape) - grown, value)
        np.testing.assert_array_equal(inside, canvas.image)


def test_distances_are_in_mm():
    canvas = Canvas((41, 41, 31), np.array([1.0, 1.0, 1.5]), Dice(0))
    canvas.points[:] = np.stack(np.broadcast_arrays(*canvas.straight))
    middle = (20, 20, 15)
    tube = canvas.distance(Tube((0, 0, -40), (0, 0, 1), 80, 4))
    assert tube[middle] == -4 and tube[26, 20, 15] == 2 and tube[20, 14, 3] == 2
    ball = canvas.distance(Ellipsoid((0, 0, 0), (6, 6, 6), 0.3, 0.7))
    np.testing.assert_allclose([ball[30, 20, 15], ball[20, 20, 19], ball[23, 24, 15]], [4, 0, -1], atol=1e-9)


def test_layout_is_that_of_la(tmp_path, small, volumes):
    root = tmp_path / "on" / "the" / "way" / "Phantom3D"
    data = DATA_SETS["Phantom3D"]
    source = open_source(data, root)
    split = splits.make_split(source, SplitRequest(labeled_num="1"))
    assert [c.name for c in split.labeled] == ["volume001"] and [c.name for c in split.val] == ["volume003"]
    assert split.selection == "validation" and not source.remarks
    image, label, spacing, affine = volumes[2]
    np.testing.assert_array_equal(source.image(split.val[0]), image[None])
    np.testing.assert_array_equal(source.label(split.val[0]), label)
    assert source.spacing(split.val[0]) == tuple(spacing)
    np.testing.assert_array_equal(source.affine(split.val[0]), affine)
    description = json.loads((root / "dataset.json").read_text())
    assert description["synthetic"] is True and description["name"] == "Phantom3D" and description["version"] == phantom3d.VERSION
    assert catalog.resolve(None, root, tmp_path)[0] is data
    assert not DATA_SETS["Phantom"].reader.fits(root)


def test_drawn_once_and_over_nothing_else(tmp_path, small, monkeypatch):
    layout.ensure(tmp_path / "P")
    with monkeypatch.context() as patch:
        patch.setattr(layout, "draw", lambda *_: pytest.fail("drawn again"))
        layout.ensure(tmp_path / "P")
    with pytest.raises(UserError, match="seed 0 instead of 7"):
        layout.ensure(tmp_path / "P", 7)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    with pytest.raises(UserError, match="no Phantom3D is there.*not empty"):
        layout.ensure(tmp_path / "precious")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["P", "precious"]
