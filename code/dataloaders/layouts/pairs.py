"""One's own volumes: two folders, and no code.

    root/images/NAME.nii.gz    also .nii, .nrrd, .mha, .mhd
    root/masks/NAME.nii.gz     class ids, or 0/255; an image without a mask is unlabelled
    root/classes.txt           optional: the names of the classes, one a line, background first
    root/val/, root/test/      optional: the same two folders for validation and test
    root/train.txt, ...        optional: lists of names in place of these, as for pictures

As own pictures (`folder.py`), but for volumes: an image is one channel, scaled by its own mean and deviation (`volume_files.py`; for
CT, which is clipped first, nnU-Net's layout says that a channel is CT).
"""
from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from dataloaders.description import Case, DataSet
from dataloaders.errors import UserError
from dataloaders.layouts.folder import FolderSource, facts_of
from dataloaders.layouts.nifti import ENDINGS, holds_volumes, read_volume, stem_of, volumes_in
from dataloaders.layouts.own import OWN_SCALE
from dataloaders.layouts.volume_files import VolumeFiles
from dataloaders.listing import composed, states_of
from dataloaders.masks import Facts, soft_values, values_of, whole_numbers
from dataloaders.settings import BY_WINDOW, OWN_VOLUMES


def volume_facts(mask: Path) -> Facts:
    """What a mask holds, to be judged beside others."""
    values = whole_numbers(read_volume(mask)[0], mask)
    found = values_of(values)
    return Facts(mask, found, soft_values(values, found))


@lru_cache(maxsize=4096)
def _facts(mask: Path, state: tuple[int, ...]) -> tuple[Facts | None, UserError | None]:
    return facts_of(mask, volume_facts)


class PairsSource(VolumeFiles, FolderSource):
    """Reader of one's own volumes. Classes come from the files of training and validation, never from `test/`."""

    new_endings: ClassVar[tuple[str, ...]] = ENDINGS
    found_in = staticmethod(volumes_in)
    kind = "volumes"
    looked_at = False

    @staticmethod
    def name_of(file: str) -> str | None:
        path = PurePosixPath(file)
        stem = stem_of(path.name)
        return None if stem is None else composed(str(path.with_name(stem)))

    @classmethod
    def fits(cls, root: Path) -> bool:
        return holds_volumes(root / "images") and (root / "masks").is_dir()

    def facts_in(self, mask: Path) -> tuple[Facts | None, UserError | None]:
        return _facts(mask, tuple(states_of(mask)))

    @staticmethod
    def scale_of(channels: int) -> tuple[None, None]:
        return None, None

    def checked_ids(self, values: np.ndarray, case: Case) -> np.ndarray:
        assert case.label is not None
        return super().checked_ids(self.to_ids(whole_numbers(values, case.label), case), case)


DATA_SETS = (
    DataSet("folder", PairsSource, dimensions=3, scaling=("zscore",), evaluation=BY_WINDOW, own=True, special=True, defaults=OWN_VOLUMES,
            note=OWN_SCALE),
)
"""What --dataset folder means where its images are volumes."""
