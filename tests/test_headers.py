"""Headers of volumes: units, and the two places with their codes, which predictions keep."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from tiny import AFFINE, save_volume

from dataloaders.catalog import named, open_source, resolve
from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.layouts.nifti import in_place_of, read_header
from dataloaders.reading import load_case
from evaluation.export import write_prediction
from prediction.files import nifti
from preparation.check import Reading, oddities

STRAIGHT = np.array([[-0.7, 0, 0, 30.0], [0, 0.8, 0, -20.0], [0, 0, 2.5, 10.0], [0, 0, 0, 1.0]])
SHAPE = (9, 8, 5)


def volume(file: Path, unit: str = "mm", factor: float = 1.0, codes: tuple[int, int] = (0, 2), kind: type = nibabel.Nifti1Image) -> Path:
    """A NIfTI file with a place in a unit, and codes of its qform and sform."""
    affine = STRAIGHT.copy()
    affine[:3] *= factor
    file.parent.mkdir(parents=True, exist_ok=True)
    image = kind(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), None if codes == (0, 0) else affine)
    image.header.set_zooms(np.abs(np.diag(affine))[:3])
    if codes[0]:
        image.set_qform(affine, codes[0])
    if codes != (0, 0):
        image.set_sform(affine if codes[1] else None, codes[1])
    image.header.set_xyzt_units(unit, "sec")
    nibabel.save(image, file)
    return file


def geometry(file: Path) -> np.ndarray:
    """Origin, spacing and directions as ITK reads them, and nibabel's affine."""
    image = SimpleITK.ReadImage(str(file))
    return np.concatenate([image.GetOrigin(), image.GetSpacing(), image.GetDirection(), nibabel.load(file).affine.ravel()])


@pytest.mark.parametrize("unit, factor", [("micron", 1000), ("meter", 0.001), ("mm", 1), ("unknown", 1)])
def test_lengths_are_millimetres_whatever_the_unit(tmp_path: Path, unit: str, factor: float) -> None:
    file = volume(tmp_path / "a.nii.gz", unit, factor)
    header = read_header(file)
    assert np.allclose(header.affine, STRAIGHT, atol=1e-4)
    assert np.allclose(np.linalg.norm(header.affine[:3, :3], axis=0), SimpleITK.ReadImage(str(file)).GetSpacing(), rtol=1e-4)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("unit, factor, codes", [
    ("mm", 1, (0, 0)), ("mm", 1, (1, 0)), ("mm", 1, (0, 2)), ("mm", 1, (3, 4)), ("micron", 1000, (1, 1)), ("meter", 0.001, (0, 0))])
def test_a_prediction_lies_where_its_image_does_for_every_program(tmp_path: Path, unit: str, factor: float, codes: tuple[int, int],
                                                                  kind: type) -> None:
    file = volume(tmp_path / "image.nii", unit, factor, codes, kind)
    data = named("nnunet", 3)
    data = data.__class__(**{**data.__dict__, "channels": 1, "classes": ("ground", "ball"), "scaling": ("zscore",)})
    image = data.reader.read_new(data, [file])
    labels = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 2).astype(np.uint8)
    (tmp_path / "mask.nii.gz").write_bytes(nifti(labels, image, flat=False))
    if kind is nibabel.Nifti1Image:  # ITK does not read the second version of NIfTI
        assert np.allclose(geometry(tmp_path / "mask.nii.gz"), geometry(file), atol=1e-5)
    assert np.allclose(nibabel.load(tmp_path / "mask.nii.gz").affine, nibabel.load(file).affine)
    written = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asanyarray(written.dataobj), labels) and written.get_data_dtype() == np.uint8
    assert type(written) is kind and int(written.header["qform_code"]) == int(nibabel.load(file).header["qform_code"])
    (tmp_path / "maps.nii.gz").write_bytes(nifti(np.stack([labels, 1 - labels]).astype(np.float32), image, flat=False))
    assert nibabel.load(tmp_path / "maps.nii.gz").shape == (*SHAPE, 2)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_testers_write_lies_where_its_image_does(tmp_path: Path, dimensions: int) -> None:
    for k in range(2):
        volume(tmp_path / f"D/images/c{k}.nii.gz", codes=(0, 0))
        save_volume(tmp_path / f"D/masks/c{k}.nii.gz", np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint8) % 2,
                    nibabel.load(tmp_path / "D/images/c0.nii.gz").affine)
    source = open_source(*resolve(None, tmp_path / "D", tmp_path)[:2])
    if dimensions == 2:
        source.data = source.data.__class__(**{**source.data.__dict__, "dimensions": 2})
    loaded = load_case(source, source.cases("train")[0])
    assert not write_prediction(tmp_path, loaded, loaded.reference, source.data)
    for suffix in ("img", "pred", "gt"):
        assert np.allclose(geometry(tmp_path / f"c0_{suffix}.nii.gz"), geometry(tmp_path / "D/images/c0.nii.gz"), atol=1e-5)
    assert np.array_equal(np.asanyarray(nibabel.load(tmp_path / "c0_gt.nii.gz").dataobj),
                          np.asanyarray(nibabel.load(tmp_path / "D/masks/c0.nii.gz").dataobj))


def test_a_scale_and_a_range_of_the_image_do_not_reach_the_prediction(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), AFFINE)
    image.header.set_slope_inter(0.5, -1024)
    image.header["cal_max"] = 400
    nibabel.save(image, tmp_path / "a.nii")
    made = in_place_of(np.ones((3, 4, 5), np.uint8), read_header(tmp_path / "a.nii").stored)
    nibabel.save(made, tmp_path / "b.nii")
    assert (np.asanyarray(nibabel.load(tmp_path / "b.nii").dataobj) == 1).all() and made.header["cal_max"] == 0


@pytest.mark.parametrize("steps, unit, doubtful", [
    ((1, 1, 1), "mm", True), ((0.7, 0.8, 2.5), "mm", False), ((0.7, 0.801, 2.5), "mm", False), ((700, 800, 2500), "micron", False)])
def test_two_sizes_of_a_voxel_are_told_of(tmp_path: Path, steps: tuple[float, ...], unit: str, doubtful: bool) -> None:
    file = volume(tmp_path / "a.nii.gz", unit, 1000 if unit == "micron" else 1)
    image = nibabel.load(file)
    image.header["pixdim"][1:4] = steps
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), file)
    header = read_header(file)
    assert np.allclose(header.affine, STRAIGHT, atol=1e-4)
    assert bool(header.doubt) == doubtful == ("0.7 x 0.8 x 2.5 mm by its affine (sform), which is taken, and of 1 x 1 x" in header.doubt)
    data = replace(named("folder", 3), channels=1, scaling=("zscore",))
    assert [*data.reader.read_new(data, [file]).remarks] == ([f"of {header.doubt}"] if doubtful else [])
    said = oddities(data, [Case("a", file, None, "a")], [Reading(doubt=header.doubt)])
    assert any("other programs take these" in remark for remark in said) == doubtful


def test_check_doubts_axes_in_another_order() -> None:
    case = Case("a", Path("a.h5"), None, "a")
    for shape, doubtful in (((40, 48, 3), True), ((10, 48, 40), False), ((600, 512, 512), False), ((48, 40), False)):
        said = oddities(named("ACDC"), [case], [Reading(shape=shape)])
        assert any("are its axes (slice, y, x)?" in remark for remark in said) == doubtful


def test_an_nrrd_in_another_unit_is_refused(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.Image([4, 4, 4], SimpleITK.sitkUInt8), str(tmp_path / "a.nrrd"))
    content = (tmp_path / "a.nrrd").read_bytes()
    read_header(tmp_path / "a.nrrd")
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"encoding:", b'space units: "um" "um" "um"\nencoding:'))
    with pytest.raises(UserError, match="lengths in um; expected mm"):
        read_header(tmp_path / "a.nrrd")


def test_check_doubts_voxels_of_a_wrong_unit() -> None:
    case = Case("a", Path("a.nii"), None, "a")
    spacings = ((800.0, 900.0, 3000.0), (1.0, 1.0, 5.0), (1e-3, 1.0, 1.0))
    said = oddities(named("LA"), [case] * 3, [Reading(spacing=steps) for steps in spacings])
    assert sum("is the unit in its header right?" in remark for remark in said) == 2
