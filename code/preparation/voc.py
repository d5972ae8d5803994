"""SBD (Hariharan et al., ICCV 2011): class masks of Pascal VOC's photographs, from MATLAB files to PNG, laid beside VOC's own masks.

Of the 11,355 images of SBD those of the published training list (10,582) are converted. VOC's own masks stay as they are; where an
image has both, they are the ones that are trained on.
"""
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dataloaders.errors import Problems, UserError
from dataloaders.layouts.voc import CLASSES, MASKS, NAME, PLACES, holds
from dataloaders.listing import walk
from dataloaders.splits.published_lists import published
from pictures.flat import palette
from preparation.convert import SHOWN, Job, make_folder, replacing, run_all


def convert_voc(raw: Path, out: Path, workers: int) -> list[str]:
    """Writes SegmentationClassAug/<name>.png of every training image that SBD has; returns remarks. Raises `UserError` with all problems
    together; what is sound has been converted by then."""
    if not raw.is_dir():
        raise UserError(f"{raw}: there is no such folder; give the unpacked SBD (benchmark_RELEASE) with --raw.")
    found = {file.stem: file for file in sorted(walk(raw)) if file.parent.name == "cls" and file.suffix == ".mat"}
    if not found:
        raise UserError(f"{raw}: no folder cls with .mat files in it or below; give the unpacked SBD (benchmark_RELEASE) with --raw.")
    root = next((out / place for place in PLACES if holds(out / place)), out)
    folder, names = root / MASKS[1], published(NAME, "train_aug")
    make_folder(folder)
    problems = Problems()
    jobs = [Job(name, found[name], found[name]) for name in names if name in found and not (folder / f"{name}.png").exists()]
    run_all(jobs, folder, convert_mask, workers, problems)
    problems.messages.sort()
    problems.raise_any(f"{raw}", most=1000)
    without = [name for name in names if not any((root / masks / f"{name}.png").exists() for masks in MASKS)]
    remarks = [] if holds(root) and (root / "JPEGImages").is_dir() else [
        f"{root}: JPEGImages is not there; unpack VOCtrainval_11-May-2012.tar there (the photographs of SBD are the same)."]
    if without:
        shown = ", ".join(without[:SHOWN]) + (", ..." if len(without) > SHOWN else "")
        remarks.append(f"{root}: {len(without)} of the {len(names)} training images have no mask ({shown}).")
    return remarks


def convert_mask(job: Job, folder: Path) -> None:
    """Writes the mask of an image, palette PNG. Raises `UserError` where the file holds none."""
    from scipy.io import loadmat  # here alone: no other conversion has such files
    from scipy.io.matlab import MatReadError

    try:
        mask = np.asarray(loadmat(job.label, squeeze_me=True, struct_as_record=False)["GTcls"].Segmentation)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError, MatReadError) as error:
        raise UserError(f"{job.label}: no GTcls.Segmentation can be read from it ({error}); download {job.case} again.") from error
    known = (mask < len(CLASSES)) | (mask == 255)
    if mask.ndim != 2 or mask.dtype.kind not in "uif" or not known.all() or (mask != np.floor(mask)).any():
        raise UserError(f"{job.label}: expected a map of class ids 0 to {len(CLASSES) - 1} and 255; download {job.case} again.")
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette(palette())
    with replacing(folder / f"{job.case}.png") as temporary:
        picture.save(temporary, "PNG")
