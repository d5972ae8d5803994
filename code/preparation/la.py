"""LA (left atrium, challenge of 2018): from NRRD files to the h5 volumes of UA-MT (github.com/yulequan/UA-MT).

The pre-processing is UA-MT's: intensities to mean 0 and deviation 1 over the whole volume; x and y cropped around the reference
label, with a random margin of 10 to 19 voxels on each side and as much more as it takes to reach 112; z as it is. The label is used
for test cases too, in every published figure. The margins were drawn anew in each preparation; here they follow from the
case's name, so two preparations agree, with each other but not with the files passed around.
"""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from dataloaders.errors import Problems, UserError
from dataloaders.geometry import spacing_of
from dataloaders.intensities import standardised
from dataloaders.layouts.common import checked_label, checked_shapes
from dataloaders.layouts.nifti import read_volume
from preparation.convert import Job, convert_listed, is_whole, pairs_in, published, write_h5

LISTS = ("train.list", "test.list")
PLACES = ("", "Training Set", "2018LA_Seg_Training Set", "Atrial_Segmentation_Challenge/Training Set")
"""Where the cases' folders lie in a download, by how it was unpacked."""
FILES = ("lgemri.nrrd", "laendo.nrrd")
LEAST_SIDE = 112
"""Of x and y, where the volume has it: the side of the published patch."""
MARGINS = (10, 20)
"""Range from which a margin is drawn, the upper end excluded."""


def convert_la(raw: Path, out: Path, workers: int) -> list[str]:
    """Converts every case of the published lists that the download has; returns remarks. Raises as `convert_listed` does."""
    if not raw.is_dir():
        raise UserError(f"{raw}: there is no such folder; give the unpacked download of the Atrial Segmentation Challenge with --raw.")
    wanted, problems = published("LA", *LISTS), Problems()
    folders = {case: raw / place / case for place in reversed(PLACES) for case in wanted if (raw / place / case).is_dir()}
    if not folders:
        raise UserError(f"{raw}: no folders {wanted[0]}, {wanted[1]}, ... in it or in its Training Set/; give the unpacked download of the "
                        "Atrial Segmentation Challenge with --raw.")
    jobs = pairs_in(folders, FILES, problems)
    return convert_listed(raw, out, "LA", LISTS, jobs, convert_case, lambda case, place: is_whole(target(case, place)), workers, problems)


def target(case: str, out: Path) -> Path:
    return out / "2018LA_Seg_Training Set" / case / "mri_norm2.h5"


def convert_case(job: Job, out: Path) -> None:
    """Writes a case as (x, y, z) h5 with its spacing and the affine of the crop."""
    image, affine = read_volume(job.image)
    label, _ = read_volume(job.label)
    checked_shapes(image.shape, label.shape, job.image, job.label)
    # The challenge writes 255 for the atrium; copies with 1 are about.
    ids = label // 255 if set(np.unique(label).tolist()) <= {0, 255} else label
    atrium = checked_label(ids, job.label, ("background", "atrium"), None)
    values = standardised(image, job.image)
    window = crop(atrium, job)
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ [side.start for side in window] + affine[:3, 3]
    file = target(job.case, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_h5(file, values[window], atrium[window], {"spacing": spacing_of(affine), "affine": moved})


def crop(atrium: np.ndarray, job: Job) -> tuple[slice, slice, slice]:
    """The window around the label (X, Y, Z): its box in x and y with drawn margins, all of z."""
    digest = hashlib.sha256(f"LA {job.case}".encode()).digest()
    margins = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).integers(*MARGINS, (2, 2))
    if not atrium.any():
        raise UserError(f"{job.label}: the label is empty, and the published crop goes around it; download {job.case} again.")
    window = []
    for axis, (before, after) in enumerate(margins):
        places = np.flatnonzero(atrium.any(axis=tuple(other for other in range(3) if other != axis)))
        low, high = int(places[0]), int(places[-1])
        missing = max(LEAST_SIDE - (high - low), 0) // 2
        window.append(slice(max(low - int(before) - missing, 0), min(high + int(after) + missing, atrium.shape[axis])))
    return window[0], window[1], slice(0, atrium.shape[2])
