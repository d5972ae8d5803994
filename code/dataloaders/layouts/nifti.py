"""Reading volumes that nobody vouches for: NIfTI, and .nrrd, .mha, .mhd by SimpleITK. Every mistake is a `UserError` that names the file.

Arrays have the axes (x, y, z) as nibabel gives them; affines are those of `dataloaders.geometry`. A compressed file is read to its
very end, checksum included: libraries take what they need and are silent about the rest.
"""
from __future__ import annotations

import gzip
import io
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from dataloaders.errors import UserError
from dataloaders.geometry import affine_of, distance, is_affine, spacing_of
from dataloaders.layouts.common import MOST_ELEMENTS, inside, leaves_folder, regular, unreadable, what_lies_there
from dataloaders.listing import HEADERS, Listing, is_service, listing, walk, with_ending

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
VOXEL_FILES = (".raw", ".zraw")
"""Endings of files in which .mhd and .nrrd keep their voxels."""
PLACE_TOLERANCE = 0.1
"""A label lies where its image lies if no corner is farther off than this share of the smallest side of a voxel."""
SAME_STEPS = 0.01
"""By what share of it the two sizes that a file gives its voxels may differ."""
CHUNK = 2**20
MOST_BEHIND = 64 * CHUNK
"""Bytes that may follow the voxels: what is packed may unpack to any length."""
GZIP = b"\x1f\x8b"
MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 1e-3}
"""mm of the unit in which a NIfTI file keeps lengths (metre, millimetre, micron), by its code; an unknown one is taken for mm."""


@dataclass(frozen=True)
class Header:
    """What a file says of its volume: `shape` (x, y, z), `affine` (4, 4) from index to mm in RAS+, type of the stored numbers."""

    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    stored: Any = None
    """The header of a NIfTI file as nibabel has it, which a prediction keeps: its unit, and its two places with their codes."""
    doubt: str = ""
    """What else the file says of the size of its voxels, in words."""


_stem = with_ending(*ENDINGS)


def stem_of(name: str) -> str | None:
    """A file's name without the ending of a volume; None for other files, and for hidden ones."""
    return None if is_service(name) else _stem(name)


def volumes_in(folder: Path) -> Listing:
    """The volumes of a folder, subfolders included ('left/001'), and what else is there.

    Raises `UserError` where the folder is missing or two files have one stem.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; expected volumes ({', '.join(ENDINGS)}) in it.")
    found = listing(folder, stem_of)
    if any(file.suffix.lower() in HEADERS for file in found.files.values()):
        for ending in VOXEL_FILES:  # what the headers name, not passed over
            found.others.pop(ending, None)
    return found


def holds_volumes(folder: Path) -> bool:
    """Whether a folder has a volume in it, at any depth."""
    return any(stem_of(path.name) is not None for path in walk(folder))


def read_header(file: Path) -> Header:
    """Shape, place and type of a volume; the voxels are not read."""
    return _of_nifti(file, voxels=False)[0] if is_nifti(file) else _of_itk(file, voxels=False)[0]


def read_volume(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y, Z) values as the file means them (its scale applied), and the (4, 4) affine."""
    header, values = (_of_nifti if is_nifti(file) else _of_itk)(file, voxels=True)
    return values, header.affine


def is_nifti(file: Path) -> bool:
    return file.name.lower().endswith((".nii", ".nii.gz"))


def checked_place(image: Header, label: np.ndarray, image_file: Path, label_file: Path) -> None:
    """Raises `UserError` where the affine `label` puts a volume elsewhere than `image` says."""
    allowed = PLACE_TOLERANCE * float(spacing_of(image.affine).min())
    off = distance(image.affine, label, image.shape)
    if off > allowed:
        raise UserError(f"{label_file}: lies elsewhere than {image_file.name}, a corner is {off:.3g} mm off by its affine; expected at "
                        f"most {allowed:.3g} mm, a tenth of a voxel. Resample it onto the image, or, if only the header is wrong, write it "
                        "again with the image's header.")


def in_place_of(array: np.ndarray, stored: Any) -> Any:
    """A NIfTI volume of (X, Y, Z), or (X, Y, Z, K), where the file lies from which the header `stored` is: as every program reads it."""
    import nibabel

    header = stored.copy()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header["cal_min"] = header["cal_max"] = 0
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return kind(array, header.get_best_affine(), header)


def _checked(file: Path, shape: tuple[int, ...], affine: np.ndarray, dtype: np.dtype) -> Header:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise UserError(f"{file}: has {len(shape)} dimensions, {shape}; expected a volume (x, y, z). Split it into one file a channel or "
                        "a point of time (CASE_0000.nii.gz, CASE_0001.nii.gz, ... in nnU-Net's layout).")
    if len(shape) < 3:
        raise UserError(f"{file}: has {len(shape)} dimensions, {shape}; expected a volume (x, y, z). For pictures use PNG files "
                        "and --dataset folder.")
    if min(shape) < 1:
        raise UserError(f"{file}: is empty, its shape is {shape}; expected a volume with voxels. Export it again, or leave it out.")
    if np.prod(shape, dtype=float) > MOST_ELEMENTS:
        raise UserError(f"{file}: claims the shape {shape}, more than {MOST_ELEMENTS} voxels; such a file is not read.")
    if not is_affine(affine):
        raise no_place(file, spacing_of(affine))
    return Header((shape[0], shape[1], shape[2]), affine, dtype)


def doubt_of(affine: np.ndarray, steps: np.ndarray) -> str:
    """In words: the affine that is taken, and the header's own spacing, give voxels of two sizes; "" where they do not."""
    taken = spacing_of(affine)
    if np.allclose(taken, steps, rtol=SAME_STEPS, atol=0):
        return ""
    sizes = [" x ".join(f"{step:.4g}" for step in size) for size in (taken, steps)]
    return f"voxels of {sizes[0]} mm by its affine (sform), which is taken, and of {sizes[1]} mm by its pixdim; other programs take these."


def no_place(file: Path, steps: np.ndarray) -> UserError:
    """The sentence for a file that lies nowhere."""
    spacing = ", ".join(f"{step:g}" for step in steps)
    return UserError(f"{file}: its header gives the spacing ({spacing}) and no volume in space; expected three positive numbers "
                     "of mm and axes that differ. Export it again, or set the spacing (nibabel: header.set_zooms, set_sform).")


def _numbers(file: Path, dtype: np.dtype, found: str) -> None:
    if dtype.kind not in "buif":
        raise UserError(f"{file}: its voxels are {found}; expected one number a voxel. Save it as float32 (image) or uint8 (label).")


def _of_nifti(file: Path, voxels: bool) -> tuple[Header, np.ndarray]:
    from nibabel.filebasedimages import ImageFileError  # here alone, as below: no command needs nibabel before it reads a file
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    regular(file)
    try:
        with open(file, "rb") as raw:
            packed = raw.read(2) == GZIP
        with gzip.open(file) if packed else open(file, "rb") as stream:
            return _read_nifti(file, cast(io.BufferedIOBase, stream), voxels)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{file}: the file is cut off or damaged ({file.stat().st_size} bytes); download it again.") from None
    except OSError as error:
        raise unreadable(file, error) from None
    except (ImageFileError, HeaderDataError, WrapStructError, ValueError, KeyError, OverflowError) as error:
        raise UserError(f"{file}: its header is damaged ({error}); expected NIfTI. Download or export it again.") from None


def _read_nifti(file: Path, stream: io.BufferedIOBase, voxels: bool) -> tuple[Header, np.ndarray]:
    import nibabel
    from nibabel.volumeutils import apply_read_scaling

    head = stream.read(348)
    if len(head) == 348 and head[344:347] == b"n+1":
        header = nibabel.Nifti1Header(head, check=False)
    elif head[4:7] == b"n+2":
        head += stream.read(540 - len(head))
        header = nibabel.Nifti2Header(head, check=False)
    elif head[344:347] == b"ni1":
        raise UserError(f"{file}: half of a pair .hdr and .img; expected both in one file. Convert it, with nibabel.save for example.")
    else:
        raise UserError(f"{file}: {what_lies_there(file)}")
    dtype, shape = header.get_data_dtype(), tuple(int(side) for side in header.get_data_shape())
    _numbers(file, dtype, "of several numbers each (RGB)" if dtype.fields else f"{dtype}")
    steps = np.asarray(header["pixdim"][1:4], np.float64)
    # An sform makes the spacing of the header needless; a file whose own two places disagree so is still a damaged one.
    if len(shape) > 2 and not (steps > 0).all():
        raise no_place(file, steps)
    affine = np.array(header.get_best_affine(), np.float64)
    unit = MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    affine[:3] *= unit
    found = replace(_checked(file, shape, affine, dtype), stored=header, doubt=doubt_of(affine, steps * unit))
    if not voxels:
        return found, np.empty(0)
    offset, size = int(header.get_data_offset()), int(np.prod(found.shape)) * dtype.itemsize
    if offset < len(head) or len(stream.read(offset - len(head))) < offset - len(head):
        raise EOFError
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    behind = 0
    while more := len(stream.read(CHUNK)):
        behind += more
        if behind > MOST_BEHIND:
            raise UserError(f"{file}: more than {MOST_BEHIND // 2**20} MiB stand behind its voxels; such a file is not read.")
    values = np.ndarray(found.shape, dtype, content, order="F")
    slope, inter = header.get_slope_inter()
    return found, values if slope is None else apply_read_scaling(values, slope, inter)


def _of_itk(file: Path, voxels: bool) -> tuple[Header, np.ndarray]:
    import SimpleITK  # here alone: it is large, and NIfTI does not need it

    regular(file)
    try:
        with open(file, "rb") as stream:
            head = stream.read(2**16)
    except OSError as error:
        raise unreadable(file, error) from None
    if not head.startswith(b"NRRD") and b"ElementDataFile" not in head:
        raise UserError(f"{file}: {what_lies_there(file)}")
    fields = _fields(head)
    data = _data_file(file, fields)
    _checked_spacing(file, fields)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        shape, components = tuple(reader.GetSize()), reader.GetNumberOfComponents()
        if components != 1:
            raise UserError(f"{file}: its voxels are {components} numbers each (colours, or channels); expected one number a voxel. "
                            "Split it into one file a channel.")
        probe = SimpleITK.GetArrayViewFromImage(SimpleITK.Image(1, 1, reader.GetPixelID()))
        _numbers(file, probe.dtype, reader_type(reader))
        affine = affine_of(reader) if len(shape) == 3 else np.eye(4)
        found = _checked(file, shape, affine, probe.dtype)
        if not voxels:
            return found, np.empty(0)
        _checked_stream(file, data, fields, int(np.prod(shape)) * probe.dtype.itemsize)
        return found, SimpleITK.GetArrayFromImage(reader.Execute()).transpose()
    except RuntimeError:
        raise UserError(f"{file}: the file is cut off or damaged ({data.stat().st_size} bytes of data); download it again.") from None


def reader_type(reader: Any) -> str:
    import SimpleITK

    return SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())


def _fields(head: bytes) -> dict[str, str]:
    """The lines `key = value` (MetaImage) or `key: value` (NRRD) of a header, keys in lower case without blanks."""
    nrrd = head.startswith(b"NRRD")
    fields: dict[str, str] = {}
    for line in head.decode("latin-1").splitlines():
        if nrrd and not line:
            break
        key, sign, value = line.partition(":" if nrrd else "=")
        if sign:
            fields.setdefault(key.strip().lower().replace(" ", ""), value.strip())
        if key.strip() == "ElementDataFile":
            break
    return fields


def _data_file(file: Path, fields: dict[str, str]) -> Path:
    """The file with the voxels: `file` itself, or the one that its header names, beside it."""
    name = fields.get("elementdatafile") or fields.get("datafile") or "LOCAL"
    if name.upper() == "LOCAL":
        return file
    if name.upper().startswith("LIST") or "%" in name:
        raise UserError(f"{file}: keeps its voxels in many files ({name}); expected one. Save the volume as .nii.gz or .mha.")
    if leaves_folder(name):
        raise UserError(f"{file}: its voxels are said to lie in {name!r}, out of its folder; put that file beside it and write "
                        "the bare name.")
    data = inside(file.parent, file.parent / name)
    with_pointer = data.is_file() and data.stat().st_size < 512 and data.read_bytes().startswith(b"version https://git-lfs")
    if not data.is_file() or not data.stat().st_size or with_pointer:
        raise UserError(f"{data}: {what_lies_there(data)} {file.name} keeps its voxels in it.")
    return data


def _checked_spacing(file: Path, fields: dict[str, str]) -> None:
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    unit = next((unit for unit in units if unit.lower() not in ("mm", "millimeter", "")), None)
    if unit is not None:
        raise UserError(f"{file}: its header gives lengths in {unit}; expected mm, which is what ITK takes them for. Convert it, or mend "
                        "\"space units\" and the spacing.")
    text = fields.get("elementspacing") or fields.get("elementsize") or fields.get("spacings")
    if text is None:
        return
    if not all(re.fullmatch(r"[+]?[0-9.]+([eE][-+]?[0-9]+)?|[nN]a[nN]", step) and float(step) != 0 for step in text.split()):
        raise UserError(f"{file}: its header gives the spacing {text}; expected positive numbers of mm. Export it again, or write the "
                        "right spacing into the header.")


def _checked_stream(file: Path, data: Path, fields: dict[str, str], size: int) -> None:
    """Decompresses a packed MetaImage once: ITK goes on with rubbish where that fails. NRRD's library looks for itself."""
    cut_off = UserError(f"{file}: the file is cut off or damaged ({data.stat().st_size} bytes of data); download it again.")
    if "elementdatafile" not in fields:
        return
    if fields.get("compresseddata", "").lower() != "true":
        if data.stat().st_size < size:
            raise cut_off
        return
    content = data.read_bytes()
    if data == file:
        content = content[re.search(rb"ElementDataFile\s*=\s*LOCAL\s*?\r?\n", content).end():]  # type: ignore[union-attr]
    unpacker = zlib.decompressobj(wbits=47)
    count = 0
    try:
        while content and not unpacker.eof and count <= size:
            count += len(unpacker.decompress(content, CHUNK))
            content = unpacker.unconsumed_tail
    except zlib.error:
        raise cut_off from None
    if count != size or not unpacker.eof:
        raise cut_off
