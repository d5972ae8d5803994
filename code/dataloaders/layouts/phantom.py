"""Lays the synthetic data set `Phantom` out on disk like ACDC: slices, volumes and lists. Drawn once, on first use."""
from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from dataloaders.description import DataSet
from dataloaders.errors import UserError
from dataloaders.layouts.acdc import AcdcSource
from dataloaders.phantom import VERSION, draw_patient

NAME = "Phantom"
PATIENTS = {"train": 70, "val": 10, "test": 20}
DESCRIPTION = "dataset.json"
STALE_S = 24 * 3600


def ensure(root: Path, seed: int = 0) -> None:
    """Draws Phantom of this seed in `root` if it is not there: about ten seconds on one core.

    The drawing grows in a folder beside `root` that is renamed when whole, so one that was cut off is never used, and of two
    processes that draw at once one wins. Raises `UserError` where `root` holds something else, or cannot be written.
    """
    root = Path(root)
    expected = {"name": NAME, "synthetic": True, "seed": seed, "version": VERSION}
    if is_drawn(root, expected):
        return
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(root)
        workshop = Path(tempfile.mkdtemp(prefix=f".{root.name}.drawing-", dir=root.parent))
        try:
            draw(workshop, seed)
            details = expected | {"patients": PATIENTS, "classes": ["background", "RV", "Myo", "LV"]}
            write_synced(workshop / DESCRIPTION, json.dumps(details, indent=1))
            os.chmod(workshop, 0o755)
            move_in(workshop, root, expected)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{root}: the synthetic data set Phantom (about 60 MB) could not be written there ({error.strerror or error}). "
            "Give a folder that can be written: --root_path FOLDER.") from error


def is_drawn(root: Path, expected: dict[str, object]) -> bool:
    """Whether `root` holds this very drawing; raises `UserError` if it holds anything else."""
    try:
        found = json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(
                f"{root}: no Phantom is there ({DESCRIPTION} is missing), but it is not empty, so nothing is drawn over it. "
                "Give another --root_path, or name the data set that it holds with --dataset.") from None
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"{root / DESCRIPTION}: cannot be read ({error}). Move {root} away; Phantom is then drawn again.") from error
    differences = [
        f"{key} {found.get(key) if isinstance(found, dict) else None!r} instead of {value!r}"
        for key, value in expected.items() if not isinstance(found, dict) or found.get(key) != value]
    if differences:
        raise UserError(f"{root}: holds another data set than this code draws: {', '.join(differences)}. "
                        "Move it away or delete it; Phantom is then drawn again.")
    return True


def draw(folder: Path, seed: int) -> None:
    """Writes all slices, volumes and lists of a seed."""
    slices = folder / "data" / "slices"
    slices.mkdir(parents=True)
    first = 1
    for part, count in PATIENTS.items():
        cases, items = [], []
        for number in range(first, first + count):
            for frame, (images, labels) in enumerate(draw_patient(seed, number), 1):
                case = f"patient{number:03d}_frame{frame:02d}"
                cases.append(case)
                write_h5(folder / "data" / f"{case}.h5", images, labels)
                for k, (image, label) in enumerate(zip(images, labels), 1):
                    items.append(f"{case}_slice_{k}")
                    write_h5(slices / f"{items[-1]}.h5", image, label)
        write_list(folder / f"{part}.list", cases)
        if part == "train":
            write_list(folder / "train_slices.list", items)
        first += count


def write_h5(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for name, array in (("image", image), ("label", label)):
            file.create_dataset(name, data=array, compression="gzip", compression_opts=1, shuffle=True, track_times=False)


def write_list(path: Path, names: list[str]) -> None:
    path.write_text("\n".join(names) + "\n", encoding="utf-8", newline="\n")


def write_synced(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def move_in(workshop: Path, root: Path, expected: dict[str, object]) -> None:
    """Renames the finished drawing into place; where another process was faster, its drawing (the same) stays."""
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()
    try:
        os.rename(workshop, root)
    except OSError:
        if not is_drawn(root, expected):
            raise


def remove_stale(root: Path) -> None:
    """Removes what killed processes left, when it is old enough to be nobody's work."""
    for folder in root.parent.glob(f".{root.name}.drawing-*"):
        if time.time() - folder.stat().st_mtime > STALE_S:
            shutil.rmtree(folder, ignore_errors=True)


class PhantomSource(AcdcSource):
    """Reads Phantom, which is drawn first where it is not there; its files lie as ACDC's do, its patients have no diagnosis."""

    def __init__(self, data: DataSet, root: Path, options: object | None = None):
        ensure(Path(root))
        super().__init__(data, root, options)

    @staticmethod
    def fits(root: Path) -> bool:
        """Whether a folder holds a Phantom."""
        try:
            return json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))["name"] == NAME
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def stratum_of(self, group: str) -> str:
        return ""
