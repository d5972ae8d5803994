"""Initial weights other than a network's own. Drawn on the CPU by torch's default generator, so a device changes none; seed it before."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def start_apart(first: nn.Module, second: nn.Module) -> None:
    """Convolutions of `first` from N(0, 2 / fan in) (Kaiming), of `second` from N(0, 2 / (fan in + fan out)) (Xavier); in place.

    Biases and transposed convolutions stay as they are; batch norm gets weights 1 and biases 0 (SSL4MIS, two networks in 3D).
    """
    _start(first, nn.init.kaiming_normal_)
    _start(second, nn.init.xavier_normal_)


def start_kaiming(*networks: nn.Module) -> None:
    """All as `first` of `start_apart`, each by its own draws (UA-MT and its followers)."""
    for network in networks:
        _start(network, nn.init.kaiming_normal_)


@torch.no_grad()
def _start(network: nn.Module, rule: Callable[[Tensor], Tensor]) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.copy_(rule(torch.empty(module.weight.shape)))
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
