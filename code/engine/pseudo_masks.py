"""Masks that a network makes of training images, and maps that are computed of them, as files that a stage is fed: written one by one, so
that a kill costs one image."""
from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from dataloaders.batches.store import label_of
from dataloaders.description import Item
from dataloaders.progress import Progress
from engine.monitor import Monitor
from engine.session import Session
from inference import Inference, Predictor
from pictures.flat import palette
from storage.checkpoint import write_atomically, write_json
from storage.sealed import parsed, sealed
from system import distributed, faults

Maps = Mapping[str, Callable[[np.ndarray], np.ndarray]]
Make = Callable[[Item, np.ndarray, Any], Mapping[str, np.ndarray]]
MOST_THREADS = 8


def write(session: Session, name: str, network: nn.Module, predictor: Predictor, items: Sequence[Item], maps: Maps,
          mirror: bool, monitor: Monitor) -> list[Item]:
    """The items with `written` and `maps`; see `Run.predict_unlabeled`. Of several processes each makes its share."""
    if not name.isidentifier():
        raise ValueError(f"pseudo masks are named by a word, not {name!r}")
    folder = session.folder / "pseudo_masks" / name
    made_by = {"weights": digest(network), "mirror": mirror, "maps": sorted(maps), "patch_size": list(session.options.patch_size)}
    distributed.on_first(lambda: _begin(folder, made_by))
    network.eval()
    inference = replace(session.inference, mirror=mirror)
    places = [_files(folder, item, maps, session.data.dimensions) for item in items]
    todo = _missing(places)
    if todo:
        there = f", {len(items) - len(todo)} are there" if len(todo) < len(items) else ""
        monitor.say(f"{name}: {len(todo)} pseudo masks to write{there} ({folder})")
    for k in Progress(distributed.dealt(todo), name, shown=distributed.first()):
        probabilities = _probabilities(inference, predictor, session.source.image(items[k]))
        for key, make in maps.items():
            _put(places[k][key], np.ascontiguousarray(make(probabilities)))
        _put(places[k][""], probabilities.argmax(0).astype(np.uint8))
        faults.reach("pseudo_mask")
    distributed.meet()
    return [replace(item, written=files[""], maps={**item.maps, **{key or "mask": file for key, file in files.items()}})
            for item, files in zip(items, places)]


def compute(session: Session, name: str, items: Sequence[Item], kinds: Sequence[str], make: Make, monitor: Monitor) -> list[Item]:
    """The items with maps that are made of their images and labels; see `Run.make_maps`. Each process makes its share, in threads."""
    if not name.isidentifier():
        raise ValueError(f"maps are named by a word, not {name!r}")
    folder = session.folder / "pseudo_masks" / name
    distributed.on_first(lambda: _begin(folder, {"code": session.config["code"], "maps": sorted(kinds)}))
    places = [{kind: _file(folder, item, f".{kind}.npy") for kind in kinds} for item in items]
    todo = _missing(places)
    if todo:
        monitor.say(f"{name}: {len(todo)} of {len(items)} to be computed ({folder})")

    def one(k: int) -> None:
        found = make(items[k], session.source.image(items[k]), label_of(session.source, items[k]))
        for kind, file in places[k].items():
            _put(file, np.ascontiguousarray(found[kind]))

    mine = distributed.dealt(todo)
    with ThreadPoolExecutor(distributed.threads() or min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        try:
            for _ in Progress(pool.map(one, mine), name, len(mine), shown=distributed.first()):
                faults.reach("pseudo_mask")
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what has not begun is not waited for
            raise
    distributed.meet()
    return [replace(item, maps={**item.maps, **files}) for item, files in zip(items, places)]


def _missing(places: Sequence[Mapping[str, Path]]) -> list[int]:
    """Which items lack a file; all processes look before one of them writes."""
    todo = [k for k, files in enumerate(places) if not all(file.exists() for file in files.values())]
    distributed.meet()
    return todo


def digest(network: nn.Module) -> str:
    """SHA-256 of all that a network's prediction depends on: its parameters and buffers, by name."""
    sha = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        sha.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def _begin(folder: Path, made_by: Mapping[str, object]) -> None:
    """Makes the folder; masks of other weights that lie there are removed first."""
    record = folder / "made_by.json"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError, ValueError):
        if parsed(record.read_bytes()) == made_by:
            return
    record.unlink(missing_ok=True)
    for file in folder.iterdir():
        file.unlink()
    write_json(record, sealed(made_by))


def _files(folder: Path, item: Item, maps: Maps, dimensions: int) -> dict[str, Path]:
    """By map, "" for the mask: where it lies."""
    return {"": _file(folder, item, ".png" if dimensions == 2 else ".npy"), **{key: _file(folder, item, f".{key}.npy") for key in maps}}


def _file(folder: Path, item: Item, end: str) -> Path:
    """The item's file with this end. Names that differ in odd letters alone are told apart by a digest."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", item.name)
    if stem != item.name:
        stem += "-" + hashlib.sha256(item.name.encode(errors="backslashreplace")).hexdigest()[:8]
    return folder / f"{stem}{end}"


def _put(file: Path, array: np.ndarray) -> None:
    """A mask as a picture of a palette, which anybody can look at; maps and volumes as NumPy's own."""
    buffer = io.BytesIO()
    if file.suffix == ".png":
        picture = Image.fromarray(array, "P")
        picture.putpalette(palette())
        picture.save(buffer, "PNG")
    else:
        np.save(buffer, array if array.dtype == np.uint8 else array.astype(np.float32), allow_pickle=False)
    write_atomically(file, buffer.getvalue())


def _probabilities(inference: Inference, predictor: Predictor, pixels: np.ndarray) -> np.ndarray:
    """(classes, *spatial) float32 of an image (C, *spatial), at its own size."""
    if inference.data.dimensions == 3:
        return inference.probabilities(predictor, pixels)
    return inference.probabilities(predictor, pixels[:, None])[:, 0]
