"""What the readers of h5 volumes share: one file a case, image and label (X, Y, Z), and lists of names.

The folder around the cases may be missing or stand in `data/`; lists may stand in `data/` too.
"""
from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import ClassVar

from dataloaders.description import Case, FoldOf, Item, Part, Parts, PartsOf, Source
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import read_list
from dataloaders.layouts.listed import H5_ENDINGS, LISTS, ListedSource
from dataloaders.layouts.nifti import ENDINGS
from dataloaders.listing import composed, matching
from dataloaders.splits.draws import check_fold

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
            for file in matching(root / folder, cls.pattern):
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
        path = composed(text.strip().replace("\\", "/"))
        path = path[: -len(after)] if path.lower().endswith(after) else path
        return PurePosixPath(path).name.removeprefix(before) if path else text

    def name_of(self, text: str) -> str:
        return self.case_of(text)

    @classmethod
    def case(cls, root: Path, name: str, file: Path, part: Part = "train") -> Case:
        """The case that a file of `files` is."""
        return Case(name, file, file, name, "", part)

    def cases(self, part: Part) -> list[Case]:
        return self.listed(part, f"{part}.{self.suffix}")

    def listed(self, part: Part, name: str) -> list[Case]:
        """The cases of a part that the list `name` names."""
        if part == "val" and not any(self.list_files(name)):
            return []
        entries, files, problems = self.entries(name), self.files(self.root), Problems()
        for case, count in Counter(entry.name for entry in entries).items():
            if count > 1:
                problems.add(f"{entries[0].file}: {case} stands there {count} times; keep one of the lines.")
        for entry in entries:
            if other := self.elsewhere(entry, entry.name, part, PurePosixPath(name).parent.name):
                problems.add(f"{entry.where}: {entry.name} stands in {other} too; a volume belongs to one part only.")
        absent = [entry for entry in entries if entry.name not in files]
        if absent:
            shown = ", ".join(entry.name for entry in absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
            place = self.root / self.folders[0] / self.pattern.replace("*", absent[0].name)
            problems.add(f"{absent[0].where}: {len(absent)} of {len(entries)} cases have no file ({shown}), expected as {place}. "
                         f"Download them again, or write a shorter {self.root / name}.")
        problems.raise_any(f"{entries[0].file}")
        return [self.case(self.root, entry.name, files[entry.name], part) for entry in entries]

    @classmethod
    def unlisted(cls, root: Path, known: set[Path]) -> list[Case | Item]:
        return [cls.case(root, name, file) for name, file in cls.files(root).items() if file not in known]


def folds_of_lists(data_set: str, protocol: str, count: int) -> tuple[PartsOf, FoldOf]:
    """(what a protocol of published folds does without --fold: refuses; its folds, whose training and test lists are in lists/<data
    set>/<protocol>).

    Both raise `UserError`. Such a fold has no validation part.
    """
    def without_fold(source: Source, split_seed: int, with_test: bool) -> Parts:
        raise UserError(f"--protocol {protocol}: these are published folds of {data_set}; give one of them, --fold 0 to {count - 1}"
                        + (f" --folds {count}." if count != 5 else "."))

    def of_lists(cases: list[Case], fold: int, folds: int, seed: int) -> Parts:
        check_fold(fold, folds)
        if folds != count or seed:
            raise UserError(f"--protocol {protocol}: the published lists of {data_set} have {count} folds, and nothing is drawn; "
                            f"write --folds {count}, and no --split_seed.")
        known = {case.name: case for case in cases}
        place = LISTS / data_set / protocol
        names = {part: [entry.name for entry in read_list(place / f"{part}{fold}.list")] for part in ("train", "test")}
        train, test = ([known[name] for name in names[part] if name in known] for part in ("train", "test"))
        missing = [name for part in names.values() for name in part if name not in known]
        if not train or not test:
            raise UserError(f"--protocol {protocol} --fold {fold}: no case of the published {'training' if not train else 'test'} list is "
                            f"there ({missing[0]}, ...).")
        remarks = (f"{len(missing)} of the {len(missing) + len(train) + len(test)} volumes of the published folds are not there "
                   f"({missing[0]}{', ...' if len(missing) > 1 else ''}).",) if missing else ()
        return Parts(f"fold{fold}of{folds}_{protocol}", train, [], test, remarks)

    return without_fold, of_lists
