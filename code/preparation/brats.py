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
from dataloaders.layouts.common import checked_label, checked_shapes
from dataloaders.layouts.nifti import read_volume
from preparation.convert import Job, convert_listed, is_whole, pairs_in, published, several_values, write_h5

LISTS = ("train.txt", "val.txt", "test.txt")
PLACES = ("", "HGG", "LGG", "MICCAI_BraTS_2019_Data_Training/HGG", "MICCAI_BraTS_2019_Data_Training/LGG")
"""Where the cases' folders lie in a download, by how it was unpacked."""
FILES = ("*_flair.nii.gz", "*_seg.nii.gz")
PARTS = ("background", "necrosis", "oedema", "(not used)", "enhancing tumour")
SHARE, BINS = 0.999, 256


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
    values = normalised(capped(image[window]), job.image)
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ [side.start for side in window] + affine[:3, 3]
    file = target(job.case, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_h5(file, values, tumour[window], {"spacing": spacing_of(affine), "affine": moved})


def brain_box(image: np.ndarray, file: Path) -> tuple[slice, slice, slice]:
    """The box of what is not 0, less its last plane on each axis."""
    sides = []
    for axis in range(3):
        places = np.flatnonzero((image != 0).any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(slice(int(places[0]), int(places[-1])))
    if any(side.stop == side.start for side in sides):
        raise UserError(f"{file}: what is not 0 is one voxel thick; expected a brain. Download it again.")
    return sides[0], sides[1], sides[2]


def capped(image: np.ndarray) -> np.ndarray:
    """Values above the first at which the cumulative histogram reaches 99.9 % are set to it.

    The histogram has a bin for every value of whole numbers and 256 bins of floats, as scikit-image counts.
    """
    if image.dtype.kind == "f":
        counts, edges = np.histogram(image, BINS)
        values = (edges[:-1] + edges[1:]) / 2
    else:
        values, counts = np.unique(image, return_counts=True)
    return np.minimum(image, values[np.flatnonzero(np.cumsum(counts) / image.size >= SHARE)[0]])


def normalised(image: np.ndarray, file: Path) -> np.ndarray:
    """float32; mean and deviation are those of the voxels above 0."""
    brain = image[image > 0].astype(np.float64)
    if not brain.size or brain.std() == 0:
        raise UserError(f"{file}: fewer than two values above 0 in the brain; expected FLAIR as the challenge gives it. Download it again.")
    return ((image - brain.mean()) / brain.std()).astype(np.float32)
