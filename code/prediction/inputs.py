"""New images for a finished run: which files a folder has for it, and each read and scaled as its data set's reader does.

What is done to the intensities, by layout of the run's data set:

    photographs (NEU-Seg, MT, DAGM, ISIC, folder)   8 bits, later the published mean and deviation of the data set
    own volumes (nnunet, nnunet2D, folder)          each volume by its own mean and deviation, CT clipped before (`layouts/volume_files.py`)
    h5 files (ACDC, PROMISE12, LA, BraTS, ...)      none: such files are normalised already
    raw volumes for a run that trained on h5        what `prepare.py` does to the official download (`RAW`); no crop around a reference
    pictures for a 2D run that trained on h5        grey, then as one slice of a raw volume

Nothing is resampled or turned: the training data were not either.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataloaders import catalog
from dataloaders.description import Case, DataSet
from dataloaders.errors import UserError
from dataloaders.geometry import reversed_axes, spacing_of
from dataloaders.layouts.acdc import AcdcSource
from dataloaders.layouts.common import H5, PICTURES, checked_pixels, natural, open_picture, picture_size, read_list, read_picture
from dataloaders.layouts.folder import GREY_MODES, PIXELS
from dataloaders.layouts.isic import reduced
from dataloaders.layouts.nifti import ENDINGS, read_header, read_volume, stem_of
from dataloaders.layouts.nnunet import DESCRIPTION, SCHEMES, read_description
from dataloaders.layouts.volume_files import VolumeFiles
from dataloaders.layouts.volumes import VolumeSource
from preparation import acdc, brats, promise12
from preparation.convert import several_values

H5_ENDINGS = (".h5", ".hdf5")
Box = tuple[slice, slice, slice]


@dataclass
class NewImage:
    """An image or volume of the input as the run's network wants it."""

    pixels: np.ndarray
    """(C, S, H, W) as the data set's reader gives it, a picture with S = 1; of a 3D run (C, X, Y, Z)."""
    size: tuple[int, ...]
    """Of the file, in the order of `pixels`: (H, W) of a picture, (S, H, W) or (X, Y, Z) of a volume."""
    affine: np.ndarray | None = None
    """(4, 4): index of a voxel in the file's (x, y, z) -> mm in RAS+; None where unknown, and for pictures."""
    spacing: tuple[float, ...] | None = None
    """mm a voxel in the order of `size`; None where unknown, and for pictures."""
    box: Box | None = None
    """Which part of `size` the pixels are (BraTS: the box of the brain); None: all."""
    remarks: list[str] = field(default_factory=list)

    @property
    def is_picture(self) -> bool:
        return len(self.size) == 2


@dataclass(frozen=True)
class Entry:
    """What is predicted as one: a file, or the files of the channels of one volume."""

    name: str
    """The (first) file's path below the input folder, parts joined by '/'."""
    files: tuple[Path, ...]
    stem: str
    """`name` without the ending, and without _0000 where there are numbered channels."""


def standardised(values: np.ndarray, file: Path) -> np.ndarray:
    """LA: mean 0 and deviation 1 over the whole volume, float32 (as `preparation.la` before its crop)."""
    voxels = several_values(values, file)
    return ((voxels - voxels.mean()) / voxels.std()).astype(np.float32)


RAW: dict[str, tuple[Callable[[np.ndarray, Path], np.ndarray], str]] = {
    "acdc": (acdc.normalised, "mapped to 0..1 by its own least and greatest value, as prepare.py acdc does"),
    "phantom": (acdc.normalised, "mapped to 0..1 by its own least and greatest value"),
    "promise12": (promise12.normalised, "clipped to its 0.5 and 99.5 percentiles and mapped to 0..1, as prepare.py promise12 does"),
    "la": (standardised, "mean 0 and deviation 1, as prepare.py la does; not cropped, since the published crop needs the reference"),
    "phantom3d": (standardised, "mean 0 and deviation 1"),
    "brats": (lambda values, file: values, "cropped to the brain, capped and scaled by the brain's voxels, as prepare.py brats does"),
}
"""By layout of a run that trained on h5: what is done to the values of a raw volume, and the words for it."""


@dataclass(frozen=True)
class Reader:
    """Reads new images for one run. Raises `UserError` for every file that cannot be read, or that the run cannot take."""

    data: DataSet
    schemes: tuple[str, ...] = ("zscore",)
    """Own volumes: how each channel is scaled."""

    @property
    def is_photographic(self) -> bool:
        return self.data.intensities == "8-bit"

    @property
    def endings(self) -> tuple[str, ...]:
        """Of files that the run takes."""
        if self.is_photographic:
            return PICTURES
        if self.data.own:
            return ENDINGS
        volumes = ENDINGS if self.data.layout in RAW else ()
        return (*H5_ENDINGS, *volumes, *(PICTURES if self.data.dimensions == 2 else ()))

    def __call__(self, entry: Entry) -> NewImage:
        file = entry.files[0]
        if file.name.lower().endswith(PICTURES):
            return self._photograph(file) if self.is_photographic else self._slice(file)
        if file.name.lower().endswith(H5_ENDINGS):
            return self._h5(file)
        return self._own_volume(entry) if self.data.own else self._raw_volume(file)

    def _photograph(self, file: Path) -> NewImage:
        remarks = picture_remarks(file, self.data.channels)
        if self.data.layout == "isic":
            small = reduced(read_picture(file, 3).transpose(1, 2, 0), Image.Resampling.BILINEAR).transpose(2, 0, 1)
            return NewImage(small[:, None], picture_size(file), remarks=remarks)
        pixels = read_picture(file, self.data.channels)
        return NewImage(pixels[:, None], pixels.shape[1:], remarks=remarks)

    def _slice(self, file: Path) -> NewImage:
        normalise, words = RAW[self.data.layout]
        pixels = normalise(read_picture(file, 1), file)
        return NewImage(pixels[:, None], pixels.shape[1:], remarks=[*picture_remarks(file, 1), f"a picture, taken as a slice: {words}"])

    def _h5(self, file: Path) -> NewImage:
        source = (VolumeSource if self.data.dimensions == 3 else AcdcSource)(self.data, Path(file.resolve().anchor))
        case = Case(file.stem, file.resolve(), None, "")
        with H5(file) as opened:
            pixels = checked_pixels(opened.read("image", (3,) if self.data.dimensions == 3 else (2, 3)), file)
        if pixels.ndim == 2:
            return NewImage(pixels[None, None], pixels.shape)
        affine = source.affine(case)
        if affine is not None and self.data.dimensions == 2:
            affine = reversed_axes(affine)
        return NewImage(pixels[None], pixels.shape, affine, source.spacing(case))

    def _own_volume(self, entry: Entry) -> NewImage:
        if len(entry.files) != self.data.channels:
            raise UserError(f"{entry.files[0]}: {len(entry.files)} of the {self.data.channels} channels that the run takes; expected "
                            f"CASE_0000 to CASE_{self.data.channels - 1:04d} beside each other.")
        files = tuple(file.resolve() for file in entry.files)
        source = Channels(self.data, Path(files[0].anchor), self.schemes, files)
        pixels = source.image(Case(entry.name, files[0], None, ""))
        affine = read_header(files[0]).affine
        return NewImage(pixels, pixels.shape[1:], affine, self._spacing(affine))

    def _raw_volume(self, file: Path) -> NewImage:
        normalise, words = RAW[self.data.layout]
        values, affine = read_volume(file)
        checked_pixels(values, file)
        remarks = [f"raw: {words}"]
        if self.data.layout == "brats":
            several_values(values, file)
            box = brats.brain_box(values, file)
            pixels = brats.normalised(brats.capped(values[box]), file)
            return NewImage(pixels[None], values.shape, affine, self._spacing(affine), box, remarks)
        pixels = normalise(values if self.data.dimensions == 3 else values.transpose(), file)
        return NewImage(np.ascontiguousarray(pixels)[None], pixels.shape, affine, self._spacing(affine), remarks=remarks)

    def _spacing(self, affine: np.ndarray) -> tuple[float, ...]:
        steps = tuple(float(step) for step in spacing_of(affine))
        return steps if self.data.dimensions == 3 else steps[::-1]


class Channels(VolumeFiles):
    """Reader of one volume whose channels are these files."""

    def __init__(self, data: DataSet, root: Path, schemes: tuple[str, ...], files: tuple[Path, ...]):
        super().__init__(data, root)
        self.schemes, self.files = schemes, files

    def channel_files(self, case: Case) -> list[Path]:
        return list(self.files)


def picture_remarks(file: Path, channels: int) -> list[str]:
    """What reading a picture with `channels` 1 (grey) or 3 (RGB) changes of it."""
    with open_picture(file) as picture:
        grey, deep = picture.mode in GREY_MODES, picture.mode.startswith("I") or picture.mode == "F"
        pages, turned = getattr(picture, "n_frames", 1), picture.getexif().get(0x0112, 1) not in (0, 1)
    remarks = ["colour, read as grey"] if channels == 1 and not grey else ["grey, read as colour"] if channels == 3 and grey else []
    remarks += ["16 bit or float, read as 8 bit"] if deep else []
    remarks += ["the first of several pages"] if pages > 1 else []
    return remarks + (["turned as its EXIF says"] if turned else [])


def reader_for(config: Mapping[str, Any], network: Mapping[str, Any]) -> Reader:
    """The reader for a run, from its configuration and the arguments of its network; the run's data need not be there any more.

    Only nnU-Net's layout needs its dataset.json, which says how channels are scaled. Raises `UserError` where that is missing.
    """
    data, root, options = catalog.named(config["data_set"]), Path(config["root"]), config["options"]
    if data.layout == "folder" and config["dimensions"] == 3:
        data = catalog.VOLUME_FOLDER
    count, channels = int(network["num_classes"]), int(network["in_channels"])
    if data.layout == "nnunet":
        told = read_description(root / DESCRIPTION)
        schemes = tuple(SCHEMES.get(name.lower(), "zscore") for name in told.channels)
        return Reader(replace(data, classes=told.classes, channels=len(told.channels)), schemes)
    if data.layout in ("folder", "pairs"):
        file = root / "classes.txt"
        names = tuple(entry.name for entry in read_list(file)) if file.is_file() else ()
        if len(names) != count:
            names = ("background", *(f"class {k}" for k in range(1, count)))
        mean, std = PIXELS[channels] if data.layout == "folder" else (None, None)
        return Reader(replace(data, classes=names, channels=channels, mean=mean, std=std))
    if data.layout == "dagm":
        data = replace(data, classes=("background", *(f"class {k}" for k in sorted(options["dagm_classes"]))))
    return Reader(data)


def entries_in(place: Path, reader: Reader, without: Path) -> tuple[list[Entry], Counter[str]]:
    """What `place` (a folder with its subfolders, or one file) has for the run, in natural order; and the other files by ending.

    Hidden files and what lies below `without` (the output) are not looked at. Raises `UserError` where there is nothing.
    """
    if place.is_file():
        found, base = [place], place.parent
    elif place.is_dir():
        found, base = [p for p in place.rglob("*") if _is_file(p) and not _hidden(p.relative_to(place))], place
    else:
        raise UserError(f"{shown(place)}: there is no such file or folder; give the images with --input.")
    outside = without.resolve()
    found = [p for p in found if not p.resolve().is_relative_to(outside)]
    found.sort(key=lambda p: natural(p.relative_to(base).as_posix()))
    files = [p for p in found if p.name.lower().endswith(reader.endings)]
    chosen = set(files)
    others = Counter(p.suffix.lower() or "no ending" for p in found if p not in chosen)
    if not files:
        seen = ", ".join(f"{n} {ending}" for ending, n in others.most_common(5)) or "nothing"
        raise UserError(f"{shown(place)}: no file that this run takes ({', '.join(reader.endings)}); found: {shown(seen)}.")
    return _grouped(files, base, reader.data), others


def _is_file(path: Path) -> bool:
    """A link to nowhere counts: it is told of in the end."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _grouped(files: list[Path], base: Path, data: DataSet) -> list[Entry]:
    """Files as entries; in nnU-Net's layout the numbered channels of a case as one."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        path = file.relative_to(base)
        stem = path.with_name(stem_of(path.name) or path.stem).as_posix()
        numbered = re.fullmatch(r"(.+)_([0-9]{4})", stem) if data.layout == "nnunet" else None
        if numbered and (data.channels > 1 or numbered[2] == "0000"):
            groups.setdefault(f"{numbered[1]}\0", []).append(file)
        else:
            groups[f"{stem}\0{path.as_posix()}"] = [file]
    return [Entry(members[0].relative_to(base).as_posix(), tuple(members), key.split("\0")[0]) for key, members in groups.items()]


def shown(text: object) -> str:
    """Text for a screen or a table: names that are no UTF-8, and control characters, become escapes."""
    plain = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
