"""MoNuSeg (Kumar et al., IEEE TMI 2017 and 2020): nuclei of several organs in H&E, 1000 x 1000, as `prepare.py monuseg` writes them.

    root/train.list, root/test.list               names of images
    root/images/TCGA-A7-A13E-01Z-00-DX1.png       photographs
    root/instances/TCGA-A7-A13E-01Z-00-DX1.png    16 bit, a number a nucleus
    root/patches/{images,instances}/TCGA-A7-A13E-01Z-00-DX1_0_248.png     of training images, by row and column of their corner
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from dataloaders.description import Case, DataSet, Item, Part, Parts, Source
from dataloaders.errors import UserError
from dataloaders.layouts.common import read_list
from dataloaders.layouts.instances import InstanceSource, one_by_one
from dataloaders.listing import natural
from dataloaders.settings import HISTOLOGY, IMAGENET_MEAN, IMAGENET_STD
from dataloaders.splits.draws import by_group

ORGANS = {
    "breast": "A7-A13E-01Z-00-DX1 A7-A13F-01Z-00-DX1 AR-A1AK-01Z-00-DX1 AR-A1AS-01Z-00-DX1 E2-A1B5-01Z-00-DX1 E2-A14V-01Z-00-DX1",
    "kidney": "B0-5711-01Z-00-DX1 HE-7128-01Z-00-DX1 HE-7129-01Z-00-DX1 HE-7130-01Z-00-DX1 B0-5710-01Z-00-DX1 B0-5698-01Z-00-DX1",
    "liver": "18-5592-01Z-00-DX1 38-6178-01Z-00-DX1 49-4488-01Z-00-DX1 50-5931-01Z-00-DX1 21-5784-01Z-00-DX1 21-5786-01Z-00-DX1",
    "prostate": "G9-6336-01Z-00-DX1 G9-6348-01Z-00-DX1 G9-6356-01Z-00-DX1 G9-6363-01Z-00-DX1 CH-5767-01Z-00-DX1 G9-6362-01Z-00-DX1",
    "bladder": "DK-A2I6-01A-01-TS1 G2-A2EK-01A-02-TSB",
    "colon": "AY-A8YK-01A-01-TS1 NH-A8F7-01A-01-TS1",
    "stomach": "KB-A93J-01A-01-TS1 RD-A8N9-01A-01-TS1",
}
"""The 30 training images of 2017 by organ, in the order of the paper's split: of the first four organs three images are for training, one
is validation and two are test; the other organs are test."""
ORGAN_OF = {f"TCGA-{name}": organ for organ, names in ORGANS.items() for name in names.split()}
TRAINED, VALIDATED = 3, 4


def official_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The challenge of 2018: its training images, of which a tenth are validation, by patient and organ, and its 14 test images."""
    val, train = by_group(source.cases("train"), 0.1, split_seed)
    return Parts("official", train, val, source.cases("test") if with_test else None)


def kumar_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The split of 2017 within the training images: 12 and 4 of four organs; tested on 8 of the same organs and 6 of others."""
    cases = {case.name: case for case in source.cases("train")}
    missing = [name for name in ORGAN_OF if name not in cases]
    if missing:
        raise UserError(f"{source.root}: {len(missing)} of the 30 images of --protocol kumar are not in train.list, for example "
                        f"{missing[0]}; prepare the whole training part, or use --protocol official.")
    parts: dict[str, list[Case]] = {"train": [], "val": [], "test": []}
    for names in ORGANS.values():
        images = [cases[f"TCGA-{name}"] for name in names.split()]
        first, second = (TRAINED, VALIDATED) if len(images) > VALIDATED else (0, 0)
        for part, some in (("train", images[:first]), ("val", images[first:second]), ("test", images[second:])):
            parts[part] += some
    return Parts("kumar", parts["train"], parts["val"], parts["test"] if with_test else None)


class MoNuSegSource(InstanceSource):
    """Reader of MoNuSeg. A group is a patient, by the name; a stratum is the organ, known of the images of 2017. Training images are cut
    into patches, validation and test images are whole."""

    protocols: ClassVar = {"official": official_parts, "kumar": kumar_parts}
    expected = "expected images, instances, patches and lists, as `python code/prepare.py monuseg --raw DOWNLOAD` writes them"

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        self._patches: dict[str, list[Path]] | None = None

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "instances").is_dir() and (root / "patches/instances").is_dir()

    def cases(self, part: Part) -> list[Case]:
        if part == "val" or (part == "test" and not (self.root / "test.list").exists()):
            return []
        cases = []
        for entry in read_list(self.root / f"{part}.list"):
            image, ids = (self.root / kind / f"{entry.name}.png" for kind in ("images", "instances"))
            for file in (image, ids):
                if not file.is_file():
                    raise UserError(f"{entry.where}: {file} is not there; run `python code/prepare.py monuseg --raw DOWNLOAD` again.")
            cases.append(Case(entry.name, image, ids, entry.name[:12], ORGAN_OF.get(entry.name, ""), part))
        return cases

    def items(self, cases: list[Case]) -> list[Item]:
        """The patches of the cases."""
        if self._patches is None:
            self._patches = {}
            for file in sorted((self.root / "patches/images").glob("*.png"), key=lambda file: natural(file.name)):
                self._patches.setdefault(file.stem.rsplit("_", 2)[0], []).append(file)
        items = []
        for case in cases:
            if case.name not in self._patches:
                raise UserError(f"{self.root / 'patches/images'}: no patch of {case.name}; run `python code/prepare.py monuseg` again.")
            items += [Item(file.stem, case, file, self.root / "patches/instances" / file.name) for file in self._patches[case.name]]
        return items


DATA_SETS = (
    DataSet("MoNuSeg", MoNuSegSource, ("background", "nucleus", "contour"), channels=3, protocols=("official", "kumar"),
            augmentation="histology", resizing="floor", intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, options=("target",),
            evaluation=one_by_one(least=20, grow=2), strata="organ, by the name",
            defaults=HISTOLOGY | {"labeled_num": "10%", "patch_size": (128, 128), "batch_size": 32, "labeled_bs": 16}),
)
