"""What an augmentation knows of its images: sizes, tables for resizing, scale of the pixels, the geometry of a row."""
from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from dataloaders.augmentation.recipes import RECIPES, Draws, rotation, turn_and_flip
from dataloaders.description import Resizing
from dataloaders.errors import UserError
from dataloaders.zoom import axis_indices


class Images(Protocol):
    """What is augmented: images of any size as flat arrays, as `batches.store.Store` holds them."""

    @property
    def pixels(self) -> Any: ...
    @property
    def labels(self) -> Any: ...
    @property
    def shapes(self) -> np.ndarray: ...
    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def label_offsets(self) -> np.ndarray: ...
    @property
    def channels(self) -> int: ...
    @property
    def on_device(self) -> bool: ...
    @property
    def is_photograph(self) -> bool: ...
    @property
    def maps(self) -> Mapping[str, tuple[Any, np.ndarray]]: ...


class Fill(NamedTuple):
    """What a map of labels (or of any values beside the pixels) has where nothing is known."""

    absent: float
    """Inside an image that has no such map."""
    absent_outside: float
    """Beyond the border of such an image, where a rotation or padding shows it."""
    outside: float
    """Beyond the border of an image that has the map."""


LABELS = Fill(255, 255, 0)
"""Rows without a label are ignored; corners that a rotation leaves empty are background, as published."""


SCALED_LABELS = Fill(255, 255, 255)
"""What padding shows of a photograph that was scaled and cropped is ignored, as published."""


class Frame:
    """Images, a recipe and a size: all that the kernels need beside the draws.

    mean, std: of the pixels after division by 255, one a channel (photographs); None leaves h5 values as they are.
    resizing: the nearest-neighbour rule, the data set's, so that images are resized in training as in prediction.
    """

    def __init__(self, store: Images, recipe: str, size: tuple[int, ...], mean=None, std=None, threads: int | None = None,
                 resizing: Resizing = "corner"):
        if recipe not in RECIPES:
            raise UserError(f"There is no augmentation '{recipe}'. Choose one of {', '.join(RECIPES)}.")
        self.store, self.recipe, self.size = store, RECIPES[recipe], tuple(int(side) for side in size)
        self.resizing = resizing
        self.dimensions = store.shapes.shape[1]
        if len(self.size) != self.dimensions or min(self.size) < 1:
            raise UserError(f"--patch_size {' '.join(map(str, size))}: expected {self.dimensions} positive sides for this data set.")
        if self.recipe.photographic and (not store.is_photograph or self.dimensions != 2):
            raise UserError(f"The augmentation '{recipe}' works on 8-bit photographs; choose 'rot_flip' or 'none' for this data set.")
        channels = store.channels
        largest = 255.0 if store.is_photograph else 1.0
        std64 = np.ones(channels) if std is None else np.asarray(std, np.float64)
        mean64 = np.zeros(channels) if mean is None else np.asarray(mean, np.float64)
        if mean64.shape != (channels,) or std64.shape != (channels,):
            raise UserError(f"mean and std need one value for each of the {channels} channels of the images.")
        self.scale = (1 / (largest * std64)).astype(np.float32)
        self.shift = (-mean64 / std64).astype(np.float32)
        self.threads = threads or max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
        self.pool = ThreadPoolExecutor(self.threads, "augment") if self.threads > 1 else None
        self.memory_format = torch.contiguous_format
        """Of the images; the CPU kernels write `torch.channels_last` as fast."""
        self._tables()

    def _tables(self) -> None:
        """Resizing maps of every side that occurs, as in `zoom.py`: `maps[axis][side_of[image, axis, turned]]`."""
        if self.dimensions != 2:
            return
        sides, inverse = np.unique(self.store.shapes, return_inverse=True)
        self.side_of = inverse.reshape(self.store.shapes.shape)
        # On the device, made at the first batch.
        self.device_maps: list[torch.Tensor] = []
        self.maps = [np.stack([axis_indices(int(side), out, self.resizing) for side in sides]) for out in self.size]

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def geometry(self, rows: np.ndarray, draws: Draws) -> np.ndarray:
        """(B, 6) float64: the affine map from the transformed image (before resizing) to the stored one."""
        table = np.empty((len(rows), 6))
        for i, (height, width) in enumerate(self.store.shapes[rows, :2].tolist()):
            if draws["rotate"][i]:
                table[i] = rotation(int(draws["angle"][i]), height, width)
            else:
                table[i] = turn_and_flip(int(draws["turns"][i]), int(draws["flip"][i]), height, width)
        return table

    def sides(self, rows: np.ndarray, draws: Draws) -> np.ndarray:
        """(B, 2) which map of each axis to use: a quarter turn exchanges height and width."""
        sides = self.side_of[rows]
        turned = (draws["turns"] % 2 == 1) & ~draws["rotate"]
        return np.where(turned[:, None], sides[:, ::-1], sides)

    def turns(self, draws: Draws) -> np.ndarray:
        """(B,) quarter turns of the resized picture; only halves where it is not square."""
        return draws["turns"] if self.size[0] == self.size[1] else draws["turns"] // 2 * 2
