"""Pictures of volumes: orientation, spacing, empty masks. What they look like is for eyes; what they show is tested here."""
from __future__ import annotations

import time
from unittest import mock

import numpy as np
import pytest

from pictures import volumes as pictures_3d
from pictures.volumes import _mesh, _middle, _thickest, surface, three_planes, upright


def ball(shape=(24, 20, 16), centre=(12, 10, 8), radius=5.0) -> np.ndarray:
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(shape), centre)))
    return (distance <= radius).astype(np.uint8)


def test_any_orientation_comes_out_as_left_back_head():
    index = np.stack(np.indices((4, 5, 6)))  # of an array whose axes go left, back, head
    lps = np.diag([-2.0, -3.0, 4.0, 1.0])
    array = index[0] * 100 + index[1] * 10 + index[2]
    same, steps = upright(array, (2, 3, 4), lps)
    assert (same == array).all() and steps == (2, 3, 4)
    # The same volume stored as (head, right, back): axes permuted, the first of them reversed.
    stored = array[::-1].transpose(2, 0, 1)
    affine = np.zeros((4, 4))
    affine[0, 1], affine[1, 2], affine[2, 0], affine[3, 3] = 2, -3, 4, 1
    turned, steps = upright(stored, (4, 2, 3), affine)
    assert (turned == array).all() and steps == (2, 3, 4)
    assert upright(array, None, None)[1] == (1, 1, 1)


def test_planes_go_through_what_matters():
    hollow = ball(radius=6) - ball(radius=4)
    assert hollow[_middle(hollow)], "the middle of a hollow mask lies in the mask"
    assert _middle(np.zeros((4, 6, 8), bool)) == (2, 3, 4)
    wrong = ball(centre=(18, 5, 9), radius=4).astype(bool)
    wrong[2, :, 3] = True  # longer, but thin
    assert _thickest(wrong) == (18, 5, 9)
    wrong[:] = True
    assert wrong[_thickest(wrong)]


def test_a_mesh_is_the_surface_in_millimetres():
    spacing, radius = (1.0, 1.0, 2.0), 9.0
    grid = np.indices((32, 32, 16)) * np.reshape(spacing, (3, 1, 1, 1))
    middle = np.array((15.5, 15.5, 15.0))
    mesh = _mesh(np.sqrt(((grid - middle.reshape(3, 1, 1, 1)) ** 2).sum(0)) <= radius, spacing)
    outwards = mesh.corners.mean(1) - middle
    assert np.abs(np.linalg.norm(outwards, axis=1) - radius).max() < 1.2
    assert ((outwards * mesh.normals).sum(1) > 0.8 * radius).all(), "normals point outwards"
    tiny = np.zeros((9, 9, 9), bool)
    tiny[4, 4, 4] = True
    assert _mesh(tiny, (1, 1, 1)) is not None and _mesh(np.zeros_like(tiny), (1, 1, 1)) is None


def test_a_long_volume_is_thinned_out():
    long = np.zeros((400, 40, 40), np.uint8)
    long[5:395, 5:35, 5:35] = 1
    mesh = _mesh(long > 0, (1, 1, 1))
    assert len(mesh.corners) < 20_000
    assert mesh.corners[..., 0].min() == pytest.approx(4.5, abs=1) and mesh.corners[..., 0].max() == pytest.approx(394.5, abs=1)


@pytest.mark.parametrize("empty", ["none", "reference", "prediction", "both"])
@pytest.mark.parametrize("spacing", [None, (0.6, 0.8, 2.5)])
def test_pictures_of_full_and_empty_masks(tmp_path, empty, spacing):
    reference, prediction = ball() * (1 + (np.indices((24, 20, 16))[0] > 12)).astype(np.uint8), ball(centre=(13, 9, 8))
    if empty in ("reference", "both"):
        reference[:] = 0
    if empty in ("prediction", "both"):
        prediction[:] = 0
    image = np.random.default_rng(0).normal(size=(2, *reference.shape)).astype(np.float32)
    classes = ("background", "left", "right")
    three_planes(tmp_path / "planes.png", image, reference, prediction, spacing, classes, "a case")
    surface(tmp_path / "surface.png", reference, prediction, spacing, classes, "a case")
    for name in ("planes.png", "surface.png"):
        pixels = pictures_3d.plt.imread(tmp_path / name)
        assert pixels.shape[0] > 200 and pixels[..., :3].std() > 0.01
    assert not pictures_3d.plt.get_fignums(), "figures are closed"


def test_planes_show_the_volume_as_a_radiologist_sees_it(tmp_path):
    """A bright corner at the patient's right, front and head appears left above in the axial, coronal and (front) sagittal planes."""
    volume = np.zeros((20, 24, 28), np.float32)
    volume[:10, :12, 14:] = 1
    shown = []
    original = pictures_3d.plt.Axes.imshow

    def imshow(axis, array, **settings):
        shown.append((np.flipud(array) if settings["origin"] == "lower" else array, settings["extent"]))
        return original(axis, array, **settings)

    mask = ball(volume.shape, (9, 11, 15), 3)
    with mock.patch.object(pictures_3d.plt.Axes, "imshow", imshow):
        three_planes(tmp_path / "x.png", volume[None], mask, mask, (1, 2, 3), ("background", "x"), "x")
    assert len(shown) == 3, "no second row where nothing differs"
    for array, _ in shown:
        rows, columns = array.shape
        assert array[: rows // 3, : columns // 3].mean() > 200 > 50 > array[-(rows // 3) :, -(columns // 3) :].mean()
    assert [tuple(abs(e) for e in (extent[1], max(extent[2:]))) for _, extent in shown] == [(20, 48), (20, 84), (48, 84)]


def test_a_large_volume_takes_seconds(tmp_path):
    mask = np.zeros((160, 160, 120), np.uint8)
    mask[20:140, 30:130, 10:110] = 1
    begun = time.perf_counter()
    surface(tmp_path / "x.png", mask, np.roll(mask, 3, 0), (1, 1, 1), ("background", "x"))
    assert time.perf_counter() - begun < 40
