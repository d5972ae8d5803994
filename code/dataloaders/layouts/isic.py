"""ISIC 2018, task 1 (Codella et al., arXiv 1902.03368): dermoscopic photographs of skin lesions, as the challenge's archives unpack.

    root/ISIC2018_Task1-2_{Training,Validation,Test}_Input/ISIC_0000000.jpg
    root/ISIC2018_Task1_{Training,Validation,Test}_GroundTruth/ISIC_0000000_segmentation.png      0 and 255
"""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from dataloaders.description import Case, Item, Part
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import checked_shapes, picture_size, read_mask, read_picture
from dataloaders.layouts.images import ImageSource, pictures

PARTS = {"train": ("Training", 2594), "val": ("Validation", 100), "test": ("Test", 1000)}
"""The challenge's word for a part, and its published number of images."""
SIDE = 224
"""Pixels of both sides to which images and masks are reduced when they are read: the originals have up to 30 million."""


class IsicSource(ImageSource):
    """Reader of ISIC 2018. Images are averaged down to SIDE x SIDE, masks take the nearest pixel; scores are of that size."""

    expected = "expected ISIC2018_Task1-2_Training_Input and ISIC2018_Task1_Training_GroundTruth"
    cache_key = f"side {SIDE}"

    @staticmethod
    def fits(root: Path) -> bool:
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
        pixels = read_picture(of.image, self.data.channels)
        return np.ascontiguousarray(reduced(pixels.transpose(1, 2, 0), Image.Resampling.BILINEAR).transpose(2, 0, 1))

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


def reduced(pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
    """(H, W) or (H, W, C) uint8 -> the same of SIDE x SIDE."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), how))
