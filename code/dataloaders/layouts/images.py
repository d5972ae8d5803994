"""What the readers of photographs share: every case is one picture file, its reference another one."""
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Item, NewImage, Part, Source
from dataloaders.errors import UserError
from dataloaders.layouts.common import (
    PICTURES,
    checked_label,
    checked_shapes,
    picture_remarks,
    picture_size,
    read_mask,
    read_picture,
)
from dataloaders.listing import Listing, entries, listing, with_ending

BRIGHT = 0.1
"""Share of white pixels from which on a new image may be on another scale than those of training."""
picture_stem = with_ending(*PICTURES)


def pictures_in(folder: Path) -> Listing:
    """The picture files of a folder, subfolders included ('left/001'), and what else is there.

    Raises `UserError` where the folder is missing or two files have one stem.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; expected pictures ({', '.join(PICTURES[:3])}, ...) in it.")
    return listing(folder, picture_stem)


def pictures(folder: Path) -> dict[str, Path]:
    """The files of `pictures_in` by stem, in natural order."""
    return pictures_in(folder).files


class ImageSource(Source):
    """Base of the readers of photographs. A layout says which cases there are (`cases`), and what a mask means (`to_ids`)."""

    expected = "see data/README.md for the folders it must hold"
    new_endings: ClassVar[tuple[str, ...]] = PICTURES

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        self.root = self.located(self.root)

    def located(self, root: Path) -> Path:
        """`root`, or the one folder inside it that has the layout (archives often unpack to a folder of their own)."""
        if not root.is_dir():
            raise UserError(f"{root}: there is no such folder; {self.data.name} is expected there.")
        if self.fits(root):
            return root
        inner = [folder for folder in entries(root) if folder.is_dir() and self.fits(folder)]
        if len(inner) != 1:
            raise UserError(f"{root}: not the layout of {self.data.name}; {self.expected}.")
        return inner[0]

    @abstractmethod
    def cases(self, part: Part) -> list[Case]:
        """Cases of a part, in published order."""

    def image(self, of: Case | Item) -> np.ndarray:
        return read_picture(of.image, self.data.channels)

    def label(self, of: Case | Item) -> np.ndarray | None:
        if of.label is None:
            return None
        mask = read_mask(of.label)
        checked_shapes(picture_size(of.image), mask.shape, of.image, of.label)
        return checked_label(self.to_ids(mask, of), of.label, self.data.classes, self.data.ignored)

    def to_ids(self, mask: np.ndarray, of: Case | Item) -> np.ndarray:
        """Class ids of a mask's values; those of the file unless a layout says otherwise."""
        return mask

    @classmethod
    def read_new(cls, data: DataSet, files: Sequence[Path]) -> NewImage:
        """A photograph, turned as its EXIF says, in the data set's channels and, where it has 16 bits, on the data set's scale."""
        pixels = read_picture(files[0], data.channels, data.white)
        remarks = picture_remarks(files[0], data.channels)
        if data.white and (pixels == 255).mean() > BRIGHT:
            remarks.append(f"in a tenth or more as bright as {data.white:g}, the brightest of training, or brighter: another scale?")
        return NewImage(pixels[:, None], pixels.shape[1:], remarks=remarks)
