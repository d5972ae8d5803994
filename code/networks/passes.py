"""Labelled and unlabelled images through one network."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def logits_of(network: nn.Module, labeled: Tensor, unlabeled: Tensor, passes: str) -> Any:
    """Logits of all rows, the labelled first: (L + U, K, *sides), or a tuple of such where the network has several heads.

    passes: "joint" sends all through together (SSL4MIS), "apart" in two calls, so that batch norm sees each kind by itself (simEps).
    """
    if passes == "joint":
        return network(torch.cat([labeled, unlabeled]))
    first, second = network(labeled), network(unlabeled)
    if isinstance(first, tuple):
        return tuple(torch.cat(pair) for pair in zip(first, second))
    return torch.cat([first, second])
