"""What the readers of h5 files share: lists beside the data or published ones, arrays by key, geometry where it is stored."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Item, Part
from dataloaders.errors import UserError
from dataloaders.layouts.common import H5, Entry, checked_label, checked_pixels, checked_shapes, inside, read_list

LISTS = Path(__file__).resolve().parent.parent / "lists"


class ListedSource:
    """Base of the readers of h5 files that lists name; `remarks` holds what the user should know about the lists.

    A file may carry `spacing` (mm, in the order of the array's axes) and `affine` (4x4, (x, y, z) index to mm, RAS+), each as an
    attribute or as a dataset; the published files have neither.
    """

    axes: ClassVar[tuple[str, ...]] = ("z", "y", "x")
    """Order in which the arrays of volumes store their axes."""
    dimensions: ClassVar[dict[str, tuple[int, ...]]] = {"volume": (3,), "slice": (2,)}
    """Numbers of dimensions that the arrays of each kind of file may have."""
    list_folders: ClassVar[tuple[str, ...]] = (".",)
    """Where lists may lie in the data set's folder."""

    def __init__(self, data: DataSet, root: Path, options: object | None = None):
        self.data, self.root = data, Path(root)
        self.remarks: list[str] = []
        self._entries: dict[str, list[Entry]] = {}
        self._groups: dict[str, tuple[Part, Entry]] = {}

    def name_of(self, text: str) -> str:
        """The case or slice that a line of a list means."""
        return text

    def list_files(self, name: str) -> tuple[Path | None, Path | None]:
        """(the list beside the data, the published one), each None where there is none."""
        beside = [self.root / folder / name for folder in self.list_folders]
        published = LISTS / self.data.name / name
        return next((file for file in beside if file.exists()), None), published if published.exists() else None

    def entries(self, name: str) -> list[Entry]:
        """Entries of the list `name`: beside the data, else the published one; a difference becomes a remark."""
        if name not in self._entries:
            beside, published = self.list_files(name)
            file = beside or published
            if file is None:
                raise UserError(f"{self.root / name}: there is no such list; expected the names of the cases, one a line.")
            entries = [replace(e, name=self.name_of(e.name)) for e in read_list(file)]
            if beside and published:
                here, there = [e.name for e in entries], [e.name for e in read_list(published)]
                if here != there:
                    same = sorted(here) == sorted(there)
                    kind = "the same names in another order" if same else f"{len(here)} entries, published {len(there)}"
                    self.remarks.append(f"{beside} differs from the published list ({kind}); the one beside the data is used.")
            self._entries[name] = entries
        return self._entries[name]

    def elsewhere(self, entry: Entry, group: str, part: Part) -> str | None:
        """Where the group of an entry stands in another part as well; None where it does not."""
        other_part, other = self._groups.setdefault(group, (part, entry))
        return other.where if other_part != part else None

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
        """mm in the order of `axes`: what the file says, else the norms of its affine's columns; None where it has neither."""
        with H5(inside(self.root, case.image)) as file:
            stored = file.values("spacing", 1)
        if stored is None:
            affine = self.affine(case)
            return None if affine is None else tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
        values = tuple(float(v) for v in stored)
        if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
            raise UserError(f"{case.image}: spacing {values}; expected three positive numbers ({', '.join(self.axes)}) in mm. "
                            "Write the right ones into the file, or remove `spacing`.")
        return values

    def affine(self, case: Case) -> np.ndarray | None:
        """(4, 4) float64: index in the array's own axis order to mm (RAS+); None where the file does not say."""
        with H5(inside(self.root, case.image)) as file:
            stored = file.values("affine", 2)
        if stored is None:
            return None
        if stored.shape != (4, 4) or not np.isfinite(stored).all() or abs(np.linalg.det(stored[:3, :3])) < 1e-9 or any(
                stored[3] != (0, 0, 0, 1)):
            raise UserError(f"{case.image}: affine {stored.tolist()}; expected an invertible 4x4 matrix from voxel indices (x, y, z) "
                            "to mm with the last row 0 0 0 1. Write the right one into the file, or remove `affine`.")
        return stored[:, [*("xyz".index(axis) for axis in self.axes), 3]]

    def _dimensions(self, of: Case | Item) -> tuple[int, ...]:
        return self.dimensions["volume" if isinstance(of, Case) or of.index is not None else "slice"]

    @staticmethod
    def _index(of: Case | Item) -> int | None:
        return of.index if isinstance(of, Item) else None
