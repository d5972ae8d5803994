"""ACDC as this field passes it around: h5 volumes, h5 slices, and lists of names.

    root/train.list  train_slices.list  val.list  test.list
    root/data/patient099_frame01.h5                     image (D, H, W) float, label (D, H, W) integer
    root/data/slices/patient099_frame01_slice_15.h5     image (H, W), label (H, W)
"""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from dataloaders.description import Case, DataSet, Item, Part
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import H5, Entry, checked_label, checked_pixels, checked_shapes, inside, read_list

LISTS = Path(__file__).resolve().parent.parent / "lists"
DIAGNOSES = ("dilated", "hypertrophic", "infarct", "normal", "right ventricle")
"""Blocks of twenty patients (001-020, 021-040, ...), by the numbering of the challenge."""


def group_of(case: str) -> str:
    """patient099_frame01 -> patient099: the frames of a patient are one group."""
    return re.sub(r"_frame[0-9]+$", "", case)


def volume_of(entry: str) -> str:
    """patient099_frame01_slice_15 -> patient099_frame01."""
    return re.sub(r"_slice_[0-9]+$", "", entry)


class AcdcSource:
    """Reader of ACDC's layout; `remarks` holds what the user should know about the lists."""

    volume_dimensions = (3,)
    slice_dimensions = (2,)

    def __init__(self, data: DataSet, root: Path, options: object | None = None):
        self.data, self.root = data, Path(root)
        self.remarks: list[str] = []
        self._entries: dict[str, list[Entry]] = {}
        self._groups: dict[str, tuple[Part, Entry]] = {}
        self._depths: dict[Path, int] = {}

    @staticmethod
    def fits(root: Path) -> bool:
        """Whether a folder has this layout."""
        return (root / "data").is_dir() and ((root / "data" / "slices").is_dir() or (root / "train_slices.list").is_file())

    def stratum_of(self, group: str) -> str:
        """The diagnosis of a patient, by its number; '' where the name tells none."""
        number = re.fullmatch(r"patient([0-9]{3})", group)
        if number is None or not 1 <= int(number[1]) <= 100:
            return ""
        return DIAGNOSES[(int(number[1]) - 1) // 20]

    def entries(self, name: str) -> list[Entry]:
        """Entries of the list `name`: beside the data, else the published one; a difference becomes a remark."""
        if name not in self._entries:
            beside, published = self.root / name, LISTS / self.data.name / name
            if not beside.exists() and not published.exists():
                raise UserError(f"{beside}: there is no such list; expected the names of the cases, one a line.")
            entries = read_list(beside if beside.exists() else published)
            if beside.exists() and published.exists():
                here, there = [e.name for e in entries], [e.name for e in read_list(published)]
                if here != there:
                    same = sorted(here) == sorted(there)
                    kind = "the same names in another order" if same else f"{len(here)} entries, published {len(there)}"
                    self.remarks.append(f"{beside} differs from the published list ({kind}); the one beside the data is used.")
            self._entries[name] = entries
        return self._entries[name]

    def slices(self) -> list[Entry]:
        """Entries of train_slices.list; none where there is no such list, and slices come from the volumes."""
        name = "train_slices.list"
        known = (self.root / name).exists() or (LISTS / self.data.name / name).exists()
        return self.entries(name) if known else []

    def cases(self, part: Part) -> list[Case]:
        entries = self.entries(f"{part}.list")
        if part == "train":
            self._compare_slices(entries)
        problems = Problems()
        cases = []
        for entry in entries:
            file = self.root / "data" / f"{entry.name}.h5"
            group = group_of(entry.name)
            other_part, other = self._groups.setdefault(group, (part, entry))
            if other_part != part:
                problems.add(f"{entry.where}: {group} stands in {other.where} too; the frames of a patient belong to one part only.")
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
            file = self.root / "data" / "slices" / f"{entry.name}.h5"
            if not file.exists():
                problems.add(f"{entry.where}: {entry.name} has no file {file}.")
            listed.add(case.name)
            items.append(Item(entry.name, case, file, file))
        for case in cases:
            if case.name in listed:
                continue
            try:
                depth = self._depth(case.image)
            except UserError as error:
                problems.add(error)
                continue
            items += [Item(f"{case.name}_slice_{index + 1}", case, case.image, case.label, index) for index in range(depth)]
        problems.raise_any(f"{self.root}")
        return items

    def _compare_slices(self, cases: list[Entry]) -> None:
        listed = {volume_of(entry.name) for entry in self.slices()}
        alone = [entry.name for entry in cases if entry.name not in listed]
        if listed and alone:
            remark = f"{len(alone)} training cases are not in train_slices.list ({alone[0]}, ...); their slices are read from the volumes."
            if remark not in self.remarks:
                self.remarks.append(remark)

    def image(self, of: Case | Item) -> np.ndarray:
        with H5(inside(self.root, of.image)) as file:
            return checked_pixels(file.read("image", self._dimensions(of), self._index(of)), of.image)[None]

    def label(self, of: Case | Item) -> np.ndarray | None:
        if of.label is None:
            return None
        dimensions = self._dimensions(of)
        with H5(inside(self.root, of.label)) as file:
            label_shape = file.dataset("label", dimensions).shape
            checked_shapes(file.dataset("image", dimensions).shape, label_shape, of.label, of.label)
            label = file.read("label", dimensions, self._index(of))
        return checked_label(label, of.label, self.data.classes, self.data.ignored)

    def spacing(self, case: Case) -> tuple[float, ...] | None:
        """mm (z, y, x) from the file's attribute or dataset `spacing`; the published files have none."""
        with H5(inside(self.root, case.image)) as file:
            stored = file.handle.attrs.get("spacing")
            if stored is None and "spacing" in file.handle:
                stored = file.read("spacing", (1,))
        if stored is None:
            return None
        values = tuple(float(v) for v in np.ravel(stored))
        if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
            raise UserError(f"{case.image}: spacing {values}; expected three positive numbers (z, y, x) in mm.")
        return values

    def _dimensions(self, of: Case | Item) -> tuple[int, ...]:
        return self.volume_dimensions if isinstance(of, Case) or of.index is not None else self.slice_dimensions

    @staticmethod
    def _index(of: Case | Item) -> int | None:
        return of.index if isinstance(of, Item) else None

    def _depth(self, volume: Path) -> int:
        if volume not in self._depths:
            with H5(inside(self.root, volume)) as file:
                self._depths[volume] = int(file.dataset("image", self.volume_dimensions).shape[0])
        return self._depths[volume]
