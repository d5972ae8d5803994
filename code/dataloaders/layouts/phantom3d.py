"""Lays the synthetic data set `Phantom3D` out on disk like LA: one h5 file a volume, and lists. Drawn once, on first use."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataloaders.description import DataSet
from dataloaders.intensities import standardised
from dataloaders.layouts import drawn
from dataloaders.layouts.drawn import Drawing, write_h5, write_list
from dataloaders.layouts.la import LaSource
from dataloaders.settings import BY_WINDOW, VOLUMES

NAME = "Phantom3D"
PARTS = {"train": 30, "val": 5, "test": 10}


def ensure(root: Path, seed: int = 0) -> None:
    """Draws Phantom3D of this seed in `root` if it is not there: about ten seconds on one core. Raises `UserError` as `drawn.ensure`."""
    from dataloaders.phantoms.phantom3d import VERSION  # here and below: no other data set needs what draws this one

    details = {"volumes": PARTS, "classes": ["background", "atrium"]}
    drawn.ensure(Drawing(NAME, VERSION, "35 MB", draw, details), root, seed)


def draw(folder: Path, seed: int) -> None:
    """Writes all volumes and lists of a seed."""
    from dataloaders.phantoms.phantom3d import draw_volume

    first = 1
    for part, count in PARTS.items():
        cases = [f"volume{number:03d}" for number in range(first, first + count)]
        for number, case in enumerate(cases, first):
            place = folder / LaSource.folders[0] / case
            place.mkdir(parents=True)
            image, label, spacing, affine = draw_volume(seed, number)
            write_h5(place / "mri_norm2.h5", image, label, spacing=spacing, affine=affine)
        write_list(folder / f"{part}.list", cases)
        first += count


class Phantom3DSource(LaSource):
    """Reads Phantom3D, which is drawn first where it is not there; its files lie as LA's do."""

    raw = (standardised, "mean 0 and deviation 1")

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        ensure(Path(root))
        super().__init__(data, root, options)

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether a folder holds a Phantom3D."""
        return drawn.holds(root, NAME)


DATA_SETS = (
    DataSet(NAME, Phantom3DSource, ("background", "atrium"), dimensions=3, evaluation=BY_WINDOW, synthetic=True, special=True,
            defaults=VOLUMES | {"labeled_num": "4", "patch_size": (48, 48, 32), "stride": (24, 24, 16), "max_iterations": 300,
                                "schedule": "poly", "val_every": 50, "consistency_rampup": 1.0},
            note="Phantom3D is synthetic: drawn by this program, no measured images."),
)
