"""BraTS 2019, FLAIR and whole tumour, as SSL4MIS prepared it.

    root/data/<case>.h5     image and label (X, Y, Z)
    root/train.txt  val.txt  test.txt
"""
from __future__ import annotations

from pathlib import Path

from dataloaders.description import DataSet, NewImage
from dataloaders.geometry import spacing_of
from dataloaders.intensities import brain_box, by_the_brain, capped, several_values
from dataloaders.layouts.nifti import read_header, read_volume
from dataloaders.layouts.volumes import VolumeSource
from dataloaders.settings import BY_WINDOW, VOLUMES


class BratsSource(VolumeSource):
    """Reader of BraTS 2019."""

    folders = ("data", ".")
    pattern = "*.h5"
    suffix = "txt"

    @classmethod
    def fits(cls, root: Path) -> bool:
        return any(case.startswith("BraTS") for case in cls.files(root))

    @classmethod
    def _new_volume(cls, data: DataSet, file: Path) -> NewImage:
        values, affine = read_volume(file)
        several_values(values, file)
        box = brain_box(values, file)
        pixels = by_the_brain(capped(values[box]), file)
        spacing = tuple(float(step) for step in spacing_of(affine))
        return NewImage(pixels[None], values.shape, affine, spacing, read_header(file).stored, box, [
            "raw: cropped to the brain, capped and scaled by the brain's voxels, as prepare.py brats does"])


DATA_SETS = (
    DataSet("BraTS2019", BratsSource, ("background", "whole tumour"), dimensions=3, evaluation=BY_WINDOW,
            defaults=VOLUMES | {"model": "unet_3D", "labeled_num": "25", "patch_size": (96, 96, 96), "stride": (64, 64, 64),
                                "max_iterations": 30000, "schedule": "poly", "val_every": 200}),
)
