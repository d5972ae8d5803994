"""Places of volumes: what SimpleITK writes opens in nibabel where the affine says."""
import nibabel
import numpy as np
import pytest
import SimpleITK

from dataloaders.geometry import affine_of, distance, is_affine, place, reversed_axes, spacing_of

SHAPE = (7, 6, 5)


def affines():
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    yield "plain", np.diag([1.0, 1.0, 1.0, 1.0])
    yield "left-handed", np.array([[-0.6, 0, 0, 90.0], [0, 0.6, 0, -126.0], [0, 0, 3.0, -72.0], [0, 0, 0, 1]])
    yield "axes exchanged", np.array([[0, 0, 2.0, -10.0], [-1.0, 0, 0, 5.0], [0, -1.5, 0, 8.0], [0, 0, 0, 1]])
    for name, sign in (("turned", 1), ("turned and mirrored", -1)):
        affine = np.eye(4)
        affine[:3, :3] = turned * [0.625 * sign, 0.625, 0.9]
        affine[:3, 3] = 31.4, -15.9, 26.5
        yield name, affine


@pytest.mark.parametrize("name, affine", affines(), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_file_opens_where_it_should(tmp_path, name, affine, ending):
    image = SimpleITK.GetImageFromArray(np.arange(210, dtype=np.uint8).reshape(SHAPE[::-1]))
    assert place(image, affine) < 1e-9
    np.testing.assert_allclose(affine_of(image), affine, atol=1e-12)
    file = tmp_path / f"a{ending}"
    SimpleITK.WriteImage(image, str(file))
    np.testing.assert_allclose(affine_of(SimpleITK.ReadImage(str(file))), affine, atol=1e-4)
    if "nii" in ending:
        picture = nibabel.load(file)
        np.testing.assert_allclose(picture.affine, affine, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(picture.dataobj), np.arange(210).reshape(SHAPE[::-1]).T)


def test_a_sheared_affine_gets_the_nearest_rotation():
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[0, 1] = 0.05
    affine[:3, 3] = 10, 20, 30
    image = SimpleITK.GetImageFromArray(np.zeros(SHAPE[::-1], np.uint8))
    off = place(image, affine)
    centre = np.array([3, 2.5, 2, 1])
    given = affine_of(image)
    np.testing.assert_allclose(given @ centre, affine @ centre, atol=1e-9)
    np.testing.assert_allclose(spacing_of(given), spacing_of(affine), atol=1e-12)
    assert 0.05 < off < 0.15 and off == pytest.approx(distance(given, affine, SHAPE))


@pytest.mark.parametrize("broken", [np.zeros((4, 4)), np.diag([1.0, 0.0, 1.0, 1.0]), np.full((4, 4), np.nan), np.ones((4, 4)), np.eye(3)])
def test_what_is_no_affine(broken):
    assert not is_affine(broken)
    with pytest.raises(ValueError, match="no place"):
        place(SimpleITK.Image(3, 3, 3, SimpleITK.sitkUInt8), broken)


def test_reversed_axes_describe_the_transposed_array():
    affine = next(affine for name, affine in affines() if name == "turned")
    np.testing.assert_allclose(reversed_axes(affine) @ [4, 5, 6, 1], affine @ [6, 5, 4, 1])
    np.testing.assert_allclose(spacing_of(reversed_axes(affine)), [0.9, 0.625, 0.625])
    np.testing.assert_array_equal(reversed_axes(reversed_axes(affine)), affine)
