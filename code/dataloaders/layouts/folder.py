"""One's own images: two folders, and no code.

    root/images/NAME.jpg     any usual picture format
    root/masks/NAME.png      class ids, or 0/255; an image without a mask is unlabelled
    root/classes.txt         optional: the names of the classes, one a line, background first
    root/val/, root/test/    optional: the same two folders for validation and test
    root/train.txt, root/val.txt, root/test.txt, root/unlabeled.txt      optional, in place of these: names of images (`own.Lists`)
    root/groups.csv          optional: image,group: what belongs to one patient or piece (`own.groups_of`)

Intensities: pictures of 8 bits are read as they are; those of 16 bits or floats on one scale for the data set (`FolderSource.white`).
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Evaluation, Item, Part
from dataloaders.errors import Problems, UserError
from dataloaders.intensities import APART
from dataloaders.layouts.common import (
    Look,
    look_at,
    lowest_and_greatest,
    mask_facts,
    open_picture,
    read_list,
    read_picture,
    reading,
    stored_values,
    white_of,
)
from dataloaders.layouts.images import ImageSource, picture_stem, pictures_in
from dataloaders.layouts.own import Lists, groups_of, not_read, own_parts, subfolders
from dataloaders.listing import composed, place_of, to_do
from dataloaders.masks import Facts, meaning, misplaced_background, same_palettes
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD, SSL4MIS

PIXELS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {1: ((0.449,), (0.226,)), 3: (IMAGENET_MEAN, IMAGENET_STD)}
"""Mean and deviation by number of channels: those of ImageNet, and their average for grey."""


def facts_of(mask: Path, read: Callable[[Path], Facts]) -> tuple[Facts | None, UserError | None]:
    """What a mask holds, or what is wrong with it if it cannot be read."""
    try:
        return read(mask), None
    except UserError as error:
        return None, error


def class_names(root: Path) -> list[str]:
    """Those of classes.txt, none where there is no such file."""
    file = place_of(root, "classes.txt")
    names = [composed(entry.name) for entry in read_list(file)] if file.exists() else []
    if later := misplaced_background(names):
        raise UserError(f"{file}: {names[later]} is line {later + 1} of the names, but background is what has the value 0, and 0 is "
                        f"{names[0]} there. Write background first, and the other names in the order of their values.")
    return names


class FolderSource(ImageSource):
    """Reader of one's own images. Class count and channels come from the files of training and validation, never from `test/`."""

    protocols: ClassVar = {"official": own_parts}
    expected = "expected the folders images and masks"
    found_in = staticmethod(pictures_in)
    """Lists the files of a folder by name without ending."""
    kind = "pictures"
    looked_at = True
    """Whether the heads of the images are looked at before any is read."""

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        self._listed: dict[Part, list[Case]] = {}
        self.images, self.masks = self._found("images"), self._found("masks")
        self.lists = Lists(self.root, self.images, self.name_of)
        if "train" in self.lists.files and self.lists.left:
            self.remarks.append(f"{self.root}: {len(self.lists.left)} of {len(self.images)} images stand in no list (for example "
                                f"{self.lists.left[0]}) and are left out; names in unlabeled.txt are trained on without their masks.")
        self.remarks += not_read(self.root)
        self.groups, said = groups_of(self.root, self.images, [name for name in self.images if name in self.masks], self.name_of,
                                      bool(self.lists.files))
        self.remarks += said
        self._checked_lists()
        learned = self.cases("train") + self.cases("val")
        masks = [case.label for case in learned if case.label is not None]
        if not masks:
            mask = next(iter(self.masks), None)
            found = f"the first mask is {mask}" if mask else f"there are no {self.kind} in it"
            raise UserError(f"{self.root / 'masks'}: no image has a mask of its name ({found}, the first image is {learned[0].name}).")
        names = list(data.classes) or class_names(self.root)
        self.facts = self._facts(masks)
        self.meaning = meaning(self.facts, names, self.root / "masks")
        self.binary = self.meaning.binary
        self.remarks += self.meaning.remarks
        looks = self._looks([case.image for case in learned])
        self.data = self._described(names, looks)
        self._remark_turned_masks(learned, looks)

    @property
    def cache_key(self) -> str:
        white = f", white {self.data.white:g}" if self.data.white else ""
        return f"binary {self.binary}, {self.data.num_classes} classes, {self.data.channels} channels{white}"

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
        path = PurePosixPath(file)
        stem = picture_stem(path.name)
        return None if stem is None else composed(str(path.with_name(stem)))

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "images").is_dir() and (root / "masks").is_dir()

    def cases(self, part: Part) -> list[Case]:
        if part not in self._listed:
            self._listed[part] = self._cases_of(part)
        return self._listed[part]

    def _cases_of(self, part: Part) -> list[Case]:
        folder = part != "train" and part not in self.lists.files
        base = place_of(self.root, part) if folder else self.root
        if folder and not base.is_dir():
            return []
        images, masks = (self.images, self.masks) if not folder else (self._found(f"{base.name}/images"),
                                                                                             self._found(f"{base.name}/masks"))
        if not images:
            raise UserError(f"{base / 'images'}: no {self.kind} in it.{self._instead(base / 'images')}")
        names = list(images) if folder else self.lists.training if part == "train" else self.lists.names[part]
        unlabeled, prefix = set(self.lists.names.get("unlabeled", ())), f"{part}/" if folder else ""
        groups = {} if folder else self.groups
        cases = [Case(prefix + name, images[name], None if name in unlabeled else masks.get(name), groups.get(name, prefix + name), "",
                      part) for name in names]
        without = [case.image for case in cases if case.label is None]
        if part != "train" and without:
            named = f"images of {part}/" if folder else f"images in {self.lists.files[part].name}"
            unlabelled = "unlabeled.txt" if self.lists.files else f"{self.root / 'images'}"
            raise UserError(f"{without[0]}: no mask of its name in {base / 'masks'} ({len(without)} such images); "
                            f"{named} need one. Unlabelled images belong in {unlabelled}.")
        alone = [name for name in masks if name not in images] if folder or part == "train" else []
        if alone:
            self.remarks.append(f"{base / 'masks'}: {len(alone)} masks have no image of their name, for example {alone[0]}; not used.")
        if folder:
            self._remark_shared(part, names)
        if part == "test":
            self._checked_test(cases)
        return cases

    def _checked_test(self, cases: list[Case]) -> None:
        """Raises `UserError` where the masks of the test part are written otherwise than those that were learned from, or its images have
        another scale."""
        if self.looked_at:
            self._checked_scale([case.image for case in cases])
        asked = self.data.ignored is not None and not self.binary
        if not self.looked_at and not asked:  # no palettes in volumes, and reading them takes long
            return
        masks = [case.label for case in cases if case.label is not None]
        found = self._facts(masks)
        same_palettes([*self.facts, *found], self.root)
        union = frozenset[int]().union(*(mask.values for mask in found))
        if asked and 255 in union and not union - {0, 255}:
            raise UserError(f"{masks[0].parent}: the test masks hold 0 and 255 alone, and beside {', '.join(self.data.classes[1:])} 255 "
                            "means ignored, so nothing could be scored. Write them as the masks of training are.")

    def _remark_shared(self, part: Part, names: list[str]) -> None:
        """A sentence on subfolders (patients, pieces) that a folder of a part and the images of training have in common."""
        both = sorted(set(subfolders(names).values()) & set(subfolders(self.images).values()))
        if both:
            self.remarks.append(f"{self.root / part}: {len(both)} of its subfolders are called as some of {self.root / 'images'} are "
                                f"({both[0]}, ...). If they are patients or pieces, these stand on two sides, and scores are too high.")

    def _checked_scale(self, images: list[Path]) -> None:
        """Raises `UserError` where images of the test part have 16 bits or floats, and those that were learned from eight bits."""
        looks = self._looks(images) if self.data.white is None else {}
        deep = [image for image, look in looks.items() if look.deep]
        if deep and self._white(looks) != 255:
            raise UserError(f"{deep[0]}: {len(deep)} of {len(images)} test images have 16 bits or floats, those of training and validation "
                            "have 8 bits; one scale is expected in a data set. Save all of them alike.")

    def _checked_lists(self) -> None:
        """Raises `UserError` where lists put what groups.csv holds together into two parts; without a list of training that is what has a
        mask and stands in no list."""
        stands: dict[str, tuple[str, str]] = {}
        problems = Problems()
        parts = {"train": [name for name in self.lists.left if name in self.masks]} | self.lists.names if self.lists.files else {}
        for part, names in parts.items():
            for name in names if part != "unlabeled" else ():
                other, first = stands.setdefault(self.groups.get(name, name), (part, name))
                if other != part:
                    where = self.lists.files[other].name if other in self.lists.files else "no list and so is trained on"
                    problems.add(f"{self.lists.files[part]}: {name} belongs to {self.groups[name]}, as {first} does, which stands in "
                                 f"{where}; a group belongs to one part. Mend the lists or groups.csv.")
        problems.raise_any(str(self.root))

    def has_part(self, part: Part) -> bool:
        return part in self.lists.files or (part != "train" and place_of(self.root, part).is_dir())

    def to_ids(self, mask: np.ndarray, of: Case | Item) -> np.ndarray:
        """Class ids; 255 is class 1 where all masks have 0 and 255 only, else it stays (ignored)."""
        return np.where(mask == 255, 1, mask) if self.binary else mask

    def image(self, of: Case | Item) -> np.ndarray:
        return read_picture(of.image, self.data.channels, self.data.white)

    def facts_in(self, mask: Path) -> tuple[Facts | None, UserError | None]:
        """What a mask holds, or what is wrong with it."""
        return facts_of(mask, mask_facts)

    @staticmethod
    def scale_of(channels: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Mean and deviation by which the images are scaled."""
        return PIXELS[channels]

    def _found(self, folder: str) -> dict[str, Path]:
        """The files of a folder below the root by name; what else is there becomes a remark."""
        found = self.found_in(self.root / folder)
        self.remarks += found.remarks(self.kind) if found.files else []
        return found.files

    def _instead(self, folder: Path) -> str:
        """What a folder without images has, and what to do about it."""
        others = self.found_in(folder).others
        return f" Found: {self.found_in(folder).passed_over()}.{to_do(others)}" if others else ""

    def _facts(self, masks: list[Path]) -> list[Facts]:
        facts, problems = list[Facts](), Problems()
        with ThreadPoolExecutor(4) as pool:
            for found, error in pool.map(self.facts_in, masks):
                if found is not None:
                    facts.append(found)
                if error is not None:
                    problems.add(error)
        problems.raise_any(f"{self.root / 'masks'}")
        return facts

    def _looks(self, images: list[Path]) -> dict[Path, Look]:
        """The heads of the images, as far as they can be read; what is wrong with the others is told when they are."""
        def look(image: Path) -> Look | None:
            try:
                return look_at(image)
            except UserError:
                return None

        if not self.looked_at:
            return {}
        with ThreadPoolExecutor(4) as pool:
            return {image: found for image, found in zip(images, pool.map(look, images)) if found is not None}

    def _described(self, names: list[str], looks: dict[Path, Look]) -> DataSet:
        names = names or ["background", *(f"class {k}" for k in range(1, len(self.meaning.ids)))]
        if len(names) < 2:
            raise UserError(f"{self.root}: {len(names)} class; expected the background and at least one more.")
        channels = len(self.data.mean) if self.data.mean else 3 if any(not look.grey for look in looks.values()) else 1
        mean, std = (self.data.mean, self.data.std) if self.data.mean else self.scale_of(channels)
        white = self._white(looks)
        self._remark_looks(looks, channels, white)
        return replace(self.data, classes=tuple(names), channels=channels, mean=mean, std=std, ignored=self.meaning.ignored, white=white)

    def _white(self, looks: dict[Path, Look]) -> float | None:
        """The value that is read as 255 in all deep pictures: by the greatest in them (`white_of`); None where all have eight bits."""
        deep = [image for image, look in looks.items() if look.deep]
        with ThreadPoolExecutor(4) as pool:
            greatest = list(zip(deep, pool.map(greatest_in, deep)))
        found = [one for _, one in greatest if one is not None]
        if not found:
            return None
        tops = {floats: max(value for value, kind in found if kind == floats) for floats in {kind for _, kind in found}}
        scales = {white_of(greatest, floats, self.root / "images") for floats, greatest in tops.items()}
        if len(scales) > 1:
            raise UserError(f"{self.root / 'images'}: some images hold floats up to {tops[True]:g}, others whole numbers up to "
                            f"{tops[False]:g}; one scale is expected in a data set. Save all of them alike.")
        seen = sorted((one[0], image) for image, one in greatest if one is not None and one[0] > 0)
        if seen and seen[-1][0] > APART * seen[0][0]:
            (least, dark), (most, light) = seen[0], seen[-1]
            told = f"{light}: values up to {most:g}, but only up to {least:g} in {dark.name}"
            if least <= 1 < most and True in tops:
                raise UserError(f"{told}; one scale is expected in a data set. Save all of them alike.")
            self.remarks.append(f"{told}: two scales? 0 to {max(scales):g} is used for all.")
        return scales.pop()

    def _remark_looks(self, looks: dict[Path, Look], channels: int, white: float | None) -> None:
        """Sentences on what reading changes of the images."""
        def those(mark: Callable[[Look], bool]) -> list[Path]:
            return [image for image, look in looks.items() if mark(look)]

        of, place = f"of {len(looks)} images", self.root / "images"
        if deep := those(lambda look: look.deep):
            self.remarks.append(f"{place}: {len(deep)} {of} have 16 bits or floats; 0 to {white or 255:g}, the scale of all of them, is "
                                "read as 0 to 255 (8 bits).")
        if colour := those(lambda look: look.deep_colour):
            self.remarks.append(f"{place}: {len(colour)} {of} have 16 bits a colour ({colour[0].name}, ...), of which the upper 8 bits are "
                                "read. Where values use fewer than 16 bits, save the images as 8 bits.")
        if pages := those(lambda look: look.pages > 1):
            self.remarks.append(f"{place}: {len(pages)} {of} have several pages ({pages[0].name}, ...); the first is taken.")
        if turned := those(lambda look: look.turned):
            self.remarks.append(f"{place}: {len(turned)} {of} are turned as their EXIF says ({turned[0].name}, ...); a mask without such a "
                                "mark must have been drawn on the turned image.")


    def _remark_turned_masks(self, cases: list[Case], looks: dict[Path, Look]) -> None:
        """A sentence on masks that are turned where their images are not."""
        turned = {mask.file for mask in self.facts if mask.turned}
        alone = [case.label for case in cases if case.label in turned and case.image in looks and not looks[case.image].turned]
        if alone:
            self.remarks.append(f"{alone[0]}: turned as its EXIF says, and its image has no such mark ({len(alone)} such masks). Where a "
                                "mask was drawn on the image as it is, save it without EXIF.")


def greatest_in(image: Path) -> tuple[float, bool] | None:
    """The greatest value of a deep picture, and whether it holds floats; None where it cannot be read, which is told when it is."""
    try:
        with open_picture(image) as picture, reading(image, "picture"):
            values = stored_values(picture)
        return lowest_and_greatest(values, image)[1], values.dtype.kind == "f"
    except UserError:
        return None


DATA_SETS = (
    DataSet("folder", FolderSource, intensities="8-bit", evaluation=Evaluation(detection=True), own=True,
            defaults=SSL4MIS | {"labeled_num": "all"},
            note="Own images: nobody has published values for them; the defaults are those of ACDC."),
)
