"""Labelled and unlabelled images through one network."""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from losses.uncertainty import entropy_map
from networks.perturbations import noisy, without_channels


def logits_and_features(network: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """(logits, the finest features of the decoder at the sides of the logits), (B, K, *sides) and (B, D, *sides).

    Features of fewer positions are resized linearly. Of a network with a map a level the finest one counts.
    """
    features = network.decode(network.encode(images))
    logits = network.head(features)
    finest = features if isinstance(features, Tensor) else features[0]
    if finest.shape[2:] != logits.shape[2:]:
        finest = F.interpolate(finest, size=logits.shape[2:], mode="trilinear" if logits.dim() == 5 else "bilinear")
    return logits, finest


def feature_channels(network: Any, channels: int, sides: Sequence[int]) -> int:
    """D of `logits_and_features` for images of these channels and sides; nothing is computed."""
    outline = copy.deepcopy(network).to("meta").eval()
    return logits_and_features(outline, torch.empty((1, channels, *sides), device="meta"))[1].shape[1]


def grouped(network: nn.Module, factor_of: Callable[[str], float]) -> list[tuple[list[nn.Parameter], float]]:
    """The parameters of a network in groups, each with the factor of its rate, for `run.optimizer`; `factor_of` a name gives it."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        groups.setdefault(factor_of(name), []).append(parameter)
    return [(groups[factor], factor) for factor in sorted(groups)]


def logits_of(network: Callable[[Tensor], Any], labeled: Tensor, unlabeled: Tensor, passes: str) -> tuple[Any, Any]:
    """(logits of the L labelled images, logits of the U unlabelled ones): (L, K, *sides) and (U, K, *sides).

    Where the network has several heads, each of the two is a tuple of such, a head each. passes: "joint" sends all images through
    together (SSL4MIS), "apart" in two calls, the labelled first, so that batch norm sees each kind by itself (simEps).
    """
    if passes == "apart":
        return network(labeled), network(unlabeled)
    logits, n = network(torch.cat([labeled, unlabeled])), len(labeled)
    if isinstance(logits, tuple):
        return tuple(head[:n] for head in logits), tuple(head[n:] for head in logits)
    return logits[:n], logits[n:]


def logits_with_dropped_channels(network: Any, images: Tensor, share: float, times: int = 1) -> tuple[Tensor, ...]:
    """(logits of the B images, then `times` logits from maps that each lost a share of their channels): (B, K, *sides) each.

    One pass of the decoder for all, so that batch norm sees them together (UniMatch, CVPR 2023); with a share of 0 the same logits again.
    """
    if share == 0:
        logits = network(images)
        return (logits,) * (times + 1)
    maps = network.encode(images)
    dropped = [without_channels(maps, share) for _ in range(times)]
    logits = network.head(network.decode([torch.cat(each) for each in zip(maps, *dropped)]))
    return logits.split(len(images))


@torch.no_grad()
def entropy_over_passes(network: Callable[[Tensor], Tensor], images: Tensor, passes: int, deviation: float) -> Tensor:
    """Entropy of the mean of an even number of predictions for `noisy` images, two of them a call: (B, 1, *sides) (UA-MT, DeSCO)."""
    twice, calls = torch.cat([images, images]), passes // 2
    summed: Any = sum(network(noisy(twice, deviation)).softmax(1) for _ in range(calls))
    return entropy_map((summed[: len(images)] + summed[len(images) :]) / passes)


def deepest(network: Any, images: Tensor) -> Tensor:
    """The mean over positions of the encoder's coarsest map, (B, D) float32."""
    return network.encode(images)[-1].float().flatten(2).mean(2)


def deepest_width(network: Any, channels: int, sides: Sequence[int]) -> int:
    """D of `deepest` for images of these channels and sides; nothing is computed."""
    outline = copy.deepcopy(network).to("meta").eval()
    return deepest(outline, torch.empty((1, channels, *sides), device="meta")).shape[1]


def with_parameters(network: nn.Module, parameters: Sequence[Tensor], images: Tensor) -> Any:
    """What the network would say with other parameters, in the order of its own, with gradients to these; its statistics stay."""
    state = dict(zip((name for name, _ in network.named_parameters()), parameters))
    return functional_call(network, (state, {name: buffer.clone() for name, buffer in network.named_buffers()}), (images,))


@contextmanager
def statistics_kept(*networks: Any) -> Iterator[None]:
    """While open, passes leave the running statistics of batch norm as they are: for inputs unlike those that a test shows (patches).

    In train mode the passes themselves are the same.
    """
    norms = [module for network in networks for module in _unwrapped(network).modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, before):
            norm.momentum = momentum


def _unwrapped(network: Any) -> nn.Module:
    """The network itself of what calls it compiled or in mixed precision."""
    while not isinstance(network, nn.Module):
        network = network.network
    return network
