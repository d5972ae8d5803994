"""Lays the synthetic data set `Phantom` out on disk like ACDC: slices, volumes and lists. Drawn once, on first use."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from dataloaders.description import DataSet, official_parts
from dataloaders.intensities import min_max
from dataloaders.layouts import drawn
from dataloaders.layouts.acdc import HEART, AcdcSource
from dataloaders.layouts.drawn import Drawing, write_h5, write_list
from dataloaders.settings import SSL4MIS

NAME = "Phantom"
PATIENTS = {"train": 70, "val": 10, "test": 20}


def ensure(root: Path, seed: int = 0) -> None:
    """Draws Phantom of this seed in `root` if it is not there: about ten seconds on one core. Raises `UserError` as `drawn.ensure`."""
    from dataloaders.phantoms.phantom import VERSION  # here and below: no other data set needs what draws this one

    details = {"patients": PATIENTS, "classes": ["background", "RV", "Myo", "LV"]}
    drawn.ensure(Drawing(NAME, VERSION, "60 MB", draw, details), root, seed)


def draw(folder: Path, seed: int) -> None:
    """Writes all slices, volumes and lists of a seed."""
    from dataloaders.phantoms.phantom import draw_patient

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


class PhantomSource(AcdcSource):
    """Reads Phantom, which is drawn first where it is not there; its files lie as ACDC's do, its patients have no diagnosis."""

    protocols: ClassVar = {"official": official_parts}
    folds: ClassVar = {}
    raw = (min_max, "mapped to 0..1 by its own least and greatest value")

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        ensure(Path(root))
        super().__init__(data, root, options)

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether a folder holds a Phantom."""
        return drawn.holds(root, NAME)

    def stratum_of(self, group: str) -> str:
        return ""


DATA_SETS = (
    DataSet(NAME, PhantomSource, HEART, unit="patient", synthetic=True, special=True,
            defaults=SSL4MIS | {"patch_size": (64, 64), "batch_size": 8, "labeled_bs": 4, "max_iterations": 350, "val_every": 50,
                                "consistency_rampup": 1.0},
            note="Phantom is synthetic: drawn by this program, no measured images."),
)
