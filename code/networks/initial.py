"""Initial weights other than a network's own."""
from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def start_apart(first: nn.Module, second: nn.Module) -> None:
    """Convolutions of `first` from N(0, 2 / fan in) (Kaiming), of `second` from N(0, 2 / (fan in + fan out)) (Xavier); in place.

    Biases and transposed convolutions stay as they are; batch norm gets weights 1 and biases 0 (SSL4MIS, two networks in 3D).
    Drawn on the CPU by torch's default generator, so a device changes no weight; seed it before.
    """
    for network, rule in ((first, nn.init.kaiming_normal_), (second, nn.init.xavier_normal_)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                module.weight.copy_(rule(torch.empty(module.weight.shape)))
            elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
