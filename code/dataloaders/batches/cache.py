"""The memory-mapped cache of decoded values: written whole or not at all, never read when stale, cut off or damaged.

Two files a set of values: `.bin` (stamp, then the values) and `.json` (stamp, type, shapes), the latter written last.
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataloaders.description import Item, Source
from dataloaders.errors import Problems, UserError
from dataloaders.listing import states_of

FORMAT = "semiseg-cache-1"
HEADER = 64
"""Bytes before the values: the stamp of what was read, in ASCII."""
COMPARED = 2**30
"""Bytes of values that are compared with their checksum each time (a second); of more, what a disk has changed is not noticed."""


def cache_folder() -> Path:
    """$SEMISEG_CACHE, else .cache/ in the repository."""
    return Path(os.environ.get("SEMISEG_CACHE") or Path(__file__).resolve().parents[3] / ".cache")


@dataclass(frozen=True)
class Values:
    """Decoded arrays of all items, one after the other."""

    values: np.ndarray
    shapes: list[tuple[int, ...]]
    place: str


def identity(source: Source, kind: str, items: Sequence[Item], files: Sequence[Path]) -> tuple[str, str]:
    """(file stem, stamp): the stem names the files and settings, the stamp also their states (`states_of`)."""
    settings = [FORMAT, kind, source.data.name, source.cache_key]
    names, states = hashlib.sha256(json.dumps(settings).encode()), hashlib.sha256()
    known: dict[Path, list[int]] = {}
    for item, file in zip(items, files):
        names.update(json.dumps([item.name, os.path.abspath(file), item.index]).encode())
        state = known.get(file) or known.setdefault(file, states_of(file))
        states.update(f"{state};".encode())
    states.update(names.digest())
    name = re.sub(r"[^A-Za-z0-9_-]", "_", source.data.name)
    return f"{name}-{kind}-{names.hexdigest()[:20]}", states.hexdigest()


def read_cache(path: Path, stamp: str) -> Values | None:
    """The mapped cache, or None where it is missing, stale, cut off or damaged."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if not isinstance(index, dict):
            return None
        dtype, shapes = np.dtype(index["dtype"]), [tuple(shape) for shape in index["shapes"]]
        size = sum(math.prod(shape) for shape in shapes)
        if index["stamp"] != stamp or dtype.name not in ("uint8", "float32"):
            return None
        with open(path.with_suffix(".bin"), "rb") as file:
            header = file.read(HEADER).decode("ascii")
        if header != stamp or path.with_suffix(".bin").stat().st_size != HEADER + size * dtype.itemsize:
            return None
        values = np.memmap(path.with_suffix(".bin"), dtype, "r", offset=HEADER, shape=(size,))
        if index["shapes_crc"] != _crc(index["shapes"]) or (values.nbytes <= COMPARED and index["crc"] != zlib.crc32(values.data)):
            return None
        return Values(values.view(np.ndarray), shapes, "disk cache")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_cache(path: Path, stamp: str, arrays: Iterable[np.ndarray], problems: Problems, remark: Callable[[str], object]) -> Values | None:
    """Values to a temporary file, synced and renamed, then the index likewise; None where that cannot be done.

    Both carry the stamp of what was read, so whichever of two processes comes last, the files pair.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    shapes: list[tuple[int, ...]] = []
    types: set[str] = set()
    crc = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Plain writes: a full disk raises here, while a mapped file would kill the process.
        with open(temporary, "xb") as file:
            file.write(stamp.encode("ascii"))
            for array in arrays:
                file.write(array.data)
                crc = zlib.crc32(array.data, crc)
                shapes.append(array.shape)
                types.add(array.dtype.name)
            if problems.messages:
                return None
            one_type(types)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path.with_suffix(".bin"))
        with open(temporary, "x") as text:
            json.dump({"format": FORMAT, "stamp": stamp, "dtype": types.pop(), "shapes": shapes, "shapes_crc": _crc(shapes),
                       "crc": crc}, text)
            text.flush()
            os.fsync(text.fileno())
        os.replace(temporary, path.with_suffix(".json"))
    except OSError as error:
        remark(f"The cache in {path.parent} cannot be written ({error.strerror or error}); the images are held in RAM.")
        return None
    finally:
        _remove(temporary)
    return read_cache(path, stamp)


def _crc(shapes: object) -> int:
    return zlib.crc32(json.dumps(shapes).encode())


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def one_type(types: set[str]) -> None:
    if len(types) > 1:
        raise UserError(f"The training images mix {' and '.join(sorted(types))} pixels: store all of them in one type.")
