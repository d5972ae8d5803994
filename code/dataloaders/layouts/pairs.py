"""One's own volumes: two folders, and no code.

    root/images/NAME.nii.gz    also .nii, .nrrd, .mha, .mhd
    root/masks/NAME.nii.gz     class ids, or 0/255; an image without a mask is unlabelled
    root/classes.txt           optional: the names of the classes, one a line, background first
    root/val/, root/test/      optional: the same two folders for validation and test

As own pictures (`folder.py`), but for volumes: an image is one channel, scaled by its own mean and deviation (`volume_files.py`; for
CT, which is clipped first, nnU-Net's layout says that a channel is CT).
"""
from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.layouts.folder import FolderSource, values_of
from dataloaders.layouts.nifti import holds_volumes, read_volume, volume_files
from dataloaders.layouts.volume_files import VolumeFiles


@lru_cache(maxsize=4096)
def _values(mask: Path, stamp: int) -> tuple[set[int], UserError | None]:
    return values_of(mask, lambda file: read_volume(file)[0])


class PairsSource(VolumeFiles, FolderSource):
    """Reader of one's own volumes. Classes come from the files of training and validation, never from `test/`."""

    found_in = staticmethod(volume_files)
    kind = "volumes"

    def __init__(self, data, root: Path, options: object | None = None):
        FolderSource.__init__(self, data, root, options)

    @staticmethod
    def fits(root: Path) -> bool:
        return holds_volumes(root / "images") and (root / "masks").is_dir()

    def values_in(self, mask: Path) -> tuple[set[int], UserError | None]:
        return _values(mask, mask.stat().st_mtime_ns)

    def pixels_of(self, images: Iterable[Path]) -> tuple[int, None, None]:
        return 1, None, None

    def checked_ids(self, values: np.ndarray, case: Case) -> np.ndarray:
        return super().checked_ids(self.to_ids(values, case), case)
