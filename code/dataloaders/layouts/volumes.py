"""What the readers of h5 volumes share: one file a case, image and label (X, Y, Z), and lists of names.

The folder around the cases may be missing or stand in `data/`; lists may stand in `data/` too.
"""
from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import ClassVar

from dataloaders.description import Case, Item, Part
from dataloaders.errors import Problems
from dataloaders.layouts.listed import H5_ENDINGS, ListedSource
from dataloaders.layouts.nifti import ENDINGS

SHOWN = 3
"""Names in a sentence about many."""


class VolumeSource(ListedSource):
    """Reader of h5 volumes; a volume is a case, a training image and a group of its own."""

    axes = ("x", "y", "z")
    dimensions: ClassVar = {"volume": (3,), "slice": (3,)}
    new_endings: ClassVar[tuple[str, ...]] = (*H5_ENDINGS, *ENDINGS)
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

    @classmethod
    def unlisted(cls, root: Path, known: set[Path]) -> list[Case | Item]:
        return [Case(name, file, file, name) for name, file in cls.files(root).items() if file not in known]
