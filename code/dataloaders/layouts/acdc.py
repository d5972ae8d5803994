"""ACDC as this field passes it around: h5 volumes, h5 slices, and lists of names.

    root/train.list  train_slices.list  val.list  test.list
    root/data/patient099_frame01.h5                     image (D, H, W) float, label (D, H, W) integer
    root/data/slices/patient099_frame01_slice_15.h5     image (H, W), label (H, W)
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from dataloaders.description import Case, DataSet, Item, Part, Parts, PartsOf, Source, official_parts
from dataloaders.errors import Problems, UserError
from dataloaders.intensities import min_max
from dataloaders.layouts.common import H5, PICTURES, Entry
from dataloaders.layouts.listed import H5_ENDINGS, ListedSource
from dataloaders.layouts.nifti import ENDINGS
from dataloaders.listing import composed, listing, with_ending
from dataloaders.settings import SSL4MIS
from dataloaders.splits import cross_val_dev

DIAGNOSES = ("dilated", "hypertrophic", "infarct", "normal", "right ventricle")
"""Blocks of twenty patients (001-020, 021-040, ...), by the numbering of the challenge."""


def group_of(case: str) -> str:
    """patient099_frame01 -> patient099: the frames of a patient are one group."""
    return re.sub(r"_frame[0-9]+$", "", case)


def volume_of(entry: str) -> str:
    """patient099_frame01_slice_15 -> patient099_frame01."""
    return re.sub(r"_slice_[0-9]+$", "", entry)


def ctct_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """Cross teaching (Luo et al., MIDL 2022): no validation part, and the validation and test patients of the lists are tested together."""
    test = [*source.cases("val"), *source.cases("test")] if with_test else None
    return Parts("ctct", source.cases("train"), [], test, (
        "Cross teaching's protocol: the last step is tested, on the 30 patients of validation and test; compare it with its own kind only "
        "(--protocol official: the best by validation, on the 20 test patients).",))


class AcdcSource(ListedSource):
    """Reader of ACDC's layout."""

    protocols: ClassVar[Mapping[str, PartsOf]] = {
        "official": official_parts, "ctct": ctct_parts, "cross_val_dev": cross_val_dev.without_fold}
    folds: ClassVar = {"cross_val_dev": cross_val_dev.volume_blocks}
    new_endings: ClassVar[tuple[str, ...]] = (*H5_ENDINGS, *ENDINGS, *PICTURES)
    raw = (min_max, "mapped to 0..1 by its own least and greatest value, as prepare.py acdc does")

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        self._depths: dict[Path, int] = {}
        self._upper: dict[str, dict[str, Path]] = {}
        """By folder the files whose ending is no .h5 in lower case."""

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / "data").is_dir() and ((root / "data" / "slices").is_dir() or (root / "train_slices.list").is_file())

    def name_of(self, text: str) -> str:
        """A line may have the file's ending."""
        return with_ending(*H5_ENDINGS)(text) or text

    def stratum_of(self, group: str) -> str:
        """The diagnosis of a patient, by its number; '' where the name tells none."""
        number = re.fullmatch(r"patient([0-9]{3})", group)
        if number is None or not 1 <= int(number[1]) <= 100:
            return ""
        return DIAGNOSES[(int(number[1]) - 1) // 20]

    def slices(self) -> list[Entry]:
        """Entries of train_slices.list; none where there is no such list, and slices come from the volumes."""
        name = "train_slices.list"
        return self.entries(name) if any(self.list_files(name)) else []

    def cases(self, part: Part) -> list[Case]:
        entries = self.entries(f"{part}.list")
        if part == "train":
            self._compare_slices(entries)
        problems = Problems()
        cases = []
        for entry in entries:
            file = self._file("data", entry.name)
            group = group_of(entry.name)
            if other := self.elsewhere(entry, group, part):
                problems.add(f"{entry.where}: {group} stands in {other} too; the frames of a patient belong to one part only.")
            if part != "train" and not file.exists():
                problems.add(f"{entry.where}: {entry.name} has no file {file}.")
            cases.append(Case(entry.name, file, file, group, self.stratum_of(group), part))
        problems.raise_any(f"{entries[0].file}")
        return cases

    def items(self, cases: list[Case]) -> list[Item]:
        """Slices in the order of train_slices.list; those of a case that it does not name follow, from the volume's file."""
        wanted = {case.name: case for case in cases}
        items, listed, problems = [], set(), Problems()
        for entry in self.slices():
            case = wanted.get(volume_of(entry.name))
            if case is None:
                continue
            file = self._file("data/slices", entry.name)
            if not file.exists():
                problems.add(f"{entry.where}: {entry.name} has no file {file}.")
            listed.add(case.name)
            items.append(Item(entry.name, case, file, file))
        for case in cases:
            if case.name in listed:
                continue
            if not case.image.exists():
                where = next((entry.where for entry in self.entries("train.list") if entry.name == case.name), str(self.root))
                problems.add(f"{where}: {case.name} has neither slices in train_slices.list nor a file {case.image}.")
                continue
            try:
                depth = self._depth(case.image)
            except UserError as error:
                problems.add(error)
                continue
            items += [Item(f"{case.name}_slice_{index + 1}", case, case.image, case.label, index) for index in range(depth)]
        problems.raise_any(f"{self.root}")
        return items

    @classmethod
    def unlisted(cls, root: Path, known: set[Path]) -> list[Case | Item]:
        volumes, slices = ([file for file in listing(root / place, with_ending(".h5"), deep=False).files.values() if file not in known]
                           for place in ("data", "data/slices"))
        return [*(Case(file.stem, file, file, file.stem) for file in volumes),
                *(Item(file.stem, Case(file.stem, file, file, file.stem), file, file) for file in slices)]

    def _compare_slices(self, cases: list[Entry]) -> None:
        slices, names = self.slices(), {entry.name for entry in cases}
        listed = {volume_of(entry.name) for entry in slices}
        alone = [entry.name for entry in cases if entry.name not in listed]
        strangers = [entry for entry in slices if volume_of(entry.name) not in names]
        remarks = []
        if listed and alone:
            remarks.append(f"{len(alone)} training cases are not in train_slices.list ({alone[0]}, ...); their slices are read from the "
                           "volumes.")
        if strangers:
            remarks.append(f"{strangers[0].where}: {strangers[0].name} is a slice of no case of train.list; it is left out, as "
                           f"{len(strangers)} such lines are in all.")
        self.remarks += [remark for remark in remarks if remark not in self.remarks]

    def _file(self, folder: str, name: str) -> Path:
        """The file of a case or a slice, its ending case apart."""
        if folder not in self._upper:
            files = listing(self.root / folder, with_ending(".h5"), deep=False).files
            self._upper[folder] = {stem: file for stem, file in files.items() if file.suffix != ".h5"}
        return self._upper[folder].get(composed(name), self.root / folder / f"{name}.h5")

    def _depth(self, volume: Path) -> int:
        if volume not in self._depths:
            with H5(volume) as file:
                self._depths[volume] = int(file.dataset("image", self.dimensions["volume"]).shape[0])
        return self._depths[volume]


HEART = ("background", "right ventricle", "myocardium", "left ventricle")
CROSS_VAL_DEV: dict[str, object] = {
    "batch_size": 16, "labeled_bs": 8, "base_lr": 0.03, "max_iterations": 30000, "labeled_num": "1/8", "passes": "apart", "ramp": "whole",
}
"""The fold scripts of SSL4MIS's branch cross_val_dev: labelled and unlabelled images from two loaders, ramps scaled to the training."""
DATA_SETS = (
    DataSet("ACDC", AcdcSource, HEART, unit="patient", protocols=("official", "ctct", "cross_val_dev"), defaults=SSL4MIS,
            protocol_defaults={"cross_val_dev": CROSS_VAL_DEV},
            strata="diagnosis, by the patient's number in the challenge (twenty patients each)"),
)
