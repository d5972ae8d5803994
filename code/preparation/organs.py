"""Synapse (BTCV) and AMOS 2022: from NIfTI files to h5 volumes, as DHC (github.com/xmed-lab/DHC) trained on them.

What is done to a volume is said, and done, by `dataloaders.layouts.organs`, which reads a download as it is too; the h5 files are those
very arrays, so that training begins at once.
"""
from __future__ import annotations

from functools import partial
from pathlib import Path

from dataloaders.catalog import DATA_SETS
from dataloaders.errors import Problems, UserError
from dataloaders.geometry import spacing_of
from dataloaders.layouts.organs import AmosSource, OrganSource, SynapseSource, prepared_image, prepared_label
from preparation.convert import Job, convert_listed, is_whole, published, write_h5

LISTS = ("train.txt", "val.txt", "test.txt")


def convert_synapse(raw: Path, out: Path, workers: int) -> list[str]:
    """Converts every case of the published lists that the download has; returns remarks. Raises as `convert_listed` does."""
    return _convert("Synapse", SynapseSource, "img/ and label/ of the challenge's RawData/Training", raw, out, workers)


def convert_amos(raw: Path, out: Path, workers: int) -> list[str]:
    """The same of AMOS 2022."""
    return _convert("AMOS", AmosSource, "imagesTr/, labelsTr/, imagesVa/ and labelsVa/ of amos22", raw, out, workers)


def _convert(name: str, reader: type[OrganSource], holds: str, raw: Path, out: Path, workers: int) -> list[str]:
    if not raw.is_dir():
        raise UserError(f"{raw}: there is no such folder; give the unpacked download of {name} ({holds}) with --raw.")
    wanted, found, problems = published(name, *LISTS), reader.pairs(raw), Problems()
    jobs = {case: Job(case, *found[case]) for case in wanted if case in found}
    if not jobs:
        raise UserError(f"{raw}: no volume of the published lists ({wanted[0]}, {wanted[1]}, ...) in it; give the unpacked download of "
                        f"{name} ({holds}) with --raw.")
    for case, job in list(jobs.items()):
        if not job.label.is_file():
            problems.add(f"{job.label}: the reference segmentation of {case} is missing; download {case} again.")
            del jobs[case]
    return convert_listed(raw, out, name, LISTS, jobs, partial(convert_case, name=name),
                          lambda case, place: is_whole(target(case, place)), workers, problems)


def target(case: str, out: Path) -> Path:
    return out / "data" / f"{case}.h5"


def convert_case(job: Job, out: Path, name: str) -> None:
    """Writes a case as (x, y, z) h5 with its spacing and affine."""
    image, affine = prepared_image(job.image)
    label = prepared_label(job.image, job.label, DATA_SETS[name].classes)
    file = target(job.case, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_h5(file, image, label, {"spacing": spacing_of(affine), "affine": affine})
