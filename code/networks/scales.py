"""One image, several sizes: what a network says of scaled and mirrored versions of it, averaged."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.deeplabv3plus import resized


class AtScales(nn.Module):
    """A network as it labels images (ST++, CISC-R): logits whose softmax is the mean over scaled versions, each plain and mirrored.

    (B, C, H, W) -> (B, K, H, W). Sides of versions that the network cannot take are filled up by repeating the border.
    """

    multiple = 1

    def __init__(self, network: nn.Module, scales: Sequence[float]):
        super().__init__()
        self.network, self.scales = network, tuple(scales)
        self.register_buffer("sizes", torch.tensor(self.scales))  # so that masks made with other scales are known by the digest

    def forward(self, x: Tensor) -> Tensor:
        mean = mean_over_scales(self.whole, x, self.scales)
        return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()

    def whole(self, x: Tensor) -> Tensor:
        """The network's logits of images of any sides."""
        wanted: Any = self.network.multiple
        down, across = (wanted, wanted) if isinstance(wanted, int) else wanted
        height, width = x.shape[2:]
        logits = self.network(F.pad(x, (0, -width % across, 0, -height % down), mode="replicate"))
        return logits[..., :height, :width]


def mean_over_scales(network: Callable[[Tensor], Tensor], images: Tensor, scales: Sequence[float]) -> Tensor:
    """(B, K, H, W) mean probabilities of images (B, C, H, W) over scales, each plain and mirrored left to right.

    Versions are made, and their probabilities brought back, by bilinear scaling with aligned corners (ST++, CISC-R).
    """
    sides = images.shape[2:]
    total = images.new_zeros(())
    for scale in scales:
        version = resized(images, [max(int(side * scale), 1) for side in sides])
        plain, mirrored = network(version).float().softmax(1), network(version.flip(3)).float().softmax(1).flip(3)
        total = total + resized(plain, sides) + resized(mirrored, sides)
    return total / (2 * len(scales))
