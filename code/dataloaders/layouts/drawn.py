"""Lays a synthetic data set out on disk, once, on first use; what the layouts of all of them share."""
from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.errors import UserError

DESCRIPTION = "dataset.json"
STALE_S = 24 * 3600


@dataclass(frozen=True)
class Drawing:
    """A data set that is drawn: who it is, and how."""

    name: str
    version: int
    size: str
    """About how much room it takes, in words."""
    draw: Callable[[Path, int], None]
    """Writes all files of a seed into a folder."""
    details: Mapping[str, object] = field(default_factory=dict)
    """What its description says beside name, seed and version."""


def ensure(drawing: Drawing, root: Path, seed: int = 0) -> None:
    """Draws this seed in `root` if it is not there.

    The drawing grows in a folder beside `root` that is renamed when whole, so one that was cut off is never used, and of two
    processes that draw at once one wins. Raises `UserError` where `root` holds something else, or cannot be written.
    """
    root = Path(root)
    expected = {"name": drawing.name, "synthetic": True, "seed": seed, "version": drawing.version}
    if is_drawn(root, expected):
        return
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(root)
        workshop = Path(tempfile.mkdtemp(prefix=f".{root.name}.drawing-", dir=root.parent))
        try:
            drawing.draw(workshop, seed)
            write_synced(workshop / DESCRIPTION, json.dumps({**expected, **drawing.details}, indent=1))
            os.chmod(workshop, 0o755)
            move_in(workshop, root, expected)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{root}: the synthetic data set {drawing.name} (about {drawing.size}) could not be written there "
            f"({error.strerror or error}). Give a folder that can be written: --root_path FOLDER.") from error


def is_drawn(root: Path, expected: dict[str, Any]) -> bool:
    """Whether `root` holds this very drawing; raises `UserError` if it holds anything else."""
    name = expected["name"]
    try:
        found = json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(
                f"{root}: no {name} is there ({DESCRIPTION} is missing), but it is not empty, so nothing is drawn over it. "
                "Give another --root_path, or name the data set that it holds with --dataset.") from None
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"{root / DESCRIPTION}: cannot be read ({error}). Move {root} away; {name} is then drawn again.") from error
    differences = [
        f"{key} {found.get(key) if isinstance(found, dict) else None!r} instead of {value!r}"
        for key, value in expected.items() if not isinstance(found, dict) or found.get(key) != value]
    if differences:
        raise UserError(f"{root}: holds another data set than this code draws: {', '.join(differences)}. "
                        f"Move it away or delete it; {name} is then drawn again.")
    return True


def holds(root: Path, name: str) -> bool:
    """Whether the description in `root` has this name."""
    try:
        return bool(json.loads((root / DESCRIPTION).read_text(encoding="utf-8"))["name"] == name)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_h5(path: Path, image: np.ndarray, label: np.ndarray, **attributes: np.ndarray) -> None:
    import h5py  # here alone: no command needs it before it writes a file

    with h5py.File(path, "w") as file:
        for name, array in (("image", image), ("label", label)):
            file.create_dataset(name, data=array, compression="gzip", compression_opts=1, shuffle=True, track_times=False)
        file.attrs.update(attributes)


def write_list(path: Path, names: list[str]) -> None:
    path.write_text("\n".join(names) + "\n", encoding="utf-8", newline="\n")


def write_synced(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def move_in(workshop: Path, root: Path, expected: dict[str, Any]) -> None:
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
