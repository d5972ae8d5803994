"""A head that makes one vector of what an encoder finds in an image."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Sequential):
    """Pooled features (B, features) -> vectors (B, width) of length 1: two linear layers, the first as wide as the features (PatchCL).

    Args:
        features: channels of the encoder's coarsest map.
    """

    def __init__(self, features: int, width: int = 128):
        super().__init__(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, width))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x), dim=1)
