"""What the readers of one's own volumes share: a case is one file a channel, its reference another one.

Intensities. Volumes come in any unit, so each is scaled by itself and channel by channel: its mean becomes 0 and its deviation 1
over all voxels. CT is clipped to its 0.5 and 99.5 percentiles before (nnU-Net takes these from the foreground of the whole
data set; per volume, no label is read for it).
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Item, NewImage, Source
from dataloaders.errors import UserError
from dataloaders.geometry import reversed_axes, spacing_of
from dataloaders.intensities import checked_pixels, scaled
from dataloaders.layouts.common import checked_label, checked_shapes
from dataloaders.layouts.nifti import ENDINGS, checked_place, read_header, read_volume


class VolumeFiles(Source):
    """Reads images, labels and geometry of cases. A 3D data set gets (C, X, Y, Z); a 2D one (C, z, y, x) and its slices one by one."""

    new_endings: ClassVar[tuple[str, ...]] = ENDINGS

    def channel_files(self, case: Case) -> list[Path]:
        """The files of a case, one a channel."""
        return [case.image]

    def checked_ids(self, values: np.ndarray, case: Case) -> np.ndarray:
        """uint8 class ids of a label's values; raises `UserError` where one is no class."""
        assert case.label is not None
        return checked_label(values, case.label, self.data.classes, self.data.ignored)

    def items(self, cases: list[Case]) -> list[Item]:
        """One training image a volume, or a slice each in the order of z."""
        if self.data.dimensions == 3:
            return [Item(case.name, case, case.image, case.label) for case in cases]
        return [Item(f"{case.name}_slice_{index + 1}", case, case.image, case.label, index)
                for case in cases for index in range(read_header(case.image).shape[2])]

    def image(self, of: Case | Item) -> np.ndarray:
        volume = self._kept("image", of)
        assert volume is not None
        return volume if isinstance(of, Case) or of.index is None else volume[:, of.index]

    def label(self, of: Case | Item) -> np.ndarray | None:
        volume = self._kept("label", of)
        return volume if volume is None or isinstance(of, Case) or of.index is None else volume[of.index]

    def affine(self, case: Case) -> np.ndarray:
        """(4, 4) float64: index in the array's own axis order to mm (RAS+)."""
        header = read_header(case.image)
        affine = header.affine
        if header.doubt:
            self.doubts[case.image] = header.doubt
        return affine if self.data.dimensions == 3 else reversed_axes(affine)

    def spacing(self, case: Case) -> tuple[float, ...]:
        return tuple(float(step) for step in spacing_of(self.affine(case)))

    def header(self, case: Case) -> Any:
        return read_header(case.image).stored

    def _kept(self, kind: str, of: Case | Item) -> np.ndarray | None:
        case = of if isinstance(of, Case) else of.case
        read = self._image if kind == "image" else self._label
        if isinstance(of, Case) or of.index is None:
            return read(case)
        # The slices of a volume are asked for one after the other: the last volume of each kind waits here.
        kept: dict[str, tuple[str, np.ndarray | None]] = self.__dict__.setdefault("_last", {})
        name, volume = kept.get(kind, ("", None))
        if name != case.name:
            volume = read(case)
            kept[kind] = case.name, volume
        return volume

    def _image(self, case: Case) -> np.ndarray:
        return read_channels(self.channel_files(case), self.data)

    def _label(self, case: Case) -> np.ndarray | None:
        if case.label is None:
            return None
        image = read_header(case.image)
        values, affine = read_volume(case.label)
        checked_shapes(image.shape, values.shape, case.image, case.label)
        checked_place(image, affine, case.image, case.label)
        if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values), equal_nan=True):
            self.rounded.add(case.label)
        return in_axes_of(self.data, self.checked_ids(values, case))

    @classmethod
    def read_new(cls, data: DataSet, files: Sequence[Path]) -> NewImage:
        if len(files) != data.channels:
            raise UserError(f"{files[0]}: {len(files)} of the {data.channels} channels that the run takes; expected "
                            f"CASE_0000 to CASE_{data.channels - 1:04d} beside each other.")
        pixels, header = read_channels(files, data), read_header(files[0])
        steps = tuple(float(step) for step in spacing_of(header.affine))
        return NewImage(pixels, pixels.shape[1:], header.affine, steps if data.dimensions == 3 else steps[::-1], header.stored,
                        remarks=[f"of {header.doubt}"] if header.doubt else [])


def read_channels(files: Sequence[Path], data: DataSet) -> np.ndarray:
    """(C, X, Y, Z), or (C, z, y, x) of a 2D data set, float32: a file a channel, all in one place, scaled as `data.scaling` says."""
    first, channels = read_header(files[0]), []
    for file, scheme in zip(files, data.scaling):
        values, affine = read_volume(file)
        checked_shapes(first.shape, values.shape, files[0], file)
        checked_place(first, affine, files[0], file)
        channels.append(scaled(checked_pixels(values, file), scheme))
    return in_axes_of(data, np.stack(channels))


def in_axes_of(data: DataSet, volume: np.ndarray) -> np.ndarray:
    """(..., X, Y, Z) as the data set has it: (..., z, y, x) where its volumes are trained slice by slice."""
    if data.dimensions == 3:
        return np.ascontiguousarray(volume)
    axes = (*range(volume.ndim - 3), *range(volume.ndim - 1, volume.ndim - 4, -1))
    return np.ascontiguousarray(volume.transpose(axes))
