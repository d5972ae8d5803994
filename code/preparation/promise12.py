"""PROMISE12 (prostate MRI): from MetaImage files to h5 volumes and slices, laid out as ACDC's.

Nobody has published one preparation. Ours: clipped to the volume's 0.5 and 99.5 percentiles (coils leave bright spots) and mapped to
0..1, native in-plane size, axes (slice, y, x); the reference segmentation is class 1. The lists are in `lists/PROMISE12`.
"""
from __future__ import annotations

import re
from pathlib import Path

import h5py

from dataloaders.errors import Problems, UserError
from dataloaders.geometry import spacing_of
from dataloaders.intensities import clipped
from dataloaders.layouts.common import checked_label, checked_shapes
from dataloaders.layouts.nifti import read_volume
from dataloaders.listing import walk
from preparation.convert import (
    Job,
    convert_listed,
    is_whole_with_slices,
    make_folder,
    published,
    volume_file,
    write_list,
    write_with_slices,
)

LISTS = ("train.list", "val.list", "test.list")


def convert_promise12(raw: Path, out: Path, workers: int) -> list[str]:
    """Converts every case of our lists that the download has; returns remarks. Raises as `convert_listed` does."""
    if not raw.is_dir():
        raise UserError(f"{raw}: there is no such folder; give the unpacked training data of PROMISE12 with --raw.")
    # Not in hidden folders: a copy in one would stand before its original.
    found = {file.stem: file for file in sorted(walk(raw), reverse=True) if re.fullmatch(r"Case[0-9]{2}\.mhd", file.name)}
    if not found:
        raise UserError(f"{raw}: no Case00.mhd, Case01.mhd, ... in it or below; give the unpacked training data of PROMISE12 with --raw.")
    jobs, problems = {}, Problems()
    for case in published("PROMISE12", *LISTS):
        if case not in found:
            continue
        label = found[case].with_name(f"{case}_segmentation.mhd")
        if label.is_file():
            jobs[case] = Job(case, found[case], label)
        else:
            problems.add(f"{label}: the reference segmentation of {case} is missing; download {case} again (the test data have none).")
    make_folder(out / "data" / "slices")
    remarks = convert_listed(raw, out, "PROMISE12", LISTS, jobs, convert_case, is_whole_with_slices, workers, problems)
    slices = []
    for case in published("PROMISE12", "train.list"):
        if case in jobs:
            with h5py.File(volume_file(out, case), "r") as file:
                slices += [f"{case}_slice_{k}" for k in range(1, len(file["image"]) + 1)]
    write_list(out / "train_slices.list", slices)
    return remarks


def convert_case(job: Job, out: Path) -> None:
    """Writes the slices of a case and then its volume."""
    image, affine = read_volume(job.image)
    label, _ = read_volume(job.label)
    image, label = image.transpose(), label.transpose()
    checked_shapes(image.shape, label.shape, job.image, job.label)
    write_with_slices(out, job.case, clipped(image, job.image), checked_label(label, job.label, ("background", "prostate"), None),
                      {"spacing": spacing_of(affine)[::-1], "affine": affine})
