"""BraTS 2019: from NIfTI files to the h5 volumes of SSL4MIS (github.com/HiLab-git/SSL4MIS): FLAIR, whole tumour.

The pre-processing is SSL4MIS's: cropped to the box of voxels that are not 0, whose upper end is left out (the last plane of each
axis is lost, as published); capped at the value below which 99.9 % of the voxels lie; mean and deviation of the voxels above 0
become 0 and 1, in all voxels; every label above 0 is tumour. Axes are (x, y, z).
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from dataloaders.errors import Problems, UserError
from dataloaders.geometry import spacing_of
from dataloaders.intensities import brain_box, by_the_brain, capped, several_values
from dataloaders.layouts.common import checked_label, checked_shapes
from dataloaders.layouts.nifti import read_volume
from preparation.convert import Job, convert_listed, is_whole, pairs_in, published, write_h5

LISTS = ("train.txt", "val.txt", "test.txt")
PLACES = ("", "HGG", "LGG", "MICCAI_BraTS_2019_Data_Training/HGG", "MICCAI_BraTS_2019_Data_Training/LGG")
"""Where the cases' folders lie in a download, by how it was unpacked."""
FILES = ("*_flair.nii.gz", "*_seg.nii.gz")
PARTS = ("background", "necrosis", "oedema", "(not used)", "enhancing tumour")


def convert_brats(raw: Path, out: Path, workers: int) -> list[str]:
    """Converts every case of the published lists that the download has; returns remarks. Raises as `convert_listed` does."""
    if not raw.is_dir():
        raise UserError(f"{raw}: there is no such folder; give the unpacked training data of BraTS 2019 with --raw.")
    wanted, problems = published("BraTS2019", *LISTS), Problems()
    folders = {case: raw / place / case for place in reversed(PLACES) for case in wanted if (raw / place / case).is_dir()}
    if not folders:
        raise UserError(f"{raw}: no folders {wanted[0]}, {wanted[1]}, ... in it or in its HGG/ and LGG/; "
                        "give the unpacked training data of BraTS 2019 with --raw.")
    jobs = pairs_in(folders, FILES, problems)
    return convert_listed(raw, out, "BraTS2019", LISTS, jobs, convert_case, lambda case, place: is_whole(target(case, place)), workers,
                          problems)


def target(case: str, out: Path) -> Path:
    return out / "data" / f"{case}.h5"


def convert_case(job: Job, out: Path) -> None:
    """Writes a case as (x, y, z) h5 with its spacing and the affine of the crop."""
    image, affine = read_volume(job.image)
    label, _ = read_volume(job.label)
    checked_shapes(image.shape, label.shape, job.image, job.label)
    tumour = (checked_label(label, job.label, PARTS, None) > 0).astype(np.uint8)
    several_values(image, job.image)
    window = brain_box(image, job.image)
    values = by_the_brain(capped(image[window]), job.image)
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ [side.start for side in window] + affine[:3, 3]
    file = target(job.case, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_h5(file, values, tumour[window], {"spacing": spacing_of(affine), "affine": moved})
