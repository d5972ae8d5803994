"""Labelled and unlabelled images through one network."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


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
