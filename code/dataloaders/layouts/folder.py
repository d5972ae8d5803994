"""One's own images: two folders, and no code.

    root/images/NAME.jpg     any usual picture format
    root/masks/NAME.png      class ids, or 0/255; an image without a mask is unlabelled
    root/classes.txt         optional: the names of the classes, one a line, background first
    root/val/, root/test/    optional: the same two folders for validation and test
    root/train.txt, root/val.txt, root/test.txt, root/unlabeled.txt      optional, in place of these: names of images (`own.Lists`)
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Evaluation, Item, Part
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import GREY_MODES, PICTURES, open_picture, read_list, read_mask
from dataloaders.layouts.images import ImageSource, pictures
from dataloaders.layouts.own import Lists, own_parts
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD, SSL4MIS

PIXELS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {1: ((0.449,), (0.226,)), 3: (IMAGENET_MEAN, IMAGENET_STD)}
"""Mean and deviation by number of channels: those of ImageNet, and their average for grey."""


def values_of(mask: Path, read: Callable[[Path], np.ndarray]) -> tuple[set[int], UserError | None]:
    """The values of a mask, and what is wrong with it if it cannot be read."""
    try:
        values = read(mask)
        if values.dtype.kind not in "buif" or (values.dtype.kind == "f" and not (values == np.floor(values)).all()):
            raise UserError(f"{mask}: the mask holds {values.dtype}; expected whole numbers.")
        low, high = int(values.min()), int(values.max())
        if high - low < 2**16:
            # Counting is far faster than sorting, which matters for volumes.
            counts = np.bincount((values.ravel() - values.dtype.type(low)).astype(np.uint16), minlength=1)
            return {int(v) + low for v in np.flatnonzero(counts)}, None
        return {int(v) for v in np.unique(values)}, None
    except UserError as error:
        return set(), error


def class_names(root: Path) -> list[str]:
    """Those of classes.txt, none where there is no such file."""
    file = root / "classes.txt"
    return [entry.name for entry in read_list(file)] if file.exists() else []


class FolderSource(ImageSource):
    """Reader of one's own images. Class count and channels come from the files of training and validation, never from `test/`."""

    protocols: ClassVar = {"official": own_parts}
    expected = "expected the folders images and masks"
    found_in = staticmethod(pictures)
    """Lists the files of a folder by name without ending."""
    kind = "pictures"

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        self._listed: dict[Part, list[Case]] = {}
        self.images, self.masks = self.found_in(self.root / "images"), self.found_in(self.root / "masks")
        self.lists = Lists(self.root, self.images, self.name_of)
        if "train" in self.lists.files and self.lists.left:
            self.remarks.append(f"{self.root}: {len(self.lists.left)} of {len(self.images)} images stand in no list (for example "
                                f"{self.lists.left[0]}) and are left out; names in unlabeled.txt are trained on without their masks.")
        learned = self.cases("train") + self.cases("val")
        masks = [case.label for case in learned if case.label is not None]
        if not masks:
            mask = next(iter(self.masks), None)
            found = f"the first mask is {mask}" if mask else f"there are no {self.kind} in it"
            raise UserError(f"{self.root / 'masks'}: no image has a mask of its name ({found}, the first image is {learned[0].name}).")
        names = list(data.classes) or class_names(self.root)
        values = self._values(masks)
        self.binary = 255 in values and values <= {0, 255} and len(names) in (0, 2)
        self.data = self._described(names, values, [case.image for case in learned])

    @property
    def cache_key(self) -> str:
        return f"binary {self.binary}, {self.data.num_classes} classes, {self.data.channels} channels"

    @classmethod
    def described(cls, data: DataSet, root: Path, options: Mapping[str, Any], classes: int, channels: int) -> DataSet:
        names = list(data.classes) or class_names(root)
        if len(names) != classes:
            names = ["background", *(f"class {k}" for k in range(1, classes))]
        mean, std = (data.mean, data.std) if data.mean else cls.scale_of(channels)
        return replace(data, classes=tuple(names), channels=channels, mean=mean, std=std)

    @staticmethod
    def name_of(file: str) -> str | None:
        """A file's name without its ending, as `found_in` has it; None for one that is no image."""
        return str(PurePosixPath(file).with_suffix("")) if file.lower().endswith(PICTURES) else None

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "images").is_dir() and (root / "masks").is_dir()

    def cases(self, part: Part) -> list[Case]:
        if part not in self._listed:
            self._listed[part] = self._cases_of(part)
        return self._listed[part]

    def _cases_of(self, part: Part) -> list[Case]:
        folder = part != "train" and part not in self.lists.files
        base = self.root / part if folder else self.root
        if folder and not base.is_dir():
            return []
        images, masks = (self.images, self.masks) if not folder else (self.found_in(base / "images"), self.found_in(base / "masks"))
        if not images:
            raise UserError(f"{base / 'images'}: no {self.kind} in it.")
        names = list(images) if folder else self.lists.training if part == "train" else self.lists.names[part]
        unlabeled, prefix = set(self.lists.names.get("unlabeled", ())), f"{part}/" if folder else ""
        cases = [Case(prefix + name, images[name], None if name in unlabeled else masks.get(name), prefix + name, "", part)
                 for name in names]
        without = [case.image for case in cases if case.label is None]
        if part != "train" and without:
            named = f"images of {part}/" if folder else f"images in {self.lists.files[part].name}"
            unlabelled = "unlabeled.txt" if self.lists.files else f"{self.root / 'images'}"
            raise UserError(f"{without[0]}: no mask of its name in {base / 'masks'} ({len(without)} such images); "
                            f"{named} need one. Unlabelled images belong in {unlabelled}.")
        alone = [name for name in masks if name not in images] if folder or part == "train" else []
        if alone:
            self.remarks.append(f"{base / 'masks'}: {len(alone)} masks have no image of their name, for example {alone[0]}; not used.")
        return cases

    def has_part(self, part: Part) -> bool:
        return part in self.lists.files or (part != "train" and (self.root / part).is_dir())

    def to_ids(self, mask: np.ndarray, of: Case | Item) -> np.ndarray:
        """Class ids; 255 is class 1 where all masks have 0 and 255 only, else it stays (ignored)."""
        return np.where(mask == 255, 1, mask) if self.binary else mask

    def values_in(self, mask: Path) -> tuple[set[int], UserError | None]:
        """The values of a mask, or what is wrong with it."""
        return values_of(mask, read_mask)

    def channels_of(self, images: Iterable[Path]) -> int:
        """Channels in which the images are read."""
        return 3 if any(self._coloured(image) for image in images) else 1

    @staticmethod
    def scale_of(channels: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Mean and deviation by which the images are scaled."""
        return PIXELS[channels]

    def _values(self, masks: list[Path]) -> set[int]:
        values, problems = set[int](), Problems()
        with ThreadPoolExecutor(4) as pool:
            for found, error in pool.map(self.values_in, masks):
                values |= found
                if error is not None:
                    problems.add(error)
        problems.raise_any(f"{self.root / 'masks'}")
        return values

    def _described(self, names: list[str], values: set[int], images: Iterable[Path]) -> DataSet:
        ids = sorted(values - {255}) if not self.binary else [0, 1]
        if not names:
            missing = sorted(set(range(max(ids, default=0) + 1)) - set(ids))
            if ids and (missing or ids[0] < 0):
                shown = ", ".join(map(str, sorted(values)[:8])) + (", ..." if len(values) > 8 else "")
                raise UserError(f"{self.root / 'masks'}: the masks hold the values {shown}; expected 0, 1, 2, ... without gaps "
                                "(255: ignored), or 0 and 255. Renumber them, or name all classes in classes.txt, one a line.")
            if values <= {0}:
                raise UserError(f"{self.root / 'masks'}: every mask is 0 everywhere, so there is nothing to learn.")
            names = ["background", *(f"class {k}" for k in range(1, len(ids)))]
        if len(names) < 2:
            raise UserError(f"{self.root}: {len(names)} class; expected the background and at least one more.")
        channels = len(self.data.mean) if self.data.mean else self.channels_of(images)
        mean, std = (self.data.mean, self.data.std) if self.data.mean else self.scale_of(channels)
        ignored = 255 if 255 in values and not self.binary else None
        return replace(self.data, classes=tuple(names), channels=channels, mean=mean, std=std, ignored=ignored)

    @staticmethod
    def _coloured(image: Path) -> bool:
        with open_picture(image) as picture:
            return picture.mode not in GREY_MODES


DATA_SETS = (
    DataSet("folder", FolderSource, intensities="8-bit", evaluation=Evaluation(detection=True), own=True,
            defaults=SSL4MIS | {"labeled_num": "all"},
            note="Own images: nobody has published values for them; the defaults are those of ACDC."),
)
