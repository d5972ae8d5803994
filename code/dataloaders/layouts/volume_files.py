"""What the readers of one's own volumes share: a case is one file a channel, its reference another one.

Intensities. Volumes come in any unit, so each is scaled by itself and channel by channel: its mean becomes 0 and its deviation 1
over all voxels. CT is clipped to its 0.5 and 99.5 percentiles before (nnU-Net takes these from the foreground of the whole
data set; per volume, no label is read for it).
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

from dataloaders.description import Case, DataSet, Item
from dataloaders.geometry import reversed_axes, spacing_of
from dataloaders.layouts.common import checked_label, checked_pixels, checked_shapes, inside
from dataloaders.layouts.nifti import checked_place, read_header, read_volume


def normalised(values: np.ndarray, scheme: str) -> np.ndarray:
    """float32 values by a scheme: "zscore", "ct" (clipped, then zscore) or "none". A constant volume becomes 0."""
    if scheme == "none":
        return values
    if scheme == "ct":
        values = np.clip(values, *np.percentile(values, (0.5, 99.5)))
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return ((values - np.float32(mean)) / np.float32(deviation or 1.0)).astype(np.float32, copy=False)


class VolumeFiles:
    """Reads images, labels and geometry of cases. A 3D data set gets (C, X, Y, Z); a 2D one (C, z, y, x) and its slices one by one."""

    data: DataSet
    root: Path
    schemes: tuple[str, ...] = ("zscore",)
    """How each channel is scaled."""

    def __init__(self, data: DataSet, root: Path, options: object | None = None):
        self.data, self.root = data, Path(root)
        self.remarks: list[str] = []

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
                for case in cases for index in range(read_header(inside(self.root, case.image)).shape[2])]

    def image(self, of: Case | Item) -> np.ndarray:
        volume = self._kept("image", of)
        assert volume is not None
        return volume if isinstance(of, Case) or of.index is None else volume[:, of.index]

    def label(self, of: Case | Item) -> np.ndarray | None:
        volume = self._kept("label", of)
        return volume if volume is None or isinstance(of, Case) or of.index is None else volume[of.index]

    def affine(self, case: Case) -> np.ndarray:
        """(4, 4) float64: index in the array's own axis order to mm (RAS+)."""
        affine = read_header(inside(self.root, case.image)).affine
        return affine if self.data.dimensions == 3 else reversed_axes(affine)

    def spacing(self, case: Case) -> tuple[float, ...]:
        return tuple(float(step) for step in spacing_of(self.affine(case)))

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
        files = [inside(self.root, file) for file in self.channel_files(case)]
        first, channels = read_header(files[0]), []
        for file, scheme in zip(files, self.schemes):
            values, affine = read_volume(file)
            checked_shapes(first.shape, values.shape, files[0], file)
            checked_place(first, affine, files[0], file)
            channels.append(normalised(checked_pixels(values, file), scheme))
        return self._ordered(np.stack(channels))

    def _label(self, case: Case) -> np.ndarray | None:
        if case.label is None:
            return None
        image = read_header(inside(self.root, case.image))
        values, affine = read_volume(inside(self.root, case.label))
        checked_shapes(image.shape, values.shape, case.image, case.label)
        checked_place(image, affine, case.image, case.label)
        return self._ordered(self.checked_ids(values, case))

    def _ordered(self, volume: np.ndarray) -> np.ndarray:
        if self.data.dimensions == 3:
            return np.ascontiguousarray(volume)
        axes = (*range(volume.ndim - 3), *range(volume.ndim - 1, volume.ndim - 4, -1))
        return np.ascontiguousarray(volume.transpose(axes))
