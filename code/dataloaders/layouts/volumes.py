"""Volumes as this field passes them around: one h5 file a case (image and label (X, Y, Z)), and lists of names.

    LA            root/2018LA_Seg_Training Set/<case>/mri_norm2.h5     train.list test.list
    BraTS 2019    root/data/<case>.h5                                  train.txt val.txt test.txt
    Pancreas-CT   root/Pancreas_h5/<case>_norm.h5                      train.list test.list

The folder around the cases may be missing or stand in `data/`; lists may stand in `data/` too.
"""
from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import ClassVar

from dataloaders.description import Case, Item, Part
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.listed import ListedSource

SHOWN = 3
"""Names in a sentence about many."""


class VolumeSource(ListedSource):
    """Reader of h5 volumes; a volume is a case, a training image and a group of its own."""

    axes = ("x", "y", "z")
    dimensions: ClassVar = {"volume": (3,), "slice": (3,)}
    list_folders = (".", "data")
    folders: ClassVar[tuple[str, ...]]
    """Where the cases may lie in the data set's folder, the usual place first."""
    pattern: ClassVar[str]
    """File of the case `*` in one of these."""
    suffix: ClassVar[str] = "list"

    @classmethod
    def files(cls, root: Path) -> dict[str, Path]:
        """The volumes of a folder by case; the file in the first of `folders` wins."""
        found: dict[str, Path] = {}
        for folder in cls.folders:
            for file in sorted((root / folder).glob(cls.pattern)):
                found.setdefault(cls.case_of(file.relative_to(root / folder).as_posix()), file)
        return found

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether a folder has this layout."""
        return bool(cls.files(root))

    @classmethod
    def case_of(cls, text: str) -> str:
        """The case that a line of a list or a file means: with or without the folders before it and the end of the file's name."""
        before, after = cls.pattern.split("*")
        path = text.strip().replace("\\", "/").removesuffix(after)
        return PurePosixPath(path).name.removeprefix(before) if path else text

    def name_of(self, text: str) -> str:
        return self.case_of(text)

    def cases(self, part: Part) -> list[Case]:
        name = f"{part}.{self.suffix}"
        if part == "val" and not any(self.list_files(name)):
            return []
        entries, files, problems = self.entries(name), self.files(self.root), Problems()
        for case, count in Counter(entry.name for entry in entries).items():
            if count > 1:
                problems.add(f"{entries[0].file}: {case} stands there {count} times; keep one of the lines.")
        for entry in entries:
            if other := self.elsewhere(entry, entry.name, part):
                problems.add(f"{entry.where}: {entry.name} stands in {other} too; a volume belongs to one part only.")
        absent = [entry for entry in entries if entry.name not in files]
        if absent:
            shown = ", ".join(entry.name for entry in absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
            place = self.root / self.folders[0] / self.pattern.replace("*", absent[0].name)
            problems.add(f"{absent[0].where}: {len(absent)} of {len(entries)} cases have no file ({shown}), expected as {place}. "
                         f"Download them again, or write a shorter {self.root / name}.")
        problems.raise_any(f"{entries[0].file}")
        return [Case(entry.name, files[entry.name], files[entry.name], entry.name, "", part) for entry in entries]

    def items(self, cases: list[Case]) -> list[Item]:
        return [Item(case.name, case, case.image, case.label) for case in cases]


class LaSource(VolumeSource):
    """Reader of LA, left atrium (Xiong et al., Medical Image Analysis 2021), as UA-MT prepared it."""

    folders = ("2018LA_Seg_Training Set", "data/2018LA_Seg_Training Set", "data", ".")
    pattern = "*/mri_norm2.h5"


class BratsSource(VolumeSource):
    """Reader of BraTS 2019, FLAIR and whole tumour, as SSL4MIS prepared it."""

    folders = ("data", ".")
    pattern = "*.h5"
    suffix = "txt"

    @classmethod
    def fits(cls, root: Path) -> bool:
        return any(case.startswith("BraTS") for case in cls.files(root))


class PancreasSource(VolumeSource):
    """Reader of Pancreas-CT (Roth et al., MICCAI 2015), as DTC and its followers prepared it; their lists come with the data."""

    folders = ("Pancreas_h5", "data/Pancreas_h5", "data", ".")
    pattern = "*_norm.h5"

    def cases(self, part: Part) -> list[Case]:
        if part != "val" and not any(self.list_files(f"{part}.{self.suffix}")):
            raise UserError(f"{self.root / part}.{self.suffix}: there is no such list, and no published one is known here; expected "
                            "the names of the cases, one a line, for example image0001. It comes with the h5 files (62 training, 18 test).")
        return super().cases(part)
