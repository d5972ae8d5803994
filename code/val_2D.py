"""A volume predicted slice by slice, and scored, by the names that this field knows from SSL4MIS's val_2D.

    net.eval()
    scores = val_2D.test_single_volume(image, label, net, classes=4, patch_size=(256, 256))     # [(Dice, HD95), ...], a pair a class

Training and testers do the same for a whole set, and more, by `inference.Validator`.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from dataloaders.catalog import DATA_SETS
from inference import Predictor, inference_of
from metrics import published_convention


def predict_case(pixels: np.ndarray, net: Predictor, classes: int, patch_size: Sequence[int] = (256, 256),
                 device: torch.device | str = "cpu") -> np.ndarray:
    """Label map (S, H, W) uint8 of a volume (S, H, W), or of several channels (C, S, H, W), with values as the network was trained on.

    Each slice is resized to `patch_size` by nearest neighbour, predicted, and its label map resized back.
    """
    channels = pixels[None] if pixels.ndim == 3 else pixels
    data = replace(DATA_SETS["ACDC"], classes=tuple(map(str, range(classes))), channels=len(channels))
    return inference_of(data, patch_size, None, torch.device(device)).labels(net, channels)


def calculate_metric_percase(pred: np.ndarray, gt: np.ndarray, convention: str = "val_2d") -> tuple[float, ...]:
    """(Dice, HD95 in voxels) of two masks as SSL4MIS's validation reports them; other conventions: `metrics.published_convention`."""
    return published_convention(convention, pred, gt)


def test_single_volume(image: np.ndarray, label: np.ndarray, net: Predictor, classes: int, patch_size: Sequence[int] = (256, 256),
                       device: torch.device | str = "cpu") -> list[tuple[float, ...]]:
    """(Dice, HD95 in voxels) of each foreground class of a volume (S, H, W) with its reference."""
    prediction = predict_case(image, net, classes, patch_size, device)
    return [calculate_metric_percase(prediction == c, label == c) for c in range(1, classes)]
