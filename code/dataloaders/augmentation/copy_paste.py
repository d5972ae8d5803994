"""Boxes through which images are pasted into one another (BCP)."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dataloaders.augmentation.strong_views import send


def paste_box(rng: np.random.Generator, sides: Sequence[int], share: float = 2 / 3, device: torch.device | str = "cpu") -> Tensor:
    """(*sides) bool, True in a box whose sides are floor(`share` * side), at a random place.

    A box never reaches the far border: its start is drawn below the last possible one, axis by axis (as published).
    """
    inside = np.ones((1,) * len(sides), bool)
    for axis, side in enumerate(sides):
        size = int(side * share)
        start = rng.integers(max(side - size, 1))
        places = np.arange(side)
        inside = inside & np.expand_dims((places >= start) & (places < start + size), [k for k in range(len(sides)) if k != axis])
    return send(inside, device)
