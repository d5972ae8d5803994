"""ISIC 2018, task 1 (Codella et al., arXiv 1902.03368): dermoscopic photographs of skin lesions, as the challenge's archives unpack.

    root/ISIC2018_Task1-2_{Training,Validation,Test}_Input/ISIC_0000000.jpg
    root/ISIC2018_Task1_{Training,Validation,Test}_GroundTruth/ISIC_0000000_segmentation.png      0 and 255
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from dataloaders.description import Case, DataSet, Item, NewImage, Part, Parts, Source
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import checked_shapes, picture_remarks, picture_size, read_mask, read_picture
from dataloaders.layouts.images import ImageSource, pictures
from dataloaders.settings import SSL4MIS
from dataloaders.splits.draws import by_group, in_order, stratified_order

PARTS = {"train": ("Training", 2594), "val": ("Validation", 100), "test": ("Test", 1000)}
"""The challenge's word for a part, and its published number of images."""
SIDE = 224
"""Pixels of both sides to which images and masks are reduced when they are read: the originals have up to 30 million."""


def official_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """756 of the challenge's 2594 training images are tested, 1838 trained: the numbers of SemSim (arXiv 2410.13486), whose lists nobody
    has published. Drawn by the seed, the labelled ones too; images without a mask are for training only."""
    cases = source.cases("train")
    test, train = by_group([case for case in cases if case.label is not None], 0.2914, split_seed)
    train += [case for case in cases if case.label is None]
    return Parts("official", train, [], test if with_test else None, (
        f"Nobody has published the lists of this split (1838 and 756 images); ours are drawn: {len(train)} and {len(test)}.",))


def challenge_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The three parts of ISIC 2018; the training images in an order drawn by the seed, of which the first are labelled."""
    train, val = source.cases("train"), source.cases("val")
    test = source.cases("test") if with_test else None
    missing = [word for word, cases in (("Validation", val), ("Test", test)) if cases == []]
    if missing:
        raise UserError(f"{source.root}: no folder ISIC2018_Task1-2_{missing[0]}_Input, which --protocol challenge needs; "
                        "put it there, or use --protocol official, which needs the training folders alone.")
    return Parts("challenge", in_order(train, stratified_order(train, split_seed)), val, test)


class IsicSource(ImageSource):
    """Reader of ISIC 2018. Images are averaged down to SIDE x SIDE, masks take the nearest pixel; scores are of that size."""

    expected = "expected ISIC2018_Task1-2_Training_Input and ISIC2018_Task1_Training_GroundTruth"
    protocols: ClassVar = {"official": official_parts, "challenge": challenge_parts}

    @property
    def cache_key(self) -> str:
        return f"side {SIDE}"

    @classmethod
    def fits(cls, root: Path) -> bool:
        return folders(root, "train")[0].is_dir()

    def cases(self, part: Part) -> list[Case]:
        """All images of a part; none where its folder of images is not there. An image without a mask is unlabelled."""
        images_in, masks_in = folders(self.root, part)
        if not images_in.is_dir():
            return []
        images = {stem: file for stem, file in pictures(images_in).items() if re.fullmatch("ISIC_[0-9]+", stem)}
        masks = {stem.removesuffix("_segmentation"): file for stem, file in pictures(masks_in).items() if stem.endswith("_segmentation")}
        if not images:
            raise UserError(f"{images_in}: no picture called ISIC_ and a number; expected ISIC_0000000.jpg and so on.")
        problems = Problems()
        for stem in sorted(set(masks) - set(images)):
            problems.add(f"{masks[stem]}: a mask without its image {images_in / stem}.jpg; put the image there, or remove the mask.")
        problems.raise_any(str(self.root))
        word, published = PARTS[part]
        remark = f"{images_in}: {len(images)} images; the published {word} part has {published}."
        if len(images) != published and remark not in self.remarks:
            self.remarks.append(remark)
        return [Case(stem, image, masks.get(stem), stem, "", part) for stem, image in images.items()]

    def image(self, of: Case | Item) -> np.ndarray:
        return small_picture(of.image)

    @classmethod
    def read_new(cls, data: DataSet, files: Sequence[Path]) -> NewImage:
        return NewImage(small_picture(files[0])[:, None], picture_size(files[0]), remarks=picture_remarks(files[0], data.channels))

    def label(self, of: Case | Item) -> np.ndarray | None:
        if of.label is None:
            return None
        mask = read_mask(of.label)
        checked_shapes(picture_size(of.image), mask.shape, of.image, of.label)
        values = np.unique(mask)
        if not np.isin(values, (0, 255)).all():
            shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
            raise UserError(f"{of.label}: the values {shown}; a mask of ISIC has 0 (skin) and 255 (lesion) alone. Download it again.")
        return reduced((mask == 255).astype(np.uint8), Image.Resampling.NEAREST)


def folders(root: Path, part: str) -> tuple[Path, Path]:
    """Those of the images and of the masks of a part."""
    word = PARTS[part][0]
    return root / f"ISIC2018_Task1-2_{word}_Input", root / f"ISIC2018_Task1_{word}_GroundTruth"


def small_picture(file: Path) -> np.ndarray:
    """(3, SIDE, SIDE) uint8 of a photograph."""
    return np.ascontiguousarray(reduced(read_picture(file, 3).transpose(1, 2, 0), Image.Resampling.BILINEAR).transpose(2, 0, 1))


def reduced(pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
    """(H, W) or (H, W, C) uint8 -> the same of SIDE x SIDE."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), how))


DATA_SETS = (
    DataSet("ISIC", IsicSource, ("background", "lesion"), channels=3, protocols=("official", "challenge"),
            intensities="8-bit", mean=(0.0,) * 3, std=(1.0,) * 3,
            defaults=SSL4MIS | {"labeled_num": "181", "patch_size": (224, 224), "batch_size": 16, "labeled_bs": 8},
            note="ISIC: images are reduced to 224x224 when they are read, and scored so."),
)
