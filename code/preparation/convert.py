"""What all conversions share: published lists, processes that can be interrupted, files that are whole or not there.

A conversion is `convert_<data set>.py`: it finds the files of each case in a download, and turns one case into h5.
"""
from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import read_list
from dataloaders.layouts.listed import LISTS
from dataloaders.progress import Progress

SHOWN = 5
"""Names in a sentence about many."""


@dataclass(frozen=True)
class Job:
    """A case of the download: its name in the lists, the file of its image and that of its reference segmentation."""

    case: str
    image: Path
    label: Path


Work = Callable[[Job, Path], None]
"""Converts a case into the folder. Raises `UserError` for bad files, OSError where writing fails."""


def published(data_set: str, *lists: str) -> list[str]:
    """Names in the lists of a data set, one list after the other."""
    return [entry.name for name in lists for entry in read_list(LISTS / data_set / name)]


def pairs_in(folders: dict[str, Path], endings: tuple[str, str], problems: Problems) -> dict[str, Job]:
    """The jobs of case folders, `endings` naming image and label in each ('*' is the case); a missing file is a problem."""
    jobs = {}
    for case, folder in folders.items():
        files = [with_or_without_gz(folder / ending.replace("*", case)) for ending in endings]
        absent = [(file, what) for file, what in zip(files, ("image", "reference segmentation")) if not file.is_file()]
        for file, what in absent:
            problems.add(f"{file}: the {what} of {case} is missing; download {case} again.")
        if not absent:
            jobs[case] = Job(case, files[0], files[1])
    return jobs


def with_or_without_gz(file: Path) -> Path:
    """`file`, or the unpacked one where only that is there (x.nii for x.nii.gz)."""
    plain = file.with_suffix("") if file.suffix == ".gz" else file
    return plain if plain.is_file() and not file.exists() else file


def of_lists(raw: Path, found: set[str], wanted: list[str], what: str) -> list[str]:
    """A remark where the download lacks cases of the published lists."""
    absent = [case for case in wanted if case not in found]
    if not absent:
        return []
    shown = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
    return [f"{raw}: {len(absent)} of the {len(wanted)} {what} of the published lists are not there ({shown}); "
            "the lists are written without them."]


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); give another folder with --out.") from None


def convert_listed(raw: Path, out: Path, data_set: str, lists: tuple[str, ...], jobs: dict[str, Job], work: Work,
                   is_done: Callable[[str, Path], bool], workers: int, problems: Problems) -> list[str]:
    """Converts the cases of the published lists that the download has, and writes the lists; returns remarks.

    `is_done` says whether a case has been converted, so the same command goes on after an interruption. Raises `UserError` with all
    problems together: what is sound has been converted by then, but no list is written.
    """
    wanted = published(data_set, *lists)
    make_folder(out)
    run_all([jobs[case] for case in wanted if case in jobs and not is_done(case, out)], out, work, workers, problems)
    problems.messages.sort()
    problems.raise_any(f"{raw}", most=1000)
    for name in lists:
        write_list(out / name, [case for case in published(data_set, name) if case in jobs])
    return of_lists(raw, set(jobs), wanted, "cases")


def run_all(jobs: list[Job], out: Path, work: Work, workers: int, problems: Problems) -> None:
    """Converts in `workers` processes; sentences about bad files go to `problems`, a failure to write ends it all."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(workers, len(jobs))), mp_context=context, initializer=end_with_parent) as pool:
        futures = [pool.submit(guarded, work, job, out) for job in jobs]
        try:
            for future in Progress(as_completed(futures), "converting", len(jobs), unit="volume"):
                message, code = future.result()
                if code == 3:
                    raise UserError(message, code)
                if message:
                    problems.add(message)
        except BrokenProcessPool:
            raise UserError("A process of the conversion was ended from outside, for want of memory perhaps; "
                            "run the same command again, with fewer --workers.", 3) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """Ends this process when its parent is killed; the pool alone would wait for work forever."""
    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def guarded(work: Work, job: Job, out: Path) -> tuple[str, int]:
    """Converts a case; returns a sentence and an exit code, ("", 0) where all is well."""
    try:
        work(job, out)
    except UserError as error:
        return str(error), 2
    except OSError as error:
        return f"{out}: {job.case} could not be written ({error.strerror or error}); make room and run the same command again.", 3
    return "", 0


def volume_file(out: Path, case: str) -> Path:
    return out / "data" / f"{case}.h5"


def slice_file(out: Path, case: str, number: int) -> Path:
    return out / "data" / "slices" / f"{case}_slice_{number}.h5"


def write_with_slices(out: Path, case: str, image: np.ndarray, label: np.ndarray, attributes: dict[str, np.ndarray]) -> None:
    """Writes the slices of a volume (z, y, x), counted from 1, and then the volume, as ACDC is passed around."""
    for k, (pixels, classes) in enumerate(zip(image, label), start=1):
        write_h5(slice_file(out, case, k), pixels, classes, {})
    write_h5(volume_file(out, case), image, label, attributes)


def is_whole_with_slices(case: str, out: Path) -> bool:
    """Whether the volume, which is written last, and all of its slices are there."""
    try:
        with h5py.File(volume_file(out, case), "r") as file:
            depth = file["image"].shape[0]
    except (OSError, KeyError, AttributeError, IndexError):
        return False
    return all(slice_file(out, case, k).is_file() for k in range(1, depth + 1))


def is_whole(file: Path) -> bool:
    """Whether a volume has been written (it is renamed when it is whole)."""
    try:
        with h5py.File(file, "r") as handle:
            return "image" in handle and "label" in handle
    except OSError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well."""
    # Without a process number in the name: what a killed process left is overwritten by the next one.
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_h5(path: Path, image: np.ndarray, label: np.ndarray, attributes: dict[str, np.ndarray]) -> None:
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("image", data=image, compression="gzip", fletcher32=True)
        file.create_dataset("label", data=label, compression="gzip", fletcher32=True)
        file.attrs.update(attributes)


def write_list(file: Path, names: list[str]) -> None:
    with replacing(file) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="\n")
