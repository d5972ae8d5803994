"""Reading files that nobody vouches for: lists, HDF5 arrays, pictures. Every mistake is a `UserError` that names the file."""
from __future__ import annotations

import re
import struct
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dataloaders.errors import NO_LOCKS, NOT_PERMITTED, Problems, UserError, trouble
from dataloaders.layouts import checksums
from dataloaders.listing import is_regular, real_place
from dataloaders.masks import Facts, soft_values, values_of, whole_numbers

if TYPE_CHECKING:
    import h5py

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm")
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned."""
PHOTOMETRIC = 0x0106
"""The TIFF tag that says whether 0 is white."""
MASK_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
"""What a file may hold, whatever its name: Pillow knows others, of which one (EPS) hands it to another program."""
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
MOST_TEXT = 64 * 2**20
"""Bytes of a list or a description; larger ones are not read."""
MOST_ELEMENTS = 2**28
"""Arrays that declare more are refused before memory is asked for (ACDC's largest has 4 million, LA's 7 million)."""
LEAST_FLOAT = 4
"""The greatest of floats that are no shares of 1 is at least this."""
LOSSY = ("JPEG", "MPO", "JPEG2000")
"""Formats that change the values of a mask; JPEG 2000 does not always, but its files do not tell."""
DAMAGED = (RuntimeError, KeyError, ValueError, TypeError, IndexError, OverflowError, EOFError)
"""What HDF5's library raises of a damaged file, beside OSError."""


@dataclass(frozen=True)
class Entry:
    """A line of a list."""

    name: str
    file: Path
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}, line {self.line}"


def lines_of(file: Path, what: str) -> list[str]:
    """Lines of a text in UTF-8, or in UTF-16 with its byte-order mark, as PowerShell and Excel write it.

    Raises `UserError` for a folder or a device, and for a file that is too large (`what` says what is expected), `UnicodeDecodeError` and
    `OSError`.
    """
    regular(file)
    if file.stat().st_size > MOST_TEXT:
        raise UserError(f"{file}: {file.stat().st_size} bytes; {what}, and such a file is not read.")
    content = file.read_bytes()
    return content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig").splitlines()


def read_list(file: Path) -> list[Entry]:
    """Entries of a list file, one a line; blank lines, `#` comments, a byte-order mark and CRLF are accepted.

    Raises `UserError` (all problems together): no such file, no text, empty, an entry twice, an entry that is a path out of the folder.
    """
    try:
        lines = lines_of(file, "a list has one name a line")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such list.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text in UTF-8 ({what_lies_there(file)}); a list has one name a line.") from None
    except OSError as error:
        raise unreadable(file, error) from None
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


KINDS = ((b"II*\0", "a TIFF of a kind that is not read"), (b"MM\0*", "a TIFF of a kind that is not read"), (b"II+\0", "a BigTIFF"),
         (b"MM\0+", "a BigTIFF"), (b"\x89PNG", "a PNG"), (b"\xff\xd8\xff", "a JPEG"), (b"GIF8", "a GIF"), (b"BM", "a BMP"),
         (b"\0\0\0\x0cjP", "a JPEG 2000"), (b"\xff\x4f\xff\x51", "a JPEG 2000"), (b"PK\3\4", "a zip archive"),
         (b"\x1f\x8b", "packed by gzip"),
         (b"%PDF", "a PDF"), (b"NRRD", "an NRRD volume"), (b"8BPS", "a Photoshop file"), (b"v/1\x01", "an OpenEXR file"))
"""First bytes of files that people give other names, and what they are."""
EXPECTED_PICTURES = "Grey or RGB of 8 or 16 bits (TIFF: also grey floats) is expected: convert it, or leave it out."


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
        return trouble(error) or "there is no such file."
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    kind = next((name for start, name in KINDS if head.startswith(start)), "")
    if not head:
        return "the file is empty; download it again."
    if head.startswith(b"version https://git-lfs"):
        return "this is a git-LFS pointer, not the data; run `git lfs pull` in the downloaded repository."
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page saved in place of the data (a download that asked for a login, perhaps); download it again."
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"the HDF5 file is damaged or cut off ({file.stat().st_size} bytes); download it again."
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif", b"ftyphevc"):
        kind = "a HEIC or AVIF picture"
    if head[128:132] == b"DICM":
        return "this is a DICOM file. Convert it: dcm2niix writes a series as one NIfTI volume; single pictures are exported as PNG."
    if head[:4] in (b"II*\0", b"MM\0*"):
        return f"a TIFF of a kind that is not read{in_a_tiff(head, file)}. {EXPECTED_PICTURES}"
    if kind and not (kind == "packed by gzip" and file.name.lower().endswith(".gz")):
        known = file.name.lower().endswith(PICTURES)
        return f"this is {kind}, and cannot be read as such: damaged, of an unusual kind, or under another ending. " + (
            EXPECTED_PICTURES if known else "Convert it, or leave it out.")
    return f"not of the expected format (it begins with {head[:16]!r}). Export it again, or leave it out."


def in_a_tiff(head: bytes, file: Path) -> str:
    """What the first directory of a TIFF says of its pixels, in brackets; empty where it cannot be read."""
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    try:
        with open(file, "rb") as stream:
            stream.seek(int.from_bytes(head[4:8], order))
            count = int.from_bytes(stream.read(2), order)
            entries = [stream.read(12) for _ in range(min(count, 200))]
        tags = {int.from_bytes(entry[:2], order): int.from_bytes(entry[8:10], order) for entry in entries if len(entry) == 12}
        counts = {int.from_bytes(entry[:2], order): int.from_bytes(entry[4:8], order) for entry in entries if len(entry) == 12}
    except OSError:
        return ""
    words = [f"{tags[277]} channels"] if tags.get(277, 1) > 1 else []
    words += [f"{tags[258]} bits"] if counts.get(258) == 1 else []
    return f" ({', '.join(words)})" if words else ""


def unreadable(file: Path, error: OSError) -> UserError:
    """The sentence for a file that could not be read: what the system says, or else what lies there."""
    return UserError(f"{file}: {trouble(error) or what_lies_there(file)}")


def regular(file: Path) -> None:
    """Raises `UserError` for a pipe or a device, of which reading may never end, and for a file that is not the one of its SHA256SUMS.

    Files that are not there are told of by who opens them.
    """
    if is_regular(file):
        with suppress(OSError):
            checksums.check(file)
    elif file.exists() and not file.is_dir():
        raise UserError(f"{file}: no regular file (a pipe, a socket or a device); such a thing is not read.")


def inside(root: Path, file: Path) -> Path:
    """`file`, which another file names, unless a link leads it out of that file's folder (the folder itself may be a link)."""
    if not real_place(file).is_relative_to(real_place(root)):
        raise UserError(f"{file}: a link that leads out of {root} (to {real_place(file)}); put the file itself there.")
    return file


class H5:
    """An open HDF5 file of which datasets are read one at a time, checked before memory is asked for; a context manager."""

    def __init__(self, file: Path):
        import h5py  # here alone: no command needs it before it reads a file

        self.file, self.h5py = file, h5py
        regular(file)
        try:
            try:
                self.handle = h5py.File(file, "r")
            except OSError as error:
                if error.errno not in NO_LOCKS and not (error.errno in NOT_PERMITTED and "lock" in str(error)):
                    raise
                # Network file systems refuse locks; who only reads can do without.
                self.handle = h5py.File(file, "r", locking=False)
        except OSError as error:
            raise unreadable(file, error) from None
        except DAMAGED:
            raise UserError(f"{file}: {what_lies_there(file)}") from None

    def __enter__(self) -> H5:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.close()

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Turns what h5py raises of a damaged file into a `UserError`: as many kinds of exception as there are places in a file."""
        try:
            yield
        except OSError as error:
            raise unreadable(self.file, error) from None
        except DAMAGED:
            raise UserError(f"{self.file}: {what_lies_there(self.file)}") from None

    def dataset(self, key: str, dimensions: Sequence[int]) -> h5py.Dataset:
        """The dataset `key`, not yet read: an array of numbers in this very file with one of the numbers of `dimensions`."""
        with self._sound():
            return self._dataset(key, dimensions)

    def _dataset(self, key: str, dimensions: Sequence[int]) -> h5py.Dataset:
        link = self._link(key)
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

    def _link(self, key: str) -> Any:
        """What stands under a name, without going where it leads; None where there is nothing."""
        return self.handle.get(key, getlink=True) if self.handle.id.links.exists(key.encode()) else None

    def values(self, key: str, dimensions: int) -> np.ndarray | None:
        """float64 of an attribute or a small dataset `key` with this number of dimensions; None where the file has neither."""
        with self._sound():
            stored = self.handle.attrs.get(key)
            if stored is None and self._link(key) is not None:
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
        except OSError as error:
            raise UserError(f"{self.file}: " + (trouble(error) or self._why_not(dataset, key))) from None
        except DAMAGED:
            with self._sound():
                raise UserError(f"{self.file}: {self._why_not(dataset, key)}") from None

    def _why_not(self, dataset: h5py.Dataset, key: str) -> str:
        """Of values that cannot be read: packed by a filter that is not here, or damaged."""
        stored = dataset.id.get_create_plist()
        filters = [stored.get_filter(k) for k in range(stored.get_nfilters())]
        foreign = [number for number, *_ in filters if not self.h5py.h5z.filter_avail(number)]
        if foreign:
            return (f"{key!r} is packed by a filter that is not here (number {foreign[0]}). Write the file anew with gzip "
                    f"(h5repack -f {key}:GZIP=4 OLD NEW).")
        return f"{key!r} is damaged or cut off; download the file again."


def checked_label(label: np.ndarray, file: Path, classes: Sequence[str], ignored: int | None) -> np.ndarray:
    """uint8 class ids, floats that nearly are whole rounded; raises `UserError` where a value is no class (of `classes`) nor `ignored`."""
    allowed = f"0 to {len(classes) - 1} ({', '.join(classes)})" + (f" or {ignored} (ignored)" if ignored is not None else "")
    label = whole_numbers(label, file, allowed)
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
    regular(file)
    try:
        picture = Image.open(file, formats=FORMATS)
        if picture.format == "TIFF" and picture.getexif().get(ORIENTATION, 1) > 4:
            picture.filename = ""  # Pillow 13.0.0 maps the pixels of such a file with the sides of the turned picture
    except Image.DecompressionBombError:
        raise UserError(f"{file}: claims too many pixels; such a file is not read.") from None
    except UnidentifiedImageError:
        raise UserError(f"{file}: {what_lies_there(file)}") from None
    except OSError as error:
        raise unreadable(file, error) from None
    except (ValueError, SyntaxError, RuntimeError, TypeError, IndexError, KeyError, OverflowError, EOFError, struct.error):
        raise UserError(f"{file}: {what_lies_there(file)}") from None
    if picture.width * picture.height > MOST_ELEMENTS:
        raise UserError(f"{file}: claims {picture.width} x {picture.height} pixels; such a file is not read.")
    return picture


@contextmanager
def reading(file: Path, what: str) -> Iterator[None]:
    """Turns what Pillow raises of pixels that it cannot read into a `UserError`; `what`: the picture, or the mask."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file}: " + (trouble(error) or f"the {what} is damaged or cut off; download it again.")) from None
    except Image.DecompressionBombError:
        raise UserError(f"{file}: claims too many pixels; such a file is not read.") from None
    except (ValueError, SyntaxError, RuntimeError, TypeError, IndexError, KeyError, OverflowError, EOFError, struct.error):
        raise UserError(f"{file}: the {what} is damaged or cut off; download it again.") from None


def check_chunks(picture: Image.Image, file: Path) -> None:
    """Raises ValueError where a part of a PNG is not that of its checksum: Pillow does not compare those of pixels."""
    if picture.format != "PNG":
        return
    content, place, kind = memoryview(file.read_bytes()), 8, b""
    while kind != b"IEND":
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        kind, told = bytes(content[place + 4 : place + 8]), bytes(content[end : end + 4])
        if len(told) < 4 or zlib.crc32(content[place + 4 : end]) != int.from_bytes(told, "big"):
            raise ValueError
        place = end + 4


def read_picture(file: Path, channels: int | None, white: float | None = None) -> np.ndarray:
    """(C, H, W) uint8 of a photograph, turned as its EXIF says, as tools that draw masks show it.

    channels: 1 (grey) or 3 (RGB) converts, None leaves colours as they are. white: the value that becomes 255 in a picture of 16 bits or
    floats, one for a data set; None: by the depth that the file itself uses (`white_of`).
    """
    with open_picture(file) as picture:
        with reading(file, "picture"):
            check_chunks(picture, file)
            values = stored_values(picture) if is_deep(picture) else None
            turned = ImageOps.exif_transpose(picture)
            picture_8 = turned if values is not None else turned.convert("RGB" if turned.mode not in ("1", "L", "LA", "La") else "L")
        if values is not None:
            picture_8 = Image.fromarray(to_eight_bits(values, file, white))
    if channels is not None:
        picture_8 = picture_8.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(picture_8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def is_deep(picture: Image.Image) -> bool:
    """Whether it has more than eight bits a pixel, or floats."""
    return picture.mode.startswith("I;16") or picture.mode in ("I", "F")


def stored_values(picture: Image.Image) -> np.ndarray:
    """The values of a picture, not yet read, as its file has them, turned as its EXIF says.

    Pillow stretches grey of two and four bits, and that of a PGM, whose greatest value may be any, to 255 or 65535: class ids are others
    then, and of a depth that each file has for itself no scale of a data set can be made. (Two or four bits that are black and white alone
    stay 0 and 255.) And a TIFF of 16 bits in which 0 is white it leaves so, though not one of eight.
    """
    tiles, top = getattr(picture, "tile", None), 255
    told = tiles[0][3] if tiles and picture.mode in ("L", "RGB", "I") else None
    packed = told if isinstance(told, str) else told[0] if isinstance(told, tuple) and told else ""
    if picture.format == "PPM" and isinstance(told, tuple):
        top = told[1]
    elif packed in ("L;2", "L;4"):
        top = 2 ** int(packed[-1]) - 1
    white_is_0 = picture.format == "TIFF" and picture.mode.startswith("I;16") and getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == 0
    values = np.asarray(ImageOps.exif_transpose(picture))
    if white_is_0:
        return np.subtract(65535, values, dtype=np.uint16)
    stretched = 65535 if picture.mode == "I" else 255
    as_it_is = top in (255, stretched) or (packed in ("L;2", "L;4") and bool(np.isin(values, (0, 255)).all()))
    return values if as_it_is else np.rint(values * (top / stretched)).astype(values.dtype)


def to_eight_bits(values: np.ndarray, file: Path, white: float | None = None) -> np.ndarray:
    """uint8 of a picture with 16-bit whole numbers or floats: 0 to `white` becomes 0 to 255; what is brighter stays 255.

    Raises `UserError` for floats from 0 to 1 where `white` is no such scale, and the other way round: one would be black, the other white.
    """
    low, high = lowest_and_greatest(values, file)
    floats = values.dtype.kind == "f"
    if white is not None and high > 0 and (floats and high <= 1 < white or white == 1 and (not floats or high >= LEAST_FLOAT)):
        raise UserError(f"{file}: {'floats' if floats else 'whole numbers'} up to {high:g}, but the scale of the data set is 0 to "
                        f"{white:g}. Save all pictures alike.")
    top = white_of(high, values.dtype.kind == "f", file) if white is None else white
    values = values.astype(np.float64)
    return np.rint(np.minimum(values, top) / (top / 255) if top != 255 else np.minimum(values, 255)).astype(np.uint8)


def lowest_and_greatest(values: np.ndarray, file: Path) -> tuple[float, float]:
    """Of the pixels of a deep picture; raises `UserError` where they are no intensities."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise UserError(f"{file}: pixel values from {low:g} to {high:g}; expected floats from 0 to 1, or 0 to 255, or up to 0 to 65535. "
                        "Scale all pictures alike, and save them again.")
    return low, high


def white_of(greatest: float, floats: bool, where: Path) -> float:
    """The value that means white, by the greatest one that is there: 1 for floats, else by the least depth of 8, 10, 12, 14 or 16 bits."""
    if floats and greatest <= 1:
        return 1.0
    if floats and greatest < LEAST_FLOAT:
        raise UserError(f"{where}: floats up to {greatest:g}, neither 0 to 1 nor 0 to 255. Scale all pictures alike, and save them again.")
    return next(float(top) for top in (255, 1023, 4095, 16383, 65535) if greatest <= top)


def read_mask(file: Path) -> np.ndarray:
    """(H, W) whole numbers of a mask: class ids, or grey levels of an anti-aliased one; turned as its EXIF says, as its image is."""
    return _mask(file)[0]


def mask_facts(file: Path) -> Facts:
    """What a mask holds, to be judged beside others."""
    values, palette, turned = _mask(file)
    found = values_of(values)
    colours = {v: palette[v] for v in found if 0 <= v < len(palette)}
    return Facts(file, found, soft_values(values, found), colours, turned)


def _mask(file: Path) -> tuple[np.ndarray, list[tuple[int, ...]], bool]:
    """(values, palette, whether it is turned) of a mask."""
    with open_picture(file) as picture:
        lossy, deep_colour = is_lossy(picture, file), has_deep_colour(picture)
        if picture.format in LOSSY:
            raise UserError(f"{file}: a JPEG changes the values of a mask; save masks as PNG.")
        if picture.mode not in MASK_MODES:
            raise UserError(f"{file}: a picture in the colours {picture.mode}; expected a mask of one channel whose values are class ids.")
        with reading(file, "mask"):
            check_chunks(picture, file)
            pages = pages_of(picture)
            if pages == 1:
                values = stored_values(picture)
                palette, turned = palette_of(picture), picture.getexif().get(ORIENTATION, 1) not in (0, 1)
        if pages > 1:
            raise UserError(f"{file}: {pages} pages of one size; a mask has one. Save each page as a file of its own, with its image "
                            "likewise, or the stack as a volume (.nii.gz).")
    if values.ndim == 3:
        values = without_alpha(values, file)
    numbers = whole_numbers(values, file)
    if lossy and (not np.isin(numbers, (0, 255)).all() or not numbers.any()):  # black and white alone are what was saved; ids may be lost
        raise UserError(f"{file}: packed like a JPEG ({picture.format}), which changes the values of a mask; found "
                        f"{', '.join(map(str, sorted(values_of(numbers))[:8]))}. Save masks as PNG.")
    if deep_colour and (not np.isin(numbers, (0, 255)).all() or not numbers.any()):  # ids below 256 have become 0
        raise UserError(f"{file}: a mask with 16 bits a colour, of which the upper 8 bits alone are read, so class ids would be lost. Save "
                        "masks as grey PNG.")
    return numbers, palette, turned


def has_deep_colour(picture: Image.Image) -> bool:
    """Whether a picture, not yet read, has 16 bits a colour (or grey of 16 bits with transparency), of which Pillow reads the upper 8."""
    return not is_deep(picture) and ";16" in str(getattr(picture, "tile", ""))


def is_lossy(picture: Image.Image, file: Path) -> bool:
    """Whether a picture is packed in a way that changes values."""
    if picture.format == "WEBP":
        content, place = file.read_bytes(), 12
        while place + 8 <= len(content) and content[place : place + 4] not in (b"VP8 ", b"VP8L", b"ANMF"):
            size = int.from_bytes(content[place + 4 : place + 8], "little")
            place += 8 + size + size % 2
        return content[place : place + 4] == b"VP8 "
    return picture.format in LOSSY or "jpeg" in str(picture.info.get("compression"))


def palette_of(picture: Image.Image) -> list[tuple[int, ...]]:
    """The colours of a picture's palette, those that are not opaque with a fourth number; none where it has no palette."""
    if picture.mode not in ("P", "PA"):
        return []
    numbers, clear = picture.getpalette("RGB") or [], picture.info.get("transparency")
    colours: list[tuple[int, ...]] = [tuple(numbers[k : k + 3]) for k in range(0, len(numbers) - 2, 3)]
    alpha = {clear: 0} if isinstance(clear, int) else dict(enumerate(clear)) if isinstance(clear, bytes) else {}
    return [(*colour, alpha[k]) if alpha.get(k, 255) < 255 else colour for k, colour in enumerate(colours)]


def without_alpha(values: np.ndarray, file: Path) -> np.ndarray:
    """(H, W) of a mask in grey with alpha, or in colours that are all grey. Raises `UserError` where transparency says more."""
    colours = values[..., :1] if values.shape[2] == 2 else values[..., :3]
    if not (colours == colours[..., :1]).all():
        raise UserError(f"{file}: a colour picture of shape {values.shape}; expected a mask of one channel whose values are class ids.")
    grey = np.ascontiguousarray(colours[..., 0])
    alpha = values[..., -1] if values.shape[2] in (2, 4) else None
    if alpha is not None and alpha.min() != alpha.max():
        hidden = int(np.count_nonzero(grey[alpha == 0]))
        if grey.min() == grey.max() or hidden:
            what = "its colours are all alike" if grey.min() == grey.max() else f"{hidden} transparent pixels hold a class"
            raise UserError(f"{file}: the mask is drawn in its transparency (alpha): {what}. Save the alpha channel itself as a grey PNG, "
                            "or the mask without transparency.")
    return grey


def pages_of(picture: Image.Image) -> int:
    """Pages, or frames, of the first one's size: smaller ones are previews and overviews."""
    count, size, same = frames_of(picture), picture.size, 1
    for page in range(1, count):
        picture.seek(page)
        same += picture.size == size
    if count > 1:
        picture.seek(0)
    return same


def frames_of(picture: Image.Image) -> int:
    """All pages or frames; 1 where what follows the first cannot be read, which alone is wanted."""
    try:
        return int(getattr(picture, "n_frames", 1))
    except (OSError, ValueError, SyntaxError, RuntimeError, TypeError, IndexError, KeyError, OverflowError, EOFError, struct.error):
        return 1


def picture_size(file: Path) -> tuple[int, int]:
    """(H, W) of a picture as `read_picture` turns it, from its head."""
    with open_picture(file) as picture, reading(file, "picture"):  # of a PNG the orientation may stand behind the pixels
        # Pillow gives the size of a TIFF as turned already.
        sideways = picture.format != "TIFF" and picture.getexif().get(ORIENTATION) in (5, 6, 7, 8)
        return (picture.width, picture.height) if sideways else (picture.height, picture.width)


@dataclass(frozen=True)
class Look:
    """What the head of a picture says."""

    grey: bool
    deep: bool
    """16-bit grey, or floats."""
    deep_colour: bool
    """16-bit colour, of which the upper eight bits are read."""
    pages: int
    turned: bool


def look_at(file: Path) -> Look:
    """Raises `UserError` for a file that is no picture, or a damaged one."""
    with open_picture(file) as picture, reading(file, "picture"):
        grey, deep, deep_colour = picture.mode in GREY_MODES, is_deep(picture), has_deep_colour(picture)
        turned = picture.getexif().get(ORIENTATION, 1) not in (0, 1)
        return Look(grey, deep, deep_colour, frames_of(picture), turned)


def picture_remarks(file: Path, channels: int) -> list[str]:
    """What reading a picture with `channels` 1 (grey) or 3 (RGB) changes of it."""
    look = look_at(file)
    remarks = ["colour, read as grey"] if channels == 1 and not look.grey else []
    remarks += ["grey, read as colour"] if channels == 3 and look.grey else []
    remarks += ["16 bit or float, read as 8 bit"] if look.deep else ["16 bit colour, read as its upper 8 bit"] if look.deep_colour else []
    remarks += ["the first of several pages"] if look.pages > 1 else []
    return remarks + (["turned as its EXIF says"] if look.turned else [])
