"""CRAG (Graham et al., Medical Image Analysis 2019): glands of colorectal adenocarcinoma in H&E, most of 1512 x 1516.

    root/{train,valid}/Images/train_1.png         photographs
    root/{train,valid}/Annotation/train_1.png     a number an object
"""
from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from dataloaders.description import Case, DataSet, Part, Parts, Source
from dataloaders.errors import Problems
from dataloaders.layouts.images import pictures
from dataloaders.layouts.instances import InstanceSource, one_by_one
from dataloaders.settings import HISTOLOGY, IMAGENET_MEAN, IMAGENET_STD
from dataloaders.splits.draws import by_group

FOLDERS = {"train": ("train", 173), "test": ("valid", 40)}
"""The official validation part is what papers test on; published numbers of images."""


def official_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """11 % of the training images are validation, drawn (HCE's authors: 20 of 173); tested on the official validation images."""
    val, train = by_group(source.cases("train"), 0.11, split_seed)
    return Parts("official", train, val, source.cases("test") if with_test else None)


class CragSource(InstanceSource):
    """Reader of CRAG. Its names tell nothing of patients, so every image is a group of its own."""

    protocols: ClassVar = {"official": official_parts}
    expected = "expected train/Images, train/Annotation, valid/Images and valid/Annotation"

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "train/Images").is_dir() and (root / "train/Annotation").is_dir()

    def cases(self, part: Part) -> list[Case]:
        if part == "val":
            return []
        folder, published = FOLDERS[part]
        images, masks = pictures(self.root / folder / "Images"), pictures(self.root / folder / "Annotation")
        problems = Problems()
        for stem in masks.keys() - images.keys():
            problems.add(f"{masks[stem]}: a reference without its image in {folder}/Images; put the image there, or remove it.")
        problems.raise_any(str(self.root))
        remark = f"{self.root / folder}: {len(images)} images; the published part has {published}."
        if len(images) != published and remark not in self.remarks:
            self.remarks.append(remark)
        return [Case(f"{folder}/{stem}", image, masks.get(stem), f"{folder}/{stem}", "", part) for stem, image in images.items()]


DATA_SETS = (
    DataSet("CRAG", CragSource, ("background", "gland", "contour"), channels=3, augmentation="histology", resizing="floor",
            intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, options=("target",), evaluation=one_by_one(least=100, grow=4),
            defaults=HISTOLOGY | {"labeled_num": "10%", "patch_size": (480, 480), "batch_size": 8, "labeled_bs": 4}),
)
