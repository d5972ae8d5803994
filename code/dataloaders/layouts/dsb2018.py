"""Data Science Bowl 2018 (Caicedo et al., Nature Methods 2019): nuclei under several microscopes and stains, as Kaggle's archive unpacks.

    root/stage1_train/<id>/images/<id>.png      photographs of several sizes
    root/stage1_train/<id>/masks/*.png          0 and 255, a file a nucleus
"""
from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Part, Parts, Source
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import picture_size, read_mask
from dataloaders.layouts.images import pictures
from dataloaders.layouts.instances import InstanceSource, one_by_one
from dataloaders.listing import entries
from dataloaders.settings import HISTOLOGY, IMAGENET_MEAN, IMAGENET_STD
from dataloaders.splits.draws import by_group

PUBLISHED = 670


def drawn_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """A fifth is test and an eighth of the rest is validation, stratified by the size of the image; there are no published lists."""
    cases = source.cases("train")
    test, rest = by_group([case for case in cases if case.label is not None], 0.2, split_seed)
    val, train = by_group(rest, 0.125, split_seed)
    train += [case for case in cases if case.label is None]
    return Parts("official", train, val, test if with_test else None, (
        f"DSB2018: the challenge's test references came later and apart; ours are drawn from its training images: {len(train)} for "
        f"training, {len(val)} and {len(test)} for validation and test.",))


class DsbSource(InstanceSource):
    """Reader of the training part. Names tell nothing of slides: every image is a group of its own, and its size is its stratum."""

    protocols: ClassVar = {"official": drawn_parts}
    expected = "expected stage1_train/<id>/images/<id>.png and stage1_train/<id>/masks/*.png"

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "stage1_train").is_dir()

    def cases(self, part: Part) -> list[Case]:
        if part != "train":
            return []
        problems, cases = Problems(), []
        for folder in (path for path in entries(self.root / "stage1_train") if path.is_dir()):
            found = list(pictures(folder / "images").values()) if (folder / "images").is_dir() else []
            if len(found) != 1:
                problems.add(f"{folder / 'images'}: {len(found)} pictures; expected one. Unpack the archive again.")
                continue
            masks = folder / "masks"
            height, width = picture_size(found[0])
            cases.append(Case(folder.name, found[0], masks if masks.is_dir() else None, folder.name, f"{height}x{width}"))
        problems.raise_any(str(self.root))
        remark = f"{self.root}: {len(cases)} images; the published training part has {PUBLISHED}."
        if len(cases) != PUBLISHED and remark not in self.remarks:
            self.remarks.append(remark)
        return cases

    def read_instances(self, file: Path) -> np.ndarray:
        """Of a folder of masks; where two nuclei overlap, a pixel is that of the later name."""
        masks = list(pictures(file).values())
        if not masks:
            raise UserError(f"{file}: no mask in it; unpack the archive again, or remove the folder (the image is then unlabelled).")
        ids = np.zeros(read_mask(masks[0]).shape, np.uint16)
        for number, mask in enumerate(masks, 1):
            values = read_mask(mask)
            if values.shape != ids.shape:
                raise UserError(f"{mask}: {values.shape}, but {masks[0].name} beside it is {ids.shape}; unpack the archive again.")
            ids[values > 127] = number
        return ids


DATA_SETS = (
    DataSet("DSB2018", DsbSource, ("background", "nucleus", "contour"), channels=3, augmentation="histology", resizing="floor",
            intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, options=("target",), evaluation=one_by_one(least=10, grow=1),
            strata="size of the image, which goes with microscope and stain", defaults=HISTOLOGY | {"labeled_num": "10%"}),
)
