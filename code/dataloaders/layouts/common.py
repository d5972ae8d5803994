"""Reading files that nobody vouches for: lists, HDF5 arrays, pictures. Every mistake is a `UserError` that names the file."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dataloaders.errors import Problems, UserError

if TYPE_CHECKING:
    import h5py

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm")
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
MOST_ELEMENTS = 2**28
"""Arrays that declare more are refused before memory is asked for (ACDC's largest has 4 million, LA's 7 million)."""


@dataclass(frozen=True)
class Entry:
    """A line of a list."""

    name: str
    file: Path
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}, line {self.line}"


def read_list(file: Path) -> list[Entry]:
    """Entries of a list file, one a line; blank lines, `#` comments, a byte-order mark and CRLF are accepted.

    Raises `UserError` (all problems together): no such file, not UTF-8, empty, an entry twice, an entry that is a path out of the folder.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such list.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text in UTF-8 ({what_lies_there(file)}); a list has one name a line.") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from None
    if lines and lines[0].startswith("version https://git-lfs"):
        raise UserError(f"{file}: {what_lies_there(file)}")
    problems, entries = Problems(), list[Entry]()
    seen: dict[str, int] = {}
    for number, text in enumerate(lines, start=1):
        name = text.strip()
        if not name or name.startswith("#"):
            continue
        entry = Entry(name, file, number)
        if leaves_folder(name):
            problems.add(f"{entry.where}: {name!r} leads out of the data set's folder; write the bare name of a case.")
        elif name in seen:
            problems.add(f"{entry.where}: {name} stands in line {seen[name]} already; remove one of the two.")
        else:
            seen[name] = number
            entries.append(entry)
    if not entries and not problems.messages:
        problems.add(f"{file}: the list is empty; it has one name a line.")
    problems.raise_any(str(file))
    return entries


def leaves_folder(name: str) -> bool:
    """Whether a list entry is anything but a name (or relative path) inside the data set's folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or "\0" in name or bool(re.match(r"[A-Za-z]:", name))


def natural(name: str) -> list[tuple[int, str]]:
    """Sorting key under which slice_2 stands before slice_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name) if part]


def what_lies_there(file: Path) -> str:
    """Why a file cannot be read, told from its first bytes, and what to do about it."""
    if file.is_dir():
        return "this is a folder, not a file."
    if not file.exists():
        return "there is no such file."
    try:
        with open(file, "rb") as stream:
            head = stream.read(512)
    except OSError as error:
        return f"it cannot be opened ({error.strerror})."
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if not head:
        return "the file is empty; download it again."
    if head.startswith(b"version https://git-lfs"):
        return "this is a git-LFS pointer, not the data; run `git lfs pull` in the downloaded repository."
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page saved in place of the data (a download that asked for a login, perhaps); download it again."
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"the HDF5 file is damaged or cut off ({file.stat().st_size} bytes); download it again."
    return f"not of the expected format (it begins with {head[:16]!r}); download it again."


def inside(root: Path, file: Path) -> Path:
    """`file`, unless a link leads it out of the data set's folder (the folder itself may be a link)."""
    if not file.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{file}: a link that leads out of {root} (to {file.resolve()}); put the file itself there.")
    return file


class H5:
    """An open HDF5 file of which datasets are read one at a time, checked before memory is asked for; a context manager."""

    def __init__(self, file: Path):
        import h5py  # here alone: no command needs it before it reads a file

        self.file, self.h5py = file, h5py
        try:
            self.handle = h5py.File(file, "r")
        except (OSError, RuntimeError):
            raise UserError(f"{file}: {what_lies_there(file)}") from None

    def __enter__(self) -> H5:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.close()

    def dataset(self, key: str, dimensions: Sequence[int]) -> h5py.Dataset:
        """The dataset `key`, not yet read: an array of numbers in this very file with one of the numbers of `dimensions`."""
        link = self.handle.get(key, getlink=True) if key in self.handle.keys() else None  # noqa: SIM118
        if link is None:
            found = ", ".join(sorted(self.handle.keys())) or "nothing"
            raise UserError(f"{self.file}: no dataset {key!r} in it; found: {found}. Store the array under this name.")
        if not isinstance(link, self.h5py.HardLink):
            raise UserError(f"{self.file}: {key!r} is a link to elsewhere, which is not followed; store the array in the file itself.")
        found_object = self.handle[key]
        if not isinstance(found_object, self.h5py.Dataset):
            raise UserError(f"{self.file}: {key!r} is a group; expected an array.")
        if found_object.external or found_object.is_virtual:
            raise UserError(f"{self.file}: {key!r} keeps its values in other files; store the array in the file itself.")
        if found_object.dtype.kind not in "buif":
            raise UserError(f"{self.file}: {key!r} holds {found_object.dtype}; expected numbers, float32 for images and uint8 for labels.")
        shape = tuple(found_object.shape or ())
        if len(shape) not in dimensions or 0 in shape:
            wanted = " or ".join(str(d) for d in dimensions)
            raise UserError(f"{self.file}: {key!r} has the shape {shape}; expected {wanted} dimensions, none of them empty. "
                            "Write the file anew, or take it out of the lists.")
        if np.prod(shape, dtype=float) > MOST_ELEMENTS:
            raise UserError(f"{self.file}: {key!r} claims the shape {shape}, more than {MOST_ELEMENTS} values; such a file is not read.")
        return found_object

    def values(self, key: str, dimensions: int) -> np.ndarray | None:
        """float64 of an attribute or a small dataset `key` with this number of dimensions; None where the file has neither."""
        stored = self.handle.attrs.get(key)
        if stored is None and key in self.handle:
            stored = self.read(key, (dimensions,))
        array = np.asarray(0.0 if stored is None else stored)
        if array.dtype.kind not in "uif" or (stored is not None and array.ndim != dimensions):
            raise UserError(f"{self.file}: {key!r} is {array.dtype} of shape {array.shape}; expected numbers in {dimensions} dimensions. "
                            "Write it anew, or remove it.")
        return None if stored is None else array.astype(np.float64)

    def read(self, key: str, dimensions: Sequence[int], index: int | None = None) -> np.ndarray:
        """The dataset's values, or those of its slice `index`."""
        dataset = self.dataset(key, dimensions)
        if index is not None and not 0 <= index < dataset.shape[0]:
            raise UserError(f"{self.file}: no slice {index}; {key!r} has {dataset.shape[0]}.")
        try:
            return dataset[()] if index is None else dataset[index]
        except (OSError, RuntimeError):
            raise UserError(f"{self.file}: {key!r} is damaged or cut off; download the file again.") from None


def checked_label(label: np.ndarray, file: Path, classes: Sequence[str], ignored: int | None) -> np.ndarray:
    """uint8 class ids; raises `UserError` where a value is no class (named `classes`) and not `ignored`."""
    allowed = f"0 to {len(classes) - 1} ({', '.join(classes)})" + (f" or {ignored} (ignored)" if ignored is not None else "")
    if label.dtype.kind == "f":
        whole = np.isfinite(label) & (label == np.floor(label))
        if not whole.all():
            value = label[~whole].flat[0]
            raise UserError(f"{file}: label value {value} is no whole number; allowed are {allowed}.")
    low, high = label.min(), label.max()
    if low >= 0 and high < len(classes):
        return np.ascontiguousarray(label, dtype=np.uint8)
    values, counts = np.unique(label, return_counts=True)
    wrong = [(v, n) for v, n in zip(values, counts) if not 0 <= v < len(classes) and v != ignored]
    if wrong:
        value, count = wrong[0]
        hint = " The mask is of the kind 0/255: divide it by 255." if values.tolist() in ([0, 255], [255]) else ""
        more = f" (and {len(wrong) - 1} other values)" if len(wrong) > 1 else ""
        raise UserError(f"{file}: label value {value:g} in {count} pixels{more}; allowed are {allowed}.{hint or ' Correct the label.'}")
    return np.ascontiguousarray(label, dtype=np.uint8)


def checked_shapes(image: Sequence[int], label: Sequence[int], image_file: Path, label_file: Path) -> None:
    """Raises `UserError` where the label's shape is not the image's, both (*spatial)."""
    if tuple(image) != tuple(label):
        names = f"{image_file}: image and label" if image_file == label_file else f"{image_file} and {label_file}"
        raise UserError(f"{names} differ in shape: {tuple(image)} and {tuple(label)}; they must be the same. "
                        "Write the label again, on the grid of its image.")


def open_picture(file: Path) -> Image.Image:
    """A picture opened by Pillow, its pixels not yet read, its size checked."""
    try:
        picture = Image.open(file)
    except Image.DecompressionBombError:
        raise UserError(f"{file}: claims too many pixels; such a file is not read.") from None
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        raise UserError(f"{file}: {what_lies_there(file)}") from None
    if picture.width * picture.height > MOST_ELEMENTS:
        raise UserError(f"{file}: claims {picture.width} x {picture.height} pixels; such a file is not read.")
    return picture


def read_picture(file: Path, channels: int | None) -> np.ndarray:
    """(C, H, W) uint8 of a photograph; `channels` 1 (grey) or 3 (RGB) converts, None leaves colours as they are.

    A 16-bit grey picture is scaled by 1/257 to eight bits; a photograph is turned as its EXIF says, as tools that draw masks show it.
    """
    with open_picture(file) as picture:
        try:
            if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
                values = np.asarray(picture).astype(np.float64)
                picture_8 = Image.fromarray(to_eight_bits(values, file))
            else:
                picture_8 = ImageOps.exif_transpose(picture).convert("RGB" if picture.mode not in ("1", "L", "LA", "La") else "L")
        except (OSError, ValueError, SyntaxError):
            raise UserError(f"{file}: the picture is damaged or cut off; download it again.") from None
    if channels is not None:
        picture_8 = picture_8.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(picture_8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def to_eight_bits(values: np.ndarray, file: Path) -> np.ndarray:
    """uint8 of a picture with 16-bit whole numbers or floats: 0..255 stays, 0..65535 is divided by 257."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise UserError(f"{file}: pixel values from {low:g} to {high:g}; expected 0 to 255 or 0 to 65535.")
    return np.rint(values / 257 if high > 255 else values).astype(np.uint8)


def read_mask(file: Path) -> np.ndarray:
    """(H, W) whole numbers of a mask: class ids, or grey levels of an anti-aliased one."""
    with open_picture(file) as picture:
        try:
            if picture.format == "JPEG":
                raise UserError(f"{file}: a JPEG changes the values of a mask; save masks as PNG.")
            values = np.asarray(picture)
        except (OSError, ValueError, SyntaxError):
            raise UserError(f"{file}: the mask is damaged or cut off; download it again.") from None
    if values.ndim == 3:
        colours = values[..., :3]
        if values.shape[2] == 2 or (colours == colours[..., :1]).all():
            return np.ascontiguousarray(values[..., 0])
        raise UserError(f"{file}: a colour picture of shape {values.shape}; expected a mask of one channel whose values are class ids.")
    return values.astype(np.uint8) if values.dtype == bool else values


def picture_size(file: Path) -> tuple[int, int]:
    """(H, W) of a picture as `read_picture` turns it, from its head."""
    with open_picture(file) as picture:
        sideways = picture.getexif().get(0x0112) in (5, 6, 7, 8)
        return (picture.width, picture.height) if sideways else (picture.height, picture.width)


def picture_remarks(file: Path, channels: int) -> list[str]:
    """What reading a picture with `channels` 1 (grey) or 3 (RGB) changes of it."""
    with open_picture(file) as picture:
        grey, deep = picture.mode in GREY_MODES, picture.mode.startswith("I") or picture.mode == "F"
        pages, turned = getattr(picture, "n_frames", 1), picture.getexif().get(0x0112, 1) not in (0, 1)
    remarks = ["colour, read as grey"] if channels == 1 and not grey else ["grey, read as colour"] if channels == 3 and grey else []
    remarks += ["16 bit or float, read as 8 bit"] if deep else []
    remarks += ["the first of several pages"] if pages > 1 else []
    return remarks + (["turned as its EXIF says"] if turned else [])
