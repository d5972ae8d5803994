"""ACDC: from the challenge's NIfTI files to h5 volumes and slices.

The pre-processing is that of SSL4MIS (github.com/HiLab-git/SSL4MIS): min-max over the 3D frame without clipping, native
in-plane size, axes (slice, y, x), the annotated phases named frame01 and frame02 in the order of their original numbers.
"""
from __future__ import annotations

import re
from pathlib import Path

from dataloaders.errors import Problems, UserError
from dataloaders.geometry import spacing_of
from dataloaders.intensities import min_max
from dataloaders.layouts.acdc import HEART, volume_of
from dataloaders.layouts.common import checked_label, checked_shapes
from dataloaders.layouts.nifti import read_volume
from preparation.convert import (
    Job,
    make_folder,
    of_lists,
    published,
    run_all,
    with_or_without_gz,
    write_list,
    write_with_slices,
)
from preparation.convert import is_whole_with_slices as is_finished

VOLUME_LISTS = ("train.list", "val.list", "test.list")
PLACES = ("", "training", "database/training", "ACDC/database/training")
"""Where the patients' folders lie in a download, by how it was unpacked."""


def convert_acdc(raw: Path, out: Path, workers: int) -> list[str]:
    """Converts every frame of the published lists that the download has; returns remarks.

    Finished files are kept, so the same command goes on after an interruption. Raises `UserError` with all problems of the
    download together (what is sound has been converted by then, but no list is written), or code 3 where writing fails.
    """
    place = patients_place(raw)
    wanted = published("ACDC", *VOLUME_LISTS)
    patients = list(dict.fromkeys(re.sub(r"_frame[0-9]+$", "", case) for case in wanted))
    problems, jobs = Problems(), list[Job]()
    here = [patient for patient in patients if (place / patient).is_dir()]
    for patient in here:
        try:
            jobs += [job for job in frames_of(place / patient, problems) if job.case in wanted]
        except UserError as error:
            problems.add(error)
    make_folder(out / "data" / "slices")
    run_all([job for job in jobs if not is_finished(job.case, out)], out, convert_frame, workers, problems)
    problems.messages.sort()
    problems.raise_any(f"{raw}", most=1000)
    return of_lists(place, set(here), patients, "patients") + write_lists(out, {job.case for job in jobs})


def patients_place(raw: Path) -> Path:
    """The folder of the download that holds patient001, patient002, ..."""
    if not raw.is_dir():
        raise UserError(f"{raw}: there is no such folder; give the unpacked download of the ACDC challenge with --raw.")
    for place in PLACES:
        if any(p.is_dir() for p in (raw / place).glob("patient[0-9][0-9][0-9]")):
            return raw / place
    raise UserError(f"{raw}: no folders patient001, patient002, ... in it or in its training/; "
                    "give the unpacked download of the ACDC challenge with --raw.")


def frames_of(folder: Path, problems: Problems) -> list[Job]:
    """The two annotated frames of a patient, in the order of their numbers, less those of which a file is missing."""
    patient, frames = folder.name, []
    for order, number in enumerate(annotated_numbers(folder), start=1):
        image, label = (with_or_without_gz(folder / f"{patient}_frame{number:02d}{ending}.nii.gz") for ending in ("", "_gt"))
        missing = [(file, what) for file, what in ((image, "image"), (label, "reference segmentation")) if not file.is_file()]
        for file, what in missing:
            problems.add(f"{file}: the {what} of frame {number} is missing; download {patient} again.")
        if not missing:
            frames.append(Job(f"{patient}_frame{order:02d}", image, label))
    return frames


def annotated_numbers(folder: Path) -> list[int]:
    """Numbers of the end-diastolic and the end-systolic frame: from Info.cfg, else from the files' names."""
    info = folder / "Info.cfg"
    if info.is_file():
        text = info.read_text(encoding="utf-8", errors="replace")
        found = dict(re.findall(r"^\s*(ED|ES)\s*:\s*([0-9]+)\s*$", text, flags=re.MULTILINE))
        if set(found) != {"ED", "ES"} or found["ED"] == found["ES"]:
            raise UserError(f"{info}: expected the lines `ED: <frame>` and `ES: <frame>` with two different frames; found {found}.")
        return sorted(int(number) for number in found.values())
    names = (re.fullmatch(rf"{folder.name}_frame([0-9]+)(_gt)?\.nii(\.gz)?", file.name) for file in folder.iterdir())
    numbers = sorted({int(name[1]) for name in names if name})
    if len(numbers) != 2:
        raise UserError(f"{folder}: {len(numbers)} frames ({numbers}) and no Info.cfg; expected two, {folder.name}_frameNN.nii.gz.")
    return numbers


def convert_frame(job: Job, out: Path) -> None:
    """Writes the slices of a frame and then its volume."""
    image, affine = read_volume(job.image)
    label, _ = read_volume(job.label)
    image, label = image.transpose(), label.transpose()
    checked_shapes(image.shape, label.shape, job.image, job.label)
    write_with_slices(out, job.case, min_max(image, job.image), checked_label(label, job.label, HEART, None),
                      {"spacing": spacing_of(affine)[::-1], "affine": affine})


def write_lists(out: Path, converted: set[str]) -> list[str]:
    """The published lists, less what is not there; remarks on the slices that the lists and the volumes do not share."""
    remarks = []
    for name in (*VOLUME_LISTS, "train_slices.list"):
        here = [entry for entry in published("ACDC", name) if volume_of(entry) in converted]
        if name == "train_slices.list":
            lost = {entry for entry in here if not (out / "data" / "slices" / f"{entry}.h5").is_file()}
            if lost:
                shown = ", ".join(sorted(lost)[:5])
                remarks.append(f"{out}: {len(lost)} slices of the published {name} are in no volume ({shown}); left out.")
            here = [entry for entry in here if entry not in lost]
        write_list(out / name, here)
    return remarks
