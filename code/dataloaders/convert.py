"""From official downloads to the layouts we train on: ACDC's NIfTI files to h5 volumes and slices.

The pre-processing is that of SSL4MIS (github.com/HiLab-git/SSL4MIS): min-max over the 3D frame without clipping, native
in-plane size, axes (slice, y, x), the annotated phases named frame01 and frame02 in the order of their original numbers.
"""
from __future__ import annotations

import multiprocessing
import os
import re
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from tqdm import tqdm

from dataloaders.errors import Problems, UserError
from dataloaders.layouts.acdc import volume_of
from dataloaders.layouts.common import checked_label, checked_pixels, checked_shapes, read_list, what_lies_there
from dataloaders.layouts.listed import LISTS

CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
VOLUME_LISTS = ("train.list", "val.list", "test.list")
PLACES = ("", "training", "database/training", "ACDC/database/training")
"""Where the patients' folders lie in a download, by how it was unpacked."""
NIBABEL_ERRORS = (ImageFileError, HeaderDataError, WrapStructError)


@dataclass(frozen=True)
class Frame:
    """An annotated frame of the download, and the name it gets."""

    case: str
    image: Path
    label: Path


def convert_acdc(raw: Path, out: Path, workers: int) -> list[str]:
    """Converts every frame of the published lists that the download has; returns remarks.

    Finished files are kept, so the same command goes on after an interruption. Raises `UserError` with all problems of the
    download together (what is sound has been converted by then, but no list is written), or code 3 where writing fails.
    """
    place = patients_place(raw)
    wanted = [entry.name for name in VOLUME_LISTS for entry in read_list(LISTS / "ACDC" / name)]
    problems, remarks = Problems(), list[str]()
    frames, absent = [], []
    for patient in sorted({re.sub(r"_frame[0-9]+$", "", case) for case in wanted}):
        if not (place / patient).is_dir():
            absent.append(patient)
            continue
        try:
            frames += [frame for frame in frames_of(place / patient, problems) if frame.case in wanted]
        except UserError as error:
            problems.add(error)
    if absent:
        remarks.append(f"{place}: {len(absent)} of the {len(wanted) // 2} patients of the published lists are not there "
                       f"({', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}); the lists are written without them.")
    try:
        (out / "data" / "slices").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another folder with --out.") from None
    run_all([frame for frame in frames if not is_finished(frame.case, out)], out, workers, problems)
    problems.messages.sort()
    problems.raise_any(f"{raw}", most=1000)
    remarks += write_lists(out, {frame.case for frame in frames})
    return remarks


def patients_place(raw: Path) -> Path:
    """The folder of the download that holds patient001, patient002, ..."""
    if not raw.is_dir():
        raise UserError(f"{raw}: there is no such folder; give the unpacked download of the ACDC challenge with --raw.")
    for place in PLACES:
        if any(p.is_dir() for p in (raw / place).glob("patient[0-9][0-9][0-9]")):
            return raw / place
    raise UserError(f"{raw}: no folders patient001, patient002, ... in it or in its training/; "
                    "give the unpacked download of the ACDC challenge with --raw.")


def frames_of(folder: Path, problems: Problems) -> list[Frame]:
    """The two annotated frames of a patient, in the order of their numbers, less those of which a file is missing."""
    patient, frames = folder.name, []
    for order, number in enumerate(annotated_numbers(folder), start=1):
        image, label = (nifti(folder, f"{patient}_frame{number:02d}{ending}") for ending in ("", "_gt"))
        missing = [(file, what) for file, what in ((image, "image"), (label, "reference segmentation")) if not file.is_file()]
        for file, what in missing:
            problems.add(f"{file}: the {what} of frame {number} is missing; download {patient} again.")
        if not missing:
            frames.append(Frame(f"{patient}_frame{order:02d}", image, label))
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


def nifti(folder: Path, stem: str) -> Path:
    """stem.nii where only that is there, else stem.nii.gz."""
    plain = folder / f"{stem}.nii"
    return plain if plain.is_file() and not (folder / f"{stem}.nii.gz").exists() else folder / f"{stem}.nii.gz"


def run_all(frames: list[Frame], out: Path, workers: int, problems: Problems) -> None:
    """Converts in `workers` processes; sentences about bad files go to `problems`, a failure to write ends it all."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(workers, len(frames))), mp_context=context, initializer=end_with_parent) as pool:
        futures = [pool.submit(convert_frame, frame, out) for frame in frames]
        try:
            for future in tqdm(as_completed(futures), total=len(frames), desc="converting", unit="frame", disable=not frames):
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


def convert_frame(frame: Frame, out: Path) -> tuple[str, int]:
    """Writes the slices of a frame and then its volume; returns a sentence and an exit code, ("", 0) where all is well."""
    try:
        image, spacing, affine = read_nifti(frame.image)
        label, _, _ = read_nifti(frame.label)
        checked_shapes(image.shape, label.shape, frame.image, frame.label)
        pixels, classes = normalised(image, frame.image), checked_label(label, frame.label, CLASSES, None)
    except UserError as error:
        return str(error), 2
    try:
        for k, (pixels_2d, classes_2d) in enumerate(zip(pixels, classes), start=1):
            write_h5(slice_file(out, frame.case, k), pixels_2d, classes_2d, {})
        write_h5(volume_file(out, frame.case), pixels, classes, {"spacing": spacing, "affine": affine})
    except OSError as error:
        return f"{out}: {frame.case} could not be written ({error.strerror or error}); make room and run the same command again.", 3
    return "", 0


def read_nifti(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(D, H, W) values, spacing (z, y, x) in mm, and the file's 4x4 affine (x, y, z to mm). Raises `UserError`.

    NIfTI stores x fastest: the reversed axes are what SimpleITK gives and what the field's h5 files hold.
    """
    try:
        picture = nibabel.nifti1.load(file)
        values = np.asanyarray(picture.dataobj)
    except (*NIBABEL_ERRORS, OSError, EOFError, zlib.error, ValueError):
        with open(file, "rb") as stream:
            head = stream.read(348)
        is_nifti = head.startswith(b"\x1f\x8b") or head[344:347] in (b"n+1", b"ni1")
        cause = "the file is cut off or damaged; download it again." if is_nifti else what_lies_there(file)
        raise UserError(f"{file}: {cause}") from None
    if values.ndim != 3 or 0 in values.shape:
        raise UserError(f"{file}: has the shape {values.shape}; expected a volume of three dimensions (x, y, z).")
    return values.transpose(), np.asarray(picture.header.get_zooms()[::-1], np.float64), np.asarray(picture.affine, np.float64)


def normalised(image: np.ndarray, file: Path) -> np.ndarray:
    """Values mapped so that the frame's least is 0 and its greatest 1, float32."""
    values = checked_pixels(image, file).astype(np.float64)
    low, high = values.min(), values.max()
    if low == high:
        raise UserError(f"{file}: every voxel is {low:g}; an image has more than one value. Download it again.")
    return ((values - low) / (high - low)).astype(np.float32)


def volume_file(out: Path, case: str) -> Path:
    return out / "data" / f"{case}.h5"


def slice_file(out: Path, case: str, number: int) -> Path:
    return out / "data" / "slices" / f"{case}_slice_{number}.h5"


def is_finished(case: str, out: Path) -> bool:
    """Whether the volume, which is written last, and all of its slices are there."""
    try:
        with h5py.File(volume_file(out, case), "r") as file:
            depth = file["image"].shape[0]
    except (OSError, KeyError, AttributeError, IndexError):
        return False
    return all(slice_file(out, case, k).is_file() for k in range(1, depth + 1))


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
        file.create_dataset("image", data=image, compression="gzip")
        file.create_dataset("label", data=label, compression="gzip")
        file.attrs.update(attributes)


def write_lists(out: Path, converted: set[str]) -> list[str]:
    """The published lists, less what is not there; remarks on the slices that the lists and the volumes do not share."""
    remarks = []
    for name in (*VOLUME_LISTS, "train_slices.list"):
        published = [entry.name for entry in read_list(LISTS / "ACDC" / name)]
        here = [entry for entry in published if volume_of(entry) in converted]
        if name == "train_slices.list":
            lost = [entry for entry in here if not (out / "data" / "slices" / f"{entry}.h5").is_file()]
            if lost:
                remarks.append(f"{out}: {len(lost)} slices of the published {name} are in no volume ({', '.join(lost[:5])}); left out.")
            here = [entry for entry in here if entry not in set(lost)]
        with replacing(out / name) as temporary:
            temporary.write_text("".join(f"{entry}\n" for entry in here), encoding="utf-8", newline="\n")
    return remarks
