"""Predictions as files: NIfTI for volumes, PNG for photographs."""
from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from dataloaders.description import DataSet
from dataloaders.geometry import place, reversed_axes
from dataloaders.layouts.nifti import in_place_of
from dataloaders.listing import shortened
from dataloaders.reading import EvaluationCase
from pictures.flat import grey, palette

LONGEST_SUFFIX = len("_pred.nii.gz")


def file_name(case: str) -> str:
    """A case's name as a file name: parts of a path joined by '__', with a digest of the name behind it where that could be another's too
    (a/b and a__b); cut where a suffix would make it too long (`shortened`)."""
    joined = re.sub(r"[\\/]+", "__", case)
    if joined.replace("__", "/") != case:
        joined += f"~{hashlib.sha256(os.fsencode(case)).hexdigest()[:8]}"
    return shortened(joined, LONGEST_SUFFIX)


def write_prediction(folder: Path, loaded: EvaluationCase, predicted: np.ndarray, data: DataSet) -> bool:
    """Writes <case>_img, _pred and _gt; True where a volume's spacing is unknown.

    Volumes become NIfTI in the place of their image, with its own header where that is NIfTI (where nothing is known: 1 mm, and a
    description that says so); of several
    channels `_img` has the first. Photographs become PNG whose labels are class ids, in colours where one matrix scores the set.
    """
    stem = folder / file_name(loaded.case.name)
    if data.intensities == "8-bit":
        Image.fromarray(grey(loaded.pixels[:, 0])).save(f"{stem}_img.png")
        for suffix, labels in (("pred", predicted), ("gt", loaded.reference)):
            picture = Image.fromarray(labels[0].astype(np.uint8))
            if data.evaluation.scored == "matrix":
                picture.putpalette(palette())
            picture.save(f"{stem}_{suffix}.png")
        return False
    flat = data.dimensions == 2  # volumes of slices are (z, y, x), which is how SimpleITK takes arrays; the others (x, y, z)
    arrays = (("img", loaded.pixels[0].astype(np.float32)), ("pred", predicted), ("gt", loaded.reference))
    if loaded.header is not None:
        for suffix, array in arrays:
            in_place_of(array.transpose() if flat else array, loaded.header).to_filename(f"{stem}_{suffix}.nii.gz")
        return False
    import SimpleITK  # here alone: it is large, and neither photographs nor NIfTI need it

    affine = loaded.affine
    if affine is not None and flat:
        affine = reversed_axes(affine)
    spacing = loaded.spacing if flat or loaded.spacing is None else loaded.spacing[::-1]
    for suffix, array in arrays:
        volume = SimpleITK.GetImageFromArray(array if flat else array.transpose(2, 1, 0))
        if affine is not None:
            place(volume, affine)
        elif spacing is not None:
            volume.SetSpacing([float(step) for step in spacing[::-1]])
        else:
            volume.SetMetaData("descrip", "spacing unknown; 1 mm is no measurement")
        SimpleITK.WriteImage(volume, f"{stem}_{suffix}.nii.gz", useCompression=True)
    return spacing is None


def read_prediction(folder: Path, case: str, data: DataSet) -> np.ndarray:
    """The label map (S, H, W) or (X, Y, Z) that `write_prediction` wrote of a case."""
    stem = folder / file_name(case)
    if data.intensities == "8-bit":
        with Image.open(f"{stem}_pred.png", formats=("PNG",)) as picture:
            return np.asarray(picture)[None]
    space = np.asanyarray(nibabel.nifti1.load(f"{stem}_pred.nii.gz").dataobj)
    return space.transpose() if data.dimensions == 2 else space
