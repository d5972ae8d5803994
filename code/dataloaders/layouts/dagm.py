"""DAGM 2007: ten textures, grey pictures of 512 x 512, a weak (elliptic) mask where there is a defect.

    root/[DAGM_KaggleUpload/]Class1/[Class1/]{Train,Test}/0576.PNG
                                             Label/0576_label.PNG     defective images only
                                             Label/Labels.txt         id, flag, image, 0, mask or 0, by tabs
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Item, Part, Parts, Source
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import picture_size, what_lies_there
from dataloaders.layouts.images import ImageSource
from dataloaders.listing import entries, with_ending
from dataloaders.listing import listing as files_in
from dataloaders.settings import PER_IMAGE, simeps
from dataloaders.splits.draws import by_group, in_order, stratified_order

NUMBERS = tuple(range(1, 11))
IMAGES = dict.fromkeys(range(1, 7), 575) | dict.fromkeys(range(7, 11), 1150)
"""Published number of images a class, in Train and in Test alike."""


def class_folder(root: Path, number: int) -> Path | None:
    """The folder with Train and Test of a class, wherever an unpacked archive has put it; None where there is none."""
    for base in (root, root / "DAGM_KaggleUpload"):
        for folder in (base / f"Class{number}", base / f"Class{number}" / f"Class{number}"):
            if (folder / "Train").is_dir() or (folder / "Test").is_dir():
                return folder
    return None


def read_flags(file: Path) -> dict[str, bool]:
    """Image stem -> whether Labels.txt calls it defective; lines of fewer than three fields are heads and are passed over."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{file}: {what_lies_there(file)}") from None
    flags = {}
    for number, line in enumerate(lines, start=1):
        fields = line.strip().split("\t")
        if len(fields) < 3:
            continue
        if fields[1].strip() not in ("0", "1"):
            raise UserError(f"{file}, line {number}: flag {fields[1]!r}; expected 0 (no defect) or 1 (defect).")
        flags[Path(fields[2].strip()).stem] = fields[1].strip() == "1"
    return flags


def official_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The Train and Test folders; 15 % of Train, stratified by class, is validation (seeds as simEps's, whose lists are not known)."""
    train = source.cases("train")
    val, rest = by_group(train, 0.15, 69)
    return Parts("official", in_order(rest, stratified_order(rest, 45)), val, source.cases("test") if with_test else None)


def with_classes(data: DataSet, numbers: Sequence[int]) -> DataSet:
    """The description with the classes of these numbers alone."""
    return replace(data, classes=("background", *(f"class {k}" for k in numbers)))


class DagmSource(ImageSource):
    """Reader of DAGM. Ids are the places in `dagm_classes` plus one: the class numbers if all ten are used."""

    expected = "expected Class1 to Class10, each with Train and Test"

    protocols: ClassVar = {"official": official_parts}

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        given = options or {}
        numbers = tuple(given.get("dagm_classes") or NUMBERS)
        if any(number not in NUMBERS for number in numbers) or len(set(numbers)) < len(numbers):
            raise UserError(f"--dagm_classes {' '.join(map(str, numbers))}: write different numbers from 1 to 10.")
        self.numbers = tuple(sorted(numbers))
        super().__init__(with_classes(data, self.numbers), root, options)
        self.include_free = bool(given.get("include_free"))

    @property
    def cache_key(self) -> str:
        return f"classes {self.numbers}"

    @classmethod
    def described(cls, data: DataSet, root: Path, options: Mapping[str, Any], classes: int, channels: int) -> DataSet:
        return with_classes(data, sorted(options["dagm_classes"]))

    @classmethod
    def fits(cls, root: Path) -> bool:
        return any(class_folder(root, number) is not None for number in NUMBERS)

    def cases(self, part: Part) -> list[Case]:
        """Train or Test of every class; existence of the mask decides what is defective, and Labels.txt must agree."""
        if part == "val":
            return []
        cases, problems = [], Problems()
        for number in self.numbers:
            folder = class_folder(self.root, number)
            split = part.capitalize()
            if folder is None or not (folder / split).is_dir():
                problems.add(f"{self.root}: no folder Class{number}/{split}; "
                             f"without it, choose among the others (--dagm_classes {' '.join(map(str, self._present()))}).")
                continue
            try:
                found = self._class_cases(folder / split, number, part)
            except UserError as error:
                problems.add(error)
                continue
            if found[0] != IMAGES[number]:
                self._remark(f"{folder / split}: {found[0]} images; the published data set has {IMAGES[number]}.")
            cases += found[1]
        problems.raise_any(f"{self.root}")
        return cases

    def _class_cases(self, folder: Path, number: int, part: Part) -> tuple[int, list[Case]]:
        images = files_in(folder, with_ending(".png"), deep=False).files
        beside = entries(folder / "Label")
        masks = {p.stem.lower().removesuffix("_label"): p for p in beside if p.name.lower().endswith("_label.png")}
        listing = next((p for p in beside if p.name.lower() == "labels.txt"), None)
        problems = Problems()
        if listing is not None:
            flags = read_flags(listing)
            for stem in images:
                if stem in flags and flags[stem] != (stem in masks):
                    has = "there is a mask" if stem in masks else "there is no mask"
                    problems.add(f"{listing}: {stem} has the flag {int(flags[stem])}, but {has} in {folder / 'Label'}; repair one.")
        for stem in sorted(set(masks) - set(images)):
            problems.add(f"{masks[stem]}: a mask without its image {folder / stem}.PNG.")
        problems.raise_any(f"{folder}")
        cases = []
        for stem, image in images.items():
            name = f"Class{number}/{folder.name}/{stem}"
            if stem in masks:
                cases.append(Case(name, image, masks[stem], name, f"Class{number}", part))
            elif self.include_free:
                cases.append(Case(name, image, listing or image, name, f"Class{number}", part))
        return len(images), cases

    def label(self, of: Case | Item) -> np.ndarray | None:
        """As described in `Source`; zeros for an image without a mask, which this data set calls free of defects."""
        if of.label is not None and not of.label.stem.lower().endswith("_label"):
            return np.zeros(picture_size(of.image), np.uint8)
        return super().label(of)

    def to_ids(self, mask: np.ndarray, of: Case | Item) -> np.ndarray:
        case = of.case if isinstance(of, Item) else of
        return (mask > 127) * np.uint8(self.numbers.index(int(case.stratum.removeprefix("Class"))) + 1)

    def _present(self) -> list[int]:
        return [number for number in NUMBERS if class_folder(self.root, number) is not None]

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)


DATA_SETS = (
    DataSet("DAGM", DagmSource, ("background", *(f"class {k}" for k in NUMBERS)), augmentation="simeps_dagm",
            resizing="floor", intensities="8-bit", mean=(0.5314,), std=(0.1357,), evaluation=PER_IMAGE, family="defect",
            options=("include_free", "dagm_classes"), strata="class, by the folder",
            defaults=simeps(steps_per_epoch=30, max_iterations=23970, base_lr=2e-3, labeled_num="10%")),
)
