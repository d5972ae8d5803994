"""All training images decoded once: one flat array of pixels and one of labels, from a memory-mapped cache.

The cache never lies in the data's own folder. Pixels and labels are separate files, so no label of an unlabelled image
is ever needed, or read.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from dataloaders.annotation import annotated
from dataloaders.batches.cache import Values, cache_folder, identity, one_type, read_cache, write_cache
from dataloaders.description import Item, Source
from dataloaders.errors import Problems, UserError
from dataloaders.progress import Progress

Cache = Literal["auto", "disk", "ram", "device"]


@dataclass(frozen=True)
class Store:
    """N training images of `channels` channels; the values of image i begin at `offsets[i]`, (C, *shapes[i]) in C order.

    `pixels` (uint8 or float32) and `labels` (uint8) are flat NumPy arrays, or tensors where they live on a device.
    """

    names: tuple[str, ...]
    pixels: Any
    labels: Any
    shapes: np.ndarray
    """(N, dimensions) int64."""
    offsets: np.ndarray
    """(N,) int64 into `pixels`."""
    label_offsets: np.ndarray
    """(N,) int64 into `labels`; -1 where there is no label."""
    channels: int
    place: str
    """Where the values lie, in words: "disk cache", "RAM", "cuda:0"."""
    memory: int
    """Bytes of pixels, labels and maps."""
    maps: Mapping[str, tuple[Any, np.ndarray]] = field(default_factory=dict)
    """By name: flat values (uint8 or float32) of a map beside the pixels, and (N,) where each image's begin in them; -1: it has none."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_label(self) -> np.ndarray:
        """(N,) bool."""
        return self.label_offsets >= 0

    @property
    def on_device(self) -> bool:
        return isinstance(self.pixels, torch.Tensor)

    @property
    def is_photograph(self) -> bool:
        """True for 8-bit pixels."""
        return self.pixels.dtype in (np.uint8, torch.uint8)

    def image(self, i: int) -> np.ndarray:
        """(C, *spatial) pixels of image i as decoded (a copy)."""
        shape = (self.channels, *self.shapes[i])
        return _host(self.pixels[self.offsets[i] : self.offsets[i] + math.prod(shape)]).reshape(shape)

    def label(self, i: int) -> np.ndarray | None:
        """(*spatial) uint8 (a copy), None where there is no label."""
        if self.label_offsets[i] < 0:
            return None
        shape = tuple(self.shapes[i])
        return _host(self.labels[self.label_offsets[i] : self.label_offsets[i] + math.prod(shape)]).reshape(shape)


def build_store(
    source: Source,
    items: Sequence[Item],
    labeled: Sequence[bool],
    cache: Cache = "auto",
    device: torch.device | str = "cpu",
    progress: bool = True,
    remark: Callable[[str], object] = print,
    maps: Sequence[str] = (),
) -> Store:
    """Reads every image, and the labels of those that `labeled` marks, once; later runs map the cache.

    cache: 'disk' maps files; 'ram' decodes into memory and writes nothing; 'device' holds tensors on `device`; 'auto' is
    'device' on a GPU where a quarter of its free memory is enough, else 'disk'. `remark` gets a sentence where the cache
    cannot be written. `maps`: names of maps (`Item.maps`) to read too. What a stage has written (labels, maps) is held in
    RAM, never cached. Raises `UserError` with every unreadable file.
    """
    if cache == "device" and torch.device(device).type == "mps":
        raise UserError("--cache device: images on the device are augmented in float64, which an Apple GPU has not. Leave --cache out.")
    if len(items) != len(labeled):
        raise ValueError(f"{len(items)} items, but {len(labeled)} marks")
    if not items:
        raise UserError(f"{source.data.name}: there is no training image in {source.root}.")
    wanted = [item for item, is_labeled in zip(items, labeled) if is_labeled]
    without = [item.name for item in wanted if item.label is None and item.written is None]
    if without:
        raise UserError(f"{source.data.name}: {len(without)} of the cases chosen as labelled have no label, for example {without[0]}.")

    problems = Problems()
    said = lru_cache(remark)
    images = _values(source, "pixels", items, [item.image for item in items], source.image, cache, progress, problems, said)
    kept: Cache = "ram" if any(item.written or item.annotated for item in wanted) else cache
    files = [item.written or item.label for item in wanted]
    masks = _values(source, "labels", wanted, files, partial(label_of, source), kept, progress, problems, said)
    shapes = np.array([shape[1:] for shape in images.shapes] if not problems.messages else [], np.int64)
    if not problems.messages:
        _check(items, labeled, images.shapes, masks.shapes, problems)
    problems.raise_any(f"{source.data.name} in {source.root}")

    sizes = shapes.prod(1)
    channels = images.shapes[0][0]
    offsets = np.concatenate([[0], np.cumsum(sizes * channels)[:-1]]).astype(np.int64)
    marks = np.asarray(labeled, bool)
    label_sizes = np.where(marks, sizes, 0)
    label_offsets = np.where(marks, np.cumsum(label_sizes) - label_sizes, -1).astype(np.int64)
    pixels, labels, place = images.values, masks.values, images.place
    further: dict[str, tuple[Any, np.ndarray]] = {name: _map(items, name, shapes) for name in maps}
    memory = pixels.nbytes + labels.nbytes + sum(values.nbytes for values, _ in further.values())
    names = tuple(item.name for item in items)
    device = torch.device(device)
    if cache == "device" or (cache == "auto" and device.type == "cuda" and memory <= torch.cuda.mem_get_info(device)[0] // 4):
        further = {name: (_sent(values, device), begins) for name, (values, begins) in further.items()}
        return Store(names, _sent(pixels, device), _sent(labels, device), shapes, offsets, label_offsets, channels, str(device), memory,
                     further)
    return Store(names, pixels, labels, shapes, offsets, label_offsets, channels, place, memory, further)


def label_of(source: Source, item: Item) -> np.ndarray | None:
    """The label that an item is trained on: the one that a stage wrote for it, else the source's, of which what is annotated is known."""
    if item.written is None:
        label = source.label(item)
        return annotated(label, item.annotated) if item.annotated and label is not None else label
    label = read_written(item.written)
    if label.dtype != np.uint8:
        raise UserError(f"{item.written}: {label.dtype} values; a label that a stage writes holds class ids, uint8.")
    return label


def read_written(file: Path) -> np.ndarray:
    """The array of a .npy or .png file that a stage wrote: uint8 or float32. Raises `UserError`."""
    try:
        array = np.load(file, allow_pickle=False) if file.suffix == ".npy" else np.asarray(Image.open(file, formats=("PNG",)))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{file}: cannot be read ({error}). Remove the folder {file.parent}: the same command writes it again.") from error
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def _map(items: Sequence[Item], name: str, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat values of the map `name` of all items that have it, and where each item's begin (-1: it has none)."""
    begins, arrays, end = np.full(len(items), -1, np.int64), [], 0
    for k, item in enumerate(items):
        if name not in item.maps:
            continue
        array = read_written(item.maps[name])
        if array.shape != tuple(shapes[k]):
            raise UserError(f"{item.maps[name]}: the map {name} of {item.name} is {_words(array.shape)}, its image {_words(shapes[k])}.")
        begins[k], end = end, end + array.size
        arrays.append(array.ravel())
    one_type({array.dtype.name for array in arrays})
    return _frozen(np.concatenate(arrays) if arrays else np.empty(0, np.float32)), begins


def _values(source, kind, items, files, read, cache, progress, problems, remark) -> Values:
    """Flat values of all items: from the cache where it is whole and fresh, else decoded (and cached)."""

    def decoded() -> Iterator[np.ndarray]:
        title = f"Reading {source.data.name} {kind}"
        for item in Progress(items, title, unit="file", shown=progress):
            try:
                yield _plain(read(item), kind, item)
            except UserError as error:
                problems.add(error)

    if not items:
        return Values(_frozen(np.empty(0, np.uint8)), [], "RAM")
    if cache == "ram":
        return _in_memory(decoded(), problems)
    try:
        stem, stamp = identity(source, kind, items, files)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}). Check the data set's folder {source.root}.") from error
    path = cache_folder() / stem
    found = read_cache(path, stamp)
    if found is None:
        found = write_cache(path, stamp, decoded(), problems, remark)
    if found is None and not problems.messages:
        found = _in_memory(decoded(), problems)
    return found or Values(np.empty(0, np.uint8), [], "RAM")


def _plain(array: np.ndarray | None, kind: str, item: Item) -> np.ndarray:
    if array is None:
        raise UserError(f"{item.label}: {item.name} was chosen as labelled, but this file holds no label.")
    dtype = np.dtype(np.uint8) if kind == "labels" or array.dtype == np.uint8 else np.dtype(np.float32)
    return np.ascontiguousarray(array, dtype)


def _check(items, labeled, shapes, label_shapes, problems) -> None:
    """Equal channels and dimensions; each label as large as its image."""
    for item, shape in zip(items, shapes):
        if shape[0] != shapes[0][0] or len(shape) != len(shapes[0]):
            problems.add(
                f"{item.image}: {item.name} is {_words(shape)}, but {items[0].name} is {_words(shapes[0])}. "
                "All training images need the same channels."
            )
    chosen = [(item, shape[1:]) for item, shape, mark in zip(items, shapes, labeled) if mark]
    for (item, shape), label_shape in zip(chosen, label_shapes):
        if tuple(shape) != tuple(label_shape):
            problems.add(f"{item.label}: the label of {item.name} is {_words(label_shape)}, its image is {_words(shape)}.")


def _words(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)


def _in_memory(arrays: Iterable[np.ndarray], problems: Problems) -> Values:
    whole = list(arrays)
    if problems.messages:
        return Values(np.empty(0, np.uint8), [], "RAM")
    shapes = [array.shape for array in whole]
    one_type({array.dtype.name for array in whole})
    values = np.empty(sum(array.size for array in whole), whole[0].dtype)
    end = values.size
    while whole:
        array = whole.pop()
        values[end - array.size : end] = array.ravel()
        end -= array.size
    return Values(_frozen(values), shapes, "RAM")


def _frozen(values: np.ndarray) -> np.ndarray:
    # Mapped files are read-only; one kind of array means one compiled kernel.
    values.flags.writeable = False
    return values


def _sent(values: np.ndarray, device: torch.device) -> torch.Tensor:
    # A copy first: torch would share the memory of a mapped file on the CPU, and warn that it is read-only.
    return torch.from_numpy(np.array(values)).to(device)


def _host(values: np.ndarray | torch.Tensor) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.array(values)
