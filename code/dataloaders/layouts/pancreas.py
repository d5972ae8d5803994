"""Pancreas-CT (Roth et al., MICCAI 2015), as DTC and its followers prepared it; their lists come with the data.

    root/Pancreas_h5/<case>_norm.h5     image and label (X, Y, Z)
    root/train.list  test.list
"""
from __future__ import annotations

from dataloaders.description import Case, DataSet, Part
from dataloaders.errors import UserError
from dataloaders.layouts.listed import H5_ENDINGS
from dataloaders.layouts.volumes import VolumeSource
from dataloaders.settings import BY_WINDOW, VOLUMES


class PancreasSource(VolumeSource):
    """Reader of Pancreas-CT. How raw volumes were scaled is not published, so new ones are h5 files too."""

    folders = ("Pancreas_h5", "data/Pancreas_h5", "data", ".")
    pattern = "*_norm.h5"
    new_endings = H5_ENDINGS

    def cases(self, part: Part) -> list[Case]:
        if part != "val" and not any(self.list_files(f"{part}.{self.suffix}")):
            raise UserError(f"{self.root / part}.{self.suffix}: there is no such list, and no published one is known here; expected "
                            "the names of the cases, one a line, for example image0001. It comes with the h5 files (62 training, 18 test).")
        return super().cases(part)


DATA_SETS = (
    DataSet("Pancreas-CT", PancreasSource, ("background", "pancreas"), dimensions=3, evaluation=BY_WINDOW,
            defaults=VOLUMES | {"labeled_num": "12", "patch_size": (96, 96, 96), "stride": (16, 16, 16), "dice": "foreground",
                                "consistency_rampup": 40.0},
            note="Pancreas-CT: the published preparation crops every volume around its reference label, test volumes too."),
)
