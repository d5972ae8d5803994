"""How a case is predicted: resized to the training size and back, whole at its native size, or by sliding window.

Resized (SSL4MIS's val_2D, simEps): each slice is resized by nearest neighbour, predicted, and its label map resized back. Whole (papers
on natural images): at native size, its border repeated up to sides that the network takes. By window (UA-MT): see `windows`.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataloaders.description import DataSet, Resizing
from dataloaders.zoom import resize_nearest
from inference.windows import (
    Predictor,
    cut_windows,
    main_output,
    probabilities_of,
    sliding_window,
    sliding_window_scores,
    window_stride,
)

SLICES, WINDOWS = 32, 4
"""What passes the network together, where nothing else is asked for."""
PIXELS = 256 * 256
"""Whole images pass together as long as they have this many pixels a slice of `batch`; larger ones pass in smaller batches."""
MULTIPLE = 32
"""What sides of whole images are filled up to, for a predictor that does not tell its `multiple` (as networks and ensembles do)."""


@dataclass(frozen=True)
class Inference:
    """How the cases of a data set are predicted; `inference_of` makes it.

    `labels` and `probabilities` predict a case. Their three steps are there for whoever overlaps them: `inputs` (what the network is
    handed), `maps` or `scores` (the network's work), `native` (back at the case's own size).
    """

    data: DataSet
    patch_size: tuple[int, ...]
    stride: tuple[int, ...]
    device: torch.device
    batch: int
    """Slices, or windows, that pass the network together."""
    mirror: bool = False
    """Whether probabilities are the mean over all mirrored versions: four of an image, eight of a volume."""
    gaussian: bool = False
    """By window: whether a window counts more at its centre."""
    cut: bool = False
    """Windows over images: whether the last ones end with the image and are smaller, or are shifted back."""

    @property
    def how(self) -> str:
        """resized, whole or window."""
        return self.data.evaluation.predicted

    def labels(self, predictor: Predictor, pixels: np.ndarray) -> np.ndarray:
        """Label map (S, H, W) or (X, Y, Z) uint8 of pixels as read: (C, S, H, W), volumes of 3D data sets (C, X, Y, Z).

        Raises FloatingPointError for logits that are not finite.
        """
        return self.native(self.maps(predictor, self.inputs(pixels)).cpu().numpy(), pixels.shape[1:])

    def probabilities(self, predictor: Predictor, pixels: np.ndarray) -> np.ndarray:
        """(K, S, H, W) or (K, X, Y, Z) float32, whose argmax `labels` is up to ties; pixels and errors as there."""
        return self.native(self.scores(predictor, self.inputs(pixels)).cpu().numpy(), pixels.shape[1:])

    def inputs(self, pixels: np.ndarray) -> Tensor:
        """Pixels as read -> (N, C, *sides) float32 on the host, scaled as in training: the slices of a case, or one volume."""
        if self.data.dimensions == 3:
            return torch.from_numpy(pixels)[None]
        slices = np.moveaxis(pixels, 0, 1)
        if self.how == "resized":
            slices = resize_nearest(slices, (self.patch_size[0], self.patch_size[1]), self.data.resizing)
        return scaled(torch.from_numpy(np.ascontiguousarray(slices, np.float32)), self.data)

    @torch.no_grad()
    def maps(self, predictor: Predictor, inputs: Tensor) -> Tensor:
        """(N, C, *sides) -> label maps (N, *sides) uint8. Raises FloatingPointError for logits that are not finite."""
        if self.how == "window":
            return torch.stack([self._windows(sliding_window, predictor, one) for one in inputs])
        return torch.cat([out.argmax(1).to(torch.uint8) for out in self._outputs(predictor, inputs, False)])

    @torch.no_grad()
    def scores(self, predictor: Predictor, inputs: Tensor) -> Tensor:
        """(N, C, *sides) -> probabilities (K, N, *sides) float32. Raises FloatingPointError for logits that are not finite."""
        if self.how == "window":
            return torch.stack([self._windows(sliding_window_scores, predictor, one) for one in inputs], 1)
        return torch.cat(list(self._outputs(predictor, inputs, True))).transpose(0, 1)

    def native(self, maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """([K,] N, *sides) of labels or probabilities -> ([K,] S, H, W) or ([K,] X, Y, Z) of the native `size`."""
        if self.data.dimensions == 3:
            return maps[..., 0, :, :, :]
        return enlarged(maps, (size[-2], size[-1]), self.data.resizing) if self.how == "resized" else maps

    def together(self, sides: Sequence[int]) -> int:
        """How many images of these sides pass the network together."""
        if self.how == "window":
            return 1
        return self.batch if self.how == "resized" else max(1, self.batch * PIXELS // math.prod(sides))

    def fitting(self, predictor: Predictor) -> Predictor:
        """`predictor` for images of any sides: where they are not resized, the border is repeated up to sides that it takes."""
        if self.how == "resized" or (self.how == "window" and self.data.dimensions == 3):
            return predictor
        def predict(images: Tensor) -> Tensor:
            sides = images.shape[2:]
            logits = main_output(predictor(filled(images, getattr(predictor, "multiple", MULTIPLE))))
            for axis, side in enumerate(sides, 2):
                logits = logits.narrow(axis, 0, side)
            return logits

        return predict

    def handed(self, network: Any, pixels: np.ndarray, label: np.ndarray) -> tuple[Tensor, Tensor]:
        """(image (1, C, *sides), label (1, *sides) int64) of pixels as read and their label (*spatial), as handed to a network."""
        images = self.inputs(pixels)
        if self.how == "resized":
            label = resize_nearest(label, (self.patch_size[0], self.patch_size[1]), self.data.resizing)
        labels = torch.from_numpy(np.ascontiguousarray(label)).long()[None]
        if self.how == "whole":
            images, sides = filled(images, network.multiple), labels.shape[1:]
            more = [n for side, there in zip(images.shape[:1:-1], sides[::-1]) for n in (0, side - there)]
            labels = F.pad(labels, more, value=255)
        return images, labels

    def _outputs(self, predictor: Predictor, inputs: Tensor, probabilities: bool) -> Iterator[Tensor]:
        """(B, K, *sides) batch by batch: probabilities, or what has the same argmax. The last thing is to raise for what is not finite."""
        predict = self.fitting(predictor)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        for images in inputs.split(self.together(inputs.shape[2:])):
            images = images.to(self.device)
            if probabilities or self.mirror:
                yield probabilities_of(predict, images, self.data.num_classes, finite, self.mirror)
            else:
                logits = main_output(predict(images))
                finite &= logits.isfinite().all()
                yield logits
        if not finite:
            raise FloatingPointError("the network's output is not finite")

    def _windows(self, slide: Callable[..., Tensor], predictor: Predictor, image: Tensor) -> Tensor:
        predictor, classes = self.fitting(predictor), self.data.num_classes
        if self.cut:
            scores = cut_windows(predictor, image, classes, self.patch_size, self.stride, device=self.device, mirror=self.mirror)
            return scores if slide is sliding_window_scores else scores.argmax(0).to(torch.uint8)
        batch = self.batch if self.data.dimensions == 3 else max(1, self.batch * PIXELS // math.prod(self.patch_size))
        return slide(predictor, image, classes, self.patch_size, self.stride, device=self.device, sw_batch=batch, gaussian=self.gaussian,
                     mirror=self.mirror)


def inference_of(data: DataSet, patch_size: Sequence[int], stride: Sequence[int] | None, device: torch.device, batch: int | None = None,
                 mirror: bool = False, gaussian: bool = False, cut: bool = False) -> Inference:
    """How a data set's cases are predicted (`DataSet.evaluation`), by a network that was trained on patches of `patch_size`.

    `stride`: of windows, without it half the patch. `batch`: slices or windows at once, without it 32 and 4. Raises ValueError for volumes
    that are to be resized.
    """
    if data.dimensions == 3 and data.evaluation.predicted == "resized":
        raise ValueError(f"{data.name}: volumes are predicted whole or by window, never resized")
    if batch is None:
        batch = WINDOWS if data.evaluation.predicted == "window" else SLICES
    return Inference(data, tuple(patch_size), window_stride(stride, patch_size), device, batch, mirror, gaussian, cut)


def filled(images: Tensor, wanted: int | Sequence[int]) -> Tensor:
    """(B, C, *sides), the border repeated below and to the right up to sides that are multiples of `wanted`."""
    sides = images.shape[2:]
    multiples = (wanted,) * len(sides) if isinstance(wanted, int) else wanted
    missing = [-side % multiple for side, multiple in zip(sides, multiples)]
    return F.pad(images, [n for more in missing[::-1] for n in (0, more)], mode="replicate") if any(missing) else images


def scaled(images: Tensor, data: DataSet) -> Tensor:
    """(S, C, H, W) float32 with the values as read -> scaled as in training."""
    if data.intensities == "8-bit":
        images = images / 255
    if data.mean is not None and data.std is not None:
        images = (images - torch.tensor(data.mean).view(1, -1, 1, 1)) / torch.tensor(data.std).view(1, -1, 1, 1)
    return images


def enlarged(maps: np.ndarray, size: tuple[int, int], resizing: Resizing) -> np.ndarray:
    """([K,] S, h, w) of labels or probabilities (floats, or whole numbers up to their type's largest) -> ([K,] S, *size), by nearest
    neighbour."""
    grown = resize_nearest(maps, size, resizing)
    if maps.ndim == 4:
        # The mapping leaves a last row empty for some sizes: background, as in the label map.
        grown[0][~grown.any(0)] = np.iinfo(maps.dtype).max if maps.dtype.kind == "u" else 1
    return grown
