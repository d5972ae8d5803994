"""What the readers of h5 files share: lists beside the data or published ones, arrays by key, geometry where it is stored, new files."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Item, NewImage, Part, Source
from dataloaders.errors import UserError
from dataloaders.geometry import reversed_axes, spacing_of
from dataloaders.intensities import checked_pixels
from dataloaders.layouts.common import H5, PICTURES, Entry, checked_label, checked_shapes, picture_remarks, read_list, read_picture
from dataloaders.layouts.nifti import read_header, read_volume
from dataloaders.listing import place_of

H5_ENDINGS = (".h5", ".hdf5")
LISTS = Path(__file__).resolve().parent.parent / "lists"


class ListedSource(Source):
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
    raw: ClassVar[tuple[Callable[[np.ndarray, Path], np.ndarray], str] | None] = None
    """What is done to the values of a raw volume before it is as the h5 files are, and the words for it; None: not known."""

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        self._entries: dict[str, list[Entry]] = {}
        self._groups: dict[tuple[str, str], tuple[Part, Entry]] = {}

    def name_of(self, text: str) -> str:
        """The case or slice that a line of a list means."""
        return text

    def list_files(self, name: str) -> tuple[Path | None, Path | None]:
        """(the list beside the data, the published one), each None where there is none."""
        beside = [place_of(self.root / folder, name) for folder in self.list_folders]
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

    def elsewhere(self, entry: Entry, group: str, part: Part, lists: str = "") -> str | None:
        """Where the group of an entry stands in another part as well, by the same set of lists; None where it does not."""
        other_part, other = self._groups.setdefault((lists, group), (part, entry))
        return other.where if other_part != part else None

    def image(self, of: Case | Item) -> np.ndarray:
        with H5(of.image) as file:
            return checked_pixels(file.read("image", self._dimensions(of), self._index(of)), of.image)[None]

    def label(self, of: Case | Item) -> np.ndarray | None:
        if of.label is None:
            return None
        dimensions = self._dimensions(of)
        with H5(of.label) as file:
            label_shape = file.dataset("label", dimensions).shape
            checked_shapes(file.dataset("image", dimensions).shape, label_shape, of.label, of.label)
            label = file.read("label", dimensions, self._index(of))
        return checked_label(label, of.label, self.data.classes, self.data.ignored)

    def spacing(self, case: Case) -> tuple[float, ...] | None:
        return spacing_in(case.image, self.axes)

    def affine(self, case: Case) -> np.ndarray | None:
        return affine_in(case.image, self.axes)

    def _dimensions(self, of: Case | Item) -> tuple[int, ...]:
        return self.dimensions["volume" if isinstance(of, Case) or of.index is not None else "slice"]

    @staticmethod
    def _index(of: Case | Item) -> int | None:
        return of.index if isinstance(of, Item) else None

    @classmethod
    def read_new(cls, data: DataSet, files: Sequence[Path]) -> NewImage:
        """An h5 file as it is; raw volumes, and pictures as slices, by `raw`. Nothing is resampled or turned."""
        name = files[0].name.lower()
        if name.endswith(PICTURES):
            return cls._new_slice(files[0])
        return cls._new_h5(data, files[0]) if name.endswith(H5_ENDINGS) else cls._new_volume(data, files[0])

    @classmethod
    def _new_slice(cls, file: Path) -> NewImage:
        assert cls.raw is not None
        scale, words = cls.raw
        pixels = scale(read_picture(file, 1), file)
        return NewImage(pixels[:, None], pixels.shape[1:], remarks=[*picture_remarks(file, 1), f"a picture, taken as a slice: {words}"])

    @classmethod
    def _new_h5(cls, data: DataSet, file: Path) -> NewImage:
        with H5(file) as opened:
            pixels = checked_pixels(opened.read("image", (3,) if data.dimensions == 3 else (2, 3)), file)
        if pixels.ndim == 2:
            return NewImage(pixels[None, None], pixels.shape)
        affine = affine_in(file, cls.axes)
        if affine is not None and data.dimensions == 2:
            affine = reversed_axes(affine)
        return NewImage(pixels[None], pixels.shape, affine, spacing_in(file, cls.axes))

    @classmethod
    def _new_volume(cls, data: DataSet, file: Path) -> NewImage:
        assert cls.raw is not None
        scale, words = cls.raw
        values, affine = read_volume(file)
        checked_pixels(values, file)
        pixels = scale(values if data.dimensions == 3 else values.transpose(), file)
        steps = tuple(float(step) for step in spacing_of(affine))
        return NewImage(np.ascontiguousarray(pixels)[None], pixels.shape, affine, steps if data.dimensions == 3 else steps[::-1],
                        read_header(file).stored, remarks=[f"raw: {words}"])


def spacing_in(file: Path, axes: Sequence[str]) -> tuple[float, ...] | None:
    """mm in the order of `axes`: what an h5 file says, else the norms of its affine's columns; None where it has neither."""
    with H5(file) as opened:
        stored = opened.values("spacing", 1)
    if stored is None:
        affine = affine_in(file, axes)
        return None if affine is None else tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0))
    values = tuple(float(v) for v in stored)
    if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
        raise UserError(f"{file}: spacing {values}; expected three positive numbers ({', '.join(axes)}) in mm. "
                        "Write the right ones into the file, or remove `spacing`.")
    return values


def affine_in(file: Path, axes: Sequence[str]) -> np.ndarray | None:
    """(4, 4) float64: index in the order of `axes` to mm (RAS+); None where an h5 file does not say."""
    with H5(file) as opened:
        stored = opened.values("affine", 2)
    if stored is None:
        return None
    if stored.shape != (4, 4) or not np.isfinite(stored).all() or abs(np.linalg.det(stored[:3, :3])) < 1e-9 or any(
            stored[3] != (0, 0, 0, 1)):
        raise UserError(f"{file}: affine {stored.tolist()}; expected an invertible 4x4 matrix from voxel indices (x, y, z) "
                        "to mm with the last row 0 0 0 1. Write the right one into the file, or remove `affine`.")
    return stored[:, [*("xyz".index(axis) for axis in axes), 3]]
