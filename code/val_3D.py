"""A volume predicted by sliding window, and scored, by the names that this field knows from UA-MT's and SSL4MIS's val_3D.

    label_map, score_map = val_3D.test_single_case(net, image, stride_xy=18, stride_z=4, patch_size=(112, 112, 80), num_classes=2)
    dice, hd95 = val_3D.cal_metric(label, label_map)

Training and testers do the same for a whole set, and more, by `inference.Validator`.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from inference.windows import Predictor, sliding_window_scores
from metrics import published_convention


def test_single_case(net: Predictor, image: np.ndarray, stride_xy: int, stride_z: int, patch_size: Sequence[int], num_classes: int = 1,
                     device: torch.device | str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """Label map (X, Y, Z) uint8 and averaged probabilities (num_classes, X, Y, Z) float32 of a volume (X, Y, Z) or (C, X, Y, Z)."""
    volume = torch.from_numpy(image[None] if image.ndim == 3 else image)
    scores = sliding_window_scores(net, volume, num_classes, patch_size, (stride_xy, stride_xy, stride_z), device=torch.device(device))
    return scores.argmax(0).to(torch.uint8).numpy(), scores.numpy()


def cal_metric(gt: np.ndarray, pred: np.ndarray, convention: str = "val_3d") -> tuple[float, ...]:
    """(Dice, HD95 in voxels) of two masks as SSL4MIS's validation reports them; other conventions: `metrics.published_convention`."""
    return published_convention(convention, pred, gt)
