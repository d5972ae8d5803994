"""NEU-Seg (Dong et al., IEEE TII 2020): hot-rolled steel, photographs of 200 x 200 and masks of class ids.

    root/images/{training,test}/000001.jpg         root/annotations/{training,test}/000001.png
    root/{train_images,test_images}/000001.jpg     root/{training_annot,test_annot}/000001.png      (as simEps names them)
"""
from __future__ import annotations

from pathlib import Path

from dataloaders.description import Case, Part
from dataloaders.layouts.images import ImageSource, pictures

FOLDERS = {
    "train": (("images/training", "annotations/training"), ("train_images", "training_annot")),
    "test": (("images/test", "annotations/test"), ("test_images", "test_annot")),
}

TRAINING_PIECES = ((201, 300, 11), (501, 700, 21))
TEST_PIECES = ((11, 200, 11), (211, 400, -79), (401, 508, -279), (512, 515, -276), (517, 522, -275), (527, 527, -271), (530, 600, -269))
"""(first id, last id, offset): the piece is id - offset. 870 originals lie there four times, at quarter turns (measured)."""


def piece(part: str, number: int) -> int | None:
    """The original of which image `number` is a turned copy; None where it stands alone."""
    if part == "train" and 901 <= number <= 3510:
        return (number - 901) % 870
    for first, last, offset in TRAINING_PIECES if part == "train" else TEST_PIECES:
        if first <= number <= last:
            return number - offset
    return None


class NeuSource(ImageSource):
    """Reader of both folder conventions. Ids repeat across the folders, so a case is named `training/000201`."""

    expected = "expected images/training and annotations/training, or train_images and training_annot"

    @staticmethod
    def fits(root: Path) -> bool:
        return any((root / images).is_dir() and (root / masks).is_dir() for images, masks in FOLDERS["train"])

    def cases(self, part: Part) -> list[Case]:
        if part == "val":
            return []
        conventions = FOLDERS[part]
        images, masks = next(((i, m) for i, m in conventions if (self.root / i).is_dir()), conventions[0])
        labels = pictures(self.root / masks)
        cases = []
        for stem, image in pictures(self.root / images).items():
            name = f"{'training' if part == 'train' else 'test'}/{stem}"
            original = piece(part, int(stem)) if stem.isdigit() else None
            group = name if original is None else f"piece{original:03d}"
            cases.append(Case(name, image, labels.get(stem), group, "", part))
        return cases
