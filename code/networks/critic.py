"""The critics of Co-BioNet (Peiris et al., Nature Machine Intelligence 5, 2023; 2,866 parameters at 2 classes)."""
from __future__ import annotations

from torch import nn

WIDTHS = (16, 32, 64)


class PointCritic(nn.Sequential):
    """Tells, position by position and without a look at its neighbours, whether a map is a reference or a prediction.

    Four 1x1(x1) convolutions without bias, each followed by batch norm and LeakyReLU, the last one too (as published):
    (B, num_classes - 1, *sides) probabilities of the foreground classes -> (B, 1, *sides) logits, high for a reference.

    Args:
        dimensions: 2 or 3.
        num_classes: classes, background included.
    """

    def __init__(self, dimensions: int, num_classes: int = 2):
        conv: type[nn.Module] = nn.Conv3d if dimensions == 3 else nn.Conv2d
        norm: type[nn.Module] = nn.BatchNorm3d if dimensions == 3 else nn.BatchNorm2d
        layers: list[nn.Module] = []
        for a, b in zip((num_classes - 1, *WIDTHS), (*WIDTHS, 1)):
            layers += [conv(a, b, 1, bias=False), norm(b), nn.LeakyReLU(0.2)]
        super().__init__(*layers)
