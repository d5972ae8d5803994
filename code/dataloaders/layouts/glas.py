"""GlaS (Sirinukunwattana et al., Medical Image Analysis 2017): glands of the colon in H&E, as the Warwick QU archive unpacks.

    root/{train,testA,testB}_1.bmp          photographs of 522 x 775 and the like
    root/{train,testA,testB}_1_anno.bmp     a number an object
    root/Grade.csv                          name, patient, grade
"""
from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from dataloaders.description import Case, DataSet, Part, Parts, Source
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.images import pictures
from dataloaders.layouts.instances import InstanceSource, one_by_one
from dataloaders.settings import HISTOLOGY, IMAGENET_MEAN, IMAGENET_STD
from dataloaders.splits.draws import by_group
from dataloaders.splits.folds import fold_parts

COUNTS = {"train": 85, "testA": 60, "testB": 20}
"""Published numbers of images."""
PARTS: Mapping[Part, tuple[str, ...]] = {"train": ("train",), "val": (), "test": ("testA", "testB")}


def official_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """The challenge's training images, of which 11 % are validation, by patient; tested on its parts A and B."""
    val, train = by_group(source.cases("train"), 0.11, split_seed)
    return Parts("official", train, val, source.cases("test") if with_test else None, grouped=False, remarks=(
        "Official split: all patients of the test parts but one are seen in training too; --protocol clean keeps a patient in one part.",))


def clean_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """All 165 images: 30 % are test and 12 % of the rest are validation, by patient, stratified by grade."""
    test, rest = by_group(source.cases("train") + source.cases("test"), 0.3, split_seed)
    val, train = by_group(rest, 0.12, split_seed)
    return Parts("clean", train, val, test if with_test else None, grouped=False, remarks=(
        "Clean split: drawn by patient from all images, the official test parts included; never beside figures of the official split.",))


def folds_by_patient(cases: list[Case], fold: int, folds: int, seed: int) -> Parts:
    """Patients dealt out; other images of a labelled patient are no copies of it, so they stay among the unlabelled ones."""
    return replace(fold_parts(cases, fold, folds, seed), grouped=False)


class GlasSource(InstanceSource):
    """Reader of GlaS. A group is a patient, a stratum benign or malignant, both by Grade.csv."""

    protocols: ClassVar = {"official": official_parts, "clean": clean_parts}
    folds: ClassVar = {"official": folds_by_patient, "clean": folds_by_patient}
    expected = "expected train_1.bmp, train_1_anno.bmp and so on, and Grade.csv"

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        self.grades = grades_of(self.root / "Grade.csv")

    @classmethod
    def fits(cls, root: Path) -> bool:
        return any(root.glob("train_[0-9]*_anno.*"))

    def cases(self, part: Part) -> list[Case]:
        """Images of a part; one without a reference is unlabelled."""
        files = pictures(self.root)
        problems, cases = Problems(), []
        for stem, file in files.items():
            found = re.fullmatch(f"({'|'.join(PARTS[part])})_[0-9]+(_anno)?", stem) if PARTS[part] else None
            if found and found[2] and stem.removesuffix("_anno") not in files:
                problems.add(f"{file}: a reference without its image {stem.removesuffix('_anno')}.bmp; put the image there, or remove it.")
            elif found and not found[2] and stem not in self.grades:
                problems.add(f"{self.root / 'Grade.csv'}: no line for {stem}, so its patient is not known; download the archive again.")
            elif found and not found[2]:
                patient, grade = self.grades[stem]
                cases.append(Case(stem, file, files.get(f"{stem}_anno"), patient, grade, part))
        problems.raise_any(str(self.root))
        for name in PARTS[part]:
            count = sum(case.name.startswith(name) for case in cases)
            remark = f"{self.root}: {count} images {name}_...; the published part has {COUNTS[name]}."
            if count != COUNTS[name] and remark not in self.remarks:
                self.remarks.append(remark)
        return cases


def grades_of(file: Path) -> dict[str, tuple[str, str]]:
    """(patient, benign or malignant) by the name of an image. Raises `UserError`."""
    try:
        rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines(), skipinitialspace=True))
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; it lies in the archive, and tells which images are of one patient.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({error}); download the archive again.") from None
    grades = {row[0].strip(): (f"patient{row[1].strip()}", row[2].strip()) for row in rows[1:] if len(row) > 2}
    if not grades:
        raise UserError(f"{file}: no lines of name, patient and grade in it; download the archive again.")
    return grades


DATA_SETS = (
    DataSet("GlaS", GlasSource, ("background", "gland", "contour"), channels=3, protocols=("official", "clean"), augmentation="histology",
            resizing="floor", intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, options=("target",),
            evaluation=one_by_one(least=100, grow=4, apart=("testA", "testB")), strata="benign or malignant, by Grade.csv",
            defaults=HISTOLOGY | {"labeled_num": "10%"}),
)
