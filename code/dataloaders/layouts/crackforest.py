"""CrackForest (Shi et al., IEEE T-ITS 2016): cracks in asphalt, photographed by a telephone, 480 x 320.

    root/image/001.jpg            photographs
    root/groundTruth/001.mat      groundTruth.Segmentation: 2 is crack; 1, and in few files 3 and 4, are what lies between
"""
from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Evaluation, Item, Part, Parts, Source
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import checked_shapes, picture_size, what_lies_there
from dataloaders.layouts.images import ImageSource, pictures
from dataloaders.listing import listing, with_ending
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD, SSL4MIS
from dataloaders.splits.draws import by_group

PUBLISHED = 118
MISTAKEN = {"042": "065"}
"""Images whose published reference is a copy of another's: unlabelled here."""
CRACK = 2


def drawn_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """46 of 118 are test, as many as papers take, and an eighth of the rest is validation; there are no published lists."""
    cases = source.cases("train")
    test, rest = by_group([case for case in cases if case.label is not None], 0.39, split_seed)
    val, train = by_group(rest, 0.125, split_seed)
    train += [case for case in cases if case.label is None]
    return Parts("official", train, val, test if with_test else None, (
        f"CrackForest has no published lists; ours are drawn: {len(train)} images for training, {len(val)} and {len(test)} for validation "
        "and test.",))


class CrackForestSource(ImageSource):
    """Reader of CrackForest. Its names tell nothing of streets, so every image is a group of its own."""

    protocols: ClassVar = {"official": drawn_parts}
    expected = "expected the folders image and groundTruth"

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "image").is_dir() and (root / "groundTruth").is_dir()

    def cases(self, part: Part) -> list[Case]:
        if part != "train":
            return []
        images, truths = pictures(self.root / "image"), listing(self.root / "groundTruth", with_ending(".mat"), deep=False).files
        problems = Problems()
        for stem in sorted(truths.keys() - images.keys()):
            problems.add(f"{truths[stem]}: a reference without its image image/{stem}.jpg; put the image there, or remove it.")
        problems.raise_any(str(self.root))
        remarks = [f"{self.root}: {len(images)} images; the published set has {PUBLISHED}."] if len(images) != PUBLISHED else []
        remarks += [f"{truths[stem]}: a copy of {other}.mat, as published; {stem} is unlabelled here."
                    for stem, other in MISTAKEN.items() if stem in truths]
        self.remarks += [remark for remark in remarks if remark not in self.remarks]
        return [Case(stem, image, None if stem in MISTAKEN else truths.get(stem), stem) for stem, image in images.items()]

    def label(self, of: Case | Item) -> np.ndarray | None:
        if of.label is None:
            return None
        segmentation = read_segmentation(of.label)
        checked_shapes(picture_size(of.image), segmentation.shape, of.image, of.label)
        return (segmentation == CRACK).astype(np.uint8)


def read_segmentation(file: Path) -> np.ndarray:
    """(H, W) whole numbers of a reference. Raises `UserError`."""
    from scipy.io import loadmat  # here alone: no other data set has such files

    try:
        found = loadmat(file)
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise UserError(f"{file}: {what_lies_there(file)}") from error
    try:
        segmentation = np.asarray(found["groundTruth"]["Segmentation"][0, 0])
    except (KeyError, IndexError, ValueError, TypeError):
        shown = ", ".join(name for name in found if not name.startswith("__")) or "nothing"
        raise UserError(f"{file}: no groundTruth.Segmentation in it; found {shown}. Download it again.") from None
    if segmentation.ndim != 2 or segmentation.dtype.kind not in "iu":
        raise UserError(f"{file}: groundTruth.Segmentation is {segmentation.dtype} of shape {segmentation.shape}; expected the whole "
                        "numbers of an image. Download it again.")
    return segmentation


DATA_SETS = (
    DataSet("CrackForest", CrackForestSource, ("background", "crack"), channels=3, augmentation="histology", resizing="floor",
            intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, evaluation=Evaluation(predicted="whole", detection=True),
            family="defect", defaults=SSL4MIS | {"batch_size": 16, "labeled_bs": 8, "labeled_num": "10%"}),
)
