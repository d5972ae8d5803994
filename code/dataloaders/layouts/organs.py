"""Synapse (BTCV) and AMOS 2022: organs of the abdomen, as DHC (Wang and Li, MICCAI 2023) prepared them.

    root/data/<case>.h5                                      image and label (X, Y, Z), as `prepare.py synapse` and `amos` write them
    root/img/img0001.nii.gz  label/label0001.nii.gz          or Synapse as it is downloaded, also below RawData/Training/
    root/imagesTr/amos_0001.nii.gz  labelsTr/  imagesVa/ ...      or AMOS as it is downloaded, also below amos22/
    root/train.txt  val.txt  test.txt

A downloaded volume is prepared when it is read: resized to 160 x 160 x 80 voxels, linearly, its label by the nearest voxel; then values are
clipped to -75 and 275 and mapped to 0..1 by the least and the greatest that are left.
"""
from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataloaders.description import PARTS, Case, DataSet, Item, Part, Parts, Source
from dataloaders.geometry import spacing_of
from dataloaders.intensities import windowed
from dataloaders.layouts.common import checked_label, checked_shapes, inside
from dataloaders.layouts.listed import H5_ENDINGS
from dataloaders.layouts.nifti import checked_place, is_nifti, read_header, read_volume
from dataloaders.layouts.volumes import VolumeSource
from dataloaders.settings import BY_WINDOW, VOLUMES

WINDOW = (-75.0, 275.0)
"""Hounsfield units."""
SIZE = (160, 160, 80)
"""Voxels of every prepared volume along x, y and z: 1.25 times the published patch."""


class OrganSource(VolumeSource):
    """Reader of h5 volumes, or of a download where there are none."""

    folders = ("data", ".")
    pattern = "*.h5"
    suffix = "txt"
    new_endings = H5_ENDINGS
    called: ClassVar[str]
    """What a case is called, a regular expression."""
    downloads: ClassVar[tuple[tuple[str, str], ...]]
    """(image, label) of the case `*` in a download."""
    places: ClassVar[tuple[str, ...]]
    """Where a download may begin in the data set's folder."""

    @classmethod
    def pairs(cls, root: Path) -> dict[str, tuple[Path, Path]]:
        """(image, label) of each case of a download, whether the label is there or not."""
        found: dict[str, tuple[Path, Path]] = {}
        for place in cls.places:
            for image, label in cls.downloads:
                for ending in (".nii.gz", ".nii"):
                    start = image.split("*")[0]
                    for file in sorted((root / place).glob(image + ending)):
                        case = file.relative_to(root / place).as_posix()[len(start) : -len(ending)]
                        found.setdefault(case, (file, root / place / (label.replace("*", case) + ending)))
        return {case: pair for case, pair in found.items() if re.fullmatch(cls.called, case)}

    @classmethod
    def files(cls, root: Path) -> dict[str, Path]:
        volumes = {case: file for case, file in super().files(root).items() if re.fullmatch(cls.called, case)}
        return {case: image for case, (image, _) in cls.pairs(root).items()} | volumes

    @classmethod
    def case(cls, root: Path, name: str, file: Path, part: Part = "train") -> Case:
        if not is_nifti(file):
            return super().case(root, name, file, part)
        label = cls.pairs(root)[name][1]
        return Case(name, file, label if label.exists() else None, name, "", part)

    def image(self, of: Case | Item) -> np.ndarray:
        if not is_nifti(of.image):
            return super().image(of)
        return prepared_image(inside(self.root, of.image))[0][None]

    def label(self, of: Case | Item) -> np.ndarray | None:
        if of.label is None or not is_nifti(of.label):
            return super().label(of)
        return prepared_label(inside(self.root, of.image), inside(self.root, of.label), self.data.classes)

    def affine(self, case: Case) -> np.ndarray | None:
        if not is_nifti(case.image):
            return super().affine(case)
        header = read_header(inside(self.root, case.image))
        return moved(header.affine, header.shape)

    def spacing(self, case: Case) -> tuple[float, ...] | None:
        affine = self.affine(case) if is_nifti(case.image) else None
        return super().spacing(case) if affine is None else tuple(float(step) for step in spacing_of(affine))


def resized(values: np.ndarray, order: int) -> np.ndarray:
    """(X, Y, Z) at `SIZE`, voxels taken as boxes: linearly (1) or by the nearest (0)."""
    from scipy import ndimage  # here alone: no command needs it before it reads such a file

    return ndimage.zoom(values, [new / old for new, old in zip(SIZE, values.shape)], order=order, mode="nearest", grid_mode=True)


def moved(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The affine of a volume of this shape after it was resized: corners stay where they are."""
    steps = np.array(shape) / SIZE
    change = np.diag([*steps, 1.0])
    change[:3, 3] = (steps - 1) / 2
    return affine @ change


def prepared_image(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(float32 (X, Y, Z) in 0..1, its affine) of a downloaded image."""
    values, affine = read_volume(file)
    return windowed(resized(values.astype(np.float32), 1), *WINDOW, file), moved(affine, values.shape)


def prepared_label(image: Path, label: Path, classes: tuple[str, ...]) -> np.ndarray:
    """uint8 (X, Y, Z) class ids of a downloaded label, which must lie where its image lies."""
    header = read_header(image)
    values, affine = read_volume(label)
    checked_shapes(header.shape, values.shape, image, label)
    checked_place(header, affine, image, label)
    return resized(checked_label(values, label, classes, None), 0)


def parts_of_lists(source: Source, split_seed: int, with_test: bool, folder: str, counts: tuple[int, ...]) -> Parts:
    """The parts that the lists of a folder name, and its published lists of so many labelled cases."""
    assert isinstance(source, OrganSource)
    at, name = (f"{folder}/", folder) if folder else ("", "official")
    budgets = {count: [entry.name for entry in source.entries(f"{at}labeled_{count}.txt")] for count in counts}
    train, val = (source.listed(part, f"{at}{part}.txt") for part in PARTS[:2])
    return Parts(name, train, val, source.listed("test", f"{at}test.txt") if with_test else None, budgets=budgets)


class SynapseSource(OrganSource):
    """Reader of Synapse (Landman et al., the MICCAI 2015 challenge "Beyond the Cranial Vault"), 30 volumes."""

    called = "[0-9]{4}"
    downloads = (("img/img*", "label/label*"),)
    places = ("", "RawData/Training", "Training", "Abdomen/RawData/Training")
    protocols: ClassVar = {
        "official": partial(parts_of_lists, folder="", counts=(2, 4, 8)),
        "generic": partial(parts_of_lists, folder="generic", counts=(4,)),
    }


class AmosSource(OrganSource):
    """Reader of AMOS 2022 (Ji et al., NeurIPS 2022), the 360 volumes with a reference."""

    called = "amos_[0-9]{4}"
    downloads = (("imagesTr/*", "labelsTr/*"), ("imagesVa/*", "labelsVa/*"))
    places = ("", "amos22")
    protocols: ClassVar = {"official": partial(parts_of_lists, folder="", counts=(4, 10, 21))}


SYNAPSE = ("background", "spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta",
           "inferior vena cava", "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland")
AMOS = ("background", "spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta", "postcava",
        "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate or uterus")
ORGANS = VOLUMES | {"model": "vnet_32", "patch_size": (128, 128, 64), "stride": (64, 64, 32), "schedule": "poly"}
RESIZED = "the published preparation resizes every volume to 160x160x80 voxels, whatever its extent; distances are in those voxels."
DATA_SETS = (
    DataSet("Synapse", SynapseSource, SYNAPSE, dimensions=3, protocols=("official", "generic"), evaluation=BY_WINDOW,
            augmentation="mirrors", defaults=ORGANS | {"labeled_num": "20%", "max_iterations": 2400, "val_every": 80},
            note=f"Synapse: {RESIZED}"),
    DataSet("AMOS", AmosSource, AMOS, dimensions=3, evaluation=BY_WINDOW, augmentation="mirrors",
            defaults=ORGANS | {"labeled_num": "5%", "max_iterations": 30900, "val_every": 1030}, note=f"AMOS: {RESIZED}"),
)
