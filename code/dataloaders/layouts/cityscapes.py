"""Cityscapes (Cordts et al., CVPR 2016): streets of fifty cities, 2048 x 1024.

    root/leftImg8bit/{train,val}/aachen/aachen_000000_000019_leftImg8bit.png
    root/gtFine/{train,val}/aachen/aachen_000000_000019_gtFine_labelIds.png      or ..._labelTrainIds.png
"""
from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Item, Part, Parts, Source
from dataloaders.errors import UserError
from dataloaders.layouts.images import ImageSource, pictures
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD, WHOLE, unimatch
from dataloaders.splits.published_lists import budgets

CLASSES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain", "sky",
           "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The official ids of the classes that are trained; all others are ignored."""
TO_CLASS = np.full(256, 255, np.uint8)
TO_CLASS[list(LABEL_IDS)] = np.arange(len(CLASSES))
PHOTO, MASK, READY = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"
NAME = "Cityscapes"


def official_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """2975 training images, of which the lists of CPS label some; papers choose and test on the 500 validation images."""
    val = source.cases("val")
    return Parts("official", source.cases("train"), val, val if with_test else None, val_is_test=True, budgets=budgets(NAME, "official"),
                 remarks=(f"Cityscapes: the best step is chosen, by whole images in one pass, on the {len(val)} validation images that "
                          "are tested, as published.",))


class CityscapesSource(ImageSource):
    """Reader of Cityscapes; official ids become classes when a mask is read."""

    protocols: ClassVar = {"official": official_parts}
    expected = "expected leftImg8bit/train and gtFine/train"

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "leftImg8bit/train").is_dir() and (root / "gtFine").is_dir()

    def cases(self, part: Part) -> list[Case]:
        if part == "test":
            return []
        masks = {stem: file for stem, file in pictures(self.root / "gtFine" / part).items() if stem.endswith((MASK, READY))}
        cases = []
        for stem, image in pictures(self.root / "leftImg8bit" / part).items():
            if not stem.endswith(PHOTO):
                raise UserError(f"{image}: expected <city>_<sequence>_<frame>{PHOTO}.png; take it out of the folder.")
            place = stem.removesuffix(PHOTO)
            name = place.rsplit("/", 1)[-1]
            cases.append(Case(name, image, masks.get(place + MASK) or masks.get(place + READY), name, name.split("_")[0], part))
        return sorted(cases, key=lambda case: case.name)

    def to_ids(self, mask: np.ndarray, of: Case | Item) -> np.ndarray:
        assert of.label is not None
        return mask if of.label.stem.endswith(READY) else TO_CLASS[mask]


DATA_SETS = (
    DataSet(NAME, CityscapesSource, CLASSES, channels=3, augmentation="scale_crop", resizing="floor", intensities="8-bit",
            mean=IMAGENET_MEAN, std=IMAGENET_STD, ignored=255, evaluation=WHOLE, family="natural", strata="city, by the file's name",
            defaults=unimatch(base_lr=5e-3, head_rate=1.0, labeled_num="186", patch_size=(801, 801), max_iterations=83520, val_every=348)),
)
