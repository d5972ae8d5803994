"""NEU-Seg (Dong et al., IEEE TII 2020): hot-rolled steel, photographs of 200 x 200 and masks of class ids.

    root/images/{training,test}/000001.jpg         root/annotations/{training,test}/000001.png
    root/{train_images,test_images}/000001.jpg     root/{training_annot,test_annot}/000001.png      (as simEps names them)
"""
from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from dataloaders.description import Case, DataSet, Part, Parts, Source
from dataloaders.layouts.images import ImageSource, pictures
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD, PER_IMAGE, simeps
from dataloaders.splits.draws import by_group, last_first, permuted

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


def official_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """simEps: 15 % of the training folder (random_state 69) is validation; copies of a piece stand in several parts."""
    train, val = permuted(source.cases("train"), 0.15, 69)
    return Parts("official", last_first(train, 45), val, source.cases("test") if with_test else None, grouped=False, remarks=(
        "Official split: 570 of the 840 published test images have rotated copies in training; --protocol clean tests on the others.",))


def clean_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """Tested on the images of which the training folder has no copy (270 of 840); validation is 15 % of the training folder, by group."""
    train = source.cases("train")
    seen = {case.group for case in train}
    val, rest = by_group(train, 0.15, split_seed)
    test = [case for case in source.cases("test") if case.group not in seen] if with_test else None
    return Parts("clean", rest, val, test, (
        "Clean split: tested on the images of which the numbering knows no copy in training (270 of the 840 published ones); "
        "--protocol official is the published split, where 570 test images have copies in training.",))


class NeuSource(ImageSource):
    """Reader of both folder conventions. Ids repeat across the folders, so a case is named `training/000201`."""

    protocols: ClassVar = {"clean": clean_parts, "official": official_parts}
    expected = "expected images/training and annotations/training, or train_images and training_annot"

    @classmethod
    def fits(cls, root: Path) -> bool:
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


DATA_SETS = (
    DataSet("NEU-Seg", NeuSource, ("background", "inclusion", "patches", "scratches"), channels=3, protocols=("clean", "official"),
            augmentation="simeps_neu", resizing="floor", intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, evaluation=PER_IMAGE,
            family="defect", defaults=simeps(steps_per_epoch=59, max_iterations=47141, base_lr=1e-3, labeled_num="10%")),
)
