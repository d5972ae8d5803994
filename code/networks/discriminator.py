"""The discriminators of DAN as SSL4MIS has them (2D: 2,762,754 parameters at 1 channel, 4 classes; 3D: 11,024,386 at 1 and 2)."""
from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


def average(x: Tensor, parts: int) -> Tensor:
    """Means over `parts` pieces of every axis of space, (B, C, *sides) -> (B, C, parts, ...); adaptive average pooling.

    (That of torch has no deterministic gradient on a GPU.)
    """
    for axis in range(2, x.dim()):
        side = x.shape[axis]
        bounds = [(k * side // parts, -(-(k + 1) * side // parts)) for k in range(parts)]
        x = torch.cat([x.narrow(axis, start, stop - start).mean(axis, keepdim=True) for start, stop in bounds], axis)
    return x


class Discriminator(nn.Module):
    """Tells by a map of probabilities and its image whether the image is labelled: class 1, or not: class 0.

    Four convolutions 4x4(x4) of stride 2; the first is two, one of the map and one of the image, which are added. Nothing follows
    that sum in 2D, an activation and dropout do in 3D (both as published).

    At the published sizes, sides 224 to 335 in 2D and 96 to 191 in 3D, the last map is averaged over 2 x 2 windows of 7 x 7, or one
    of 6 x 6 x 6, from its first corner, as published; what these leave over counts nowhere. At other sizes the whole map is averaged.

    Args:
        dimensions: 2 or 3.
        in_channels: channels of the images.
        num_classes: channels of the map, background included.
        dropout: multiplies the published rate (0.5, whole channels); 0 switches dropout off.
    """

    def __init__(self, dimensions: int, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__()
        volumes = dimensions == 3
        conv: type[nn.Module] = nn.Conv3d if volumes else nn.Conv2d
        drop: type[nn.Module] = nn.Dropout3d if volumes else nn.Dropout2d
        self.window, self.parts = (6, 1) if volumes else (7, 2)
        self.of_map = conv(num_classes, WIDTHS[0], 4, stride=2, padding=1)
        self.of_image = conv(in_channels, WIDTHS[0], 4, stride=2, padding=1)
        layers: list[nn.Module] = [nn.LeakyReLU(0.2), drop(dropout * 0.5)] if volumes else []
        for a, b in zip(WIDTHS[:-1], WIDTHS[1:]):
            layers += [conv(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2), drop(dropout * 0.5)]
        self.layers = nn.Sequential(*layers[:-1])  # no dropout before the average
        self.classifier = nn.Linear(WIDTHS[-1] * self.parts**dimensions, 2)

    def forward(self, probabilities: Tensor, images: Tensor) -> Tensor:
        """(B, num_classes, *sides) and (B, in_channels, *sides), sides of 16 or more -> logits (B, 2)."""
        x = self.layers(self.of_map(probabilities) + self.of_image(images))
        covered = self.window * self.parts
        if all(covered <= side < covered + self.window for side in x.shape[2:]):
            for axis in range(2, x.dim()):
                x = x.narrow(axis, 0, covered)
        return self.classifier(average(x, self.parts).flatten(1))
