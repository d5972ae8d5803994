"""Lays the synthetic data set `PhantomDefect` out on disk, in a folder a part. Drawn once, on first use.

    root/{train,val,test}/images/part001.png        grey photographs of 96 x 96
    root/{train,val,test}/masks/part001.png         class ids
    root/{train,val,test}/instances/part001.png     a number a defect
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataloaders.description import Case, DataSet, Objects, Part
from dataloaders.errors import UserError
from dataloaders.layouts import drawn
from dataloaders.layouts.common import read_mask
from dataloaders.layouts.drawn import Drawing
from dataloaders.layouts.images import ImageSource, pictures
from dataloaders.settings import PER_IMAGE, SSL4MIS

NAME = "PhantomDefect"
COUNTS = {"train": 200, "val": 30, "test": 60}
CLASSES = ("background", "scratch", "spot", "inclusion")
KINDS = ("images", "masks", "instances")


def ensure(root: Path, seed: int = 0) -> None:
    """Draws PhantomDefect of this seed in `root` if it is not there: a few seconds. Raises `UserError` as `drawn.ensure`."""
    from dataloaders.phantoms.phantom_defect import VERSION  # here and below: no other data set needs what draws this one

    drawn.ensure(Drawing(NAME, VERSION, "4 MB", draw, {"images": COUNTS, "classes": list(CLASSES)}), root, seed)


def draw(folder: Path, seed: int) -> None:
    """Writes all photographs, masks and instances of a seed."""
    from dataloaders.phantoms.phantom_defect import draw_surface

    for place, (part, count) in enumerate(COUNTS.items()):
        for kind in KINDS:
            (folder / part / kind).mkdir(parents=True)
        for number in range(1, count + 1):
            for kind, array in zip(KINDS, draw_surface(seed, place, number)):
                Image.fromarray(array).save(folder / part / kind / f"part{number:03d}.png", compress_level=1)


class PhantomDefectSource(ImageSource):
    """Reads PhantomDefect, which is drawn first where it is not there."""

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        ensure(Path(root))
        super().__init__(data, root, options)

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether a folder holds PhantomDefect."""
        return drawn.holds(root, NAME)

    def cases(self, part: Part) -> list[Case]:
        masks = pictures(self.root / part / "masks")
        return [Case(f"{part}/{stem}", image, masks.get(stem), f"{part}/{stem}", "", part)
                for stem, image in pictures(self.root / part / "images").items()]

    def instances(self, case: Case, label: int) -> np.ndarray:
        if case.label is None:
            raise UserError(f"{case.image}: {case.name} has no mask, so its defects cannot be scored.")
        return np.where(read_mask(case.label) == label, read_mask(self.root / case.part / "instances" / case.label.name), 0)


DATA_SETS = (
    DataSet(NAME, PhantomDefectSource, CLASSES, resizing="floor", augmentation="simeps_dagm", intensities="8-bit", mean=(0.5,), std=(0.15,),
            evaluation=replace(PER_IMAGE, objects=Objects((1, 2, 3), least=6)), family="defect", synthetic=True, special=True,
            defaults=SSL4MIS | {"patch_size": (96, 96), "batch_size": 8, "labeled_bs": 4, "max_iterations": 400, "val_every": 50,
                                "labeled_num": "20", "consistency_rampup": 1.0},
            note="PhantomDefect is synthetic: drawn by this program, no photographs."),
)
