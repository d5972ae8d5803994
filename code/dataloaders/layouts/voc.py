"""Pascal VOC 2012 (Everingham et al., IJCV 2015) with the further masks of SBD (Hariharan et al., ICCV 2011): photographs of things.

    root/JPEGImages/2007_000032.jpg              also below root/VOC2012 or root/VOCdevkit/VOC2012, as the archive unpacks
    root/SegmentationClass/2007_000032.png       class ids as palette or plain PNG, 255 along the borders
    root/SegmentationClassAug/2007_000032.png    optional: SBD's masks too (`prepare.py voc`); peers put all into SegmentationClass
    root/ImageSets/Segmentation/*.txt            not needed for the published protocols, whose lists are in the repository
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from dataloaders.description import Case, DataSet, Part, Parts, PartsOf, Source
from dataloaders.errors import UserError
from dataloaders.layouts.common import read_list
from dataloaders.layouts.images import ImageSource, pictures
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD, WHOLE, unimatch
from dataloaders.splits.draws import by_group
from dataloaders.splits.published_lists import budgets, published

CLASSES = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
           "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv/monitor")
PLACES = (".", "VOC2012", "VOCdevkit/VOC2012")
MASKS = ("SegmentationClass", "SegmentationClassAug")
"""Folders of masks; where an image has both, the first is meant (the fine annotation)."""
NAME = "VOC2012"


def published_parts(protocol: str) -> PartsOf:
    """The parts of a protocol: 10,582 training images, and the 1449 official validation images, on which papers choose and test."""

    def parts(source: Source, split_seed: int, with_test: bool) -> Parts:
        val = source.cases("val")
        return Parts(protocol, source.cases("train"), val, val if with_test else None, val_is_test=True, budgets=budgets(NAME, protocol),
                     remarks=(f"VOC2012, protocol {protocol}: {SAID[protocol]} The best step is chosen on the 1449 validation images that "
                              "are tested, as published.",))

    return parts


SAID = {
    "classic": "labelled images are those of PseudoSeg's lists, of the 1464 with fine masks.",
    "blended": "labelled images are every 16th, 8th or 4th of all 10,582, mostly with SBD's coarser masks.",
    "u2pl": "labelled images are U2PL's, of the 1464 with fine masks first.",
}


def standin_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """Two lists beside the data, standin_train.txt and standin_val.txt: 15 % of the first are validation, the second is test."""
    assert isinstance(source, VocSource)
    val, train = by_group(source.listed("standin_train", "train"), 0.15, split_seed)
    return Parts("standin", train, val, source.listed("standin_val", "test") if with_test else None, remarks=(
        "VOC2012, protocol standin: a small part of it, both sides cut from the validation part; never beside published figures.",))


class VocSource(ImageSource):
    """Reader of the official layout and of the peers'. Which images are for training is known by name, so no list need lie there."""

    protocols: ClassVar = {**{name: published_parts(name) for name in SAID}, "standin": standin_parts}
    expected = f"expected the folders JPEGImages and {MASKS[0]} in it, in {PLACES[1]} or in {PLACES[2]}"

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        self._files: dict[str, dict[str, Path]] = {}

    def located(self, root: Path) -> Path:
        return next((root / place for place in PLACES if holds(root / place)), None) or super().located(root)

    @classmethod
    def fits(cls, root: Path) -> bool:
        return any(holds(root / place) for place in PLACES)

    def cases(self, part: Part) -> list[Case]:
        if part == "test":
            return []
        names = published(self.data.name, "train_aug" if part == "train" else "val")
        what = "training" if part == "train" else "validation"
        return self._cases(names, part, f"of the {len(names)} images of the published {what} part")

    def listed(self, name: str, part: Part) -> list[Case]:
        """Cases of a list beside the data, ImageSets/Segmentation/<name>.txt."""
        entries = read_list(self.root / "ImageSets/Segmentation" / f"{name}.txt")
        return self._cases([entry.name for entry in entries], part, f"of the {len(entries)} images of {entries[0].file}")

    def _cases(self, names: tuple[str, ...] | list[str], part: Part, of: str) -> list[Case]:
        images = self._found("JPEGImages")
        missing = [name for name in names if name not in images]
        if missing:
            standin = self.root / "ImageSets/Segmentation/standin_train.txt"
            hint = " The lists of a smaller stand-in are there: --protocol standin." if standin.exists() else ""
            raise UserError(f"{self.root / 'JPEGImages'}: {len(missing)} {of} are missing, for example {missing[0]}.jpg. Unpack the whole "
                            f"VOCtrainval_11-May-2012.tar there.{hint}")
        masks = {**self._found(MASKS[1]), **self._found(MASKS[0])}
        return [Case(name, images[name], masks.get(name), name, "", part) for name in names]

    def _found(self, folder: str) -> dict[str, Path]:
        if folder not in self._files:
            self._files[folder] = pictures(self.root / folder) if (self.root / folder).is_dir() else {}
        return self._files[folder]


def holds(root: Path) -> bool:
    """Whether the folders of VOC lie here."""
    return (root / "JPEGImages").is_dir() and any((root / masks).is_dir() for masks in MASKS)


DATA_SETS = (
    DataSet(NAME, VocSource, CLASSES, channels=3, protocols=(*SAID, "standin"), augmentation="scale_crop", resizing="floor",
            intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, ignored=255, evaluation=WHOLE, family="natural",
            defaults=unimatch(base_lr=1e-3, head_rate=10.0, labeled_num="92", patch_size=(321, 321), max_iterations=104880, val_every=1311),
            protocol_defaults={
                "blended": {"labeled_num": "662", "max_iterations": 99200, "val_every": 1240},
                "u2pl": {"labeled_num": "662", "patch_size": (513, 513), "max_iterations": 99200, "val_every": 1240},
                "standin": {"model": "deeplabv3plus_resnet18", "labeled_num": "30", "patch_size": (129, 129), "batch_size": 8,
                            "labeled_bs": 4, "max_iterations": 2000, "val_every": 200, "base_lr": 0.01, "head_rate": 1.0}}),
)
