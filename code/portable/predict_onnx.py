"""Predicts masks with an exported model. Needs numpy, pillow and onnxruntime alone; for NIfTI volumes nibabel too.

    python predict_onnx.py model.onnx PHOTOGRAPHS OUTPUT

PHOTOGRAPHS: a folder (its subfolders too) or a file. A mask is written for each image, of its name and size, with class ids (0 is
background): PNG for a picture, .nii.gz for NIfTI, .npy for .npy. Files that are there already are kept and nothing is predicted, unless
--replace says otherwise. What is done before and after the network stands in the model's own metadata, under "semisegbench", as JSON; this
file is all the code there is to it, and may be copied into any program (Apache License 2.0).

Exit codes: 0 done; 2 a wrong argument, or a file that cannot be read (the others are predicted all the same); 3 a mask cannot be written.
"""
from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm")
NIFTI = (".nii", ".nii.gz")
ENDINGS = (*PICTURES, *NIFTI, ".npy")
COPIES = ("@eadir", "__macosx", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "lost+found")
"""Folders, in lower case, in which storage boxes and systems keep copies."""
FORMAT = 1
"""Of the metadata that this file follows."""
AT_ONCE = 4
"""Slices, or windows, that pass the network together."""


class Unreadable(Exception):
    """What is wrong with a file, or with an argument, in a sentence."""


class Model:
    """An exported model: files in, label maps out."""

    def __init__(self, file: Path, threads: int = 0):
        """threads: 0 takes all cores. Raises `Unreadable` for a file that is no exported model."""
        try:
            import onnxruntime
        except ImportError as error:
            raise Unreadable(f"onnxruntime is needed and cannot be loaded ({error}): python -m pip install onnxruntime") from None
        if not file.is_file():
            raise Unreadable(f"{file}: there is no such file; give the model.onnx that code/export.py wrote.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            text = self.session.get_modelmeta().custom_metadata_map.get("semisegbench")
            self.told: dict[str, Any] = {} if text is None else json.loads(text)
        except Exception as error:  # of a class of its own for each cause
            raise Unreadable(f"{file}: no model that code/export.py wrote, or a damaged one ({type(error).__name__}: {error}).") from None
        if not self.told:
            raise Unreadable(f"{file}: no model that code/export.py wrote (its metadata say nothing under semisegbench).")
        if self.told.get("format") != FORMAT:
            raise Unreadable(f"{file}: its metadata have the format {self.told.get('format')}, and this file follows {FORMAT}; take the "
                             "predict_onnx.py that was written beside the model.")

    def run(self, images: np.ndarray) -> np.ndarray:
        """(B, C, *sides) float32 -> logits (B, K, *sides)."""
        return self.session.run(["logits"], {"images": np.ascontiguousarray(images, np.float32)})[0]

    def __call__(self, files: list[Path]) -> np.ndarray:
        """The label map of one image, given in one file, or of a volume of several channels in a file each; uint8, (H, W) of a picture,
        (z, y, x) of a volume that is predicted slice by slice, (X, Y, Z) of other volumes."""
        pixels, size = read(files, self.told)
        labels = predict(self.run, pixels, self.told)
        if self.told["dimensions"] == 2 and labels.shape[1:] != size[-2:]:
            labels = resized(labels, size[-2:], "floor")
        return labels[0] if len(size) == 2 else labels


# Reading


def read(files: list[Path], told: dict[str, Any]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Pixels (C, S, H, W), a picture with S = 1, or (C, X, Y, Z); and the size of the file, (H, W), (S, H, W) or (X, Y, Z)."""
    name, how = files[0].name.lower(), told["reading"]
    if name.endswith(PICTURES) and how["kind"] == "picture":
        pixels, size = read_picture(files[0], told["channels"], how)
        return pixels[:, None], size
    if name.endswith(".npy") and how["kind"] != "picture":
        array = np.load(files[0], allow_pickle=False)
        volume = array[None] if array.ndim == 3 else array
        if volume.ndim != 4 or len(volume) != told["channels"]:
            raise Unreadable(f"an array of shape {array.shape}; expected {told['channels']} channels of {how['npy']}.")
        volume = finite(volume)
        if how["npy_scaling"]:
            volume = np.stack([scaled(channel, scheme) for channel, scheme in zip(volume, how["npy_scaling"])])
        return volume, volume.shape[1:]
    if name.endswith(NIFTI) and how.get("scaling"):
        volume = np.stack([scaled(volume_of(file), scheme) for file, scheme in zip(files, how["scaling"])])
        if told["dimensions"] == 2:
            volume = volume.transpose(0, 3, 2, 1)
        return volume, volume.shape[1:]
    raise Unreadable(f"this model takes {how['takes']}.")


def read_picture(file: Path, channels: int, how: dict[str, Any]) -> tuple[np.ndarray, tuple[int, int]]:
    """(C, H, W) uint8, turned as its EXIF says; and its size."""
    with Image.open(file) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
            picture = Image.fromarray(eight_bits(np.asarray(picture), how["white"]))
        else:
            picture = picture.convert("L" if picture.mode in ("1", "L", "LA", "La") else "RGB")
    picture = picture.convert("L" if channels == 1 else "RGB")
    size = picture.height, picture.width
    if how["reduced"]:
        picture = picture.resize((how["reduced"][1], how["reduced"][0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), size


def eight_bits(values: np.ndarray, white: float | None) -> np.ndarray:
    """uint8 of a picture with 16-bit whole numbers or floats: 0 to `white` becomes 0 to 255; without it by the depth that it uses."""
    greatest = float(values.max())
    if not np.isfinite(values).all() or values.min() < 0 or greatest > 65535:
        raise Unreadable("pixel values below 0, above 65535 or no numbers.")
    by_depth = 1.0 if values.dtype.kind == "f" and greatest <= 1 else next(v for v in (255.0, 1023, 4095, 16383, 65535) if greatest <= v)
    top = by_depth if white is None else white
    return np.rint(np.minimum(values.astype(np.float64), top) / (top / 255) if top != 255 else np.minimum(values, 255)).astype(np.uint8)


def volume_of(file: Path) -> np.ndarray:
    """(X, Y, Z) values of a NIfTI file as it means them."""
    try:
        import nibabel
    except ImportError:
        raise Unreadable("reading NIfTI needs nibabel (pip install nibabel); or give the voxels as .npy.") from None
    volume = np.asanyarray(nibabel.load(file).dataobj)  # type: ignore[attr-defined]
    while volume.ndim > 3 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    if volume.ndim != 3:
        raise Unreadable(f"has the shape {volume.shape}; expected a volume (x, y, z).")
    return volume


def finite(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise Unreadable("a voxel is NaN or infinite.")
    return values


def scaled(values: np.ndarray, scheme: str) -> np.ndarray:
    """float32 of raw voxels by a scheme's name."""
    finite(values)
    if scheme in ("none", "zscore", "ct"):
        values = values.astype(np.float32)
        if scheme == "none":
            return values
        if scheme == "ct":
            values = np.clip(values, *np.percentile(values, (0.5, 99.5)))
        mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        return ((values - np.float32(mean)) / np.float32(deviation or 1.0)).astype(np.float32)
    values = values.astype(np.float64)
    if values.min() == values.max():
        raise Unreadable("every voxel has the same value.")
    if scheme == "standardised":
        return ((values - values.mean()) / values.std()).astype(np.float32)
    low, high = np.percentile(values, (0.5, 99.5)) if scheme == "clipped" else (values.min(), values.max())
    if low == high:
        low, high = values.min(), values.max()
    return ((np.clip(values, low, high) - low) / (high - low)).astype(np.float32)


# Predicting


def predict(run: Any, pixels: np.ndarray, told: dict[str, Any]) -> np.ndarray:
    """Label map (S, H, W) or (X, Y, Z) uint8 of pixels as `read` gives them. `run`: (B, C, *sides) -> logits (B, K, *sides)."""
    inputs = pixels[None] if told["dimensions"] == 3 else ready(pixels, told)
    if told["predicted"] == "window":
        labels = np.stack([by_windows(run, one, told) for one in inputs])
    else:
        step = AT_ONCE if told["predicted"] == "resized" else 1
        labels = np.concatenate([by_whole(run, inputs[k : k + step], told) for k in range(0, len(inputs), step)])
    if told["dimensions"] == 3:
        return labels[0]
    return resized(labels, pixels.shape[-2:], told["resizing"]) if told["predicted"] == "resized" else labels


def ready(pixels: np.ndarray, told: dict[str, Any]) -> np.ndarray:
    """(C, S, H, W) -> (S, C, h, w) float32: resized where the network was trained so, and scaled."""
    slices = pixels.swapaxes(0, 1)
    if told["predicted"] == "resized":
        slices = resized(slices, told["size"], told["resizing"])
    images = np.ascontiguousarray(slices, np.float32)
    if told["divide"] != 1:
        images = images / np.float32(told["divide"])
    if told["mean"]:
        mean, std = (np.array(told[name], np.float32).reshape(1, -1, 1, 1) for name in ("mean", "std"))
        images = (images - mean) / std
    return images


def by_whole(run: Any, images: np.ndarray, told: dict[str, Any]) -> np.ndarray:
    """Labels (B, *sides) of images at their own size: the border is repeated up to sides that the network takes."""
    sides = images.shape[2:]
    missing = [(0, -side % multiple) for side, multiple in zip(sides, told["multiple"])]
    logits = run(np.pad(images, [(0, 0), (0, 0), *missing], mode="edge") if any(more for _, more in missing) else images)
    return logits[(slice(None), slice(None), *(slice(side) for side in sides))].argmax(1).astype(np.uint8)


def by_windows(run: Any, image: np.ndarray, told: dict[str, Any]) -> np.ndarray:
    """Labels (*sides) of (C, *sides): overlapping windows, whose probabilities are averaged; what is smaller than one is padded by 0."""
    patch, size = told["size"], image.shape[1:]
    before = [max(n - m, 0) // 2 for n, m in zip(patch, size)]
    padded = np.pad(image, [(0, 0), *((b, max(n - m, 0) - b) for n, m, b in zip(patch, size, before))])
    starts = [[0] if m <= n else [min(k * step, m - n) for k in range(ceil((m - n) / step) + 1)]
              for m, n, step in zip(padded.shape[1:], patch, told["stride"])]
    corners = list(product(*starts))
    sums = np.zeros((len(told["classes"]), *padded.shape[1:]), np.float32)
    visits = np.zeros(padded.shape[1:], np.float32)
    for first in range(0, len(corners), AT_ONCE):
        boxes = [tuple(slice(k, k + n) for k, n in zip(corner, patch)) for corner in corners[first : first + AT_ONCE]]
        logits = run(np.stack([padded[(slice(None), *box)] for box in boxes]))
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        for box, values in zip(boxes, shares):
            sums[(slice(None), *box)] += values
            visits[box] += 1
    inside = tuple(slice(b, b + m) for b, m in zip(before, size))
    return (sums / visits)[(slice(None), *inside)].argmax(0).astype(np.uint8)


def resized(array: np.ndarray, size: Any, mapping: str) -> np.ndarray:
    """(..., H, W) -> (..., *size) by nearest neighbour: "corner" as scipy.ndimage.zoom(order=0) reads, "floor" as OpenCV does."""
    rows, columns = (places(n, m, mapping) for n, m in zip(array.shape[-2:], size))
    out = array[..., np.maximum(rows, 0)[:, None], np.maximum(columns, 0)]
    out[..., rows < 0, :] = 0
    out[..., columns < 0] = 0
    return out


def places(n_in: int, n_out: int, mapping: str) -> np.ndarray:
    """(n_out,) where each place is read along an axis; -1 is filled by 0, as scipy does where rounding leads beyond the end."""
    if mapping == "floor":
        return np.minimum(np.arange(n_out) * n_in // n_out, n_in - 1)
    along = np.arange(n_out, dtype=np.float64) * ((n_in - 1) / (n_out - 1) if n_out > 1 else 1.0)
    found = np.floor(along + 0.5).astype(np.int64)
    found[along > n_in - 1] = -1
    return found


# Files


def files_below(place: Path) -> Iterator[Path]:
    """The files of a folder and of those in it, linked ones too, each folder once; without hidden ones and the copies of systems."""
    seen: set[str] = set()
    for folder, below, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith(".") and name.lower() not in COPIES)
        if real not in seen:
            yield from (file for name in names if not name.startswith(".") and (file := Path(folder, name)).is_file())
        seen.add(real)


def groups_in(place: Path, told: dict[str, Any], without: Path) -> list[list[Path]]:
    """What is predicted as one: a file each, or the numbered channels CASE_0000, CASE_0001, ... of a volume. Raises `Unreadable`."""
    if not place.exists():
        raise Unreadable(f"{place}: there is no such file or folder; give the images.")
    outside, within = (Path(os.path.realpath(one)) for one in (without, place))
    if place.is_dir() and (outside == within or outside in within.parents):
        raise Unreadable(f"{without}: holds the images ({place}); give another folder for the masks.")
    files = [file for file in ([place] if place.is_file() else sorted(files_below(place))) if file.name.lower().endswith(ENDINGS)]
    files = [file for file in files if file == place or outside not in Path(os.path.realpath(file)).parents]
    if not files:
        raise Unreadable(f"{place}: no file in it that is read here; this model takes {told['reading']['takes']}.")
    groups: dict[str, list[Path]] = {}
    for file in files:
        numbered = re.fullmatch(r"(.+)_[0-9]{4}(\.nii|\.nii\.gz)", str(file)) if told["channels"] > 1 else None
        groups.setdefault(numbered[1] if numbered else str(file), []).append(file)
    return list(groups.values())


def masks_of(groups: list[list[Path]], base: Path, output: Path) -> list[Path]:
    """Where each mask goes: the path of its image, with the whole name where two images differ in the ending alone."""
    found: list[Path] = []
    taken: set[str] = set()
    for files in groups:
        name = files[0].name
        ending = max((end for end in ENDINGS if name.lower().endswith(end)), key=len)
        kind = ".nii.gz" if ending in NIFTI else ".npy" if ending == ".npy" else ".png"
        stem = name[: -len(ending)]
        stem = re.sub(r"_0000$", "", stem) if ending in NIFTI else stem
        folder = output / files[0].relative_to(base).parent
        # A file system that does not tell A from a must not let one mask overwrite the other.
        free = (file for file in (folder / f"{stem}{kind}", folder / f"{name}{kind}") if str(file).casefold() not in taken)
        file = next(free, None)
        if file is None:
            raise Unreadable(f"{files[0]}: another image has this name but for capital letters, and so would its mask; rename one.")
        taken.add(str(file).casefold())
        found.append(file)
    return found


def write(labels: np.ndarray, source: Path, file: Path, told: dict[str, Any]) -> None:
    """Writes a label map as its image lies."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if source.name.lower().endswith(NIFTI):
        import nibabel

        image: Any = nibabel.load(source)
        header = image.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        nibabel.save(type(image)(labels.transpose() if told["dimensions"] == 2 else labels, image.affine, header), file)
    elif file.name.endswith(".npy"):
        np.save(file, labels)
    else:
        Image.fromarray(labels).save(file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="what code/export.py wrote")
    parser.add_argument("images", type=Path, help="a folder of images, or one image")
    parser.add_argument("output", type=Path, help="a folder for the masks")
    parser.add_argument("--threads", type=int, default=0, help="cores to use (default: all)")
    parser.add_argument("--replace", action="store_true", help="write masks anew that are there already")
    given = parser.parse_args()
    try:
        model = Model(given.model, given.threads)
        groups = groups_in(given.images, model.told, given.output)
        masks = masks_of(groups, given.images if given.images.is_dir() else given.images.parent, given.output)
        there = [file for file in masks if file.exists()]
        if there and not given.replace:
            raise Unreadable(f"{there[0]}: is there already" + (f", and {len(there) - 1} more of these masks" if len(there) > 1 else "")
                             + "; give another folder, or --replace to write them anew.")
    except (Unreadable, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    failed = 0
    for files, mask in zip(groups, masks):
        try:
            labels = model(files)
        except Exception as error:  # a damaged file raises what its reader likes
            print(f"{files[0]}: {error}", file=sys.stderr)
            failed += 1
            continue
        try:
            write(labels, files[0], mask, model.told)
        except OSError as error:
            print(f"{mask}: cannot be written ({error.strerror or error}); give another folder, or make room.", file=sys.stderr)
            return 3
        counts = np.bincount(labels.ravel(), minlength=len(model.told["classes"])) / labels.size
        found = ", ".join(f"{name} {share:.2%}" for name, share in zip(model.told["classes"][1:], counts[1:]) if share)
        print(f"{mask}: {found or 'nothing found'}")
    print(f"{len(groups) - failed} predicted" + (f", {failed} could not be read" if failed else "") + ".")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
