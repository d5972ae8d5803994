"""Augmentation of whole batches: the step from drawn numbers to images, labels and maps.

Every number is drawn on the host for the whole batch at once, a fixed number a row, so that row i depends on
(seed, iteration, i) only. Three implementations then give the same pixels: numba on the CPU, torch on a GPU,
scipy as the reference (`scipy_reference.py`). Recipes and draws: `recipes.py`.
"""
from __future__ import annotations

import numpy as np
import torch

from dataloaders.augmentation import torch_kernels
from dataloaders.augmentation.frame import LABELS, SCALED_LABELS, Fill, Frame, Images
from dataloaders.augmentation.recipes import Draws
from dataloaders.description import Resizing

try:
    from dataloaders.augmentation import cpu
except ImportError:  # numba is missing: torch on the CPU gives the same pixels, more slowly
    cpu = None  # type: ignore[assignment]


class Augmenter(Frame):
    """Makes batches of one store: `augmenter(rows, n_labeled, draws)`.

    backend: 'numba', 'torch', or None for numba where the store lies in memory, torch where it lies on a device. Others: `Frame`.
    """

    def __init__(self, store: Images, recipe: str, size: tuple[int, ...], mean=None, std=None, threads: int | None = None, backend=None,
                 resizing: Resizing = "corner"):
        super().__init__(store, recipe, size, mean, std, threads, resizing)
        self.backend = backend or ("torch" if store.on_device or cpu is None else "numba")

    def __call__(self, rows: np.ndarray, n_labeled: int, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (len(rows), C, *size) float32 of the store's images `rows`, and int64 labels of the first `n_labeled`.

        The rest have no labels to hand out. Rows without a label among the first get 255 everywhere.
        """
        store = self.store
        fill = SCALED_LABELS if self.recipe.scale else LABELS
        images, labels = self._made(rows, draws, store.pixels, store.labels, store.label_offsets[rows[:n_labeled]], fill, torch.int64)
        return images, labels

    def map(self, name: str, rows: np.ndarray, draws: Draws, fill: Fill) -> torch.Tensor:
        """(len(rows), *size) float32: the store's map `name`, warped as the images are, nearest values; `fill` where there is none."""
        values, offsets = self.store.maps.get(name, (self.store.labels, None))
        places = np.full(len(rows), -1, np.int64) if offsets is None else offsets[rows]
        return self._made(rows, draws, None, values, places, fill, torch.float32)[1]

    def _made(self, rows, draws, pixels, values, places, fill, dtype) -> tuple[torch.Tensor, torch.Tensor]:
        implementation = torch_kernels if self.backend == "torch" else cpu
        kernel = implementation.crop_3d if self.dimensions == 3 else implementation.scale_crop if self.recipe.scale else (
            implementation.photo if self.recipe.photographic else implementation.warp)
        return kernel(self, rows, draws, pixels, values, places, fill, dtype)
