"""Pancreas-CT (Roth et al., MICCAI 2015), as DTC and its followers prepared it; their lists come with the data.

    root/Pancreas_h5/<case>_norm.h5     image and label (X, Y, Z)
    root/train.list  test.list

or as MCF has it, PANCREAS_0001.h5 for image0001_norm.h5, with folds of its own.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from dataloaders.description import Case, DataSet, Part, official_parts
from dataloaders.errors import UserError
from dataloaders.layouts.listed import H5_ENDINGS
from dataloaders.layouts.volumes import VolumeSource, folds_of_lists
from dataloaders.settings import BY_WINDOW, VOLUMES

MCF = folds_of_lists("Pancreas-CT", "mcf", 4)
"""The folds of MCF (Wang et al., CVPR 2023), of all 82 volumes."""


class PancreasSource(VolumeSource):
    """Reader of Pancreas-CT. How raw volumes were scaled is not published, so new ones are h5 files too."""

    folders = ("Pancreas_h5", "data/Pancreas_h5", "data", ".")
    pattern = "*_norm.h5"
    new_endings = H5_ENDINGS
    protocols: ClassVar = {"official": official_parts, "mcf": MCF[0]}
    folds: ClassVar = {"mcf": MCF[1]}

    @classmethod
    def files(cls, root: Path) -> dict[str, Path]:
        archive = {cls.case_of(file.name): file for folder in cls.folders for file in sorted((root / folder).glob("PANCREAS_*.h5"))}
        return archive | super().files(root)

    @classmethod
    def case_of(cls, text: str) -> str:
        """Both name a volume by its number in the archive."""
        number = re.search(r"PANCREAS_([0-9]{4})(\.h5)?$", text.strip())
        return f"image{number[1]}" if number else super().case_of(text)

    def pool(self) -> list[Case]:
        """Every volume that is there, in a list or not."""
        return [self.case(self.root, name, file) for name, file in sorted(self.files(self.root).items())]

    def cases(self, part: Part) -> list[Case]:
        if part != "val" and not any(self.list_files(f"{part}.{self.suffix}")):
            raise UserError(f"{self.root / part}.{self.suffix}: there is no such list, and no published one is known here; expected "
                            "the names of the cases, one a line, for example image0001. It comes with the h5 files (62 training, 18 test).")
        return super().cases(part)


DATA_SETS = (
    DataSet("Pancreas-CT", PancreasSource, ("background", "pancreas"), dimensions=3, protocols=("official", "mcf"), evaluation=BY_WINDOW,
            augmentation="none", protocol_defaults={"mcf": {"folds": 4}},
            defaults=VOLUMES | {"labeled_num": "12", "patch_size": (96, 96, 96), "stride": (16, 16, 16), "dice": "foreground",
                                "consistency_rampup": 40.0},
            note="Pancreas-CT: the published preparation crops every volume around its reference label, test volumes too."),
)
