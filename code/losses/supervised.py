"""The supervised term that nearly all methods share."""
from __future__ import annotations

from torch import Tensor

from losses.overlap import cross_entropy, dice_loss


def supervised_loss(logits: Tensor, labels: Tensor, foreground_only: bool = False) -> Tensor:
    """(cross-entropy + Dice) / 2 of logits (B, C, *spatial) and labels (B, *spatial); a scalar.

    Label 255 is ignored; with no counted pixel the loss is 0. `foreground_only`: Dice without class 0 (UA-MT on LA).
    """
    loss = (cross_entropy(logits, labels) + dice_loss(logits, labels, foreground_only=foreground_only)) / 2
    return loss * (labels != 255).any()
