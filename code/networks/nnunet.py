"""nnU-Net's generic network (Isensee et al., Nature Methods 2021) with the 3D plan of SSL4MIS, 30,446,256 parameters, and a 2D plan.

`dynamic_network_architectures` and MONAI's DynUNet have biases where this has none or the reverse, so the layers are written here.
"""
from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from networks.base import Network, chain

WIDTHS = (16, 32, 64, 128, 256, 320, 320)
SLOPE = 0.01


class NNUNet3D(Network):
    """nnU-Net for volumes that are coarse along their first axis: the two finest levels are convolved and halved along the others only.

    Sides shrink by strided convolutions and grow by transposed ones. Each of the six levels of the decoder has a head; as in SSL4MIS
    there is no deep supervision, and only the finest head is used and learns.

    Args:
        in_channels: channels of the images.
        num_classes: channels of the logits, background included.
        dropout: has no effect, the published network has none.
    """

    dimensions = 3
    multiple: int | tuple[int, ...] = (4, 64, 64)
    instance_norm = True
    kernels: ClassVar[tuple[tuple[int, ...], ...]] = ((1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 5)
    """Of the encoder's levels, the finest first. Each level of the decoder has the kernel of the next coarser one."""
    strides: ClassVar[tuple[tuple[int, ...], ...]] = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    """From each level to the next coarser."""

    def __init__(self, in_channels: int = 1, num_classes: int = 2, dropout: float = 1.0):
        super().__init__()
        convolution, transposed = (nn.Conv2d, nn.ConvTranspose2d) if self.dimensions == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        norm = nn.InstanceNorm2d if self.dimensions == 2 else nn.InstanceNorm3d
        unit = (1,) * self.dimensions

        def level(a: int, b: int, kernel: tuple[int, ...], stride: tuple[int, ...] = unit) -> nn.Sequential:
            """Twice convolution - IN with weights - LeakyReLU, the first strided."""
            padding = tuple(k // 2 for k in kernel)
            return nn.Sequential(
                convolution(a, b, kernel, stride, padding), norm(b, affine=True), nn.LeakyReLU(SLOPE, inplace=True),  # type: ignore[arg-type]
                convolution(b, b, kernel, 1, padding), norm(b, affine=True), nn.LeakyReLU(SLOPE, inplace=True),  # type: ignore[arg-type]
            )

        self.levels = nn.ModuleList(level(*plan) for plan in zip((in_channels, *WIDTHS), WIDTHS, self.kernels, (unit, *self.strides)))
        finer = list(zip(WIDTHS[:-1], WIDTHS[1:], self.strides, self.kernels[1:]))[::-1]
        self.up = nn.ModuleList(transposed(b, a, stride, stride, bias=False) for a, b, stride, _ in finer)  # type: ignore[arg-type]
        self.up_levels = nn.ModuleList(level(2 * a, a, kernel) for a, _, _, kernel in finer)
        self.heads = nn.ModuleList(convolution(a, num_classes, 1, bias=False) for a, _, _, _ in finer)
        self.heads[:-1].requires_grad_(False)
        for module in self.modules():
            if isinstance(module, convolution | transposed):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, *sides) -> seven maps, from 16 channels at full size to 320.

        Raises ValueError where a side does not fit `multiple`, and where the coarsest map would have one position.
        """
        self.check(x)
        return chain(self.levels, x)

    def decode(self, maps: list[Tensor]) -> Tensor:
        """The seven maps -> features (B, 16, *sides)."""
        x = maps[-1]
        for up, convolutions, skip in zip(self.up, self.up_levels, maps[-2::-1]):
            x = convolutions(torch.cat([up(x), skip], dim=1))
        return x

    def head(self, features: Tensor) -> Tensor:
        """(B, 16, *sides) -> logits (B, num_classes, *sides)."""
        return self.heads[-1](features)


class NNUNet2D(NNUNet3D):
    """The same network for images: widths as in 3D, kernels 3x3, six halvings of both sides."""

    dimensions = 2
    multiple = 64
    kernels = ((3, 3),) * 7
    strides = ((2, 2),) * 6
