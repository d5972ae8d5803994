"""CamVid (Brostow et al., Pattern Recognition Letters 2009) as SegNet's authors pass it around: a drive through Cambridge, 480 x 360.

    root/{train,val,test}/0001TP_006690.png                  photographs
    root/{trainannot,valannot,testannot}/0001TP_006690.png   class ids 0 to 10; 11 is what belongs to none of them
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from dataloaders.description import Case, DataSet, Item, Part
from dataloaders.layouts.images import ImageSource, pictures
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD, WHOLE, unimatch

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
VOID = len(CLASSES)


class CamVidSource(ImageSource):
    """Reader of CamVid. Frames of one drive stand in several parts, as published; the stratum is the drive."""

    expected = "expected the folders train, trainannot, val, valannot, test and testannot"

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "train").is_dir() and (root / "trainannot").is_dir()

    def cases(self, part: Part) -> list[Case]:
        masks = pictures(self.root / f"{part}annot")
        return [Case(stem, image, masks.get(stem), stem, stem.split("_")[0], part) for stem, image in pictures(self.root / part).items()]

    def to_ids(self, mask: np.ndarray, of: Case | Item) -> np.ndarray:
        return np.where(mask == VOID, np.asarray(255, mask.dtype), mask)


DATA_SETS = (
    DataSet("CamVid", CamVidSource, CLASSES, channels=3, augmentation="scale_crop", resizing="floor", intensities="8-bit",
            mean=IMAGENET_MEAN, std=IMAGENET_STD, ignored=255, evaluation=WHOLE, family="natural", strata="drive, by the file's name",
            defaults=unimatch(base_lr=5e-3, head_rate=1.0, labeled_num="10%", patch_size=(321, 321), max_iterations=10000, val_every=200)),
)
